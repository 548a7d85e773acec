"""A wall clock of our own for all processes of a stage: libfaketime, preloaded. The monotonic one is the machine's.

And a version of rdagent whose updater does not wait for its next look, but moves the wall clock on by that time: its
whole week is then as long as its work.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentctl.drill.variants import Change, appended, checkout, replaced

FOLDER = "clock"
"""Under the root: `offset`, seconds that libfaketime adds; `until`, how far the updater may move on; `waits`, one line
for each wait it has skipped: seconds."""

_PLACES = ("/usr/lib", "/usr/lib64")
_LIBRARY = "faketime/libfaketimeMT.so.1"
_FAST = """
import os
from pathlib import Path

_FOLDER = Path(os.environ["AZVMAGENT_ROOT"]) / "clock"


def _moved_on(seconds: float) -> None:
    offset = float((_FOLDER / "offset").read_text())
    (_FOLDER / "offset.new").write_text(f"{offset + seconds:+.3f}")
    (_FOLDER / "offset.new").replace(_FOLDER / "offset")
    with (_FOLDER / "waits").open("a") as file:
        file.write(f"{seconds:.3f}\\n")


class _Fast(Clock):
    skipped = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skipped

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        ends = self.monotonic() + seconds
        while not wake.is_set() and (left := ends - self.monotonic()) > 0:
            jump = min(left, float((_FOLDER / "until").read_text()) - self.skipped)
            if jump > 0:
                self.skipped += jump
                _moved_on(jump)
            else:
                await super().wait(wake, min(left, 0.05))


Clock = _Fast
"""
_SLEEP = """
import time

_sleep = time.sleep


def _slept(seconds):
    try:
        _sleep(seconds)
    except OSError:
        pass


time.sleep = _slept
"""
"""libfaketime 0.9.10 has clock_nanosleep(2) fail for a moment that is just over."""


def fast(folder: Path, look_seconds: float) -> Path:
    """Sources of the four, with that rdagent; `look_seconds`: it waits so long for the repository."""
    changes: dict[str, Change] = {
        "rdagent/update/pauses.py": appended(_FAST),
        "rdagent/update/repository.py": replaced(r"^LOOK_SECONDS = .*$", f"LOOK_SECONDS = {look_seconds}"),
        "ipc/__init__.py": appended(_SLEEP),
    }
    return checkout(folder, changes)


class Wall:
    """The wall clock of one root."""

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._folder.mkdir()
        self.step(0.0)
        self.let_pass(0.0)

    @property
    def offset(self) -> float:
        """Seconds it is ahead of the machine's."""
        return float((self._folder / "offset").read_text())

    def time(self) -> float:
        """UTC by it, seconds since the epoch."""
        return time.time() + self.offset

    @property
    def waits(self) -> list[float]:
        """What the updater skipped so far, seconds each."""
        path = self._folder / "waits"
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []

    def step(self, seconds: float) -> None:
        """Jump, as it does when somebody sets it. Only while the updater does not move it."""
        before = self.offset if (self._folder / "offset").exists() else 0.0
        self._write("offset", f"{before + seconds:+.3f}")

    def let_pass(self, until: float) -> None:
        """Have the updater move on until it has skipped so many seconds in all."""
        self._write("until", f"{until}")

    def has_passed(self, until: float) -> bool:
        """Whether it has come there, give and take the milliseconds of its notes."""
        return sum(self.waits) > until - 1.0

    def _write(self, name: str, text: str) -> None:
        new = self._folder / f"{name}.written"
        new.write_text(text)
        new.replace(self._folder / name)

    @contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """What gives a process this clock. The library's shared memory is gone afterwards."""
        variables = {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / "offset"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        # The first process makes the memory, and says its name to those that follow.
        first = [sys.executable, "-I", "-S", "-c", "import os; print(os.environ['FAKETIME_SHARED'])"]
        inherited = {name: value for name, value in os.environ.items() if name != "FAKETIME_SHARED"}
        shared = subprocess.run(first, env={**inherited, **variables}, capture_output=True, text=True, check=True)
        semaphore, memory = shared.stdout.split()
        try:
            yield {**variables, "FAKETIME_SHARED": shared.stdout.strip()}
        finally:
            for name in (f"sem.{semaphore.lstrip('/')}", memory.lstrip("/")):
                (Path("/dev/shm") / name).unlink(missing_ok=True)  # where shm_open(3) puts it


def _library() -> Path:
    found = [path for place in _PLACES for path in Path(place).glob(f"**/{_LIBRARY}")]
    if not found:
        raise FileNotFoundError(f"{_LIBRARY} is not installed: make packages")
    return found[0]
