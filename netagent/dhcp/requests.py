"""What a client says, as bytes. Pure. Which options go into which message is table 5 of RFC 2131."""

import msgspec

from netagent.dhcp import message as m
from netagent.dhcp import options as o

_WANTED = bytes(
    [
        *(o.MASK, o.ROUTES, o.MS_ROUTES, o.ROUTER, o.DNS, o.HOST_NAME, o.DOMAIN, o.MTU, o.NTP),
        *(o.LEASE_TIME, o.SERVER, o.T1, o.T2, o.SEARCH, o.WIRESERVER),
    ]
)
"""121 before 3 (RFC 3442): some servers fill the packet in this order."""
_MAX_SIZE = 1472
"""What an Ethernet frame of 1500 bytes leaves for the message (option 57)."""
_SERVER_UPDATES, _WIRE_FORM = 1, 4


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    mac: bytes
    client_id: bytes
    host_name: str = ""
    fqdn: bool = False
    """Send the name as option 81, and then not as option 12 (RFC 4702)."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction."""

    xid: int
    secs: int = 0


def discover(who: Identity, turn: Turn, hint: str = "") -> bytes:
    return _build(who, turn, m.DISCOVER, (*_address(hint), *_name(who), *_wishes()))


def request_offered(who: Identity, turn: Turn, address: str, server: str) -> bytes:
    """SELECTING: this server's offer, and the others' are declined by it."""
    return _build(who, turn, m.REQUEST, (*_address(address), *_server(server), *_name(who), *_wishes()))


def request_known(who: Identity, turn: Turn, address: str) -> bytes:
    """INIT-REBOOT: is the address that we had still ours?"""
    return _build(who, turn, m.REQUEST, (*_address(address), *_name(who), *_wishes()))


def request_more(who: Identity, turn: Turn, address: str) -> bytes:
    """RENEWING and REBINDING."""
    return _build(who, turn, m.REQUEST, (*_name(who), *_wishes()), client=address)


def decline(who: Identity, turn: Turn, address: str, server: str, why: str) -> bytes:
    return _build(who, turn, m.DECLINE, (*_address(address), *_server(server), (o.TEXT, why.encode()[:255])))


def release(who: Identity, turn: Turn, address: str, server: str) -> bytes:
    return _build(who, turn, m.RELEASE, _server(server), client=address)


def inform(who: Identity, turn: Turn, address: str) -> bytes:
    return _build(who, turn, m.INFORM, _wishes(), client=address)


def _build(who: Identity, turn: Turn, kind: int, pairs: m.Pairs, client: str = m.NOBODY) -> bytes:
    head = m.Message(reply=False, kind=kind, xid=turn.xid, mac=who.mac, secs=turn.secs, client=client)
    return m.build(head, ((o.CLIENT_ID, who.client_id), *pairs))


def _address(address: str) -> m.Pairs:
    return ((o.ADDRESS, o.packed(address)),) if address else ()


def _server(server: str) -> m.Pairs:
    return ((o.SERVER, o.packed(server)),)


def _name(who: Identity) -> m.Pairs:
    if not who.host_name:
        return ()
    if who.fqdn:
        return ((o.FQDN, o.encode_fqdn(o.Fqdn(flags=_SERVER_UPDATES | _WIRE_FORM, name=who.host_name))),)
    return ((o.HOST_NAME, who.host_name.encode("ascii")),)


def _wishes() -> m.Pairs:
    return ((o.MAX_SIZE, _MAX_SIZE.to_bytes(2)), (o.WANTED, _WANTED))
