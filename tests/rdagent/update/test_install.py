"""From an offer to a version on the disk, by the host's URLs: a real server, real packages, the real stager."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.install import Installer, InstallError
from rdagent.update.offers import Offer
from rdagent.update.shelf import Shelf
from release.build import Built, build
from release.record import Chosen
from release.signing import SecretKey
from release.tree import check_version
from tests.rdagent.update.lying import LyingServer
from tests.release.product import KEY, NAME, OTHER_KEY, TRUST, checkout, chosen
from wire.http import HttpClient

PACKAGE = "/packages/probe-1.1.0.zip"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """With one layer."""
    folder = tmp_path_factory.mktemp("built")
    return build(checkout(folder, "1.1.0", "import click; print('with click')"), NAME, folder / "dist", [KEY])


@pytest.fixture
def served(server: LyingServer, built: Built) -> LyingServer:
    server.files[PACKAGE] = built.path.read_bytes()
    for sha256, path in built.layers.items():
        server.files[f"/packages/layers/{sha256}.zip"] = path.read_bytes()
    return server


@pytest.fixture
def installer(places: Places) -> Installer:
    places.trust.mkdir(parents=True)
    trust(places, KEY)
    shelf = Shelf(places, lambda _: TRUST)
    return Installer(places, UpdateSettings(), shelf, HttpClient("test"), set)


def trust(places: Places, key: SecretKey) -> None:
    (places.trust / "release.pub").write_text(f'{{"ed25519_public":"{key.public().ed25519_public}"}}')


def offer(server: LyingServer, *, digest: str = "", urls: tuple[str, ...] = ()) -> Offer:
    return Offer(
        component=NAME,
        version="1.1.0",
        wanted_by="host",
        digest=digest,
        urls=urls or (f"{server.url}{PACKAGE}?sig=s",),
    )


def install(installer: Installer, wanted: Offer) -> Chosen:
    return asyncio.run(installer.install(wanted))


def refused(installer: Installer, wanted: Offer) -> InstallError:
    with pytest.raises(InstallError) as caught:
        install(installer, wanted)
    return caught.value


def left_over(places: Places) -> list[Path]:
    folder = places.installed / "components" / NAME
    return [path for name in ("downloads", "staging") for path in (folder / name).glob("*")]


def test_a_package_and_its_layers(installer: Installer, served: LyingServer, built: Built, places: Places) -> None:
    assert install(installer, offer(served)) == chosen(built)
    tree = places.installed / "components" / NAME / "versions" / "1.1.0"
    assert check_version(tree, built.digest) == built.manifest
    (sha256,) = built.layers
    assert (places.installed / "deps" / sha256 / "click").is_dir()
    # The query signs for the folder, so it goes along.
    assert served.asked == [f"{PACKAGE}?sig=s", f"/packages/layers/{sha256}.zip?sig=s"]
    assert left_over(places) == []


def test_what_lies_on_the_disk_is_not_fetched_again(installer: Installer, served: LyingServer, built: Built) -> None:
    install(installer, offer(served))
    before = len(served.asked)
    assert install(installer, offer(served)) == chosen(built)
    assert install(installer, offer(served, digest=built.digest)) == chosen(built)
    assert len(served.asked) == before


def test_a_layer_that_is_missing_may_come_later(installer: Installer, served: LyingServer, built: Built) -> None:
    layers = {path: data for path, data in served.files.items() if "/layers/" in path}
    for path in layers:
        del served.files[path]
    error = refused(installer, offer(served))
    assert not error.final
    assert "404" in error.reason
    served.files.update(layers)
    assert install(installer, offer(served)) == chosen(built)


def test_what_a_server_damaged_is_tried_again(
    installer: Installer, served: LyingServer, built: Built, places: Places
) -> None:
    whole = served.files[PACKAGE]
    middle = len(whole) // 2
    served.files[PACKAGE] = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    error = refused(installer, offer(served))
    assert not error.final
    assert not (places.installed / "components" / NAME / "versions").exists()
    served.files[PACKAGE] = whole
    assert install(installer, offer(served)) == chosen(built)


@pytest.mark.parametrize("spelled", ["1.1", "1.1.0.0"])
def test_a_version_is_the_same_however_it_is_spelled(
    installer: Installer, served: LyingServer, built: Built, spelled: str
) -> None:
    wanted = msgspec.structs.replace(offer(served), version=spelled)
    assert install(installer, wanted) == chosen(built)
    before = len(served.asked)
    assert install(installer, wanted) == chosen(built)  # it lies there under the name its package has
    assert len(served.asked) == before


def test_another_mirror_has_it(installer: Installer, served: LyingServer, built: Built) -> None:
    urls = (f"{served.url}/gone.zip", "file:///etc/passwd", f"{served.url}{PACKAGE}")
    assert install(installer, offer(served, urls=urls)) == chosen(built)


@pytest.mark.parametrize("why", ["another key", "another build", "another version"])
def test_what_is_not_for_us_is_final_and_not_kept(
    installer: Installer, served: LyingServer, built: Built, places: Places, why: str, tmp_path: Path
) -> None:
    digest = ""
    if why == "another key":
        trust(places, OTHER_KEY)
    elif why == "another build":
        digest = "0" * 64
    else:
        other = build(checkout(tmp_path / "other", "1.2.0"), NAME, tmp_path / "dist", [KEY])
        served.files[PACKAGE] = other.path.read_bytes()
    error = refused(installer, offer(served, digest=digest))
    assert error.final
    assert left_over(places) == []
    assert not (places.installed / "components" / NAME / "versions").exists()
    words = {"another key": "not for us", "another build": "is another build", "another version": "1.2.0, asked for"}
    assert words[why] in error.reason


@pytest.mark.parametrize("why", ["junk", "writable", "none"])
def test_a_folder_of_keys_that_cannot_be_used_is_mended_and_tried_again(
    installer: Installer, served: LyingServer, built: Built, places: Places, why: str
) -> None:
    key = places.trust / "release.pub"
    whole = key.read_bytes()
    if why == "junk":
        key.write_text("junk")
    elif why == "writable":
        key.chmod(0o666)
    else:
        key.unlink()
    error = refused(installer, offer(served))
    assert not error.final
    assert error.reason.startswith(f"no package can be checked: {places.trust}")
    key.write_bytes(whole)
    key.chmod(0o644)
    assert install(installer, offer(served)) == chosen(built)


def test_nobody_has_it(installer: Installer, server: LyingServer, places: Places) -> None:
    error = refused(installer, Offer(component=NAME, version="1.1.0", wanted_by="operator"))
    assert not error.final
    assert error.reason == "probe 1.1.0 cannot be had: nobody says where it is to be had"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_folders_are_ours_alone(
    installer: Installer, served: LyingServer, built: Built, places: Places, umask: int
) -> None:
    """launch.py believes no others."""
    before = os.umask(umask)
    try:
        assert install(installer, offer(served)) == chosen(built)
    finally:
        os.umask(before)
    for path in (places.installed, *places.installed.glob("components"), *places.installed.glob("components/*")):
        assert path.stat().st_mode & 0o777 == 0o755
