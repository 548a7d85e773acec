"""Unpacking: what an enemy or a bad line could send, and what is on disk afterwards."""

import fcntl
import os
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release.build import Built, build, layer_file
from release.disk import Disk
from release.errors import BadPackage, ReleaseError, RottenTree, Unfit
from release.tree import check_layer, check_version
from release.unpack import this_machine, unpack, unpack_layer, verify_package
from tests.release.product import KEY, NAME, TRUST, Installed, checkout, probe


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


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


def test_a_directory_is_not_read_whatever_its_size(tmp_path: Path) -> None:
    limit = 4 << 20
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0x21, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * (limit // len(entry) + 1)
    data = directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    path = tmp_path / "telemetry-1.0.0.zip"
    path.write_bytes(data)
    with pytest.raises(BadPackage, match=f"has a directory of more than {limit} bytes"):
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
