"""Whether a rule's condition is true of a packet of which not everything is known. Pure.

Three answers: True, False, and None for "cannot be said", which every condition gets that is not understood.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

import msgspec

from netagent.listing import Rules

_DEPTH = 8
"""An element in an element in an element: no real rule is so deep."""
_OTHERS = {"udp", "udplite", "icmp", "icmpv6", "igmp", "sctp", "dccp", "ah", "esp", "comp", "ip6", "arp"}


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP packet over IPv4 of which a rule may ask. Empty or None: unknown."""

    source: str = ""
    target: str = ""
    source_port: int | None = None
    target_port: int | None = None
    state: str = ""
    """Of the connection: `new`, `established`."""
    direction: str = ""
    """`original` or `reply`."""
    flags: frozenset[str] = frozenset()
    arrives_by: str | None = None
    """The link's name; None: unknown, but not `lo`. Empty: it does not arrive."""
    leaves_by: str | None = None
    """The same for a packet that is sent."""
    uid: int | None = None

    @property
    def link(self) -> str | None:
        return self.leaves_by if self.arrives_by == "" else self.arrives_by


class Condition:
    """Asks of one packet, with the named sets of one listing."""

    def __init__(self, rules: Rules, packet: Packet) -> None:
        self._rules = rules
        self._packet = packet

    def holds(self, match: Any, family: str, table: str) -> bool | None:
        """`match` is the object below `{"match": ...}`."""
        if not isinstance(match, dict):
            return None
        left, right, operator = match.get("left"), match.get("right"), match.get("op")
        if _of_another_protocol(left):
            # It asks for the protocol first, so it is false, whatever the operator is.
            return False
        if operator == "in" and self._packet.flags and _is(left, "payload", "field", {"flags"}):
            words = _words(right)
            return None if words is None else bool(words & self._packet.flags)
        found = self.equal(left, right, family, table)
        if operator in {"==", "in"}:
            return found
        if operator == "!=":
            return None if found is None else not found
        value = self._value(left)
        if isinstance(value, int) and isinstance(right, int) and operator in {"<", ">", "<=", ">="}:
            return {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}[operator]
        return None

    def equal(self, left: Any, right: Any, family: str, table: str) -> bool | None:
        """Also for the keys of a verdict map."""
        if _of_another_protocol(left):
            return False
        if _is(left, "meta", "key", {"iifname", "iif"}):
            return self._any(right, lambda one: _link(self._packet.arrives_by, one), family, table)
        if _is(left, "meta", "key", {"oifname", "oif"}):
            return self._any(right, lambda one: _link(self._packet.leaves_by, one), family, table)
        if (flags := self._masked_flags(left)) is not None:
            return flags == _words(right) if _words(right) is not None else None
        value = self._value(left)
        if value is None:
            return None
        return self._any(right, lambda one: _same(value, one), family, table)

    def _any(
        self, right: Any, same: Callable[[Any], bool | None], family: str, table: str, depth: int = 0
    ) -> bool | None:
        """Whether one of them is the same."""
        if depth > _DEPTH:
            return None
        inner: Any = None
        if isinstance(right, str) and right.startswith("@"):
            inner = self._rules.sets.get((family, table, right[1:]))
        elif isinstance(right, list):
            inner = right
        elif isinstance(right, dict) and isinstance(right.get("set"), list):
            inner = right["set"]
        elif isinstance(right, dict) and isinstance(right.get("elem"), dict):
            return self._any(right["elem"].get("val"), same, family, table, depth + 1)
        else:
            return same(right)
        if inner is None:
            return None
        answers = {self._any(one, same, family, table, depth + 1) for one in inner}
        if True in answers:
            return True
        return None if None in answers else False

    def _value(self, left: Any) -> ipaddress.IPv4Address | int | str | None:
        packet = self._packet
        if not isinstance(left, dict) or len(left) != 1:
            return None
        ((kind, body),) = left.items()
        if not isinstance(body, dict):
            return None
        name = (kind, str(body.get("protocol", "")), str(body.get("field", body.get("key"))))
        if kind == "payload" and name[1] in {"tcp", "th"}:
            name = (kind, "tcp", name[2])
        ports = {("payload", "tcp", "sport"): packet.source_port, ("payload", "tcp", "dport"): packet.target_port}
        addresses = {("payload", "ip", "saddr"): packet.source, ("payload", "ip", "daddr"): packet.target}
        words = {
            ("payload", "ip", "protocol"): "tcp",
            ("meta", "", "l4proto"): "tcp",
            ("meta", "", "nfproto"): "ipv4",
            ("meta", "", "protocol"): "ip",
            ("ct", "", "state"): packet.state,
            ("ct", "", "direction"): packet.direction,
        }
        if name in ports:
            return ports[name]
        if name in addresses:
            return ipaddress.IPv4Address(addresses[name]) if addresses[name] else None
        if name in words:
            return words[name] or None
        return packet.uid if name == ("meta", "", "skuid") else None

    def _masked_flags(self, left: Any) -> set[str] | None:
        """`tcp flags & (fin|syn|rst|ack)`."""
        if not self._packet.flags or not isinstance(left, dict):
            return None
        both = left.get("&")
        if not isinstance(both, list) or len(both) != 2 or not _is(both[0], "payload", "field", {"flags"}):
            return None
        mask = _words(both[1])
        return None if mask is None else mask & self._packet.flags


def _is(left: Any, kind: str, attribute: str, values: set[str]) -> bool:
    body = left.get(kind) if isinstance(left, dict) else None
    return isinstance(body, dict) and body.get(attribute) in list(values)


def _of_another_protocol(left: Any) -> bool:
    """A field our packet has not got: of IPv6, of UDP."""
    return _is(left, "payload", "protocol", _OTHERS)


def _words(right: Any) -> set[str] | None:
    """`syn` or a list of such, or `{"|": [...]}`."""
    if isinstance(right, dict):
        right = right.get("|")
    if isinstance(right, str):
        return {right}
    if isinstance(right, list) and all(isinstance(one, str) for one in right):
        return set(right)
    return None


def _link(name: str | None, pattern: Any) -> bool | None:
    """`name` None: unknown, but not `lo`."""
    if not isinstance(pattern, str):
        return None
    if name is None:
        return False if pattern == "lo" else None
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _same(value: ipaddress.IPv4Address | int | str, one: Any) -> bool | None:
    """One element: a scalar, a range or a prefix."""
    if isinstance(value, str):
        return _same_word(value, one)
    if isinstance(one, dict) and len(one) == 1:
        ((kind, body),) = one.items()
        if kind == "range" and isinstance(body, list) and len(body) == 2:
            first, last = (_like(value, end) for end in body)
            return None if first is None or last is None else first <= int(value) <= last
        if kind == "prefix" and isinstance(body, dict):
            return _in_prefix(value, body)
        return None
    like = _like(value, one)
    return None if like is None else like == int(value)


def _same_word(value: str, one: Any) -> bool | None:
    """A number instead of a word cannot be compared; another word is another value."""
    return value == one if isinstance(one, str) else None


def _like(value: ipaddress.IPv4Address | int, one: Any) -> int | None:
    """`one` as a number, if it is of the same kind."""
    if isinstance(value, ipaddress.IPv4Address):
        try:
            return int(ipaddress.IPv4Address(one)) if isinstance(one, str) else None
        except ValueError:
            return None
    return one if isinstance(one, int) and not isinstance(one, bool) else None


def _in_prefix(value: ipaddress.IPv4Address | int, body: dict[str, Any]) -> bool | None:
    if not isinstance(value, ipaddress.IPv4Address):
        return None
    try:
        return value in ipaddress.IPv4Network(f"{body.get('addr')}/{body.get('len')}", strict=False)
    except ValueError:
        return None
