"""From combination to combination of versions: swap what differs, run the contract suite, say what was wrong in which.

What a process says while it is stopped is said in the combination it ran in, and so is what its neighbours say of it.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterable, Mapping

import msgspec

from agentctl.asking import ask
from agentctl.drill.group.contract import Broken, Expected, check
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.watch import Watch
from agentctl.drill.progress import Steps
from agentctl.drill.report import Case
from agentctl.drill.skew import foreign
from agentctl.drill.variants import Variant
from agentctl.errors import CommandError
from agentctl.view import read_endpoints
from ipc.contract.every import Describe
from ipc.contract.guestagent import GetStatus
from ipc.errors import IpcError
from ipc.places import COMPONENTS

_SAMPLE_PATIENCE = 30.0
_LOOK_SECONDS = 2.0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One combination."""

    kind: str
    chosen: Mapping[str, Variant]
    """By component."""

    @property
    def name(self) -> str:
        return " ".join(f"{component}={self.chosen[component].name}" for component in COMPONENTS)


class Walk:
    """One stage, from its start on."""

    def __init__(self, stage: Stage, cases: list[Case], steps: Steps) -> None:
        """`cases`: what was found, one for each cell, and complete at any moment."""
        self._stage = stage
        self._cases = cases
        self._steps = steps
        self._there: dict[str, Variant] = {}
        self._watch: Watch
        """Of one cell, until the processes that the next one swaps were stopped."""
        self._allowed = ""
        self._extension = ""
        self._portal = ""

    def through(self, cells: Iterable[Cell]) -> None:
        """Bring the group up as the first cell says, go from cell to cell, and end everybody. Raises CommandError."""
        for number, cell in enumerate(cells, 1):
            self._steps.begin(cell.name)
            began = time.monotonic()
            swapped = self._leave(cell) if self._there else self._come_up(cell)
            expected = Expected(
                versions={name: cell.chosen[name].version for name in COMPONENTS},
                extension=self._extension,
                mark=f"skew-{number}",
                folder=self._stage.root,
                portal=self._portal,
            )
            problem = self._problem(cell, expected, swapped)
            self._there = dict(cell.chosen)
            self._cases.append(
                Case(
                    name=cell.name,
                    kind=cell.kind,
                    ok=not problem,
                    problem=problem,
                    seconds=time.monotonic() - began,
                    evidence=self._watch.evidence() if problem else [],
                )
            )
            self._steps.end(f"{cell.name}: {problem or 'well'}", style="red" if problem else "")
        if self._there:
            self._hear(list(COMPONENTS))

    def _come_up(self, cell: Cell) -> list[str]:
        """With the versions of the first cell: nothing is left to be swapped. Raises CommandError."""
        for name in COMPONENTS:
            self._stage.choose(name, self._stage.install(cell.chosen[name].packages[name]))
        self._stage.up(sample=True)
        self._watch = Watch(self._stage, from_the_start=True)
        self._extension = _extension(self._stage)
        endpoints = read_endpoints(self._stage.deployment)
        self._portal = endpoints.portal if endpoints else ""
        return []

    def _leave(self, cell: Cell) -> list[str]:
        """Stop those that `cell` swaps, and hear their last words: what is wrong there is wrong with the cell before.

        After a failure everything is stopped: what one process does not say twice must not hide in the next cell.

        Raises CommandError.
        """
        swapped = [name for name in COMPONENTS if self._there[name] != cell.chosen[name]]
        self._hear(swapped)
        if not self._cases[-1].ok:
            swapped = list(COMPONENTS)
            self._stop(swapped)
        # Those that stay have nothing more to say of it.
        self._watch, self._allowed = Watch(self._stage), ""
        return swapped

    def _hear(self, leaving: list[str]) -> None:
        """Stop them; what is wrong with their last words is wrong with the last case, unless that is known to be."""
        before = self._cases[-1]
        if before.ok and (problem := self._last_words(leaving)):
            self._cases[-1] = msgspec.structs.replace(
                before, ok=False, problem=problem, evidence=self._watch.evidence()
            )
            self._steps.say(f"{before.name}: when it was left, {problem}", style="red")

    def _last_words(self, leaving: list[str]) -> str:
        """Until they were stopped, and their neighbours have done what was on the way. Empty if nothing is wrong."""
        try:
            self._stop(leaving)
            for name in set(COMPONENTS) - set(leaving):
                # Frames of those who left were read before this one. Who does not answer is the next cell's matter.
                with contextlib.suppress(CommandError):
                    ask(self._stage.deployment, Describe(), to=name, within=_LOOK_SECONDS)
            self._watch.check(allowed=self._allowed, but=leaving)
        except (Broken, CommandError, IpcError) as error:
            return str(error)
        return ""

    def _stop(self, names: Iterable[str]) -> None:
        for name in names:
            self._stage.stop(name)

    def _problem(self, cell: Cell, expected: Expected, swapped: list[str]) -> str:
        """The first thing that is not as it has to be; empty if all is."""
        stage, watch = self._stage, self._watch
        try:
            for name in swapped:
                stage.choose(name, stage.install(cell.chosen[name].packages[name]))
                # In the cell before, the watchdog may have given up this very version.
                stage.forgive(name)
                stage.supervisord.start(name)
            watch.settled()
            if cell.kind == "foreign":
                self._foreign(cell, expected)
                return ""
            asyncio.run(check(stage.places, expected, watch.check))
            for name in COMPONENTS:
                if cell.chosen[name].name.startswith("N+1"):
                    watch.until_everybody_was_asked(name)
            watch.check()
        except (Broken, CommandError, IpcError) as error:
            return str(error)
        return ""

    def _foreign(self, cell: Cell, expected: Expected) -> None:
        """Raises Broken, CommandError."""
        stage, watch, self._allowed = self._stage, self._watch, foreign.REASON
        alarm = functools.partial(watch.check, allowed=self._allowed)
        asyncio.run(foreign.refused(stage.places, expected, alarm))
        alarm()
        back = next(one for name, one in cell.chosen.items() if name != foreign.ODD)
        stage.swap(foreign.ODD, back.packages[foreign.ODD])
        versions = {**expected.versions, foreign.ODD: back.version}
        watch.settled()
        asyncio.run(foreign.nothing_is_lost(stage.places, msgspec.structs.replace(expected, versions=versions), alarm))


def _extension(stage: Stage) -> str:
    """The sample's name, once it is well."""

    def found() -> str | None:
        status = ask(stage.deployment, GetStatus())
        return next((one.name for one in status.extensions if one.status == "success"), None)

    return stage.until(found, "the sample extension's success", _SAMPLE_PATIENCE)
