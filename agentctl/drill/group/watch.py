"""What the processes of a stage did meanwhile, though nobody asked: logs since a moment, ends and starts."""

import re
from collections.abc import Container
from pathlib import Path

from agentctl.drill import newer
from agentctl.drill.group.contract import Broken
from agentctl.drill.group.stage import Stage
from agentctl.processes import wait_until
from ipc.places import COMPONENTS

_BAD = re.compile(
    rf"bad frame|bug while answering|Traceback \(most|CRITICAL|{newer.SAYS} (?!{newer.DONE})|launch: stepping back|"
    "watchdog: .* goes back"
)
_EVIDENCE_LINES = 6
_LINE_LIMIT = 300
_PATIENCE = 20.0


class Watch:
    """From its making on, or from the group's start on."""

    def __init__(self, stage: Stage, *, from_the_start: bool = False) -> None:
        self._stage = stage
        self._logs = {name: stage.log_of(name) for name in COMPONENTS}
        self._logs["watchdog"] = stage.places.log / "Watchdog.log"
        self._offsets = {name: 0 if from_the_start else _size(path) for name, path in self._logs.items()}
        self._starts: dict[str, tuple[int, int]] = {}

    def settled(self) -> None:
        """From now on nobody may end."""
        self._starts = {one.name: (one.pid, one.start) for one in self._stage.supervisord.programs()}

    def until_everybody_was_asked(self, newer_one: str) -> None:
        """By a component of a later release. Raises Broken."""
        if not wait_until(lambda: f"{newer.SAYS} {newer.DONE}" in self.said(newer_one), _PATIENCE):
            raise Broken(f"{newer_one} did not get an answer of everybody")

    def check(self, *, allowed: str = "", but: Container[str] = ()) -> None:
        """Nothing bad in any log, nobody started again. Raises Broken.

        `allowed`: lines with this in them are not bad. `but`: these were stopped by us.
        """
        for name in self._logs:
            for line in self.said(name).splitlines():
                if _BAD.search(line) and not (allowed and allowed in line):
                    raise Broken(f"{name}: {line[:_LINE_LIMIT]}")
        now = {one.name: (one.pid, one.start) for one in self._stage.supervisord.programs()}
        for name in COMPONENTS:
            if name in self._starts and name not in but and now[name] != self._starts[name]:
                raise Broken(f"{name}, process {self._starts[name][0]}, ended by itself")

    def said(self, name: str) -> str:
        """What it printed since."""
        path = self._logs[name]
        start = self._offsets[name] if _size(path) >= self._offsets[name] else 0  # supervisord began a new file
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""  # it never said anything

    def evidence(self) -> list[str]:
        """Of each the bad lines, or else the last ones."""
        lines = []
        for name in self._logs:
            said = self.said(name).splitlines()
            bad = [line for line in said if _BAD.search(line)]
            lines += [f"{name}: {line[:_LINE_LIMIT]}" for line in bad[:_EVIDENCE_LINES] or said[-_EVIDENCE_LINES:]]
        return lines


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
