"""DHCPINFORM (RFC 2131, 3.4): the parameters of a network, without a lease."""

import asyncio

from netagent.dhcp import message as m
from netagent.dhcp import options as o
from netagent.dhcp import requests
from netagent.dhcp.clock import boot_id, chance, now
from netagent.dhcp.errors import Malformed
from netagent.dhcp.lease import Lease
from netagent.dhcp.sanity import Exchange, Refusal, check_inform
from netagent.dhcp.socket import DhcpSocket, find_link

_INFORM_PAUSE = 1.0


async def inform(link: str, address: str, *, patience: float = 5.0, client_id: bytes = b"") -> Lease | None:
    """Ask for the parameters of a network whose address somebody else got for us (DHCPINFORM); no lease is touched.

    None if no server answers in time, as those that know no INFORM. Raises NoSuchLink, NotAllowed, OSError; Malformed
    if the address is none.
    """
    if not o.is_address(address):
        raise Malformed(f"{address!r} is no IPv4 address")
    asking = DhcpSocket(find_link(link), hold_port=False)
    try:
        async with asyncio.timeout(patience):
            while True:
                lease = await _inform_once(asking, address, client_id or o.client_identifier(asking.mac))
                if lease is not None:
                    return lease
    except TimeoutError:
        return None
    finally:
        asking.close()


async def _inform_once(asking: DhcpSocket, address: str, client_id: bytes) -> Lease | None:
    exchange = Exchange(
        mac=asking.mac, client_id=client_id, xid=int(chance() * 2**32), started=now(), boot_id=boot_id()
    )
    who = requests.Identity(mac=asking.mac, client_id=client_id)
    asking.send_to_all(requests.inform(who, requests.Turn(xid=exchange.xid), address), o.packed(address))
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(asking, readable.set)
    try:
        async with asyncio.timeout(_INFORM_PAUSE):
            while True:
                await readable.wait()
                readable.clear()
                for datagram in asking.receive():
                    found = _informed(datagram, exchange, address)
                    if found is not None:
                        return found
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(asking)


def _informed(datagram: bytes | Malformed, exchange: Exchange, address: str) -> Lease | None:
    try:
        if isinstance(datagram, Malformed):
            raise datagram
        found = check_inform(m.parse(datagram), exchange, address)
    except Malformed:
        return None
    return None if isinstance(found, Refusal) else found.lease
