"""rtnetlink(7) requests that change something: values to bytes. Pure.

Everything that is written carries PROTOCOL, so that it can be told from what others wrote, and taken back.
"""

import ipaddress
import struct

from ipc.contract.netagent import Address, Route, Rule
from netagent.netlink import MAIN_TABLE

PROTOCOL = 168
"""Route protocol number of netagent: the first byte of the WireServer's address."""
FOR_EVER = 0xFFFFFFFF

_NEW_LINK, _NEW_ADDRESS, _DELETE_ADDRESS = 16, 20, 21
_NEW_ROUTE, _DELETE_ROUTE, _NEW_RULE, _DELETE_RULE = 24, 25, 32, 33
_REQUEST, _ACKNOWLEDGE, _REPLACE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_HEADER = struct.Struct("=IHHII")
_IFF_UP = 0x1
_UNIVERSE, _ON_LINK_SCOPE = 0, 253
_UNICAST, _TO_TABLE = 1, 1
_ONLINK = 0x4
_FAMILIES = {4: 2, 6: 10}


def add_route(route: Route, index: int, sequence: int) -> bytes:
    """Refused with EEXIST if there is one of the same destination, table and metric."""
    return _message(_NEW_ROUTE, _CREATE | _EXCLUSIVE, sequence, _route(route, index))


def delete_route(route: Route, index: int, sequence: int) -> bytes:
    """Only one of that protocol, gateway, link and metric."""
    return _message(_DELETE_ROUTE, 0, sequence, _route(route, index))


def add_address(address: Address, index: int, sequence: int, *, lifetime: int = FOR_EVER) -> bytes:
    """Or give it another lifetime (seconds), after which the kernel drops it even if we are gone."""
    interface = ipaddress.ip_interface(address.address)
    network = interface.network
    body = _address(interface, index) + _attribute(6, struct.pack("=IIII", lifetime, lifetime, 0, 0))
    if isinstance(network, ipaddress.IPv4Network) and network.prefixlen < 31:
        body += _attribute(4, network.broadcast_address.packed)
    body += _attribute(11, bytes([address.protocol]))
    return _message(_NEW_ADDRESS, _CREATE | _REPLACE, sequence, body)


def delete_address(address: Address, index: int, sequence: int) -> bytes:
    return _message(_DELETE_ADDRESS, 0, sequence, _address(ipaddress.ip_interface(address.address), index))


def add_rule(rule: Rule, sequence: int) -> bytes:
    return _message(_NEW_RULE, _CREATE | _EXCLUSIVE, sequence, _rule(rule))


def delete_rule(rule: Rule, sequence: int) -> bytes:
    return _message(_DELETE_RULE, 0, sequence, _rule(rule))


def set_mtu(index: int, mtu: int, sequence: int) -> bytes:
    return _message(_NEW_LINK, 0, sequence, struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + _number(4, mtu))


def set_up(index: int, sequence: int) -> bytes:
    return _message(_NEW_LINK, 0, sequence, struct.pack("=BBHiII", 0, 0, 0, index, _IFF_UP, _IFF_UP))


def _route(route: Route, index: int) -> bytes:
    gateway = ipaddress.ip_address(route.gateway) if route.gateway else None
    if route.destination == "default":
        family, prefix, destination = _FAMILIES[gateway.version if gateway else 4], 0, b""
    else:
        network = ipaddress.ip_network(route.destination)
        family, prefix, destination = _FAMILIES[network.version], network.prefixlen, network.network_address.packed
    table = route.table if route.table < 256 else 0
    scope = _UNIVERSE if gateway or family == _FAMILIES[6] else _ON_LINK_SCOPE
    # A gateway outside of the NIC's own network is taken as it is: Azure's lease may name one.
    flags = _ONLINK if gateway else 0
    body = struct.pack("=BBBBBBBBI", family, prefix, 0, 0, table, route.protocol, scope, _UNICAST, flags)
    body += _number(15, route.table) + _number(4, index) + _number(6, route.metric)
    if destination:
        body += _attribute(1, destination)
    if gateway:
        body += _attribute(5, gateway.packed)
    if route.source:
        body += _attribute(7, ipaddress.ip_address(route.source).packed)
    return body


def _address(interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface, index: int) -> bytes:
    prefix = interface.network.prefixlen
    body = struct.pack("=BBBBI", _FAMILIES[interface.version], prefix, 0, 0, index)
    return body + _attribute(2, interface.ip.packed) + _attribute(1, interface.ip.packed)


def _rule(rule: Rule) -> bytes:
    source = ipaddress.ip_network(rule.source)
    table = rule.table if rule.table <= MAIN_TABLE else 0
    body = struct.pack("=BBBBBBBBI", _FAMILIES[source.version], 0, source.prefixlen, 0, table, 0, 0, _TO_TABLE, 0)
    body += _attribute(2, source.network_address.packed) + _number(6, rule.priority) + _number(15, rule.table)
    return body + _attribute(21, bytes([rule.protocol]))


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACKNOWLEDGE | flags, sequence, 0) + body
