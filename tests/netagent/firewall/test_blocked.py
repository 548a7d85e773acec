"""What is said of a machine's rules is what its kernel does with a probe."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fabric.lab.probe import Probe, once
from netagent import nft
from netagent.blocked import Obstacle, blocked
from netagent.firewall import FirewallError, ruleset
from tests.netagent.street import AGENT, LISTENER, NOBODY, VM, WIRESERVER, Street

PORT = 8080
PROBE = f"probe source {WIRESERVER} to tcp {PORT} is blocked by chain "
ANSWER = f"answers from tcp {PORT} to probe source {WIRESERVER} are blocked by chain "


def table(body: str, hook: str = "input", priority: int = 0, policy: str = "accept", name: str = "filter") -> str:
    """`body`: rules of one base chain; what follows a line of dashes stands beside it, in the table."""
    rules, _, beside = body.partition("---")
    return f"""table inet {name} {{
{beside}
chain {hook} {{ type filter hook {hook} priority {priority}; policy {policy};
{rules}
}}
}}
"""


def probed(street: Street, seconds: float = 0.4) -> bool:
    return asyncio.run(once(street.host.descriptor, VM, Probe(port=PORT, http="/", interval=seconds))).ok


def told(street: Street, *, known: bool = True) -> list[Obstacle]:
    listing = street.vm.act(nft.everything)
    if not known:
        return blocked(listing.text, (PORT,), WIRESERVER)[0]
    return blocked(listing.text, (PORT,), WIRESERVER, link="eth0", address=VM, uid=NOBODY)[0]


OPEN = [
    "",
    table("ct state established,related accept\ntcp dport 8080 accept", policy="drop"),
    table("tcp dport { 22, 8000-8100 } accept", policy="drop"),
    table(f"ip saddr {WIRESERVER} accept", policy="drop"),
    table("ip saddr 168.63.0.0/16 tcp dport > 1023 accept", policy="drop"),
    table("ip saddr @azure accept --- set azure { type ipv4_addr; elements = { 168.63.129.16 }; }", policy="drop"),
    table("tcp dport vmap { 22 : drop, 8080 : accept, 443 : drop }", policy="drop"),
    table(
        "tcp dport vmap @ports --- map ports { type inet_service : verdict; elements = { 8080 : accept }; }",
        policy="drop",
    ),
    table("ct state vmap { invalid : drop, established : accept, new : continue }\niifname eth0 accept", policy="drop"),
    table('iifname "eth*" jump public\ndrop --- chain public { tcp dport 22 return; accept; }'),
    table('iifname "lo" drop\niif lo drop\nip6 saddr ::/0 drop\nudp dport 8080 drop\nip protocol udp drop'),
    table("tcp flags & (fin|syn|rst|ack) != syn ct state new drop\nct state invalid drop"),
    table("ip daddr != 10.0.0.4 drop\nip saddr != 168.63.129.16 drop\nmeta l4proto != { tcp, udp } drop"),
    table(f"ip daddr {WIRESERVER} meta skuid != 0 ct state invalid,new drop", "output"),
    table("meta skuid 0 drop", "output"),
    table("ct state invalid drop", "prerouting", -150),
    "table ip6 filter { chain input { type filter hook input priority 0; policy drop; }; }",
    "table netdev filter { chain in { type filter hook ingress device eth0 priority 0; ip saddr 1.2.3.4 drop; }; }",
    ruleset(WIRESERVER, (AGENT,)),
]
SHUT = [
    (table("", policy="drop"), PROBE + "inet filter input (policy drop)"),
    (
        # An accept ends its own base chain only.
        table("tcp dport 8080 accept", priority=-10, name="ours") + table("tcp dport 22 accept", policy="drop"),
        PROBE + "inet filter input (policy drop)",
    ),
    (table("tcp dport 8080 reject"), PROBE + "inet filter input (rule 2: reject)"),
    (table("tcp dport 8080 counter log reject with tcp reset"), PROBE + "inet filter input (rule 2: reject)"),
    (
        table("goto public\naccept --- chain public { tcp dport 22 accept; }", policy="drop"),
        PROBE + "inet filter input (policy drop)",
    ),
    (
        table("jump public\naccept --- chain public { jump inner; } \n chain inner { drop; }"),
        PROBE + "inet filter input (rule 5: drop in inner in public)",
    ),
    (table("tcp dport vmap { 0-1023 : accept, 1024-65535 : drop }"), PROBE + "inet filter input (rule 3: drop)"),
    (table("ct state new drop", "prerouting", -150), PROBE + "inet filter prerouting (rule 2: drop)"),
    # Before its connection is known, a packet belongs to none.
    (table("ct state invalid drop", "prerouting", -300), PROBE + "inet filter prerouting (rule 2: drop)"),
    (
        table("notrack", "prerouting", -300) + table("ct state new,established accept", policy="drop"),
        PROBE + "inet filter input (policy drop)",
    ),
    (
        "table netdev filter { chain in { type filter hook ingress device eth0 priority 0; ip protocol tcp drop; }; }",
        PROBE + "netdev filter in (rule 2: drop)",
    ),
    # The reference agent's rule, had it no `ct state`.
    (table(f"ip daddr {WIRESERVER} meta skuid != 0 drop", "output"), ANSWER + "inet filter output (rule 2: drop)"),
    (table("ct direction reply drop", "output"), ANSWER + "inet filter output (rule 2: drop)"),
    (
        table("oifname eth0 ip saddr 10.0.0.0/8 tcp sport 8080 drop", "postrouting"),
        ANSWER + "inet filter postrouting (rule 2: drop)",
    ),
]
MAYBE = [
    ("meta mark 1 drop", "rule 2: drop if meta mark holds"),
    ("limit rate over 1/hour burst 1000 packets drop", "rule 2: drop if limit holds"),
    ("fib saddr . iif oif missing drop", "rule 2: drop if fib holds"),
    ("ip saddr . tcp dport { 1.2.3.4 . 8080 } drop", "rule 3: drop if concat holds"),
]


@pytest.mark.parametrize("rules", OPEN)
def test_what_lets_probes_through_is_not_accused(street: Street, listener: int, rules: str) -> None:
    street.vm.nft(rules)
    assert probed(street, 2.0)
    assert told(street) == []


@pytest.mark.parametrize(("rules", "expected"), SHUT)
def test_what_keeps_probes_out_is_named(street: Street, listener: int, rules: str, expected: str) -> None:
    assert probed(street, 2.0)
    street.vm.nft(rules)
    assert not probed(street)
    assert [one.text for one in told(street)] == [expected]
    assert all(one.certain for one in told(street))


def test_an_accept_inside_the_dropping_chain_opens_it(street: Street, listener: int) -> None:
    street.vm.nft(table("", policy="drop"))
    assert not probed(street)
    street.vm.nft(f"insert rule inet filter input ip saddr {WIRESERVER} tcp dport {PORT} accept")
    assert probed(street, 2.0)
    assert told(street) == []


@pytest.mark.parametrize(("rule", "why"), MAYBE)
def test_what_is_not_understood_may_be_it(street: Street, listener: int, rule: str, why: str) -> None:
    street.vm.nft(table(rule))
    assert probed(street, 2.0)
    (obstacle,) = told(street)
    assert not obstacle.certain
    assert obstacle.text == f"probe source {WIRESERVER} to tcp 8080 may be blocked by chain inet filter input ({why})"


def test_less_is_said_for_certain_where_less_is_known(street: Street, listener: int) -> None:
    street.vm.nft(table(f"ip daddr {WIRESERVER} meta skuid != 0 drop", "output"))
    (obstacle,) = told(street, known=False)
    assert (obstacle.certain, obstacle.answer) == (False, True)
    street.vm.nft("flush ruleset\n" + table("iifname eth0 accept", policy="drop"))
    assert [one.certain for one in told(street, known=False)] == [False]
    assert told(street) == []


def test_a_dormant_table_is_not_accused_for_certain(street: Street, listener: int) -> None:
    """nft 1.0.6 prints whatever is in memory for the flags of a table; others print the word."""
    street.vm.nft("table inet filter { flags dormant; chain in { type filter hook input priority 0; policy drop; }; }")
    assert probed(street, 2.0)
    assert not any(one.certain for one in told(street))
    for flags in ("dormant", ["owner", "dormant"]):
        listed = {"table": {"family": "inet", "name": "t", "flags": flags}}
        dropping = chain_of("c", [{"drop": None}], hook="input")
        assert blocked(msgspec.json.encode({"nftables": [listed, *dropping]}), (PORT,), WIRESERVER) == ([], [])


def test_rules_of_iptables_are_in_the_same_listing(street: Street, listener: int) -> None:
    street.vm.run("iptables-nft", "-P", "INPUT", "DROP")
    assert not probed(street)
    assert [one.text for one in told(street)] == [PROBE + "ip filter INPUT (policy drop)"]
    rule = "-p tcp --dport 8080 -m comment --comment x -j ACCEPT"
    street.vm.run("iptables-nft", "-A", "INPUT", *rule.split())
    assert probed(street, 2.0)
    assert told(street) == []
    street.vm.run("iptables-nft", "-I", "INPUT", "-p", "tcp", "-j", "REJECT")
    assert not probed(street)
    assert [one.text for one in told(street)] == [PROBE + "ip filter INPUT (rule 3: reject)"]
    # nft shows that it looks at connections, not for what.
    street.vm.run("iptables-nft", "-R", "INPUT", "1", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    assert probed(street, 2.0)
    assert [one.certain for one in told(street)] == [False]
    assert "drop if iptables' conntrack holds" in told(street)[0].text


def test_rules_of_the_reference_agent(street: Street, listener: int) -> None:
    """As it writes them into the table `security`, by iptables."""
    for rule in (
        "-p tcp --dport 53 -j ACCEPT",
        "-p tcp -m owner --uid-owner 0 -j ACCEPT",
        "-p tcp -m conntrack --ctstate INVALID,NEW -j DROP",
    ):
        street.vm.run("iptables-nft", "-w", "-t", "security", "-A", "OUTPUT", "-d", WIRESERVER, *rule.split())
    assert probed(street, 2.0)
    (obstacle,) = told(street)
    assert (obstacle.certain, obstacle.answer) == (False, True)


def test_iptables_legacy_is_said_to_be_unseen(street: Street, listener: int) -> None:
    street.vm.run("iptables-legacy", "-P", "INPUT", "DROP")
    assert not probed(street)
    read = "from netagent import nft; print(*nft.legacy_tables())"
    tables = tuple(street.vm.run(*street.ours(read)).split())
    listing = street.vm.act(nft.everything)
    assert tables == ("filter",)
    assert blocked(listing.text, (PORT,), WIRESERVER, legacy=tables) == (
        [],
        ["iptables-legacy rules are not looked at (tables filter)"],
    )


def test_what_only_root_may_read_is_there(tmp_path: Path) -> None:
    assert nft.legacy_tables(tmp_path / "missing") == ()
    names = tmp_path / "names"
    names.touch(0)
    read = f"from pathlib import Path; from netagent import nft; print(*nft.legacy_tables(Path({str(names)!r})))"
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-P", "-c", read]
    assert subprocess.run(dropped, capture_output=True, text=True).stdout == "unknown\n"


def test_sets_that_were_left_out_may_hold_anything(street: Street) -> None:
    street.vm.nft(table("ip saddr @bad drop --- set bad { type ipv4_addr; elements = { 1.2.3.4 }; }"))
    terse = street.vm.run("nft", "-j", "-t", "list", "ruleset").encode()
    (obstacle,) = blocked(terse, (PORT,), WIRESERVER, whole=False)[0]
    assert obstacle.text.endswith("(rule 3: drop if ip saddr holds)")
    assert not obstacle.certain
    assert told(street) == []


def test_a_listing_too_large_comes_without_its_sets(street: Street) -> None:
    many = ", ".join(f"10.0.{number}.0" for number in range(250))
    street.vm.nft(table(f"ip saddr @bad drop --- set bad {{ type ipv4_addr; elements = {{ {many} }}; }}"))
    listing = street.vm.act(lambda: nft.everything(limit=2000))
    assert not listing.whole
    assert street.vm.act(nft.everything).whole
    with pytest.raises(FirewallError, match="the rules of this machine are more than 100 bytes"):
        street.vm.act(lambda: nft.everything(limit=100))


# What rules are made of here: each can be loaded, and each is either understood or said not to be.
CONDITIONS = (
    """
    tcp dport 8080; tcp dport != 8080; tcp dport 22; tcp dport { 22, 8080 }; tcp dport 8000-9000; tcp dport >= 9000
    tcp sport 8080; ip saddr 168.63.129.16; ip saddr != 168.63.129.16; ip saddr 168.63.0.0/16; ip daddr @some
    ip saddr { 10.0.0.0/8, 192.168.0.1-192.168.0.9 }; ip daddr 10.0.0.4; ip daddr 168.63.129.16; iifname "lo"
    iifname "eth*"; iifname { "lo", "eth0" }; oifname "eth0"; ct state new; ct state { established }; ct state invalid
    ct state established,related; ct state != new; ct direction reply; meta l4proto udp; meta l4proto { tcp, udp }
    ip protocol tcp; meta nfproto ipv4; udp dport 8080; ip6 nexthdr tcp; meta skuid 0; meta skuid != 0; counter; log
    tcp flags & (syn|ack) == syn; tcp flags syn; meta mark 5; ip ttl 64
""".strip()
    .replace("\n", ";")
    .split(";")
)
VERDICTS = ["accept", "drop", "return", "jump one", "goto one", "jump two", "continue", "counter", "meta mark set 5"]
HOOKS = (("prerouting", -300), ("prerouting", -150), ("input", -10), ("input", 0), ("output", 0), ("postrouting", 0))
rule = st.builds(
    lambda conditions, verdict: " ".join([*conditions, verdict]),
    st.lists(st.sampled_from(CONDITIONS), max_size=2, unique=True),
    st.sampled_from(VERDICTS),
)
inner_rule = rule.filter(lambda text: not text.endswith(("one", "two")))


@st.composite
def rulesets(draw: st.DrawFn) -> str:
    lines = [
        "table inet filter {",
        "set some { type ipv4_addr; flags interval; elements = { 10.0.0.0/24, 1.2.3.4 }; }",
        "chain two {", *draw(st.lists(inner_rule, max_size=3)), "}",
        "chain one {", *draw(st.lists(rule.filter(lambda text: not text.endswith("one")), max_size=3)), "}",
    ]  # fmt: skip
    for number, (hook, priority) in enumerate(
        draw(st.lists(st.sampled_from(HOOKS), min_size=1, max_size=2, unique=True))
    ):
        policy = draw(st.sampled_from(["accept", "accept", "drop"]))
        lines += [f"chain base{number} {{ type filter hook {hook} priority {priority}; policy {policy};"]
        lines += [*draw(st.lists(rule, max_size=5)), "}"]
    return "\n".join([*lines, "}"])


@pytest.fixture(scope="module")
def tried() -> Iterator[Street]:
    street = Street()
    with street.vm.start(LISTENER, str(PORT), uid=NOBODY) as process:
        yield street
        process.kill()
    street.end()


@settings(max_examples=80, deadline=None, phases=[Phase.generate])
@given(rules=rulesets())
def test_the_kernel_agrees(tried: Street, rules: str) -> None:
    """Made-up rules: what is certainly blocked is, and what is not accused gets through."""
    loaded = subprocess.run(
        tried.vm.command("nft", "-f", "-"), input="flush ruleset\n" + rules, capture_output=True, text=True
    )
    if loaded.returncode:
        # One condition may contradict another's protocol.
        assert "conflicting" in loaded.stderr, loaded.stderr
        return
    obstacles = told(tried)
    if any(one.certain for one in obstacles):
        assert not probed(tried), rules
    elif not obstacles:
        assert probed(tried, 2.0), rules


WORDS = [
    "match", "left", "right", "op", "payload", "protocol", "field", "meta", "key", "ct", "set", "range", "prefix",
    "addr", "len", "elem", "val", "vmap", "data", "xt", "name", "type", "jump", "goto", "target", "accept", "drop",
    "reject", "return", "mangle", "dnat", "queue", "&", "|",
]  # fmt: skip
STATEMENTS = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=4)
    | st.sampled_from(["@s", "lo", "tcp", "new", "10.0.0.4", "one", "=="]),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from(WORDS), one, max_size=3),
    max_leaves=15,
)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "family": st.sampled_from(["inet", "ip", "netdev", "x"]) | STATEMENTS,
        "table": st.just("t") | STATEMENTS,
        "name": st.sampled_from(["c", "s", "one"]) | STATEMENTS,
        "chain": st.sampled_from(["c", "one"]) | STATEMENTS,
        "hook": st.sampled_from(["input", "output", "ingress"]) | STATEMENTS,
        "prio": st.integers(-400, 400),
        "type": st.sampled_from(["filter", "nat"]),
        "policy": st.sampled_from(["accept", "drop"]) | STATEMENTS,
        "dev": st.just("eth0") | STATEMENTS,
        "flags": STATEMENTS,
        "expr": st.lists(STATEMENTS, max_size=4),
        "elem": st.lists(STATEMENTS, max_size=4),
    },
)


@settings(max_examples=150)
@given(st.lists(st.dictionaries(st.sampled_from(["table", "chain", "rule", "set", "map", "x"]), OBJECTS, max_size=1)))
def test_any_listing_is_read_or_refused(objects: list[dict[str, object]]) -> None:
    refused_or_read(msgspec.json.encode({"nftables": objects}))


@settings(max_examples=150)
@given(st.lists(st.lists(STATEMENTS, max_size=4), max_size=6))
def test_any_rule_is_walked(expressions: list[object]) -> None:
    base = {"family": "inet", "table": "t", "name": "c", "hook": "input", "type": "filter", "prio": 0, "policy": "drop"}
    rules = [{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": one}} for one in expressions]
    assert refused_or_read(msgspec.json.encode({"nftables": [{"chain": base}, *rules]}))


@given(st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    refused_or_read(data)


def refused_or_read(data: bytes) -> bool:
    try:
        obstacles, notes = blocked(data, (PORT,), WIRESERVER, link="eth0", address=VM, uid=0)
    except FirewallError as error:
        assert "look at nft" in str(error)
        return False
    assert all("\n" not in line for line in [*notes, *(one.text for one in obstacles)])
    return True


def chain_of(name: str, *expressions: object, hook: str = "") -> list[dict[str, object]]:
    base: dict[str, object] = {"type": "filter", "hook": hook, "prio": 0, "policy": "accept"} if hook else {}
    place = {"family": "inet", "table": "t"}
    rules: list[dict[str, object]] = [{"rule": {**place, "chain": name, "expr": one}} for one in expressions]
    return [{"chain": {**place, "name": name, **base}}, *rules]


def test_jumps_that_multiply_come_to_an_end() -> None:
    objects = chain_of("c0", *[[{"jump": {"target": "c1"}}]] * 10, hook="input")
    for depth in range(1, 15):
        objects += chain_of(f"c{depth}", *[[{"jump": {"target": f"c{depth + 1}"}}]] * 10)
    (obstacle,) = blocked(msgspec.json.encode({"nftables": objects}), (PORT,), WIRESERVER)[0]
    assert obstacle.text.endswith("may be blocked by chain inet t c0 (more than 20000 rules to follow)")


def test_a_chain_that_jumps_to_itself_comes_to_an_end() -> None:
    objects = chain_of("c0", [{"jump": {"target": "c0"}}], hook="input")
    (obstacle,) = blocked(msgspec.json.encode({"nftables": objects}), (PORT,), WIRESERVER)[0]
    assert not obstacle.certain


def test_elements_in_elements_come_to_an_end() -> None:
    right: object = 8080
    for _ in range(200):
        right = {"elem": {"val": right}}
    match = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}
    objects = chain_of("c0", [match, {"drop": None}], hook="input")
    (obstacle,) = blocked(msgspec.json.encode({"nftables": objects}), (PORT,), WIRESERVER)[0]
    assert not obstacle.certain
    deep = b'{"nftables":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(FirewallError, match="no listing"):
        blocked(deep, (PORT,), WIRESERVER)


def test_names_are_cut_to_one_line() -> None:
    objects = chain_of("c\n\x1b[31m" + "x" * 1000, [{"drop": None}], hook="input")
    (obstacle,) = blocked(msgspec.json.encode({"nftables": objects}), (PORT,), WIRESERVER)[0]
    assert obstacle.where.startswith("chain inet t c??[31mxxx")
    assert len(obstacle.where) < 120


def test_too_much_is_said_to_be_too_much() -> None:
    rules = chain_of("c", *[[]] * 100_001, hook="input")
    with pytest.raises(FirewallError, match="100001 rules are more than are looked at"):
        blocked(msgspec.json.encode({"nftables": rules}), (PORT,), WIRESERVER)
    _, notes = blocked(b'{"nftables": []}', tuple(range(1, 100)), WIRESERVER)
    assert notes == ["only the first 16 of 99 probe ports are looked at"]
    with pytest.raises(FirewallError, match="no IPv4 address"):
        blocked(b'{"nftables": []}', (PORT,), "host")
