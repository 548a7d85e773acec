"""What a lab's keeper is asked over its socket, one line of JSON each, and what it answers."""

from typing import Any

import msgspec

from fabric.lab.plan import Fault
from fabric.lab.probe import Probe


class Show(msgspec.Struct, frozen=True, tag=True):
    """Everything there is to see."""


class Down(msgspec.Struct, frozen=True, tag=True):
    """End the lab."""


class Restart(msgspec.Struct, frozen=True, tag=True):
    """The lab's host: it keeps its state."""


class Where(msgspec.Struct, frozen=True, tag=True):
    """The pid, in the lab, of a VM's first process, or of one in a tenant's host namespace."""

    name: str


class SetFault(msgspec.Struct, frozen=True, tag=True):
    """Spoil a VM's packets; None lifts."""

    vm: str
    fault: Fault | None


class SetLink(msgspec.Struct, frozen=True, tag=True):
    """Plug a VM's cable in or out."""

    vm: str
    up: bool


class SetProbe(msgspec.Struct, frozen=True, tag=True):
    """Probe a VM's port; again with `remove` to stop."""

    vm: str
    probe: Probe
    remove: bool = False


Order = Show | Down | Restart | Where | SetFault | SetLink | SetProbe


class Answer(msgspec.Struct, frozen=True):
    """Or why not."""

    value: Any = None
    error: str = ""
    exit_status: int = 0


class Progress(msgspec.Struct, frozen=True):
    """While it is built."""

    doing: str = ""
    error: str = ""
    ready: bool = False
