"""What the state machine wants done. Values only."""

from typing import Literal

import msgspec

from netagent.dhcp.lease import Lease


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """A DHCP message."""

    payload: bytes
    server: str = ""
    """Empty: to everybody."""
    source: str = "0.0.0.0"  # noqa: S104
    """Our address, where we have one."""


class SetTimer(msgspec.Struct, frozen=True):
    """Call `timer` then (CLOCK_BOOTTIME), and forget earlier wishes; None: not at all."""

    at: float | None


class Configure(msgspec.Struct, frozen=True):
    """A lease, new or again. Where its address is another than before, the one before is no longer ours."""

    lease: Lease


class Drop(msgspec.Struct, frozen=True):
    """There is no lease any more: the address goes, and so does what is kept on disk."""

    reason: str


class Probe(msgspec.Struct, frozen=True):
    """One ARP probe; conflicts with the address are listened for until `EndProbe`."""

    address: str


class EndProbe(msgspec.Struct, frozen=True):
    """Enough listened."""


class Log(msgspec.Struct, frozen=True):
    """For people."""

    level: Literal["debug", "info", "warning"]
    text: str


Action = Send | SetTimer | Configure | Drop | Probe | EndProbe | Log
