"""Our table in the kernel: who reaches the WireServer, and that nothing else is touched."""

import asyncio
import ipaddress
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lab.probe import Probe, once
from netagent import nft
from netagent.firewall import COUNTERS, FirewallError, ruleset
from tests.netagent.street import AGENT, NOBODY, VM, WIRESERVER, Street

HTTP = {f"tcp {WIRESERVER} 80", f"tcp {WIRESERVER} 32526"}
OPEN = {f"tcp {WIRESERVER} 53", f"udp {WIRESERVER} 53", f"udp {WIRESERVER} 67"}
REST = {f"tcp {WIRESERVER} 8080", f"udp {WIRESERVER} 123"}
ELSEWHERE = {
    f"{kind} {host} {port}"
    for host in ("169.254.169.254", "10.0.0.1", "fd00::1")
    for kind, port in (("tcp", 80), ("tcp", 32526), ("tcp", 8080), ("udp", 123))
}
ALL = HTTP | OPEN | REST | ELSEWHERE
TEXT = ruleset(WIRESERVER, (AGENT,))


def probed(street: Street, port: int, http: str = "/") -> bool:
    result = asyncio.run(once(street.host.descriptor, VM, Probe(port=port, http=http, interval=1.0)))
    return result.ok


@pytest.mark.parametrize(
    ("uid", "reached"), [(0, ALL), (AGENT, ALL - REST), (NOBODY, ALL - REST - HTTP)], ids=["root", "agent", "others"]
)
def test_who_reaches_what(street: Street, uid: int, reached: set[str]) -> None:
    assert street.reached(uid, *ALL) == ALL
    street.vm.act(lambda: nft.apply(TEXT))
    assert street.reached(uid, *ALL) == reached


def test_what_is_counted(street: Street) -> None:
    street.vm.act(lambda: nft.apply(TEXT))
    for uid, asked in (
        (0, "tcp 168.63.129.16 8080"),
        (AGENT, "tcp 168.63.129.16 80"),
        (NOBODY, "udp 168.63.129.16 53"),
    ):
        assert street.reached(uid, asked)
    assert street.reached(NOBODY, "udp 168.63.129.16 67")
    assert not street.reached(NOBODY, "udp 168.63.129.16 123")
    table = street.vm.act(nft.found)
    assert table is not None
    assert list(table.counters) == list(COUNTERS)
    assert {name: one.packets for name, one in table.counters.items() if name != "answers"} == {
        "dns": 1, "dhcp": 1, "root": 1, "agent": 1, "denied": 1,
    }  # fmt: skip
    assert table.counters["answers"].packets > 2
    assert table.counters["denied"].bytes == 20 + 8 + 1


def test_probes_of_a_users_program_are_answered(street: Street, listener: int) -> None:
    street.vm.act(lambda: nft.apply(TEXT))
    assert probed(street, listener)
    assert probed(street, listener, "")


def test_a_connection_that_was_there_before_goes_on(street: Street) -> None:
    program = """
import socket
one = socket.create_connection(("10.0.0.4", 9999))
one.sendall(b"before ")
input()
one.sendall(b"after")
"""
    server = """
import socket
with socket.create_server(("", 9999)) as listening:
    print("ready", flush=True)
    one, _ = listening.accept()
    print(one.recv(7).decode(), flush=True)
    print(one.recv(5).decode(), flush=True)
"""
    street.host.ip("route replace 10.0.0.4/32 dev port0 src 168.63.129.16")
    with street.vm.start(server, uid=NOBODY) as listening:
        command = street.host.command("/usr/bin/python3", "-c", program)
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as client:
            assert listening.stdout is not None
            assert listening.stdout.readline() == "before \n"
            street.vm.act(lambda: nft.apply(TEXT))
            client.communicate("\n")
            assert listening.stdout.readline() == "after\n"
    street.host.ip("route delete 10.0.0.4/32 dev port0")


def test_it_is_written_only_when_it_is_not_as_it_should_be(street: Street) -> None:
    firewall = nft.Firewall()

    def written(text: str = TEXT) -> bool:
        return street.vm.act(lambda: firewall.keep(text))[1]

    assert written()
    street.reached(0, "tcp 168.63.129.16 80")
    assert not written(), "what was counted is no change"
    table = street.vm.act(nft.found)
    assert table is not None
    assert table.counters["root"].packets == 1
    for edit in (
        "add rule inet azvmagent wireserver accept",
        "insert rule inet azvmagent output accept",
        "flush chain inet azvmagent output",
        "delete table inet azvmagent",
        "flush ruleset",
        "add chain inet azvmagent mine",
        "table inet azvmagent { flags dormant; }",
    ):
        street.vm.nft(edit)
        assert written(), edit
        assert not written(), edit
    assert written(ruleset(WIRESERVER, ()))
    assert not written(ruleset(WIRESERVER, ()))


def test_only_our_table_is_touched(street: Street) -> None:
    theirs = (
        "table inet filter { chain input { type filter hook input priority 0; policy accept; tcp dport 22 accept; }; }"
    )
    street.vm.nft(theirs)
    before = street.vm.listing()
    firewall = nft.Firewall()
    street.vm.act(lambda: firewall.keep(TEXT))
    assert len(street.vm.listing()) > len(before)
    assert street.vm.act(firewall.off)
    assert street.vm.listing() == before
    assert not street.vm.act(firewall.off)
    assert street.vm.act(nft.found) is None


def test_a_bad_ruleset_leaves_the_old_one(street: Street) -> None:
    before = street.vm.act(lambda: nft.apply(TEXT))
    with pytest.raises(FirewallError, match="nft failed: .*syntax error.*: set the firewall off, or mend it"):
        street.vm.act(lambda: nft.apply(TEXT.replace("accept", "acept")))
    assert street.vm.act(nft.found) == before


def test_at_every_moment_of_a_replacement_others_stay_outside(street: Street) -> None:
    """A table deleted and made anew in two steps would let somebody in between."""
    street.vm.act(lambda: nft.apply(TEXT))
    program = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
passed = tried = 0
while not tried or passed == 0 and tried < 200000:
    tried += 1
    try:
        one.sendto(b"x", ("168.63.129.16", 123))
        passed += 1
    except PermissionError:
        pass
print(passed, flush=True)
"""
    with street.vm.start(program, uid=NOBODY) as trying:
        while trying.poll() is None:
            street.vm.act(lambda: nft.apply(TEXT))
        assert trying.stdout is not None
        assert trying.stdout.readline() == "0\n"


def test_without_privilege_it_says_what_to_do(street: Street) -> None:
    program = "from netagent import nft\ntry: nft.found()\nexcept nft.FirewallError as error: print(error)"
    assert "give netagent CAP_NET_ADMIN" in street.vm.run(
        "setpriv", "--bounding-set=-all", "--inh-caps=-all", *street.ours(program)
    )


def test_without_nft_it_says_what_to_do(street: Street) -> None:
    """The program is hidden by a mount that only this child sees."""
    program = f"""
from netagent import nft
print(nft.remove())
for act in (nft.found, nft.everything, lambda: nft.apply({TEXT!r})):
    try: act()
    except nft.NoNft as error: print(error)
"""
    hide = 'mount -t tmpfs none /usr/sbin && exec "$@"'
    said = street.vm.run("unshare", "-m", "sh", "-c", hide, "sh", *street.ours(program)).splitlines()
    assert said == [
        "False",
        *["the nft program is not installed: install the package nftables, or set the firewall off"] * 3,
    ]


def test_a_program_that_hangs_is_ended(street: Street) -> None:
    program = """
from netagent import nft
try: nft.found(0.2)
except nft.FirewallError as error: print(error)
"""
    script = r"#!/bin/sh\nexec tail -f /dev/null\n"
    hide = f"mount -t tmpfs none /usr/sbin && printf '{script}' >/usr/sbin/nft && chmod +x /usr/sbin/nft && exec \"$@\""
    said = street.vm.run("unshare", "-m", "sh", "-c", hide, "sh", *street.ours(program))
    assert said == "nft did not end within 0.2 s: look for another program that holds the ruleset\n"


@pytest.mark.parametrize(
    "address",
    ["", "x", "168.63.129", "::1", "127.0.0.1", "0", "0.0.0.0",  # noqa: S104
     "224.0.0.1", "255.255.255.255", "169.254.169.254", "1.2.3.4; flush ruleset", "1.2.3.4/0"],
)  # fmt: skip
def test_addresses_that_must_not_be_closed(address: str) -> None:
    with pytest.raises(FirewallError, match="leave the firewall off"):
        ruleset(address, ())


@given(st.text(max_size=40))
def test_nothing_is_injected(address: str) -> None:
    try:
        text = ruleset(address, ())
    except FirewallError:
        return
    assert text == TEXT.replace(WIRESERVER, str(ipaddress.IPv4Address(address))).replace(_agent_line(), "")


@pytest.mark.parametrize("uid", [-1, 2**32 - 1, 2**40])
def test_user_ids_that_are_none(uid: int) -> None:
    with pytest.raises(FirewallError, match="is no user id"):
        ruleset(WIRESERVER, (uid,))


@given(st.lists(st.integers(0, 2**32 - 2)))
def test_the_order_of_users_is_no_change(uids: list[int]) -> None:
    assert ruleset(WIRESERVER, tuple(uids)) == ruleset(WIRESERVER, (0, *sorted(uids, reverse=True)))


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda one: st.lists(one) | st.dictionaries(st.sampled_from(["counter", "name", "packets", "bytes", "rule"]), one),
    max_leaves=12,
)


@given(st.binary() | st.lists(JSON).map(lambda found: msgspec.json.encode({"nftables": found})))
def test_any_listing_is_read_or_refused(data: bytes) -> None:
    try:
        nft.parse_table(data)
    except FirewallError as error:
        assert "look at nft -j list ruleset" in str(error)


def _agent_line() -> str:
    return next(line for line in TEXT.splitlines(keepends=True) if "counter name agent" in line)
