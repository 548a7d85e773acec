"""Where the host is, from all that was found. Pure."""

from ipc.contract.netagent import Route, WireServerState
from ipc.hostaddress import WELL_KNOWN_WIRESERVER
from netagent.leases import Lease

_WELL_KNOWN_ROUTE = "168.63.129.16/32"


def choose_wireserver(configured: str, leases: dict[str, Lease], routes: list[Route]) -> WireServerState:
    """Configuration, else a lease's option 245, else a route to the well-known address, else that address.

    `leases` are by the file they were found in; the first that names the WireServer wins.
    """
    if configured:
        return WireServerState(url=configured.rstrip("/"), found_in="configuration", detail="[host] wireserver")
    for name, lease in leases.items():
        if lease.wireserver:
            return WireServerState(url=f"http://{lease.wireserver}", found_in="lease", detail=name)
    for route in routes:
        if route.destination == _WELL_KNOWN_ROUTE:
            detail = f"{route.destination} via {route.gateway or 'no gateway'} dev {route.link}"
            return WireServerState(url=WELL_KNOWN_WIRESERVER, found_in="route", detail=detail)
    return WireServerState(url=WELL_KNOWN_WIRESERVER, found_in="default", detail="nothing else is known")
