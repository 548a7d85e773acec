"""The resolver's real owners: asked, asked again, given back."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from netagent.dns.errors import Absent, DnsError
from netagent.dns.networkmanager import modify
from netagent.dns.resolved import Resolved
from netagent.dns.wanted import DnsWanted
from tests.netagent.dns.conftest import Machine, until

Make = Callable[..., Machine]
ONE = DnsWanted(link="lo", nameservers=("168.63.129.16",))


def servers(machine: Machine) -> str:
    return machine.run("resolvectl", "dns", "eth0").partition(":")[2].strip()


def domains(machine: Machine) -> str:
    return machine.run("resolvectl", "domain", "eth0").partition(":")[2].strip()


def link_to_resolved(machine: Machine) -> None:
    machine.run("ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")


@pytest.mark.parametrize("managed", [False, True], ids=["nobody's link", "networkd's link"])
def test_systemd_resolved(make_machine: Make, managed: bool) -> None:
    machine = make_machine("systemd-resolved")
    machine.bus()
    machine.resolved()
    if managed:
        machine.networkd()
    link_to_resolved(machine)
    assert machine.ours("print(keeper().apply(one))") == ["systemd-resolved"]
    until(lambda: servers(machine) == "168.63.129.16 fd00::1", "the nameservers")
    until(lambda: domains(machine) == "a.example b.example", "the domains")
    machine.ours("keeper().apply(other)", "keeper().apply(other)")
    until(lambda: servers(machine) == "168.63.129.17", "the other nameserver")
    until(lambda: domains(machine) == "", "no domains")
    assert machine.ours("keeper().undo()", "keeper().undo()") == []
    until(lambda: servers(machine) == "", "no nameservers")


def test_resolved_that_does_not_run(make_machine: Make) -> None:
    machine = make_machine("systemd-resolved")
    link_to_resolved(machine)
    said = "Absent the system bus does not answer ([Errno 2] No such file or directory): start dbus, or set DNS off"
    assert machine.ours("keeper().apply(one)") == [said]
    machine.bus()
    machine.run("rm", "/lib/systemd/systemd-resolved")
    (told,) = machine.ours("keeper().apply(one)")
    assert told.startswith("Absent systemd-resolved owns the resolver and does not run (")
    assert told.endswith("): start it, or set DNS off")


def test_links_that_are_not_there(make_machine: Make) -> None:
    machine = make_machine("systemd-resolved")
    machine.bus()
    machine.resolved()
    link_to_resolved(machine)
    lines = [
        "wish = DnsWanted(link='eth7', nameservers=('1.1.1.1',))",
        "Resolved().undo(wish)",
        "Resolved().apply(wish)",
    ]
    assert machine.ours(*lines) == ["DnsError there is no link eth7: look at ip link"]


def test_a_bus_that_says_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "bus"))
        one.listen()
        with pytest.raises(DnsError, match="did not answer within 0.2 s"):
            Resolved(f"unix:path={tmp_path}/bus", 0.2).apply(ONE)


@pytest.mark.parametrize("answer", [b"REJECTED EXTERNAL\r\n", b"\xff\r\n", b"", b"OK 1234\r\nAGREE\r\n" + b"\xff" * 64])
def test_a_bus_that_talks_rubbish(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "bus"))
        one.listen()

        def talk() -> None:
            talking, _ = one.accept()
            with talking:
                talking.recv(100)
                talking.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(DnsError):
            Resolved(f"unix:path={tmp_path}/bus", 1.0).apply(ONE)
        thread.join()


def test_a_bus_address_that_is_none() -> None:
    for bus in ("tcp:host=x", "nothing", ""):
        with pytest.raises(Absent):
            Resolved(bus).apply(ONE)


def test_openresolv(make_machine: Make) -> None:
    machine = make_machine("openresolv")
    machine.run("resolvconf", "-a", "ppp0", given="nameserver 192.0.2.9\n")
    assert machine.ours("print(keeper().apply(one))") == ["resolvconf"]
    assert set(machine.read()[1:]) == {
        "nameserver 192.0.2.9", "nameserver 168.63.129.16", "nameserver fd00::1", "search a.example b.example",
    }  # fmt: skip
    machine.ours("keeper().apply(other)")
    assert set(machine.read()[1:]) == {"nameserver 192.0.2.9", "nameserver 168.63.129.17"}
    assert machine.ours("keeper().undo()", "keeper().undo()", "Openresolv().undo(one)") == []
    assert machine.read()[1:] == ["nameserver 192.0.2.9"]
    said = machine.ours("Openresolv().apply(DnsWanted(link='-d', nameservers=('1.1.1.1',)))")
    assert said == ["BadWish '-d' is no link that can be named to others: rename it"]


def test_another_link_takes_the_place_of_the_first(make_machine: Make) -> None:
    machine = make_machine("openresolv")
    wish = "DnsWanted(link='eth1', nameservers=('192.0.2.7',))"
    machine.ours("keeper().apply(one)", f"keeper().apply({wish})")
    assert machine.read()[1:] == ["nameserver 192.0.2.7"]


def test_a_manager_that_comes_later_takes_over(make_machine: Make) -> None:
    machine = make_machine("openresolv")
    machine.run("mv", "/sbin/resolvconf", "/sbin/resolvconf.off")
    assert machine.ours("print(keeper().apply(one))") == ["file"]
    assert "nameserver 168.63.129.16" in machine.read()
    machine.run("mv", "/sbin/resolvconf.off", "/sbin/resolvconf")
    assert machine.ours("print(keeper().apply(one))") == ["resolvconf"]
    machine.ours("keeper().undo()")
    assert not any("168.63.129.16" in line for line in machine.read())


def test_what_was_given_before_a_kill_is_taken_by_the_next(make_machine: Make) -> None:
    """The memory is written before anything is done."""
    machine = make_machine("openresolv")
    machine.run("mv", "/sbin/resolvconf", "/sbin/real")
    machine.write("/sbin/resolvconf", '#!/bin/sh\n/sbin/real "$@"\nkill -9 "$PPID"\n')
    machine.run("chmod", "+x", "/sbin/resolvconf")
    with pytest.raises(AssertionError):
        machine.ours("keeper().apply(one)")
    machine.run("mv", "/sbin/real", "/sbin/resolvconf")
    assert "nameserver 168.63.129.16" in machine.read()
    assert machine.ours("keeper().undo()") == []
    assert not any("168.63.129.16" in line for line in machine.read())


def test_a_memory_that_is_damaged(make_machine: Make) -> None:
    """What was given to a manager is not known then; a plain file of ours knows itself."""
    damaged = ("", "{", '{"manager": "file", "wanted": [{"link": "-x", "nameservers": ["1.1.1.1"]}]}')
    machine = make_machine("openresolv")
    for text in damaged:
        machine.write("/run/netagent/dns.json", text)
        (said,) = machine.ours("keeper().undo()")
        assert said.endswith("undo DNS by hand, then delete /run/netagent/dns.json")
    plain = make_machine()
    before = plain.read()
    for text in damaged:
        assert plain.ours("print(keeper().apply(one))") == ["file"]
        plain.write("/run/netagent/dns.json", text)
        assert plain.ours("keeper().apply(other)", "keeper().undo()") == []
        assert plain.read() == before


def test_a_program_that_fails_or_hangs(make_machine: Make) -> None:
    machine = make_machine()
    machine.write("/usr/sbin/resolvconf", "#!/bin/sh\necho the disk is full >&2\nexit 3\n")
    machine.run("chmod", "+x", "/usr/sbin/resolvconf")
    assert machine.ours("keeper().apply(one)") == [
        "DnsError resolvconf failed: the disk is full: look at its service, or set DNS off"
    ]
    machine.write("/usr/sbin/resolvconf", "#!/bin/sh\nexec tail -f /dev/null\n")
    lines = ["from netagent.dns.program import run", "run('resolvconf', seconds=0.2)"]
    assert machine.ours(*lines) == ["DnsError resolvconf did not end within 0.2 s: look at its service"]


def test_network_manager_without_its_program(make_machine: Make) -> None:
    machine = make_machine()
    machine.write("/etc/resolv.conf", "# Generated by NetworkManager\n")
    assert machine.ours("keeper().apply(one)") == [
        "Absent the program nmcli is not installed, though it owns the resolver: install it, or set DNS off"
    ]
    assert machine.read() == ["# Generated by NetworkManager"]


def test_network_manager(make_machine: Make) -> None:
    machine = make_machine("network-manager")
    machine.bus()
    machine.network_manager()
    profile = machine.read()
    assert profile[1:] == ["search profile.example", "nameserver 192.0.2.5"]
    wish = "wish = DnsWanted(link='eth0', nameservers=('168.63.129.16',), search=('a.example', 'b.example'))"
    for _ in range(2):
        assert machine.ours(wish, "print(keeper().apply(wish))") == ["NetworkManager"]
        assert machine.read()[1:] == [
            "search profile.example a.example b.example", "nameserver 192.0.2.5", "nameserver 168.63.129.16",
        ]  # fmt: skip
    machine.ours("keeper().apply(other)")
    assert machine.read()[1:] == ["search profile.example", "nameserver 192.0.2.5", "nameserver 168.63.129.17"]
    # The profile has IPv6 switched off; the rest is done all the same.
    (said,) = machine.ours("keeper().apply(one)")
    assert "ipv6.dns: this property is not allowed for 'method=disabled'" in said
    assert "nameserver 168.63.129.16" in machine.read()
    assert machine.ours("keeper().undo()", "keeper().undo()") == []
    assert machine.read() == profile


def test_a_device_network_manager_does_not_have(make_machine: Make) -> None:
    machine = make_machine("network-manager")
    machine.bus()
    machine.network_manager()
    (said,) = machine.ours("keeper().apply(DnsWanted(link='eth7', nameservers=('1.1.1.1',)))")
    assert said == "DnsError nmcli failed: Error: Device 'eth7' not found.: look at its service, or set DNS off"


def test_the_words_for_network_manager() -> None:
    given = modify("eth0", ("168.63.129.16", "fd00::1", "1.1.1.1"), ("a.example", "b.example"), "+")
    assert [" ".join(one) for one in given] == [
        "--wait 10 device modify eth0 +ipv4.dns 168.63.129.16,1.1.1.1 +ipv4.dns-search a.example,b.example",
        "--wait 10 device modify eth0 +ipv6.dns fd00::1",
    ]
