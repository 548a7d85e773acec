"""Drills 51 to 62 of the catalogue (docs/catalogue.md), as far as other files here do not have them already."""

import ast
import multiprocessing
import os
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import pytest

from release import record as records
from release.build import Built
from release.collect import Keep, collect
from release.disk import Disk
from release.errors import ReleaseError, RottenTree
from release.manifest import MANIFEST
from release.record import Bad, Trial, rebuild, show_current
from release.tree import check_version
from tests.release.product import CHECKOUT, LAUNCH, NAME, TRUST, Installed, chosen

FAR = {"1970": 0.0, "2099": 4.1e9}


def half(installed: Installed, built: Built, *, names: str) -> Path:
    """What an unpacking that knows no staging leaves: the manifest may be there, and the rest not."""
    tree = installed.tree(built.manifest.version)
    whole = shutil.copytree(tree, installed.root.with_name("whole"), dirs_exist_ok=True)
    shutil.rmtree(tree)
    tree.mkdir()
    for path in sorted(whole.rglob(names)):
        target = tree / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tree


@pytest.mark.parametrize("names", [MANIFEST, ".*", "__init__.py", "*.txt"])
def test_drill_51_a_half_extracted_tree(installed: Installed, one: Built, two: Built, names: str) -> None:
    for built in (one, two):
        installed.put(built)
    installed.set(current=chosen(one), trial=Trial(chosen(two), 3))
    tree = half(installed, two, names=names)
    ran = installed.launch()
    assert ran.stdout == "probe 1.0.0\n"
    assert "rotten" in installed.record().bad[chosen(two).key].reason
    # As the current one, too; and a record that is made anew does not name it.
    installed.set(current=chosen(two), previous=chosen(one))
    assert installed.launch().stdout == "probe 1.0.0\n"
    show_current(installed.folder, installed.record())
    assert rebuild(installed.root, NAME, TRUST).current is None
    # It is not taken for the version: unpacking makes it whole.
    installed.put(two)
    check_version(tree, two.digest)
    assert installed.launch().stdout == "probe 1.1.0\n"


def test_drill_51_what_was_left_in_staging(installed: Installed, one: Built, two: Built) -> None:
    installed.put(one)
    installed.set(current=chosen(one))
    shutil.copytree(installed.tree("1.0.0"), installed.folder / "staging" / "1.1.0")
    assert installed.launch().stdout == "probe 1.0.0\n"
    assert rebuild(installed.root, NAME, TRUST).current is None  # nothing of it counts
    installed.put(two)
    check_version(installed.tree("1.1.0"), two.digest)
    assert not list((installed.folder / "staging").iterdir())


ROT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "zeroes": lambda data: bytes(len(data)),
    "longer": lambda data: data + b" ",
    "another file": lambda _: b"\x7fELF",
}


@pytest.mark.parametrize("rot", ROT)
def test_drill_52_the_newest_slot_is_rotten(installed: Installed, one: Built, two: Built, rot: str) -> None:
    for built in (one, two):
        installed.put(built)
    bad = {"0.9.0+" + "a" * 64: Bad("hangs")}
    installed.set(current=chosen(one), bad=bad)
    before = installed.record()
    newest = installed.folder / records.SLOTS[installed.set(current=chosen(two), bad=bad).serial % 2]
    newest.write_bytes(ROT[rot](newest.read_bytes()))
    # The one before it is in force, with its bad list, and is written on from there.
    assert installed.record() == before
    assert installed.launch().stdout == "probe 1.0.0\n"
    with records.locked(installed.folder):
        records.write(installed.folder, records.begin_trial(before, chosen(two)))
    assert installed.launch().stdout == "probe 1.1.0\n"
    assert installed.record().bad == bad


@pytest.mark.parametrize("rot", ROT)
def test_drill_53_both_slots_are_gone(installed: Installed, one: Built, two: Built, rot: str) -> None:
    for built in (one, two):
        installed.put(built)
    installed.put_base("0.1.0")
    for _ in range(2):
        installed.set(current=chosen(one))
    show_current(installed.folder, installed.record())
    for name in records.SLOTS:
        slot = installed.folder / name
        slot.write_bytes(ROT[rot](slot.read_bytes()))
    assert records.read(installed.folder) is None
    # It keeps running, nothing is collected meanwhile, and the trees say what the record was.
    assert installed.launch().stdout == "probe 1.0.0\n"
    with pytest.raises(ReleaseError, match="rebuild it first"):
        collect(installed.root, NAME, Keep())
    with records.locked(installed.folder):
        records.write(installed.folder, rebuild(installed.root, NAME, TRUST))
    assert installed.record().current == chosen(one)
    assert installed.launch().stdout == "probe 1.0.0\n"


def read_again_and_again(path: Path, started: Connection, stop: Connection) -> None:
    """Until told to stop; tells how often it read and how often nothing was there."""
    reads = misses = 0
    started.send("go")
    while not stop.poll():
        reads += 1
        try:
            path.read_bytes()
        except OSError:
            misses += 1
    started.send((reads, misses))


def flipped(folder: Path, flip: Callable[[str], object], times: int) -> tuple[int, int]:
    context = multiprocessing.get_context("fork")
    started, says = context.Pipe(duplex=False)
    hears, stop = context.Pipe(duplex=False)
    reader = context.Process(target=read_again_and_again, args=(folder / "current" / MANIFEST, says, hears))
    reader.start()
    try:
        assert started.recv() == "go"
        for number in range(times):
            flip(f"versions/1.{number % 2}.0")
    finally:
        stop.send("stop")
        result: tuple[int, int] = started.recv()
        reader.join()
    return result


def test_drill_56_readers_during_the_flip(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    link, disk = installed.folder / "current", Disk()
    disk.link(link, "versions/1.0.0")
    reads, misses = flipped(installed.folder, lambda to: disk.link(link, to), 300)
    assert reads > 100
    assert misses == 0

    def in_two_steps(to: str) -> None:
        link.unlink()
        link.symlink_to(to)

    # So it would have been seen; on a busy machine the reader may sleep for a while.
    assert any(flipped(installed.folder, in_two_steps, 2000)[1] for _ in range(50))


def test_drill_56_the_link_is_gone(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    installed.put_base("0.1.0")
    installed.set(current=chosen(two), previous=chosen(one))
    link = installed.folder / "current"
    for harm in (nothing, lambda: link.symlink_to("versions/9.9.9"), lambda: link.symlink_to("versions/1.0.0")):
        harm()
        # The record counts, not the link.
        assert installed.launch().stdout == "probe 1.1.0\n"
        show_current(installed.folder, installed.record())
        assert link.readlink() == Path("versions/1.1.0")
        link.unlink()


def nothing() -> None:
    pass


@pytest.mark.parametrize("year", FAR)
def test_drill_61_no_time_of_a_file_counts(installed: Installed, one: Built, two: Built, year: str) -> None:
    for built in (one, two):
        installed.put(built)
    installed.set(current=chosen(one), trial=Trial(chosen(two), 2))
    for path in installed.root.rglob("*"):
        os.utime(path, (FAR[year], FAR[year]), follow_symlinks=False)
    assert installed.launch().stdout == "probe 1.1.0\n"
    check_version(installed.tree("1.1.0"), two.digest)
    installed.put(two)
    with records.locked(installed.folder):
        record = records.write(installed.folder, records.commit(installed.record()))
    for slot in records.SLOTS:
        os.utime(installed.folder / slot, (FAR[year], 4e9 - FAR[year]))
    assert installed.record() == record
    assert installed.launch().stdout == "probe 1.1.0\n"


@pytest.mark.parametrize("year", FAR)
def test_drill_61_the_bad_list_needs_no_clock(installed: Installed, one: Built, two: Built, year: str) -> None:
    """Whether an entry's time is up is for the updater to say; launch.py may come before the clock is set."""
    for built in (one, two):
        installed.put(built)
    bad = {chosen(two).key: Bad("hangs", FAR[year])}
    installed.set(current=chosen(two), previous=chosen(one), bad=bad)
    assert installed.launch().stdout == "probe 1.0.0\n"
    assert installed.record().bad == bad
    held = records.forgive(installed.record(), now=FAR["1970"], environment="").bad
    assert held == (bad if year == "2099" else {})
    assert not records.forgive(installed.record(), now=4.2e9, environment="").bad


def test_drill_61_nothing_here_asks_for_the_time() -> None:
    for path in (LAUNCH, *(CHECKOUT / "release").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                asked = f"{node.value.id}.{node.attr}"
                assert asked not in {"time.time", "datetime.now", "datetime.today", "time.localtime", "time.gmtime"}


def elsewhere(path: Path) -> None:
    path.symlink_to(path.rename(f"{path}.moved"))


TAKEN: dict[str, Callable[[Path], object]] = {
    "of others": lambda path: path.chmod(0o777),
    "of a group": lambda path: path.chmod(0o775),
    "a link": elsewhere,
}


@pytest.mark.parametrize("harm", TAKEN)
@pytest.mark.parametrize("name", ["", "staging", "versions"])
def test_drill_62_a_folder_that_is_not_ours_alone(
    installed: Installed, one: Built, two: Built, three: Built, name: str, harm: str
) -> None:
    for built in (one, two):
        installed.put(built)
    before = installed.set(current=chosen(one))
    TAKEN[harm](installed.folder / name)
    why = "a link" if harm == "a link" else "written to by others"
    for act in (lambda: installed.put(three), lambda: collect(installed.root, NAME, Keep())):
        with pytest.raises(RottenTree, match=why):
            act()
    if not name:
        with pytest.raises(RottenTree, match=why), records.locked(installed.folder):
            pass
        with pytest.raises(RottenTree, match=why):
            records.write(installed.folder, before)
    assert installed.record() == before
    assert sorted(path.name for path in (installed.folder / "versions").iterdir()) == ["1.0.0", "1.1.0"]


def test_drill_62_slots_and_temporary_files_that_are_links(
    installed: Installed, one: Built, launch: ModuleType, tmp_path: Path
) -> None:
    """Nothing is written through a link that somebody put there."""
    installed.put(one)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in (".state.tmp", *records.SLOTS):
        (installed.folder / name).symlink_to(precious)
    for _ in range(3):
        installed.set(current=chosen(one))
    (installed.folder / ".state.launch").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        launch.write_record(str(installed.folder), launch.read_record(str(installed.folder)))
    (installed.folder / "state.lock").unlink()
    (installed.folder / "state.lock").symlink_to(precious)
    with pytest.raises(ReleaseError, match=r"state\.lock cannot be locked"), records.locked(installed.folder):
        pass
    assert precious.read_text() == "precious"
    assert installed.launch().stdout == "probe 1.0.0\n"


@pytest.mark.parametrize("to", ["nowhere", "../../../elsewhere"])
def test_drill_62_a_link_where_a_version_belongs(installed: Installed, one: Built, two: Built, to: str) -> None:
    installed.put(one)
    installed.put(two)
    elsewhere = installed.tree("1.1.0").rename(installed.root / "elsewhere")
    installed.tree("1.1.0").symlink_to(to)
    installed.set(current=chosen(two), previous=chosen(one))
    assert installed.launch().stdout == "probe 1.0.0\n"
    installed.put(two)
    assert not installed.tree("1.1.0").is_symlink()
    check_version(installed.tree("1.1.0"), two.digest)
    check_version(elsewhere, two.digest)  # what it pointed to was left alone
    assert installed.launch().stdout == "probe 1.1.0\n"
