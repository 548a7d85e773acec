"""The lease on disk: so that a restart asks for the address it had, and lives through a server's absence."""

from pathlib import Path

import msgspec

from ipc.errors import StateError
from ipc.statefile import read_state, sync_directory, write_state
from netagent.dhcp import options as o
from netagent.dhcp.lease import Lease
from netagent.dhcp.sanity import usable

_WIDTHS = frozenset(map(str, range(33)))


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is worth now."""

    address: str = ""
    """To ask the server for (INIT-REBOOT); empty: none."""
    lease: Lease | None = None
    """Still runs: it may be used if no server answers."""
    why_not: str = ""
    """Why the file is worth less than it could be, for the log."""


def read_kept(path: Path, *, mac: str, boot_id: str, now: float) -> Kept:
    """Never raises: whatever is wrong with the file, there is a server to ask."""
    try:
        lease = read_state(path, Lease)
    except StateError as error:
        return Kept(why_not=str(error))
    if lease is None:
        return Kept()
    if lease.mac != mac:
        return Kept(why_not=f"{path}: the lease is of {lease.mac[:32]!r}, the interface is {mac}")
    if not _is_whole(lease):
        return Kept(why_not=f"{path}: is no lease of ours")
    if lease.boot_id != boot_id:
        # How long ago it began nobody knows: its clock was another.
        return Kept(address=lease.address, why_not=f"{path}: the lease is of an earlier boot")
    if not lease.started <= now or (lease.seconds is not None and now >= lease.started + lease.seconds):
        return Kept(address=lease.address, why_not=f"{path}: the lease has run out")
    return Kept(address=lease.address, lease=lease)


def write_kept(path: Path, lease: Lease) -> None:
    """Raises OSError."""
    write_state(path, lease)


def forget_kept(path: Path) -> None:
    """Raises OSError."""
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def _is_whole(lease: Lease) -> bool:
    """The types are right; whether it is what we would have written is a question of its own."""
    addresses = [lease.address, lease.server, *lease.nameservers, *lease.ntp_servers]
    addresses += [route.gateway for route in lease.routes if route.gateway]
    addresses += [lease.wireserver] if lease.wireserver else []
    networks = [route.destination.partition("/") for route in lease.routes]
    return (
        all(o.is_address(one) and usable(one) for one in addresses)
        and all(o.is_address(network) and width in _WIDTHS for network, _, width in networks)
        and 0 < lease.prefix <= 32
        and all(one is None or one > 0 for one in (lease.seconds, lease.renew_after, lease.rebind_after))
    )
