"""Killed, or refused by the disk, before every single step: old or new, and nothing that was promised is lost.

The story (story.py) is lived by a child that stops before its n-th step. What it announced by then was on disk.
"""

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from release.build import Built
from release.errors import ReleaseError
from release.record import Record, Trial
from tests.release.product import LAUNCH, NAME, Installed, chosen
from tests.release.story import STEPS, Say, Story


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


class Chapters:
    """Where each chapter begins, to be copied: whoever is stopped in the fourth need not live through the first."""

    def __init__(self, folder: Path, story: Story) -> None:
        self.story = story
        self.folder = folder
        self.steps: list[tuple[int, int]] = []
        """Chapter and number of the step in it."""
        self.promised: list[list[str]] = []
        """Before each chapter."""
        installed = story.begin(folder / "life")
        promised: list[str] = []
        while story.chapter(installed.record()):
            number = len(self.promised)
            shutil.copytree(installed.root, folder / f"chapter-{number}", symlinks=True)
            self.promised.append([*promised])
            _, told = child(functools.partial(self._count, installed))
            promised += [text for text in told if not text.startswith("step ")]
            seen = [text.removeprefix("step ") for text in told if text.startswith("step ")]
            assert set(seen) <= STEPS
            self.steps += [(number, step + 1) for step in range(len(seen))]
        story.go_on(installed)

    def _count(self, installed: Installed, say: Say) -> None:
        self.story.walk(installed, lambda step, _: say(f"step {step}"), say, 1)

    def stopped(self, chapter: int, step: int, act: Callable[[], None]) -> tuple[Installed, int, list[str]]:
        """What is left when `act` happens before that step: the disk, the signal that ended it, what was promised."""
        root = self.folder / "again"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.folder / f"chapter-{chapter}", root, symlinks=True)
        installed = Installed(root)

        def live(say: Say) -> None:
            try:
                self.story.walk(installed, Stop(step, act), say, 1)
            except ReleaseError as error:
                say(f"refused {error}")

        signalled, promised = child(live)
        return installed, signalled, [*self.promised[chapter], *promised]


@pytest.fixture
def chapters(memory: Path, story: Story) -> Chapters:
    from cryptography.hazmat.primitives.asymmetric import ed25519  # once, not in every child

    assert ed25519
    return Chapters(memory, story)


def test_killed_before_every_step(chapters: Chapters) -> None:
    assert len(chapters.steps) > 300
    for chapter, step in chapters.steps:
        installed, signalled, promised = chapters.stopped(chapter, step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert signalled == signal.SIGKILL, f"chapter {chapter}, step {step}"
        chapters.story.look(installed, promised)
        chapters.story.go_on(installed, chapters=2)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_every_step_refused(chapters: Chapters, error: int) -> None:
    def refuse() -> None:
        raise OSError(error, os.strerror(error))

    for chapter, step in chapters.steps:
        installed, signalled, promised = chapters.stopped(chapter, step, refuse)
        assert not signalled
        if promised[-1].startswith("refused"):
            assert os.strerror(error) in promised.pop(), f"chapter {chapter}, step {step}"
        else:
            # Tidying up may fail without a word, and launch.py goes on without the trial; all else must be told.
            assert promised[-1].startswith("collected")
        chapters.story.look(installed, promised)
        chapters.story.go_on(installed, chapters=1)


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
def test_launch_stopped_before_every_step(tmp_path: Path, one: Built, two: Built, error: int, tries: int) -> None:
    ends = []
    for number in range(1, 6):
        installed = Installed(tmp_path / f"{number}")
        installed.put(one)
        installed.put(two)
        before = installed.set(current=chosen(one), trial=Trial(chosen(two), tries))
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
