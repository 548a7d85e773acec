"""Whether answers to the load balancer's probes find their way back. Pure."""

import ipaddress
from collections.abc import Sequence

from ipc.contract.netagent import Link
from netagent.nics import WIRESERVER
from netagent.watch import Picture


def unroutable(nics: Sequence[Link], primary: Link | None, picture: Picture) -> list[str]:
    """One line for each reason. Azure drops what leaves by another NIC than its address belongs to."""
    routes = [one for one in picture.routes if one.table == 254]
    found = []
    if not any(one.destination in {WIRESERVER, "default"} and ":" not in one.gateway for one in routes):
        found.append("answers to probes have no way back: there is no route to 168.63.129.16")
    ruled = {one.source for one in picture.rules if one.source}
    for nic in nics:
        if primary is None or nic.name == primary.name:
            continue
        for one in picture.addresses:
            address = ipaddress.ip_interface(one.address)
            if one.link != nic.name or address.version != 4 or address.ip.is_link_local:
                continue
            if not any(address.ip in ipaddress.ip_network(source) for source in ruled):
                found.append(
                    f"answers from {address.ip} leave by {primary.name}, not by {nic.name}: Azure drops them; "
                    f"mode delegate gives {nic.name} a table of its own"
                )
    return found
