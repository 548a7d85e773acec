"""The updater as a drill sees it: its answers on the bus, and the records on the disk, which need nobody's answer."""

import contextlib
from collections.abc import Callable

from agentctl.asking import ask
from agentctl.drill.group.contract import Broken
from agentctl.drill.group.stage import Stage
from agentctl.errors import CommandError
from agentctl.processes import wait_until
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import GetUpdateHistory, GetUpdates, UpdateEvent, Updates, UpdateView
from release import record
from release.record import Record
from release.unpack import component_folder

CONFIGURATION = """[rdagent]
heartbeat_period = 1.0
look_period = 1.0

[update]
trial_seconds = 2.0
trial_answers = 3
trial_limit = 20.0
trial_memory = 128.0
trial_cpu = 0.15
"""
"""Of a drill's root: what is waited for is short, a leak need not be large, and one that burns CPU is found out on a
machine that has little left. The rules are the same."""

SCALED = (
    "trial 2 s (20 s), trial limit 20 s (120 s), memory limit 128 MiB (300 MiB), CPU limit 0.15 (0.25), "
    "heartbeat each second (15 s)"
)
"""What of it differs from a VM's defaults, for the report."""


class Versions:
    """Of one stage's group. What nobody answers is None, or raises CommandError where it says so."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def record(self, component: str) -> Record:
        """The one in force on the disk."""
        folder = component_folder(self._stage.places.installed, component)
        return record.read(folder) or Record(component=component)

    def describe(self, component: str) -> Description | None:
        """What its process says of itself."""
        with contextlib.suppress(CommandError):
            return ask(self._stage.deployment, Describe(), to=component, within=0.5)
        return None

    def updates(self) -> Updates | None:
        with contextlib.suppress(CommandError):
            return ask(self._stage.deployment, GetUpdates(), within=2.0)
        return None

    def view(self, component: str) -> UpdateView | None:
        """None also while the updater has not looked yet."""
        updates = self.updates()
        return next((one for one in updates.components if one.component == component), None) if updates else None

    def history(self, component: str) -> list[UpdateEvent]:
        """Oldest first. Raises CommandError."""
        return ask(self._stage.deployment, GetUpdateHistory(component=component)).events

    def pids(self, *, but: str = "") -> dict[str, int]:
        """By supervisord's word, of all programs but one."""
        return {one.name: one.pid for one in self._stage.supervisord.programs() if one.name != but}


def until(look: Callable[[], str], patience: float) -> None:
    """Until `look` has nothing to say against it. Raises Broken with its last words."""
    said: list[str] = [""]

    def well() -> bool:
        said[0] = look()
        return not said[0]

    if not wait_until(well, patience):
        raise Broken(f"{said[0]}, after {patience:g} s")
