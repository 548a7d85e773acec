"""What a server said, before anybody acts on it: a lease that may be configured as it is, or why not. Pure.

What nobody can do without (address, server, times) must be right, else the answer is refused and a better one is
waited for. What is extra (a name, a route, an MTU) is left out when it is wrong, and that is noted.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from netagent.dhcp import options as o
from netagent.dhcp.errors import Malformed
from netagent.dhcp.lease import Lease, StaticRoute
from netagent.dhcp.message import ACK, NOBODY, OFFER, Message

Reason = Literal["not ours", "server", "address", "gateway", "lease time"]
INFINITE = 0xFFFFFFFF
MTU_RANGE = range(576, 9217)
T1_SHARE, T2_SHARE = 0.5, 0.875

V = TypeVar("V")
_NONE: tuple[str, ...] = ()
_NO_ROUTES: tuple[StaticRoute, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a message is passed over."""

    reason: Reason
    text: str


class Accepted(msgspec.Struct, frozen=True):
    """A lease, and what was left out of it, one line each."""

    lease: Lease
    notes: tuple[str, ...] = ()


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What we asked: who we are, when, in which boot."""

    mac: bytes
    client_id: bytes
    xid: int
    started: float = 0.0
    boot_id: str = ""


class _Notes:
    """Collects what is left out."""

    def __init__(self, options: o.Options) -> None:
        self.options = options
        self.lines: list[str] = []

    def leave_out(self, what: str) -> None:
        self.lines.append(f"{what}: left out")

    def read(self, decode: Callable[[o.Options], V], otherwise: V) -> V:
        try:
            return decode(self.options)
        except Malformed as error:
            self.leave_out(str(error))
            return otherwise

    def whole(self, code: int, decode: Callable[[bytes], V], otherwise: V) -> V:
        value = o.whole(self.options, code)
        return self.read(lambda _: decode(value), otherwise) if value else otherwise

    def usable(self, code: int) -> tuple[str, ...]:
        found = self.read(lambda options: o.addresses(options, code), _NONE)
        good = tuple(dict.fromkeys(one for one in found if usable(one)))
        if len(good) < len(set(found)):
            self.leave_out(f"option {code} names {', '.join(sorted(set(found) - set(good)))}")
        return good


def usable(address: str) -> bool:
    """Whether one host of a network could have it: no loopback, no multicast, no class E, no broadcast."""
    first = int(address.partition(".")[0])
    return 0 < first < 224 and first != 127


def not_for_us(message: Message, exchange: Exchange) -> Refusal | None:
    """Answers to others pass by on every shared wire."""
    if not message.reply:
        return Refusal("not ours", "a request, not a reply")
    if message.xid != exchange.xid:
        return Refusal("not ours", "the transaction is not ours")
    if message.mac != exchange.mac:
        return Refusal("not ours", f"it is for {message.mac.hex(':')}")
    # Servers older than RFC 6842 do not send it back.
    echoed = o.whole(message.options, o.CLIENT_ID)
    if echoed and echoed != exchange.client_id:
        return Refusal("not ours", f"it is for client {echoed[:32].hex(':')}")
    return None


def server_of(message: Message) -> str | Refusal:
    """The server identifier (option 54)."""
    try:
        server = o.address(message.options, o.SERVER)
    except Malformed as error:
        return Refusal("server", str(error))
    if server is None or not usable(server):
        return Refusal("server", "no server identifier" if server is None else f"{server} can be no server")
    return server


def check(message: Message, exchange: Exchange) -> Accepted | Refusal:
    """An OFFER or an ACK."""
    refusal = not_for_us(message, exchange)
    if refusal is not None:
        return refusal
    if message.kind not in (OFFER, ACK):
        return Refusal("not ours", f"message type {message.kind}")
    server = server_of(message)
    if isinstance(server, Refusal):
        return server
    notes = _Notes(message.options)
    try:
        seconds = o.number(message.options, o.LEASE_TIME, 4)
    except Malformed as error:
        return Refusal("lease time", str(error))
    if not seconds:
        return Refusal("lease time", "no lease time" if seconds is None else "a lease of no time at all")
    renew_after, rebind_after = _times(notes, seconds)
    lease = _lease(
        notes,
        exchange,
        address=message.yours,
        server=server,
        seconds=None if seconds == INFINITE else seconds,
        renew_after=renew_after,
        rebind_after=rebind_after,
    )
    return _address_refused(lease) or Accepted(lease, tuple(notes.lines))


def check_inform(message: Message, exchange: Exchange, address: str) -> Accepted | Refusal:
    """The ACK of an INFORM: parameters for an address that we have from elsewhere. Its lease has no times."""
    refusal = not_for_us(message, exchange)
    if refusal is not None:
        return refusal
    if message.kind != ACK:
        return Refusal("not ours", f"message type {message.kind}")
    server = server_of(message)
    if isinstance(server, Refusal):
        return server
    if message.yours not in (NOBODY, address):
        return Refusal("address", f"{message.yours} is not what was asked about")
    notes = _Notes(message.options)
    lease = _lease(notes, exchange, address=address, server=server, seconds=None, renew_after=None, rebind_after=None)
    return Accepted(lease, tuple(notes.lines))


def _times(notes: _Notes, seconds: int) -> tuple[int | None, int | None]:
    """T1 and T2. What does not rise to the end of the lease is replaced by the RFC's shares of it."""
    renew = notes.read(lambda options: o.number(options, o.T1, 4), None)
    rebind = notes.read(lambda options: o.number(options, o.T2, 4), None)
    if seconds == INFINITE:
        renew, rebind = renew or INFINITE, rebind or INFINITE
        if rebind < renew:
            rebind = INFINITE
        return (None if renew == INFINITE else renew), (None if rebind == INFINITE else rebind)
    if not rebind or rebind >= seconds:
        rebind = int(seconds * T2_SHARE) or seconds
    if not renew or renew > rebind:
        renew = min(int(seconds * T1_SHARE), rebind) or 1
    return renew, rebind


def _lease(
    notes: _Notes,
    exchange: Exchange,
    *,
    address: str,
    server: str,
    seconds: int | None,
    renew_after: int | None,
    rebind_after: int | None,
) -> Lease:
    fqdn = notes.whole(o.FQDN, lambda value: o.decode_fqdn(value).name, "")
    return Lease(
        mac=exchange.mac.hex(":"),
        address=address,
        prefix=_prefix(notes),
        server=server,
        started=exchange.started,
        boot_id=exchange.boot_id,
        seconds=seconds,
        renew_after=renew_after,
        rebind_after=rebind_after,
        routes=_routes(notes),
        nameservers=notes.usable(o.DNS),
        domain=notes.whole(o.DOMAIN, o.host_text, ""),
        search=notes.whole(o.SEARCH, o.decode_search, _NONE),
        mtu=_mtu(notes),
        wireserver=_wireserver(notes),
        ntp_servers=notes.usable(o.NTP),
        host_name=notes.whole(o.HOST_NAME, o.host_text, "") or fqdn,
    )


def _prefix(notes: _Notes) -> int:
    """Without a mask that can be used: our address alone. Everything then goes through the gateway, which works;
    a network guessed from the class of the address would hide hosts that are elsewhere."""
    mask = notes.read(lambda options: o.fixed(options, o.MASK, 4), None)
    prefix = None if mask is None else o.prefix_of(mask)
    if mask is not None and prefix is None:
        notes.leave_out(f"mask {o.dotted(mask)}")
    return 32 if prefix is None else prefix


def _routes(notes: _Notes) -> tuple[StaticRoute, ...]:
    """121, else 249, else the router (RFC 3442). An empty 121 counts as none: obeyed, it would cut us off."""
    for code in (o.ROUTES, o.MS_ROUTES):
        routes = notes.whole(code, o.decode_routes, _NO_ROUTES)
        bad = next((one for one in routes if one.gateway and not usable(one.gateway)), None)
        if bad is not None:
            # Who names one gateway that cannot be one is not believed in the others.
            notes.leave_out(f"option {code} has a route by {bad.gateway}")
            continue
        good = tuple(dict.fromkeys(one for one in routes if _goes_somewhere(one)))
        if len(good) < len(set(routes)):
            notes.leave_out(f"option {code} has routes to what is no host")
        if good:
            return good
    routers = notes.usable(o.ROUTER)
    return (StaticRoute(destination="0.0.0.0/0", gateway=routers[0]),) if routers else ()


def _goes_somewhere(route: StaticRoute) -> bool:
    network = route.destination.partition("/")[0]
    return route.destination == "0.0.0.0/0" or usable(network) or (network == NOBODY and route.destination[-2:] == "/1")


def _mtu(notes: _Notes) -> int | None:
    mtu = notes.read(lambda options: o.number(options, o.MTU, 2), None)
    if mtu is not None and mtu not in MTU_RANGE:
        notes.leave_out(f"an MTU of {mtu}")
        return None
    return mtu


def _wireserver(notes: _Notes) -> str:
    found = notes.read(lambda options: o.address(options, o.WIRESERVER), None) or ""
    if found and not usable(found):
        notes.leave_out(f"WireServer {found}")
        return ""
    return found


def _address_refused(lease: Lease) -> Refusal | None:
    """Whether the address can be ours, beside what else the lease says."""
    address = lease.address
    if not usable(address) or address.startswith("169.254."):
        return Refusal("address", f"{address} can be no host's address")
    if lease.prefix < 31:
        bits = int.from_bytes(o.packed(address))
        host = bits & (0xFFFFFFFF >> lease.prefix)
        if host in (0, 0xFFFFFFFF >> lease.prefix):
            return Refusal("address", f"{address}/{lease.prefix} is the network's own address or its broadcast")
    if address in (lease.server, lease.wireserver):
        return Refusal("address", f"{address} is the server's own")
    # Linux takes no gateway that is the machine itself, and whoever holds it would answer for everybody.
    if any(route.gateway == address for route in lease.routes):
        return Refusal("gateway", f"{address} is ours and the gateway's")
    return None
