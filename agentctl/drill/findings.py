"""What a drill has found so far: a report can be made of it at any moment, also when the drill ends before its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from agentctl.drill.progress import Steps
from agentctl.drill.report import Case, Grid, Report
from agentctl.errors import CommandError
from ipc.errors import IpcError


class Findings:
    """Filled while the drill goes on."""

    def __init__(self, drill: str) -> None:
        self.cases: list[Case] = []
        self.grids: list[Grid] = []
        self.facts: dict[str, str] = {}
        """What it is done with."""
        self.began = time.time()
        """UTC, seconds since the epoch."""
        self.begun = False
        """There is something to report of."""
        self.unfinished = ""
        """Why there is no more; empty if that is all."""
        self._drill = drill
        self._began = time.monotonic()

    @contextmanager
    def through(self, steps: Steps) -> Iterator[None]:
        """The block is all of the drill: what ends it early is part of the report. Raises CommandError."""
        self.begun, self.unfinished = True, "a bug"
        try:
            yield
        except KeyboardInterrupt:
            self.unfinished = f"interrupted {steps.where}"
            raise
        except (CommandError, IpcError) as error:
            self.unfinished = f"{error}, {steps.where}"
            if isinstance(error, CommandError):
                raise
            raise CommandError(str(error)) from error
        else:
            self.unfinished = ""

    def report(self) -> Report:
        """Of what there is."""
        return Report(
            drill=self._drill,
            began=self.began,
            seconds=time.monotonic() - self._began,
            cases=list(self.cases),
            grids=self.grids,
            facts=self.facts,
            unfinished=self.unfinished,
        )
