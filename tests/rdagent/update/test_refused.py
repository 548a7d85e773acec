"""What is refused for its signature is tried again as soon as the trust folder is another one."""

import asyncio
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ipc.contract.rdagent import GetUpdateHistory, GetUpdates, Updates
from ipc.errors import NoAnswer
from ipc.places import Places
from rdagent.config import UpdateSettings
from release import record as records
from release.archive import pack
from release.build import Built, build, layer_file
from release.manifest import MANIFEST, SIGNATURES, digest
from release.record import Chosen
from release.signing import PublicKey, sign, trust_digest
from tests.conftest import PATIENCE
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.lying import LyingServer, SignedRepository
from tests.release.product import CHECKOUT, KEY, OTHER_KEY, Installed


def trust(places: Places, key: PublicKey) -> Path:
    file = places.trust / "release.pub"
    file.write_bytes(msgspec.json.encode(key))
    return file


async def told(watcher: Watcher) -> Updates | None:
    try:
        return await watcher.bus.ask(GetUpdates(), within=1.0)
    except NoAnswer:
        return None


async def until_refused(watcher: Watcher) -> tuple[str, str]:
    """Why, and what lifts it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await told(watcher)
            for one in found.components if found else ():
                if one.component == "telemetry" and one.state == "refused":
                    return one.why, one.lift
            await asyncio.sleep(0.05)


def put_in_force(places: Places, folder: Path) -> None:
    """9.9.8, signed by a key we know."""
    old = build(CHECKOUT, "telemetry", folder / "old", [KEY], version="9.9.8")
    installed = Installed(places.installed, "telemetry")
    installed.put(old)
    installed.set(current=Chosen("9.9.8", old.digest))


@pytest.fixture
def built(places: Places, signed: SignedRepository, tmp_path: Path) -> Built:
    """9.9.8 is in force, and the repository has 9.9.9 by another key."""
    put_in_force(places, tmp_path)
    new = build(CHECKOUT, "telemetry", tmp_path / "new", [OTHER_KEY], version="9.9.9")
    for layer in new.manifest.layers:
        content = layer_file(tmp_path / "new" / "layers", layer).read_bytes()
        signed.put(f"layers/{layer.sha256}.zip", content)
    layers = [one.sha256 for one in new.manifest.layers]
    signed.publish("9.9.9", new.path.read_bytes(), digest=new.digest, layers=layers)
    return new


@pytest.mark.parametrize("trouble", ["another key", "junk", "writable"])
def test_another_trust_folder_is_another_try(places: Places, server: LyingServer, built: Built, trouble: str) -> None:
    key = trust(places, KEY.public() if trouble == "another key" else OTHER_KEY.public())
    if trouble == "junk":
        key.write_text("junk")
    if trouble == "writable":
        key.chmod(0o666)

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            why, lift = await until_refused(watcher)
            if trouble == "another key":
                assert "signed by 0 of the keys we know" in why
                assert lift == "agentctl package trust KEY.pub"
            else:
                assert why.startswith(f"no package can be checked: {key}")
                assert lift == ""  # no command of ours mends it; the line says what does
            events = (await watcher.bus.ask(GetUpdateHistory())).events
            assert [(one.phase, one.lift) for one in events] == [("refuse", lift)]
            trust(places, OTHER_KEY.public())
            key.chmod(0o644)
            async with asyncio.timeout(PATIENCE):
                while not ((record := records.read(Installed(places.installed, "telemetry").folder)) and record.trial):
                    await told(watcher)  # who looks has it judged anew
                    await asyncio.sleep(0.05)
            assert record.trial.target == Chosen("9.9.9", built.digest)

    asyncio.run(story())


def changed_after_signing(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {**contents, MANIFEST: contents[MANIFEST].replace(b'"floor":"0.0.0"', b'"floor":"0.0.1"')}


def signed_with_junk(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {**contents, SIGNATURES: b"junk"}


def signed_by_nobody(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {**contents, SIGNATURES: sign(contents[MANIFEST], [])}


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (changed_after_signing, f"the signature of key {KEY.public().name} is wrong"),
        (signed_with_junk, "the signatures cannot be read"),
        (signed_by_nobody, "signed by 0 of the keys we know, 1 are needed (signed by: nobody;"),
    ],
)
def test_where_no_key_helps_none_is_asked_for(
    places: Places,
    signed: SignedRepository,
    server: LyingServer,
    tmp_path: Path,
    spoiled: Callable[[dict[str, bytes]], dict[str, bytes]],
    said: str,
) -> None:
    trust(places, KEY.public())
    put_in_force(places, tmp_path)
    built = build(CHECKOUT, "telemetry", tmp_path / "new", [KEY], version="9.9.9")
    with zipfile.ZipFile(built.path) as archive:
        contents = spoiled({name: archive.read(name) for name in archive.namelist()})
    signed.publish("9.9.9", pack(contents), digest=digest(contents[MANIFEST]))

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            why, lift = await until_refused(watcher)
            assert why.startswith(f"not for us: {said}")
            assert why.endswith("no key mends that: have it built and published anew")
            assert lift == ""

    asyncio.run(story())


def test_what_makes_another_trust_folder(tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    seen = {trust_digest(folder)}

    def is_new() -> bool:
        found, before = trust_digest(folder), len(seen)
        seen.add(found)
        return len(seen) > before

    folder.mkdir(mode=0o700)
    assert is_new()
    key = folder / "a.pub"
    key.write_text("one")
    assert is_new()
    key.write_text("two")
    assert is_new()
    key.chmod(0o666)
    assert is_new()
    (folder / "root.json").write_text("{}")  # speaks of the repository, not of packages
    assert not is_new()
    key.rename(folder / "b.pub")
    assert is_new()
    folder.chmod(0o777)
    assert is_new()


def test_what_another_try_would_not_change_is_not_told_to_be_tried(
    places: Places, signed: SignedRepository, server: LyingServer, tmp_path: Path
) -> None:
    """9.9.9 was published as 9.9.10: the same bytes come again."""
    trust(places, KEY.public())
    put_in_force(places, tmp_path)
    misnamed = build(CHECKOUT, "telemetry", tmp_path / "new", [KEY], version="9.9.9")
    signed.publish("9.9.10", misnamed.path.read_bytes(), digest=misnamed.digest)

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            why, lift = await until_refused(watcher)
            assert why.endswith("it was published under a wrong name, and has to be published anew")
            assert lift == ""

    asyncio.run(story())
