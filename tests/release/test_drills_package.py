"""Drills 24 to 31 of the catalogue (docs/catalogue.md): packages that must not get onto the disk."""

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from release.build import Built
from release.errors import BadPackage, Unfit, Untrusted
from release.manifest import BYTES_LIMIT, MANIFEST, SIGNATURES, File, canonical, digest
from release.signing import SecretKey, Signatures, Thresholds, Trust, sign, trust_for, write_key
from release.unpack import this_machine, unpack, verify_package
from tests.release.product import KEY, NAME, OTHER_KEY, TRUST, Installed

Entry = tuple[str | zipfile.ZipInfo, bytes]
BOTH = (KEY.public(), OTHER_KEY.public())


def signed(built: Built, keys: list[SecretKey] | None = None, **fields: Any) -> list[Entry]:
    """The entries of a package whose manifest was changed before it was signed."""
    manifest = canonical(msgspec.structs.replace(built.manifest, **fields))
    with zipfile.ZipFile(built.path) as archive:
        entries: list[Entry] = [(name, archive.read(name)) for name in archive.namelist()]
    others = [entry for entry in entries if entry[0] not in {MANIFEST, SIGNATURES}]
    return [(MANIFEST, manifest), (SIGNATURES, sign(manifest, [KEY] if keys is None else keys)), *others]


def write_zip(folder: Path, entries: list[Entry]) -> Path:
    path = folder / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def info(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def refused(installed: Installed, path: Path, why: str) -> None:
    with pytest.raises(BadPackage, match=why):
        verify_package(path, TRUST)
    with pytest.raises(BadPackage, match=why):
        unpack(path, installed.root, NAME, TRUST, this_machine())
    assert not installed.tree("1.0.0").exists()
    assert not [path for path in installed.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("keys", "trust", "why"),
    [
        ([], TRUST, "signed by: nobody"),
        ([OTHER_KEY], TRUST, "signed by 0 of the keys we know"),
        ([KEY], Trust(BOTH, threshold=2), "2 are needed"),
        ([KEY], Trust(()), "known: none"),
    ],
    ids=["unsigned", "unknown key", "threshold", "no key known"],
)
def test_drill_24_not_signed_by_enough_of_us(
    installed: Installed, one: Built, tmp_path: Path, keys: list[SecretKey], trust: Trust, why: str
) -> None:
    path = write_zip(tmp_path, signed(one, keys))
    with pytest.raises(Untrusted, match=why):
        unpack(path, installed.root, NAME, trust, this_machine())
    assert not list(installed.root.iterdir())


def test_drill_24_rdagent_takes_more_signatures(installed: Installed, one: Built, tmp_path: Path) -> None:
    (tmp_path / "trust").mkdir()
    for key in (KEY, OTHER_KEY):
        name = key.public().name
        write_key(tmp_path / name, key).rename(tmp_path / "trust" / f"{name}.pub")
    for component, keys, enough in (
        ("rdagent", [KEY], False),
        ("telemetry", [KEY], True),
        ("rdagent", [KEY, OTHER_KEY], True),
    ):
        trust = trust_for(component, tmp_path / "trust", Thresholds(threshold=1, rdagent_threshold=2))
        path = write_zip(tmp_path, signed(one, keys, component=component))
        tree = installed.root / "components" / component / "versions" / "1.0.0"
        if enough:
            unpack(path, installed.root, component, trust, this_machine())
            assert tree.is_dir()
        else:
            with pytest.raises(Untrusted, match="2 are needed"):
                unpack(path, installed.root, component, trust, this_machine())
            assert not tree.exists()


def test_drill_25_our_key_signed_it_for_something_else(installed: Installed, one: Built, tmp_path: Path) -> None:
    """We have keys instead of certificates under a root, so the nearest thing: a known key, and another purpose."""
    entries = signed(one)
    secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(KEY.ed25519_secret))
    for purpose in (b"", b"azvmagent repository metadata 1\n", b"azvmagent package manifest 2\n"):
        signature = secret.sign(purpose + canonical(one.manifest)).hex()
        entries[1] = (SIGNATURES, msgspec.json.encode(Signatures({KEY.public().name: signature})))
        with pytest.raises(Untrusted, match=f"the signature of key {KEY.public().name} is wrong"):
            unpack(write_zip(tmp_path, entries), installed.root, NAME, TRUST, this_machine())
    assert not list(installed.root.iterdir())


def test_drill_26_another_components_package(installed: Installed, one: Built, tmp_path: Path) -> None:
    path = write_zip(tmp_path, signed(one, component="rdagent"))
    with pytest.raises(Unfit, match=r"this is rdagent 1\.0\.0, wanted is probe"):
        unpack(path, installed.root, NAME, TRUST, this_machine())
    assert not list(installed.root.iterdir())


def test_drill_26_another_version_inside(installed: Installed, one: Built, tmp_path: Path) -> None:
    """A repository that says 1.1.0 and gives the signed 1.0.0: who stages it knows what was asked for."""
    (tmp_path / "trust").mkdir()
    write_key(tmp_path / "release", KEY).rename(tmp_path / "trust" / "release.pub")
    order = {"component": NAME, "package": str(one.path), "root": str(installed.root), "layers": {}}
    for version in ("1.1.0", "1.0.0"):
        asked = msgspec.json.encode({**order, "version": version, "trust": str(tmp_path / "trust")})
        command = [sys.executable, "-P", "-m", "rdagent.update.stager"]
        answer = msgspec.json.decode(subprocess.run(command, input=asked, stdout=subprocess.PIPE, check=True).stdout)
        if version == "1.1.0":
            assert answer["problem"] == "unfit"
            assert "this is probe 1.0.0, asked for was probe 1.1.0" in answer["reason"]
            assert not list(installed.root.iterdir())
    assert (answer["problem"], answer["digest"]) == (None, one.digest)
    assert installed.tree("1.0.0").is_dir()


Change = Callable[[list[Entry]], list[Entry]]
OTHER_FILES: dict[str, tuple[Change, str]] = {
    "added": (lambda entries: [*entries, ("probe/evil.py", b"")], "not in its manifest"),
    "a name in two cases": (lambda entries: [*entries, ("PROBE/__init__.py", b"")], "not in its manifest"),
    "missing": (lambda entries: entries[:-1], "is missing"),
    "shorter": (lambda entries: [*entries[:-1], (entries[-1][0], b"")], "not as long"),
    "other content": (lambda entries: [*entries[:-1], (entries[-1][0], entries[-1][1][::-1])], "not the file that was"),
    "no manifest": (lambda entries: entries[1:], "no package of ours"),
}
PATHS: dict[str, tuple[Change, str]] = {
    "traversal": (lambda entries: [*entries, ("../../evil", b"")], "leads out"),
    "traversal inside": (lambda entries: [*entries, ("probe/../../evil", b"")], "leads out"),
    "absolute": (lambda entries: [*entries, ("/etc/evil", b"")], "absolute"),
    "backslash": (lambda entries: [*entries, ("probe\\evil", b"")], "backslash"),
}
ODD_ENTRIES: dict[str, tuple[Change, str]] = {
    "symlink": (lambda entries: [*entries, (info("link", 0o120777), b"/etc/passwd")], "no plain file"),
    "device": (lambda entries: [*entries, (info("device", 0o020666), b"")], "no plain file"),
    "setuid": (lambda entries: [*entries, (info("su", 0o104755), b"")], "no plain file"),
    "folder": (lambda entries: [*entries, (info("probe/", 0o040755), b"")], "not plain"),
    "two manifests": (lambda entries: [*entries, (MANIFEST, b"{}")], "holds .manifest twice"),
    "a name twice": (lambda entries: [*entries, entries[-1]], "twice"),
}
BOMBS: dict[str, tuple[Change, str]] = {
    "too many files": (lambda entries: [*entries, *((f"f{number}", b"") for number in range(6000))], "limit 5000"),
    "large manifest": (lambda entries: [(MANIFEST, b" " * (2 << 20)), *entries[1:]], "unpacks to more"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_drill_27_signed_manifest_other_files(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    change, why = OTHER_FILES[name]
    refused(installed, write_zip(tmp_path, change(signed(one))), why)


@pytest.mark.parametrize("name", PATHS)
def test_drill_28_paths_that_lead_out(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    change, why = PATHS[name]
    refused(installed, write_zip(tmp_path, change(signed(one))), why)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "probe\\evil", "a/../evil"])
def test_drill_28_paths_that_lead_out_signed(installed: Installed, one: Built, tmp_path: Path, path: str) -> None:
    """By a key we know: its holder may be wrong too."""
    files = {**one.manifest.files, path: File(digest(b""), 0)}
    refused(installed, write_zip(tmp_path, [*signed(one, files=files), (path, b"")]), "evil")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_drill_29_links_devices_duplicates(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    change, why = ODD_ENTRIES[name]
    refused(installed, write_zip(tmp_path, change(signed(one))), why)


@pytest.mark.parametrize("name", BOMBS)
def test_drill_30_bombs(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    change, why = BOMBS[name]
    refused(installed, write_zip(tmp_path, change(signed(one))), why)


def resized(path: Path, size: int, said: int) -> Path:
    """The zip with another size in the directory at its end and in the head of the file itself."""
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", said)))
    return path


def test_drill_30_a_bomb_that_lies_about_its_size(installed: Installed, one: Built, tmp_path: Path) -> None:
    size, said = 50 << 20, 1 << 10
    files = {**one.manifest.files, "bomb": File(digest(bytes(said)), said)}
    path = write_zip(tmp_path, [*signed(one, files=files), ("bomb", bytes(size))])
    refused(installed, resized(path, size, said), "bomb")


def test_drill_30_a_bomb_that_does_not(installed: Installed, one: Built, tmp_path: Path) -> None:
    size = 123457
    path = write_zip(tmp_path, [*signed(one), ("bomb", bytes(size))])
    refused(installed, resized(path, size, BYTES_LIMIT + 1), f"would unpack to more than {BYTES_LIMIT}")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"min_python": "3.99"}, "needs Python 3.99"),
        ({"platform": "linux-sparc"}, "is for linux-sparc"),
        ({"abi": "cpython-27"}, "are for cpython-27"),
    ],
)
def test_drill_31_needs_another_machine(
    installed: Installed, one: Built, tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    path = write_zip(tmp_path, signed(one, **fields))
    with pytest.raises(Unfit, match=why):
        unpack(path, installed.root, NAME, TRUST, this_machine())
    assert not list(installed.root.iterdir())
