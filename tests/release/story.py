"""The life of a component in five chapters, told by whoever is stopped before one of its steps, and how it goes on.

An update that is good; one that is not; another good one; back to the first version; and what nobody needs any more
taken away after each. What was said by then is a promise: it was on disk.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from release import record as records
from release.build import Built, layer_file
from release.collect import Keep, collect
from release.disk import Disk
from release.record import Record
from release.tree import check_layer, check_version
from release.unpack import this_machine, unpack, unpack_layer
from tests.release.product import LAUNCH, NAME, TRUST, Installed, chosen, probe, third_party

Say = Callable[[str], object]
Before = Callable[[str, Path], object]
OLD, NEW, BAD, NEXT, FURTHER = "1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"
COMMITS = [OLD, NEW, NEXT, OLD]
"""What is current in turn."""
TRIES = 9
"""Each look at what is left may be a start, which counts one."""
STEPS = {"mkdir", "create", "write", "fsync", "rename", "fsync-folder", "symlink", "remove", "launch"}


def make_packages(folder: Path) -> list[Built]:
    """OLD and NEW share a layer, BAD brings one of its own, NEXT has another."""
    needs = {OLD: "aalayer", NEW: "aalayer", BAD: "aalayer, bblayer", NEXT: "cclayer", FURTHER: "sys"}
    with third_party(folder / "site", "aalayer", "bblayer", "cclayer"):
        return [probe(folder, version, f"import {names}") for version, names in needs.items()]


def load_launch() -> ModuleType:
    """launch.py as a module: it is a file, not a package of ours."""
    spec = importlib.util.spec_from_file_location("launch", LAUNCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Story:
    """The packages it is told with, and `launch.py` to start what is chosen."""

    def __init__(self, packages: list[Built], launch: ModuleType) -> None:
        self.packages = {built.manifest.version: built for built in packages}
        self.launch = launch

    def begin(self, root: Path) -> Installed:
        """Before the first chapter."""
        installed = Installed(root)
        installed.put(self.packages[OLD])
        installed.set(current=chosen(self.packages[OLD]))
        records.show_current(installed.folder, installed.record())
        (root / "deps" / "staging").mkdir(exist_ok=True)
        return installed

    def chapter(self, record: Record) -> tuple[str, bool] | None:
        """Which version comes next, and whether it is good; None at the end. Told by the record alone."""
        assert record.current
        if chosen(self.packages[BAD]).key not in record.bad:
            return (NEW, True) if record.current.version == OLD else (BAD, False)
        return {NEW: (NEXT, True), NEXT: (OLD, True)}.get(record.current.version)

    def walk(self, installed: Installed, before: Before, say: Say, chapters: int = 9) -> None:
        """On from where the record is."""
        for _ in range(chapters):
            if (chapter := self.chapter(installed.record())) is None:
                return
            self.tell(installed, *chapter, before, say)

    def tell(self, installed: Installed, version: str, good: bool, before: Before, say: Say) -> None:
        """One chapter: to `version`, which proves to be good or not."""
        built, folder, disk = self.packages[version], installed.folder, Disk(before)
        for layer in built.manifest.layers:
            unpack_layer(layer_file(built.path.parent / "layers", layer), installed.root, layer, disk)
        unpack(built.path, installed.root, NAME, TRUST, this_machine(), disk)
        say(f"unpacked {version}")
        with records.locked(folder):
            record = installed.record()
            if record.trial is None:
                record = records.write(folder, records.begin_trial(record, chosen(built), TRIES), disk)
                say(f"begun {version}")
        with watched(before):
            if self.start(installed) == version:
                say(f"started {version}")
        with records.locked(folder):
            record = installed.record()
            record = records.commit(record) if good else records.reject(record, "is bad")
            record = records.write(folder, record, disk)
            say(f"{'committed' if good else 'rejected'} {version}")
        records.show_current(folder, record, disk)
        say(f"shown {version}")
        collect(installed.root, NAME, Keep(), disk)
        say(f"collected {version}")

    def start(self, installed: Installed) -> str:
        """The version that runs now; empty if it is none of those under `versions/`."""
        tree = Path(next(iter(self.launch.choose(str(installed.root), str(installed.folder))), ""))
        return tree.name if tree.parent == installed.folder / "versions" else ""

    def look(self, installed: Installed, promised: list[str]) -> None:
        """What must hold wherever it stopped."""
        record = installed.record()
        assert record.current is not None
        done = sum(said.startswith("committed") for said in promised)
        assert record.current.version in COMMITS[done : done + 2], f"current {record.current.version} after {promised}"
        if f"rejected {BAD}" in promised:
            assert chosen(self.packages[BAD]).key in record.bad, "the bad list was lost"
        word, _, version = promised[-1].partition(" ") if promised else ("", "", "")
        if word in {"begun", "started"}:
            ended = record.current.version == version or chosen(self.packages[version]).key in record.bad
            assert record.trial or ended, "the trial was lost"
        if word == "started" and record.trial:
            assert record.trial.tries < TRIES, "the try was not counted before the start"
        self.look_at_trees(installed, promised)
        wanted = record.trial.target if record.trial else record.current
        assert self.start(installed) == wanted.version, f"{wanted.version} was chosen and does not start"
        # Coming to again changes nothing.
        again = installed.record()
        assert (again.current, again.previous, again.bad) == (record.current, record.previous, record.bad)
        assert (again.trial.target if again.trial else again.current) == wanted

    def look_at_trees(self, installed: Installed, promised: list[str]) -> None:
        """Whatever lies among the versions is whole, with its layers; and what was said to be there is."""
        versions = {path.name for path in (installed.folder / "versions").iterdir()}
        for name in versions:
            manifest = check_version(installed.tree(name), self.packages[name].digest)
            for layer in manifest.layers:
                check_layer(installed.root / "deps" / layer.sha256, layer)
        record = installed.record()
        assert versions >= {one.version for one in (record.current, record.previous) if one}
        word, _, version = promised[-1].partition(" ") if promised else ("", "", "")
        if word in {"unpacked", "begun", "started", "committed"}:
            assert version in versions
        if word in {"shown", "committed"}:
            assert (installed.folder / "current").is_symlink()
        if word == "shown":
            assert (installed.folder / "current").readlink().name == (COMMITS[1] if version == BAD else version)

    def go_on(self, installed: Installed, chapters: int = 9) -> None:
        """The next life of the updater goes on from there."""
        self.walk(installed, nothing, nothing, chapters)
        record = installed.record()
        if self.chapter(record) is None:
            assert (record.current, record.previous) == (chosen(self.packages[OLD]), chosen(self.packages[NEXT]))
            # A further update works.
            self.tell(installed, FURTHER, True, nothing, nothing)
            record = installed.record()
            assert (record.current, record.previous) == (chosen(self.packages[FURTHER]), chosen(self.packages[OLD]))
            assert list(record.bad) == [chosen(self.packages[BAD]).key]
        assert record.current
        assert record.previous
        assert record.trial is None
        assert (installed.folder / "current").readlink() == Path("versions") / record.current.version
        kept = {record.current.version, record.previous.version}
        assert {path.name for path in (installed.folder / "versions").iterdir()} == kept
        needed = {layer.sha256 for version in kept for layer in self.packages[version].manifest.layers}
        assert {path.name for path in (installed.root / "deps").iterdir()} == {*needed, "staging"}
        for staging in (installed.folder / "staging", installed.root / "deps" / "staging"):
            assert not list(staging.iterdir())
        # launch.py writes over its own the next time.
        assert {path.name for path in installed.folder.glob(".*")} <= {".state.launch"}


def nothing(*_: object) -> None:
    pass


_hooks: list[Before] = []


def _tell(event: str, arguments: tuple[object, ...]) -> None:
    if not _hooks:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event == "os.rename":
        before = _hooks.pop()  # who is told may write as well
        try:
            before("launch", Path(str(arguments[0])))
        finally:
            _hooks.append(before)


@functools.cache
def _install_hook() -> None:
    sys.addaudithook(_tell)


@contextmanager
def watched(before: Before) -> Iterator[None]:
    """launch.py has no seam; the interpreter tells of every file that is opened for writing or renamed.

    An audit hook stays as long as the process: for processes of the tests' own.
    """
    if before is nothing:
        yield
        return
    _install_hook()
    _hooks.append(before)
    try:
        yield
    finally:
        _hooks.pop()
