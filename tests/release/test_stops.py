"""Killed, or refused by the disk, before every single step: old or new, and nothing that was promised is lost.

The story of `walk` is told by a child that stops before its n-th step. What it announced by then was on disk.
"""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from release import record as records
from release.build import Built
from release.disk import Disk
from release.errors import ReleaseError
from release.record import Record, Trial
from release.tree import check_version
from release.unpack import this_machine, unpack
from tests.release.product import LAUNCH, NAME, TRUST, Installed, chosen

Say = Callable[[str], object]
OLD, NEW, BAD = "1.0.0", "1.1.0", "1.2.0"


def walk(installed: Installed, packages: list[Built], disk: Disk, say: Say) -> None:
    """From `one` to `two`, which is good; then to `three`, which is not."""
    folder = installed.folder
    for package, good in ((packages[1], True), (packages[2], False)):
        unpack(package.path, installed.root, NAME, TRUST, this_machine(), disk)
        say(f"unpacked {package.manifest.version}")
        with records.locked(folder):
            record = records.read(folder)
            assert record is not None
            if record.current != chosen(package) and chosen(package).key not in record.bad:
                record = records.write(folder, records.begin_trial(record, chosen(package)), disk)
                record = records.commit(record) if good else records.reject(record, "is bad")
                record = records.write(folder, record, disk)
                say(f"{'committed' if good else 'rejected'} {package.manifest.version}")
            records.show_current(folder, record, disk)


def before_all(root: Path, packages: list[Built]) -> Installed:
    installed = Installed(root)
    installed.put(packages[0])
    installed.set(current=chosen(packages[0]))
    return installed


def steps(root: Path, packages: list[Built]) -> int:
    seen: list[str] = []
    walk(before_all(root, packages), packages, Disk(lambda step, _: seen.append(step)), lambda _: None)
    assert {"mkdir", "create", "write", "fsync", "rename", "fsync-folder", "symlink"} == set(seen)
    return len(seen)


def look(installed: Installed, promised: list[str], launch: ModuleType, packages: list[Built]) -> None:
    """What must hold wherever it stopped."""
    record = installed.record()
    assert record.current is not None
    check_version(installed.tree(record.current.version), record.current.digest)
    assert record.current.version == NEW if "committed 1.1.0" in promised else record.current.version in {OLD, NEW}
    assert ("rejected 1.2.0" not in promised) or chosen(packages[2]).key in record.bad
    for version in (NEW, BAD):
        if f"unpacked {version}" in promised:
            check_version(installed.tree(version))
    # Whatever lies among the versions is whole.
    for tree in (installed.folder / "versions").iterdir():
        check_version(tree)
    trial = record.trial.target.version if record.trial else ""
    paths = launch.choose(str(installed.root), str(installed.folder))
    assert paths == [str(installed.tree(trial or record.current.version))]


def go_on(installed: Installed, packages: list[Built]) -> None:
    """The next life of the updater does the same again and comes to the same end."""
    record = installed.record()
    if record.trial:
        good = record.trial.target == chosen(packages[1])
        with records.locked(installed.folder):
            records.write(installed.folder, records.commit(record) if good else records.reject(record, "is bad"))
    walk(installed, packages, Disk(), lambda _: None)
    end = installed.record()
    assert (end.current, end.previous, end.trial) == (chosen(packages[1]), chosen(packages[0]), None)
    assert list(end.bad) == [chosen(packages[2]).key]
    assert not list((installed.folder / "staging").iterdir())
    assert (installed.folder / "current").readlink() == Path("versions/1.1.0")
    assert not list(installed.folder.glob(".*"))


def child(act: Callable[[Say], None]) -> tuple[int, list[str]]:
    """Run in a forked process. Gives the signal that ended it (0: none) and what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            act(lambda text: os.write(writing, f"{text}\n".encode()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        promised = said.read().splitlines()
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, promised


class Stop:
    """Tells a Disk's `before` to do something at the n-th step."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self._left = number
        self._act = act

    def __call__(self, _step: str, _path: Path) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where a thousand fsyncs cost little: neither a kill nor a refusal depends on the disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


@pytest.fixture
def packages(one: Built, two: Built, three: Built) -> list[Built]:
    return [one, two, three]


def test_killed_before_every_step(memory: Path, packages: list[Built], launch: ModuleType) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519  # once, not in every child

    assert ed25519
    count = steps(memory / "count", packages)
    assert count > 100
    for number in range(1, count + 1):
        installed = before_all(memory / f"{number}", packages)
        stop = Stop(number, lambda: os.kill(os.getpid(), signal.SIGKILL))

        def act(say: Say, installed: Installed = installed, stop: Stop = stop) -> None:
            walk(installed, packages, Disk(stop), say)

        signalled, promised = child(act)
        assert signalled == signal.SIGKILL, f"step {number}"
        look(installed, promised, launch, packages)
        go_on(installed, packages)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_every_step_refused(memory: Path, packages: list[Built], launch: ModuleType, error: int) -> None:
    def refuse() -> None:
        raise OSError(error, os.strerror(error))

    count = steps(memory / "count", packages)
    for number in range(1, count + 1):
        installed = before_all(memory / f"{number}", packages)
        promised: list[str] = []
        try:
            walk(installed, packages, Disk(Stop(number, refuse)), promised.append)
        except ReleaseError as trouble:
            assert os.strerror(error) in str(trouble), f"step {number}"
        else:
            assert number > 0
            # Tidying up may fail without a word; all else must be told.
            assert "rejected 1.2.0" in promised
        look(installed, promised, launch, packages)
        go_on(installed, packages)


# launch.py has no seam for this; the interpreter tells an audit hook of every file it opens, renames or looks into.
HOOK = """
import os, runpy, signal, sys
left, error = int(sys.argv[1]), int(sys.argv[2])
def hook(event, arguments):
    global left
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event == "os.rename":
        left -= 1
        if left == 0 and error:
            raise OSError(error, os.strerror(error))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def launched(installed: Installed, number: int, error: int) -> "subprocess.CompletedProcess[str]":
    words = [str(number), str(error), str(LAUNCH), str(installed.root), NAME]
    return subprocess.run([sys.executable, "-I", "-S", "-c", HOOK, *words], capture_output=True, text=True)


@pytest.mark.parametrize("error", [0, errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("tries", [2, 0])
def test_launch_stopped_before_every_step(tmp_path: Path, packages: list[Built], error: int, tries: int) -> None:
    ends = []
    for number in range(1, 6):
        installed = before_all(tmp_path / f"{number}", packages)
        installed.put(packages[1])
        before = installed.set(current=chosen(packages[0]), trial=Trial(chosen(packages[1]), tries))
        ran = launched(installed, number, error)
        ends.append(ran.returncode)
        after: Record = installed.record()
        if number == 5:  # four steps there are: the lock, the slot's file (asked for twice), its rename
            assert ran.stdout == ("probe 1.1.0\n" if tries else "probe 1.0.0\n")
        elif error:
            assert ran.stdout == "probe 1.0.0\n"
            assert "a try cannot be counted" in ran.stderr
            assert after == before
        else:
            assert (ran.stdout, after) == ("", before)
        # The next start is none the worse for it.
        again = installed.launch()
        assert again.stdout == ("probe 1.1.0\n" if tries else "probe 1.0.0\n")
        assert not list(installed.folder.glob(".*"))
    assert ends == ([0] * 5 if error else [-signal.SIGKILL] * 4 + [0])
