"""Unpacking: what an enemy or a bad line could send, and what is on disk afterwards."""

import fcntl
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release.build import Built, build, layer_file
from release.disk import Disk
from release.errors import BadPackage, ReleaseError, RottenTree, Unfit, Untrusted
from release.manifest import MANIFEST, SIGNATURES, File, canonical, digest
from release.signing import SecretKey, Trust, sign
from release.tree import check_layer, check_version
from release.unpack import this_machine, unpack, unpack_layer, verify_package
from tests.release.product import KEY, NAME, OTHER_KEY, TRUST, Installed, checkout, probe

Entry = tuple[str | zipfile.ZipInfo, bytes]


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def signed(built: Built, path: Path, **fields: object) -> list[Entry]:
    """The entries of a package whose manifest was changed before it was signed."""
    manifest = canonical(msgspec.structs.replace(built.manifest, **fields))
    with zipfile.ZipFile(built.path) as archive:
        entries: list[Entry] = [(name, archive.read(name)) for name in archive.namelist()]
    others = [entry for entry in entries if entry[0] not in {MANIFEST, SIGNATURES}]
    return [(MANIFEST, manifest), (SIGNATURES, sign(manifest, [KEY])), *others]


def write_zip(path: Path, entries: list[Entry]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def info(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


def test_a_good_package(installed: Installed, one: Built) -> None:
    package = installed.put(one)
    tree = installed.tree("1.0.0")
    assert package.digest == one.digest
    assert check_version(tree, one.digest) == one.manifest
    assert (tree / "probe" / "data" / "greeting.txt").read_text() == "hello\n"
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in tree.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert not list((installed.folder / "staging").iterdir())


def test_a_second_time_changes_nothing(installed: Installed, one: Built) -> None:
    installed.put(one)
    before = {path: path.lstat().st_mtime_ns for path in installed.root.rglob("*")}
    installed.put(one)
    assert {path: path.lstat().st_mtime_ns for path in installed.root.rglob("*")} == before


@pytest.mark.parametrize(
    ("keys", "trust", "why"),
    [
        ([], TRUST, "signed by nobody"),
        ([OTHER_KEY], TRUST, "signed by 0 of the keys we know"),
        ([KEY], Trust((KEY.public(), OTHER_KEY.public()), threshold=2), "2 are needed"),
    ],
)
def test_not_signed_by_us(
    installed: Installed, one: Built, tmp_path: Path, keys: list[SecretKey], trust: Trust, why: str
) -> None:
    entries = signed(one, tmp_path)
    entries[1] = (SIGNATURES, sign(canonical(one.manifest), keys))
    path = write_zip(tmp_path / "x.zip", entries)
    with pytest.raises(Untrusted, match=why.replace("signed by nobody", "signed by: nobody")):
        unpack(path, installed.root, NAME, trust, this_machine())
    assert not list(installed.root.iterdir())


BAD: dict[str, tuple[Callable[[list[Entry]], list[Entry]], str]] = {
    "traversal": (lambda entries: [*entries, ("../../evil", b"")], "leads out"),
    "absolute": (lambda entries: [*entries, ("/etc/evil", b"")], "absolute"),
    "backslash": (lambda entries: [*entries, ("probe\\evil", b"")], "backslash"),
    "symlink": (lambda entries: [*entries, (info("link", 0o120777), b"/etc/passwd")], "no plain file"),
    "device": (lambda entries: [*entries, (info("device", 0o020666), b"")], "no plain file"),
    "setuid": (lambda entries: [*entries, (info("su", 0o104755), b"")], "no plain file"),
    "folder": (lambda entries: [*entries, (info("probe/", 0o040755), b"")], "not plain"),
    "added": (lambda entries: [*entries, ("probe/evil.py", b"")], "not in its manifest"),
    "missing": (lambda entries: entries[:-1], "is missing"),
    "shorter": (lambda entries: [*entries[:-1], (entries[-1][0], b"")], "not as long"),
    "other content": (lambda entries: [*entries[:-1], (entries[-1][0], entries[-1][1][::-1])], "not the file that was"),
    "two manifests": (lambda entries: [*entries, (MANIFEST, b"{}")], "holds .manifest twice"),
    "too many files": (lambda entries: [*entries, *((f"f{number}", b"") for number in range(6000))], "limit 5000"),
    "no manifest": (lambda entries: entries[1:], "no package of ours"),
    "large manifest": (lambda entries: [(MANIFEST, b" " * (2 << 20)), *entries[1:]], "unpacks to more"),
    "a name in two cases": (lambda entries: [*entries, ("PROBE/__init__.py", b"")], "not in its manifest"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_zip(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    change, why = BAD[name]
    path = write_zip(tmp_path / "x.zip", change(signed(one, tmp_path)))
    with pytest.raises(BadPackage, match=why):
        verify_package(path, TRUST)
    with pytest.raises(BadPackage, match=why):
        unpack(path, installed.root, NAME, TRUST, this_machine())
    assert not installed.tree("1.0.0").exists()
    assert not [path for path in installed.root.rglob("*") if path.is_file()]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice(installed: Installed, one: Built, tmp_path: Path) -> None:
    entries = signed(one, tmp_path)
    path = write_zip(tmp_path / "x.zip", [*entries, entries[-1]])
    with pytest.raises(BadPackage, match="twice"):
        installed.put(msgspec.structs.replace(one, path=path))


def test_a_bomb_that_lies_about_its_size(installed: Installed, one: Built, tmp_path: Path) -> None:
    size = 1 << 10
    files = {**one.manifest.files, "bomb": File(digest(bytes(size)), size)}
    path = write_zip(tmp_path / "x.zip", [*signed(one, tmp_path, files=files), ("bomb", bytes(50 << 20))])
    data = bytearray(path.read_bytes())
    # The size in the directory at the end and the one at the file itself.
    for place in range(len(data) - 4):
        if data[place : place + 4] == struct.pack("<I", 50 << 20):
            data[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(data)
    with pytest.raises(BadPackage, match="bomb"):
        installed.put(msgspec.structs.replace(one, path=path))
    assert not installed.tree("1.0.0").exists()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"component": "rdagent"}, "this is rdagent 1.0.0, wanted is probe"),
        ({"min_python": "3.99"}, "needs Python 3.99"),
        ({"platform": "linux-sparc"}, "is for linux-sparc"),
        ({"abi": "cpython-27"}, "are for cpython-27"),
    ],
)
def test_a_package_that_does_not_fit(
    installed: Installed, one: Built, tmp_path: Path, fields: dict[str, object], why: str
) -> None:
    path = write_zip(tmp_path / "x.zip", signed(one, tmp_path, **fields))
    with pytest.raises(Unfit, match=why):
        installed.put(msgspec.structs.replace(one, path=path))
    assert not list(installed.root.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_a_flipped_bit_never_gets_onto_the_disk(
    tmp_path_factory: pytest.TempPathFactory, one: Built, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("flip")
    whole = one.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    changed = bytearray(whole[:cut])
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = root / "x.zip"
    path.write_bytes(changed)
    try:
        unpack(path, root, NAME, TRUST, this_machine())
    except ReleaseError:
        assert not list(root.glob("components/*/versions/*"))
    else:
        # A bit that means nothing, e.g. of a time.
        check_version(root / "components" / NAME / "versions" / "1.0.0", one.digest)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_package(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "x.zip"
    path.write_bytes(data)
    with pytest.raises(BadPackage):
        verify_package(path, TRUST)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.zip"):
        with pytest.raises(BadPackage, match="cannot be read"):
            verify_package(path, TRUST)


def test_a_rotten_version_is_made_whole(installed: Installed, one: Built) -> None:
    installed.put(one)
    victim = installed.tree("1.0.0") / "probe" / "__main__.py"
    for harm in (victim.unlink, lambda: victim.write_text("evil"), (victim.parent / "new.py").touch):
        harm()
        with pytest.raises(RottenTree):
            check_version(installed.tree("1.0.0"))
        installed.put(one)
        check_version(installed.tree("1.0.0"), one.digest)


def test_one_number_has_one_content(installed: Installed, one: Built, tmp_path: Path) -> None:
    installed.put(one)
    before = everything(installed.root)
    with pytest.raises(Unfit, match="a number of its own"):
        installed.put(probe(tmp_path, "1.0.0", "print('other')"))
    assert everything(installed.root) == before


def test_layers_come_first(installed: Installed, tmp_path: Path) -> None:
    built = build(checkout(tmp_path, "1.0.0", "import click"), NAME, tmp_path / "out", [KEY])
    (layer,) = built.manifest.layers
    with pytest.raises(Unfit, match="unpack the layer click"):
        unpack(built.path, installed.root, NAME, TRUST, this_machine())
    installed.put(built)
    folder = installed.root / "deps" / layer.sha256
    check_layer(folder, layer)
    (folder / "click" / "__init__.py").write_text("evil")
    with pytest.raises(Unfit, match="click/__init__.py has 4 bytes"):
        unpack(built.path, installed.root, NAME, TRUST, this_machine())
    installed.put(built)
    check_layer(folder, layer)


def test_another_layer_than_the_one_named(installed: Installed, tmp_path: Path) -> None:
    built = build(checkout(tmp_path, "1.0.0", "import click, msgspec"), NAME, tmp_path / "out", [KEY])
    click, other = built.manifest.layers
    with pytest.raises(BadPackage, match="is not the layer"):
        unpack_layer(layer_file(tmp_path / "out" / "layers", click), installed.root, other)
    assert not list(installed.root.iterdir())


@pytest.mark.parametrize(
    "name", ["components", "components/probe", "components/probe/staging", "components/probe/versions"]
)
def test_folders_that_are_not_ours_alone(installed: Installed, one: Built, tmp_path: Path, name: str) -> None:
    folder = installed.root / name
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(RottenTree, match="written to by others"):
        installed.put(one)
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.raises(RottenTree, match="a link"):
        installed.put(one)
    assert not list(elsewhere.iterdir())


def test_two_at_once(installed: Installed, one: Built, two: Built) -> None:
    installed.put(one)
    left_over = installed.folder / "staging" / "1.1.0"
    left_over.mkdir()
    held = os.open(installed.folder / "staging", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ReleaseError, match="another unpack or collection is at work"):
            installed.put(two)
        assert left_over.exists()
    finally:
        os.close(held)
    installed.put(two)
    assert not list((installed.folder / "staging").iterdir())


def test_what_does_not_read_back_is_noticed(installed: Installed, one: Built) -> None:
    def spoil(step: str, path: Path) -> None:
        if (step, path) == ("fsync-folder", installed.folder / "versions") and installed.tree("1.0.0").exists():
            (installed.tree("1.0.0") / "probe" / "__main__.py").write_text("a disk that lies")

    with pytest.raises(RottenTree, match="__main__.py"):
        unpack(one.path, installed.root, NAME, TRUST, this_machine(), Disk(spoil))
