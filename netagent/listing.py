"""All rules of a machine as `nft -j list ruleset` prints them, to values. Pure.

The rules are anybody's: whatever the bytes are, the only error is FirewallError. What a rule says is kept as it came;
who walks the rules decides what of it is understood.
"""

from collections import defaultdict
from typing import Any

import msgspec

from netagent.firewall import FirewallError

RULES_LIMIT = 100_000

Key = tuple[str, str, str]
"""Family, table and name of a chain or a set."""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """`hook` is empty for one that is only jumped to."""

    family: str
    table: str
    name: str
    type: str = ""
    hook: str = ""
    prio: int = 0
    policy: str = "accept"
    dev: str | list[str] = ""

    @property
    def key(self) -> Key:
        return (self.family, self.table, self.name)

    @property
    def devices(self) -> list[str]:
        return [self.dev] if isinstance(self.dev, str) else self.dev

    @property
    def title(self) -> str:
        return " ".join(plain(part) for part in self.key)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """`expr` is a list of statements, each an object of one key, in order."""

    family: str
    table: str
    chain: str
    handle: int = 0
    expr: list[Any] = []


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """A whole listing."""

    chains: dict[Key, Chain]
    rules: dict[Key, list[Rule]]
    """Of each chain, in order."""
    sets: dict[Key, list[Any] | None]
    """Elements of named sets and maps; None where the listing left them out."""
    perhaps: set[tuple[str, str]] = set()
    """Tables (family, name) that may be dormant."""


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    family: str
    name: str
    flags: Any = None

    @property
    def active(self) -> bool | None:
        """None: cannot be said, since nft 1.0.6 prints anything for flags."""
        if self.flags is None:
            return True
        flags = self.flags if isinstance(self.flags, list) else [self.flags]
        if "dormant" in flags:
            return False
        return True if all(one in {"owner", "persist"} for one in flags if isinstance(one, str)) else None


class _Set(msgspec.Struct, frozen=True, kw_only=True):
    family: str
    table: str
    name: str
    elem: list[Any] = []


class _Listed(msgspec.Struct, frozen=True):
    nftables: list[dict[str, Any]]


def parse_rules(text: bytes, *, whole: bool = True) -> Rules:
    """`whole`: elements of named sets are in there. Raises FirewallError."""
    chains: dict[Key, Chain] = {}
    rules: dict[Key, list[Rule]] = defaultdict(list)
    sets: dict[Key, list[Any] | None] = {}
    count = 0
    active: dict[tuple[str, str], bool | None] = {}
    try:
        for one in msgspec.json.decode(text, type=_Listed).nftables:
            if "table" in one:
                table = msgspec.convert(one["table"], _Table)
                active[table.family, table.name] = table.active
            elif "chain" in one:
                chain = msgspec.convert(one["chain"], Chain)
                if active.get((chain.family, chain.table), True) is not False:
                    chains[chain.key] = chain
            elif "rule" in one:
                rule = msgspec.convert(one["rule"], Rule)
                rules[rule.family, rule.table, rule.chain].append(rule)
                count += 1
            elif "set" in one or "map" in one:
                named = msgspec.convert(one.get("set", one.get("map")), _Set)
                sets[named.family, named.table, named.name] = named.elem if whole else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FirewallError(f"nft printed what is no listing ({error}): look at nft -j list ruleset") from error
    if count > RULES_LIMIT:
        raise FirewallError(f"{count} rules are more than are looked at ({RULES_LIMIT}): look at nft list ruleset")
    perhaps = {key for key, answer in active.items() if answer is None}
    return Rules(chains=chains, rules=dict(rules), sets=sets, perhaps=perhaps)


def plain(text: str) -> str:
    """A name that anybody may have chosen, fit for one line of a report."""
    return "".join(mark if mark.isprintable() and mark.isascii() else "?" for mark in text[:64])
