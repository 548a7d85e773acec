"""Power cuts in the kernel: `python -m tests.release.powercut JSON` in a mount namespace of its own; says a JSON line.

The story is lived once on a loop device. At each step what the device's file holds at that instant is kept: what no
fsync had brought there is lost, as it would be with the power. Then each of these disks is mounted, with its journal
played back, and looked at.
"""

import multiprocessing
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from release.build import Built
from release.errors import ReleaseError
from release.unpack import verify_package
from tests.release.product import TRUST, Installed
from tests.release.story import Story, load_launch

MIB = 1 << 20
BLOCK = 4096
ZERO = bytes(BLOCK)
WORKERS = 2
_fsync = os.fsync


class Model(msgspec.Struct, frozen=True):
    """A file system, and whether another program's fsync commits the journal just before each cut."""

    size: int
    make: list[str]
    options: str
    forced: bool


EXT4 = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
MODELS = {
    "ordered": Model(24 * MIB, EXT4, "commit=600,data=ordered", False),
    "forced": Model(24 * MIB, EXT4, "commit=600,data=ordered", True),
    "weak": Model(24 * MIB, EXT4, "commit=600,data=writeback,noauto_da_alloc", True),
    "xfs": Model(300 * MIB, ["mkfs.xfs", "-q"], "nouuid", False),
    "xfs forced": Model(300 * MIB, ["mkfs.xfs", "-q"], "nouuid", True),
}
MUTANTS: dict[str, Callable[[Path], bool]] = {
    "none": lambda _: False,
    "all": lambda _: True,
    "files": lambda path: "staging" in path.parts and path.is_file(),
    "record": lambda path: path.name.startswith(".state."),
    "record's folder": lambda path: path.parent.name == "components",
    "versions": lambda path: path.name == "versions",
}
"""Which fsync is left out."""


class Order(msgspec.Struct, frozen=True):
    """What to do."""

    folder: str
    """To work in: in memory, or a thousand fsyncs take long."""
    packages: list[str]
    model: str
    mutant: str = "none"
    share: float = 1.0
    """Of the steps; those after a promise are always among them."""
    seed: int = 1


class Answer(msgspec.Struct, frozen=True):
    """What came of it."""

    steps: int
    cuts: int
    failed: dict[int, str]
    """What did not hold, by step."""


class Cut(msgspec.Struct, frozen=True):
    """The disk at one instant, told by what changed since the cut before."""

    step: int
    promised: list[str]
    blocks: dict[int, bytes]


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    story = Story([_built(Path(path)) for path in order.packages], load_launch())
    cuts = Recorder(order).live(story)
    sys.stdout.write(msgspec.json.encode(judge(order, story, cuts)).decode() + "\n")


def _built(path: Path) -> Built:
    package = verify_package(path, TRUST)
    return Built(path, package.digest, package.manifest, {})


class Recorder:
    """Lives the story on a loop device, and keeps what the device held at each step."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.model = MODELS[order.model]
        self.image = Path(order.folder, "disk")
        self.mount = Path(order.folder, "mount")
        self.promised: list[str] = []
        self.cuts: list[Cut] = []
        self.step = 0
        self._blocks: dict[int, bytes] = {}
        self._random = random.Random(order.seed)
        self._sharp = True

    def live(self, story: Story) -> list[Cut]:
        with self.image.open("wb") as file:
            file.truncate(self.model.size)
        run(*self.model.make, self.image)
        with mounted(self.image, self.mount, self.model):
            installed = story.begin(self.mount / "root")
            (self.mount / "other").touch()
            os.sync()
            with mutant(MUTANTS[self.order.mutant]):
                story.walk(installed, self.before, self.say)
                self.before("end", self.mount)
        return self.cuts

    def say(self, text: str) -> None:
        self.promised.append(text)
        self._sharp = True

    def before(self, _step: str, _path: Path) -> None:
        """The power fails now."""
        self.step += 1
        if self._sharp or self._random.random() < self.order.share:
            if self.model.forced:
                self._another_program()
            self.cuts.append(Cut(self.step, [*self.promised], self._changed()))
        self._sharp = False

    def _another_program(self) -> None:
        with (self.mount / "other").open("r+b") as file:
            file.write(self.step.to_bytes(4))
            file.flush()
            _fsync(file.fileno())

    def _changed(self) -> dict[int, bytes]:
        now = blocks_of(self.image)
        old, self._blocks = self._blocks, now
        changed = {number: block for number, block in now.items() if old.get(number, ZERO) != block}
        return changed | dict.fromkeys(old.keys() - now.keys(), ZERO)


def blocks_of(image: Path) -> dict[int, bytes]:
    """What is in a sparse file, without its holes."""
    found: dict[int, bytes] = {}
    with image.open("rb") as file:
        size, end = os.fstat(file.fileno()).st_size, 0
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # ENXIO: only a hole is left
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - start, start)
            for place in range(0, len(data), BLOCK):
                found[(start + place) // BLOCK] = data[place : place + BLOCK]
    return found


def judge(order: Order, story: Story, cuts: list[Cut]) -> Answer:
    """Each worker takes its share of the cuts."""
    context = multiprocessing.get_context("fork")
    failed: dict[int, str] = {}
    workers = []
    for number in range(WORKERS):
        ours, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(order, story, cuts, number, theirs))
        worker.start()
        theirs.close()
        workers.append((worker, ours))
    for worker, answer in workers:
        failed |= answer.recv()
        worker.join()
    return Answer(cuts[-1].step, len(cuts), dict(sorted(failed.items())))


def _work(order: Order, story: Story, cuts: list[Cut], number: int, answer: Connection) -> None:
    image, mount = Path(order.folder, f"disk-{number}"), Path(order.folder, f"mount-{number}")
    model, blocks, failed = MODELS[order.model], dict[int, bytes](), {}
    for turn, cut in enumerate(cuts):
        blocks |= cut.blocks
        if turn % WORKERS == number:
            image.unlink(missing_ok=True)
            with image.open("wb") as file:
                file.truncate(model.size)
                for place, block in blocks.items():
                    os.pwrite(file.fileno(), block, place * BLOCK)
            if problem := _problem(story, cut, image, mount, model):
                failed[cut.step] = problem
    answer.send(failed)


def _problem(story: Story, cut: Cut, image: Path, mount: Path, model: Model) -> str:
    try:
        with mounted(image, mount, model):
            installed = Installed(mount / "root")
            story.look(installed, cut.promised)
            story.go_on(installed, chapters=1)
    except (AssertionError, ReleaseError, OSError, LookupError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{error!r}, {frame.line}"
    return ""


def run(*command: str | Path) -> None:
    """Raises OSError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def mounted(image: Path, mount: Path, model: Model) -> Iterator[None]:
    """The loop device goes with the mount, and that with our namespace at the latest."""
    mount.mkdir(exist_ok=True)
    run("mount", "-o", f"loop,{model.options}", image, mount)
    try:
        yield
    finally:
        run("umount", mount)


@contextmanager
def mutant(left_out: Callable[[Path], bool]) -> Iterator[None]:
    """The product with some of its fsyncs left out."""

    def fsync(descriptor: int) -> None:
        if not left_out(Path(f"/proc/self/fd/{descriptor}").readlink()):
            _fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = _fsync


if __name__ == "__main__":
    main()
