"""Which links are NICs of this VM, and which of them is the primary one. Pure."""

from collections.abc import Collection, Sequence

from ipc.contract.netagent import Link, Route
from netagent.leases import Lease

WIRESERVER, IMDS = "168.63.129.16/32", "169.254.169.254/32"
_NO_MAC = "00:00:00:00:00:00"
# A veth is what a lab or a container gives; all other links of software are made by somebody for a purpose of theirs.
_KINDS = frozenset({"", "veth"})


def choose_nics(links: Sequence[Link], *, synthetic: Collection[str] = (), only: Collection[str] = ()) -> list[Link]:
    """Ethernet NICs that nobody made a part of something else.

    An accelerated NIC (VF) is a part of a synthetic one with the same MAC, or is about to be: it is left alone.
    `synthetic` names links driven by hv_netvsc; `only` is what the configuration allows, empty means all.
    """
    able = [one for one in links if _is_ethernet(one) and not one.master and one.kind in _KINDS]
    # A bridge's ports are not ours to configure, and neither is the other end of a cable that stays on this machine.
    chosen = [
        one
        for one in able
        if not any(other is not one and other.mac == one.mac and other.name in synthetic for other in links)
    ]
    return [one for one in chosen if not only or one.name in only]


def choose_primary(nics: Sequence[Link], leases: dict[str, Lease], routes: Sequence[Route]) -> Link | None:
    """The one that leads to the host: by its lease, else by the routes, else the first with a cable."""
    by_name = {one.name: one for one in nics}
    for lease in leases.values():
        leads = lease.wireserver or {WIRESERVER, IMDS} & {destination for destination, _ in lease.routes}
        if leads and lease.link in by_name:
            return by_name[lease.link]
    for destination in (WIRESERVER, IMDS, "default"):
        found = [one for one in routes if one.destination == destination and one.link in by_name and one.table == 254]
        if found:
            return by_name[min(found, key=lambda one: one.metric).link]
    plugged = [one for one in nics if one.carrier] or list(nics)
    return min(plugged, key=lambda one: one.index, default=None)


def _is_ethernet(link: Link) -> bool:
    return len(link.mac) == len(_NO_MAC) and link.mac != _NO_MAC
