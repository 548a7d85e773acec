"""What netagent may do, from what is configured and what was found. Pure.

Written is only on a machine that is known to be Azure's, so that nothing touches a laptop's network. A bare NIC that
nobody configures may be asked for a lease, and that has to name a WireServer (option 245).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ipc.contract.netagent import Address, Link, Route
from netagent.leases import Lease
from netagent.nics import WIRESERVER

Mode = Literal["observe", "repair", "delegate", "own", "off"]
Configured = Literal["auto", "observe", "repair", "delegate", "own", "off"]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What decides."""

    may_write: bool
    """CAP_NET_ADMIN in this network namespace."""
    host_elsewhere: bool
    """`[host] wireserver` names a host: a local one, in a checkout."""
    azure: str
    """Why this machine is known to be Azure's; empty if it is not."""
    nics: tuple[str, ...]
    managers: Mapping[str, str]
    """Who configures a link, by link."""
    unaddressed: frozenset[str]
    """NICs with a cable and no IPv4 address."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The mode in force, and why it is that one."""

    mode: Mode
    why: str
    refused: str = ""
    """Why it is not the configured one; empty if it is."""


def choose_mode(configured: Configured, found: Circumstances) -> Chosen:
    """`auto`: repair beside a manager, own where there is none and a NIC is bare, else repair or observe."""
    if configured in {"observe", "off"}:
        return Chosen(mode=configured, why=f"configured: {configured}")
    if not found.may_write:
        return _only_observe(configured, "the kernel lets us change nothing: CAP_NET_ADMIN is missing")
    if configured == "own":
        managed = {nic: found.managers[nic] for nic in found.nics if nic in found.managers}
        if managed:
            nic, manager = next(iter(managed.items()))
            reason = f"{manager} configures {nic}: take it off that NIC first, or choose repair"
            return Chosen(mode="observe", why=f"own is refused: {reason}", refused=reason)
        return Chosen(mode="own", why="configured: own")
    if configured != "auto":
        return Chosen(mode=configured, why=f"configured: {configured}")
    if found.host_elsewhere:
        return Chosen(mode="observe", why="[host] wireserver names a host of its own: no network is needed for it")
    if not found.nics:
        return Chosen(mode="observe", why="there is no NIC")
    if not found.managers and found.unaddressed == frozenset(found.nics):
        known = found.azure or "the lease has to say that this is Azure"
        return Chosen(mode="own", why=f"nobody configures {', '.join(found.nics)}; {known}")
    if found.azure:
        whose = ", ".join(f"{manager} configures {nic}" for nic, manager in sorted(found.managers.items()))
        return Chosen(mode="repair", why=f"{whose or 'addresses are static'}; {found.azure}")
    return Chosen(mode="observe", why="nothing says that this machine is in Azure: no lease, no route, no asset tag")


def evidence(
    leases: Mapping[str, Lease], routes: Sequence[Route], asset_tag: str, *, remembered: bool, configured: bool
) -> str:
    """Why the machine is Azure's; empty if nothing says so."""
    if asset_tag.strip() == "7783-7084-3265-9085-8269-3286-77":
        return "its asset tag is Azure's"
    for file, lease in leases.items():
        if lease.wireserver:
            return f"lease {file} names a WireServer"
    if any(one.destination == WIRESERVER for one in routes):
        return "there is a route to the WireServer"
    if remembered:
        return "it was in Azure before"
    return "the configuration says so" if configured else ""


def unaddressed(nics: Sequence[Link], addresses: Sequence[Address]) -> frozenset[str]:
    """NICs with a cable that have no IPv4 address but perhaps one of their own making."""
    having = {one.link for one in addresses if "." in one.address and not one.address.startswith("169.254.")}
    return frozenset(one.name for one in nics if one.name not in having and (one.carrier or not one.up))


def _only_observe(configured: str, reason: str) -> Chosen:
    return Chosen(mode="observe", why=reason, refused="" if configured == "auto" else reason)
