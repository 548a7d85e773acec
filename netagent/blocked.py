"""Which of a machine's own rules keep the load balancer's probes out, or our answers in. Pure.

Told, never mended: a user's firewall is the user's. An accept ends its own base chain only, so every base chain on the
way has to let a packet through. Three outcomes of each are kept apart: it passes, it is dropped, and both are possible,
because a condition or a statement is not understood.
"""

import ipaddress
from collections.abc import Iterator
from typing import Any

import msgspec

from netagent.firewall import FirewallError
from netagent.listing import Chain, Key, Rule, Rules, parse_rules, plain
from netagent.packet import Condition, Packet

_STEPS = 20_000
"""Rules looked at for one packet: jumps may multiply."""
_CONNTRACK = -200
"""Its priority: what comes before it knows of no connection."""
_JUMPS = 16
"""As deep as the kernel goes."""
_REASONS = 2
_PORTS_LIMIT = 16
_VERDICTS = {"accept", "drop", "reject", "return", "jump", "goto"}
_HARMLESS = {
    "counter",
    "log",
    "comment",
    "ct helper",
    "ct timeout",
    "secmark",
    "set",
    "last",
    "continue",
    "flow",
    "dup",
}
_TRANSLATIONS = {"dnat", "redirect", "snat", "masquerade", "tproxy"}
_HARMLESS_XT = {"comment", "LOG", "NFLOG", "MARK", "CONNMARK", "SECMARK", "CONNSECMARK", "AUDIT", "TRACE"}
_INBOUND = ("ingress", "prerouting", "input")
_OUTBOUND = ("output", "postrouting", "egress")


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """One port that probes do not reach, or whose answers do not leave."""

    port: int
    answer: bool
    """False: the probe itself is stopped."""
    certain: bool
    """False: something on the way is not understood. A probe that was answered lately proves it harmless."""
    where: str
    """`chain inet filter input (policy drop)`."""
    text: str
    """One line for a report."""


class _Outcome(msgspec.Struct):
    """What may come of a packet in a chain: more than one, where it cannot be said."""

    passes: bool = False
    drops: list[str] = []
    returns: bool = False


class _TooLong(Exception):
    """More rules than are looked at."""


def blocked(
    listing: bytes,
    ports: tuple[int, ...],
    wireserver: str,
    *,
    whole: bool = True,
    legacy: tuple[str, ...] = (),
    link: str | None = None,
    address: str = "",
    uid: int | None = None,
) -> tuple[list[Obstacle], list[str]]:
    """What stands in the way, and what was not looked at. Raises FirewallError for a listing that is none.

    `listing`: of `nft -j list ruleset`; `whole` False where it is terse. `link`, `address`: where probes arrive, if
    known. `uid`: who answers them.
    """
    source = str(_address(wireserver))
    rules = parse_rules(listing, whole=whole)
    notes = []
    if legacy:
        notes.append(f"iptables-legacy rules are not looked at (tables {', '.join(map(plain, legacy))})")
    if len(ports) > _PORTS_LIMIT:
        notes.append(f"only the first {_PORTS_LIMIT} of {len(ports)} probe ports are looked at")
    obstacles: list[Obstacle] = []
    for port in ports[:_PORTS_LIMIT]:
        obstacles += _of_port(rules, port, source, link, address, uid)
    return obstacles, notes


def _of_port(
    rules: Rules, port: int, source: str, link: str | None, address: str, uid: int | None
) -> Iterator[Obstacle]:
    """The first packet of a probe, those after it, and the answers."""
    first = Packet(
        source=source,
        target=address,
        target_port=port,
        state="new",
        direction="original",
        flags=frozenset({"syn"}),
        arrives_by=link,
        leaves_by="",
    )
    walk = _Walk(rules, first)
    inbound = _obstacles(walk, _INBOUND)
    seen = walk.packet
    if not any(stops for stops, _ in inbound):
        state = "established" if seen.state == "new" else ""
        later = _Walk(rules, msgspec.structs.replace(first, state=state, flags=frozenset()))
        inbound += [one for one in _obstacles(later, _INBOUND) if one not in inbound]
    # What was rewritten on the way in is answered as it was rewritten.
    answer = Packet(
        source=seen.target,
        target=source,
        source_port=seen.target_port,
        state="established" if seen.state == "new" else "",
        direction="reply",
        arrives_by="",
        leaves_by=link,
        uid=uid,
    )
    for stops, where in inbound:
        text = f"probe source {source} to tcp {port} {'is' if stops else 'may be'} blocked by {where}"
        yield Obstacle(port=port, answer=False, certain=stops, where=where, text=text)
    for stops, where in _obstacles(_Walk(rules, answer), _OUTBOUND):
        text = f"answers from tcp {port} to probe source {source} {'are' if stops else 'may be'} blocked by {where}"
        yield Obstacle(port=port, answer=True, certain=stops, where=where, text=text)


def _obstacles(walk: "_Walk", hooks: tuple[str, ...]) -> list[tuple[bool, str]]:
    """The first that certainly stops it, else all that may."""
    possible: list[tuple[bool, str]] = []
    for chain in walk.met(hooks):
        outcome = walk.base(chain)
        if outcome.drops:
            stops = walk.meets(chain) and not outcome.passes
            found = (stops, f"chain {chain.title} ({'; '.join(outcome.drops[:_REASONS])})")
            if stops:
                return [found]
            possible.append(found)
    return possible


class _Walk:
    """One packet on its way. What a statement does to it is kept: later conditions see it."""

    def __init__(self, rules: Rules, packet: Packet) -> None:
        self._rules = rules
        self.packet = packet
        self._condition = Condition(rules, packet)
        self._left = _STEPS

    def met(self, hooks: tuple[str, ...]) -> list[Chain]:
        """Base chains in the order a packet meets them. Only a new connection meets those of type nat."""
        link = self.packet.link
        met = [
            chain
            for chain in self._rules.chains.values()
            if chain.hook in hooks
            and chain.family in {"ip", "inet", "netdev"}
            and (chain.type != "nat" or self.packet.state == "new")
            and (not chain.dev or link is None or link in chain.devices)
        ]
        return sorted(met, key=lambda chain: (hooks.index(chain.hook), chain.prio))

    def meets(self, chain: Chain) -> bool:
        """Whether it certainly does: its device may be another one, its table dormant."""
        return (not chain.dev or self.packet.link is not None) and chain.key[:2] not in self._rules.perhaps

    def base(self, chain: Chain) -> _Outcome:
        state = self.packet.state
        if chain.hook == "ingress" or chain.prio < _CONNTRACK:
            # Nobody has looked yet which connection it belongs to.
            self._learn(state="invalid")
        try:
            outcome = self._chain(chain.key, 0)
        except _TooLong:
            return _Outcome(passes=True, drops=[f"more than {_STEPS} rules to follow"])
        finally:
            if self.packet.state == "invalid":
                self._learn(state=state)
        if outcome.returns:
            if chain.policy == "accept":
                outcome.passes = True
            else:
                outcome.drops.append(f"policy {plain(chain.policy)}")
        return outcome

    def _chain(self, key: Key, depth: int) -> _Outcome:
        outcome = _Outcome(drops=[])
        if depth > _JUMPS:
            raise _TooLong
        for rule in self._rules.rules.get(key, ()):
            if self._left <= 0:
                raise _TooLong
            self._left -= 1
            if self._rule(rule, outcome, depth):
                return outcome
        outcome.returns = True
        return outcome

    def _rule(self, rule: Rule, outcome: _Outcome, depth: int) -> bool:
        """Whether it certainly ends the chain."""
        sure = True
        doubts: list[str] = []
        for statement in rule.expr:
            if not isinstance(statement, dict) or len(statement) != 1:
                sure = False
                continue
            ((kind, body),) = statement.items()
            if kind == "match":
                holds = self._condition.holds(body, rule.family, rule.table)
                if holds is False:
                    return False
                if holds is None:
                    sure = False
                    doubts.append(_subject(body))
            elif kind == "vmap":
                return self._map(rule, body, outcome, depth, sure=sure)
            elif kind == "xt" and (verdict := _xt(body)) is not None:
                if verdict:
                    return self._verdict(rule, verdict, None, outcome, depth, sure=sure, doubts=doubts)
            elif kind in _VERDICTS:
                return self._verdict(rule, kind, body, outcome, depth, sure=sure, doubts=doubts)
            elif kind in _TRANSLATIONS:
                # From here on it may have another port and address, and goes on.
                self._learn(source="", target="", source_port=None, target_port=None)
                outcome.passes = True
                return sure
            elif kind in {"queue", "fwd", "synproxy"}:
                outcome.passes = True
                outcome.drops.append(f"rule {rule.handle}: {kind}")
                return sure
            elif kind == "notrack":
                self._learn(state="untracked" if sure else "")
            elif kind == "mangle":
                if isinstance(body, dict) and _is_payload(body.get("key")):
                    self._learn(source="", target="", source_port=None, target_port=None)
            elif kind not in _HARMLESS:
                sure = False
                doubts.append(kind if kind != "xt" else _xt_name(body))
        return False

    def _verdict(
        self, rule: Rule, kind: str, body: Any, outcome: _Outcome, depth: int, *, sure: bool, doubts: list[str]
    ) -> bool:
        if kind == "accept":
            outcome.passes = True
        elif kind in {"drop", "reject"}:
            doubt = "" if sure else f" if {' and '.join(map(plain, doubts[:_REASONS])) or 'its condition'} holds"
            outcome.drops.append(f"rule {rule.handle}: {kind}{doubt}")
        elif kind == "return":
            outcome.returns = True
        else:
            target = body.get("target") if isinstance(body, dict) else None
            inner = self._chain((rule.family, rule.table, str(target)), depth + 1)
            outcome.passes |= inner.passes
            outcome.drops += [f"{one} in {plain(str(target))}" for one in inner.drops]
            if kind == "jump":
                return sure and not inner.returns
            outcome.returns |= inner.returns
        return sure

    def _map(self, rule: Rule, body: Any, outcome: _Outcome, depth: int, *, sure: bool) -> bool:
        """The verdicts of all entries that may be the packet's."""
        entries = self._entries(rule, body)
        if entries is None:
            outcome.passes = True
            outcome.drops.append(f"rule {rule.handle}: a map")
            return False
        doubts = [_subject({"left": body["key"]})]
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], dict) or len(entry[1]) != 1:
                continue
            holds = self._condition.equal(body["key"], entry[0], rule.family, rule.table)
            ((kind, target),) = entry[1].items()
            if holds is False:
                continue
            if kind in _VERDICTS and self._verdict(
                rule, kind, target, outcome, depth, sure=sure and bool(holds), doubts=doubts
            ):
                return True
            if holds:
                break
        return False

    def _entries(self, rule: Rule, body: Any) -> list[Any] | None:
        if not isinstance(body, dict) or "key" not in body:
            return None
        data = body.get("data")
        if isinstance(data, str) and data.startswith("@"):
            return self._rules.sets.get((rule.family, rule.table, data[1:]))
        entries = data.get("set") if isinstance(data, dict) else None
        return entries if isinstance(entries, list) else None

    def _learn(self, **changes: Any) -> None:
        self.packet = msgspec.structs.replace(self.packet, **changes)
        self._condition = Condition(self._rules, self.packet)


def _address(text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise FirewallError(f"probes come from {text[:60]!r}, no IPv4 address: look at the lease") from error


def _subject(body: Any) -> str:
    """What a condition is about, in two words."""
    left = body.get("left") if isinstance(body, dict) else None
    if not isinstance(left, dict) or not left:
        return "a condition"
    kind, inner = next(iter(left.items()))
    if isinstance(inner, dict):
        words = [inner[one] for one in ("protocol", "field", "key") if isinstance(inner.get(one), str)]
        return " ".join(([] if kind == "payload" else [kind]) + words)
    return str(kind)


def _is_payload(key: Any) -> bool:
    """What a statement rewrites is the packet itself, no mark."""
    return not isinstance(key, dict) or "payload" in key


def _xt(body: Any) -> str | None:
    """A verdict, or nothing ("") for what only looks; None for what nft does not show."""
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        return None
    if body["name"] in _HARMLESS_XT:
        return ""
    return "reject" if body["name"] == "REJECT" and body.get("type") == "target" else None


def _xt_name(body: Any) -> str:
    name = body.get("name") if isinstance(body, dict) else None
    return f"iptables' {name}" if isinstance(name, str) else "an iptables match"
