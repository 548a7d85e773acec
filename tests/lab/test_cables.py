"""Broken cables: packets really are late, lost, doubled, and whole again when the fault is lifted."""

import os
import signal

import pytest

from fabric.errors import FabricError
from fabric.lab import orders
from fabric.lab.plan import Fault
from tests.lab.conftest import TestedLab, left, marked_processes, until

LISTEN = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("", 9000))
print("ready", flush=True)
while (data := one.recv(100)) != b"end":
    print(data.decode(), flush=True)
"""
SEND = """
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(60):
    one.sendto(b"%d" % number, ("10.0.0.5", 9000))
"""
END = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"end", ("10.0.0.5", 9000))'
PYTHON = "/usr/bin/python3"


def arrived(lab: TestedLab, fault: Fault) -> list[str]:
    """Of 60 numbered datagrams from `a` to `b`, with nothing else on the cable that would be drawn for."""
    for vm, other in (("a", "b"), ("b", "a")):
        shown = lab.shown(other)
        lab.said(vm, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
        lab.said(vm, "ip", "neighbour", "replace", shown["address"], "lladdr", shown["mac"], "dev", "eth0")
    with lab.start("b", PYTHON, "-c", LISTEN) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        lab.fault("a", fault)
        lab.said("a", PYTHON, "-c", SEND)
        lab.fault("a", None)
        lab.said("a", PYTHON, "-c", END)
        found = listener.stdout.read().split()
        listener.wait()
    return found


EVERY = [str(number) for number in range(60)]


def test_nothing_arrives_when_all_is_lost_and_all_when_lifted(pair: TestedLab) -> None:
    assert pair.pings("a", "10.0.0.5")
    pair.fault("a", Fault(loss=1))
    assert not pair.pings("a", "10.0.0.5")
    assert not pair.pings("b", "10.0.0.4")
    assert pair.pings("b", "10.0.0.1")
    pair.fault("a", None)
    assert pair.pings("a", "10.0.0.5")
    assert pair.shown("a")["fault"] is None


def test_the_same_seed_loses_the_same(pair: TestedLab) -> None:
    fault = Fault(loss=0.5, direction="out", seed=7)
    first = arrived(pair, fault)
    assert 0 < len(first) < 60
    assert arrived(pair, fault) == first
    assert arrived(pair, Fault(loss=0.5, direction="out", seed=8)) != first


def test_one_way_only(pair: TestedLab) -> None:
    assert arrived(pair, Fault(loss=1, direction="in")) == EVERY
    assert arrived(pair, Fault(loss=1, direction="out")) == []


def test_doubled(pair: TestedLab) -> None:
    assert arrived(pair, Fault(duplicate=1, direction="out")) == [number for number in EVERY for _ in range(2)]


def test_late(pair: TestedLab) -> None:
    """So late that a second is not enough; and what was in the cable when it was mended is lost."""
    pair.fault("a", Fault(delay=600, direction="in"))
    assert not pair.pings("a", "10.0.0.5")
    assert pair.shown("a")["fault"]["delay"] == 600
    pair.fault("a", Fault(delay=0.001))
    assert pair.pings("a", "10.0.0.5")
    pair.fault("a", None)


def test_a_long_transfer_goes_through_whole(pair: TestedLab) -> None:
    """Checksums and packet sizes are a wire's: with the kernel's offloads none of this would arrive."""
    pair.fault("a", Fault(delay=0.001))
    code = "import socket,hashlib;s=socket.create_server(('',9001));print('ready',flush=True);c,_=s.accept()\n"
    code += "h=hashlib.sha256()\nwhile d:=c.recv(65536): h.update(d)\nprint(h.hexdigest())"
    with pair.start("b", PYTHON, "-c", code) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        send = "import socket,hashlib;d=bytes(range(256))*8192;s=socket.create_connection(('10.0.0.5',9001),20)\n"
        sent = pair.said("a", PYTHON, "-c", send + "s.sendall(d);s.close();print(hashlib.sha256(d).hexdigest())")
        assert listener.stdout.read().strip() == sent
    pair.fault("a", None)


def test_without_a_fault_no_relay_runs(pair: TestedLab) -> None:
    pair.fault("a", Fault(loss=0.5))
    assert [line for line in left() if "fabric.lab.relay w1 " in line]
    pair.fault("a", None)
    until(lambda: not [line for line in left() if "fabric.lab.relay w1 " in line], "the relay to be gone")


def test_a_relay_that_dies_is_told_and_replaced(pair: TestedLab) -> None:
    pair.fault("b", Fault(delay=0.001))
    assert pair.shown("b")["relay"] == "running"
    (pid,) = (pid for pid, line in marked_processes() if "fabric.lab.relay w2 " in line)
    os.kill(pid, signal.SIGKILL)
    until(lambda: "ended" in pair.shown("b")["relay"], "the relay to be known dead")
    assert not pair.pings("a", "10.0.0.5")
    pair.fault("b", Fault(delay=0.001))
    assert pair.pings("a", "10.0.0.5")
    pair.fault("b", None)


def test_a_fault_that_cannot_be_leaves_the_cable_whole(pair: TestedLab) -> None:
    log = pair.lab.folder / "relay-w1.log"
    log.unlink(missing_ok=True)
    log.mkdir()
    for before in (None, Fault(delay=0.001)):
        if before is not None:
            log.rmdir()
            pair.fault("a", before)
            log.unlink()
            log.mkdir()
        with pytest.raises(FabricError, match=r"relay-w1.log: Is a directory"):
            pair.fault("a", Fault(loss=1))
        assert pair.shown("a")["fault"] is None
        assert pair.pings("a", "10.0.0.5")
    log.rmdir()


def test_a_pulled_cable_is_seen_by_the_vm(pair: TestedLab) -> None:
    pair.lab.ask(orders.SetLink("a", up=False))
    assert pair.said("a", "cat", "/sys/class/net/eth0/carrier") == "0"
    assert not pair.pings("b", "10.0.0.4")
    assert pair.shown("a")["link"] == "down"
    pair.lab.ask(orders.SetLink("a", up=True))
    assert pair.said("a", "cat", "/sys/class/net/eth0/carrier") == "1"
    assert pair.pings("b", "10.0.0.4")


def test_a_pulled_cable_may_be_spoilt_too(pair: TestedLab) -> None:
    pair.fault("a", Fault(delay=0.001))
    pair.lab.ask(orders.SetLink("a", up=False))
    assert not pair.pings("b", "10.0.0.4")
    pair.lab.ask(orders.SetLink("a", up=True))
    assert pair.pings("b", "10.0.0.4")
    pair.fault("a", None)


def test_a_vm_that_is_none_has_no_cable(pair: TestedLab) -> None:
    with pytest.raises(FabricError, match=r"lab pair has no VM 'c'; it has a, b"):
        pair.fault("c", None)
