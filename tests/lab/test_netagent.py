"""Our netagent alone in a VM of the lab: nobody else brings address, routes or names."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabric.lab import orders
from fabric.lab.probe import Probe
from tests.lab.conftest import TestedLab, until

HOST, IMDS = "168.63.129.16", "169.254.169.254"
LEASE = """lease {{
  interface "eth0";
  fixed-address 10.0.0.4;
  option subnet-mask 255.255.255.0;
  option routers 10.0.0.1;
  option unknown-121 20:a8:3f:81:10:{gateway}:0:a:0:0:1;
  option unknown-245 a8:3f:81:10;
  expire never;
}}
"""


class Agent:
    """netagent as a process in a VM."""

    def __init__(self, lab: TestedLab, vm: str, root: Path, settings: str) -> None:
        self._lab = lab
        self._vm = vm
        self._root = root
        root.mkdir()
        (root / "azvmagent.toml").write_text(f"[netagent]\n{settings}\n")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        command = ("env", f"AZVMAGENT_ROOT={self._root}", sys.executable, "-P", "-m", "netagent")
        return self._lab.start(self._vm, *command)

    def again(self) -> None:
        self.kill()
        self.process = self._start()

    def kill(self) -> None:
        """And its parts in the VM: what is run there has another pid outside."""
        self._lab.run(self._vm, "pkill", "-9", "-f", "[-]m netagent")
        self.process.communicate()

    def agentctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "agentctl", *words, "--root", str(self._root)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def shown(self) -> dict[str, Any]:
        done = self.agentctl("net", "show", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return found

    def routes(self, *which: str) -> dict[str, str]:
        """Gateway by destination."""
        found = json.loads(self._lab.said(self._vm, "ip", "-json", "-4", "route", "show", *which) or "[]")
        return {one["dst"]: one.get("gateway", "") for one in found}

    def addresses(self) -> list[str]:
        found = json.loads(self._lab.said(self._vm, "ip", "-json", "-4", "address", "show", "dev", "eth0"))
        return [info["local"] for one in found for info in one.get("addr_info", [])]

    def has_all(self) -> bool:
        wanted = {"default": "10.0.0.1", HOST: "10.0.0.1", IMDS: "10.0.0.1", "10.0.0.0/24": ""}
        return self.routes() == wanted and self.addresses() == ["10.0.0.4"]


@pytest.fixture
def netagent(folder: Path) -> Iterator[Callable[..., Agent]]:
    with contextlib.ExitStack() as ends:

        def start(lab: TestedLab, settings: str = "") -> Agent:
            agent = Agent(lab, "vm1", folder / f"agent-of-{lab.lab.name}", settings)
            ends.callback(agent.kill)
            return agent

        yield start


def test_a_fresh_vm_gets_its_network_and_keeps_it(lab: TestedLab, netagent: Callable[..., Agent]) -> None:
    lab.up("vm1", static=False, host=True)
    agent = netagent(lab)
    until(agent.has_all, "address and routes")
    until(lambda: agent.shown().get("reachable"), "the host to answer")
    shown = agent.shown()
    assert (shown["mode"], shown["primary"], shown["leases"][0]["state"]) == ("own", "eth0", "BOUND")
    assert shown["wireserver"]["url"] == f"http://{HOST}"
    assert lab.said("vm1", "curl", "-s", f"http://{HOST}/?comp=versions").startswith("<?xml")
    # Behind its back, in every way.
    for lost in (f"route del {HOST}", "route del default", "address flush dev eth0", "link set eth0 down"):
        lab.said("vm1", "ip", *lost.split())
        if lost.startswith("link"):
            lab.said("vm1", "ip", "link", "set", "eth0", "up")
        until(agent.has_all, f"all to be back after {lost}")
    # A kill takes nothing away, and the next one goes on with the lease.
    agent.kill()
    assert agent.has_all()
    agent.again()
    until(lambda: agent.shown().get("leases"), "the next one to have the lease")
    assert agent.has_all()
    assert agent.agentctl("net", "off").returncode == 0
    assert agent.routes() == {}
    assert agent.addresses() == []
    assert agent.agentctl("net", "on").returncode == 0
    until(agent.has_all, "all to be back after on")


def test_a_change_that_cuts_off_the_host_is_taken_back(lab: TestedLab, netagent: Callable[..., Agent]) -> None:
    lab.up("vm1", static=True, host=True)
    agent = netagent(lab, 'mode = "repair"')
    until(lambda: agent.shown().get("reachable"), "the host to answer")
    # A lease that lies: the host is not behind that gateway.
    lab.said("vm1", "sh", "-c", f"cat > /var/lib/dhcp/dhclient.eth0.leases <<'E'\n{LEASE.format(gateway='a:0:0:63')}E")
    lab.said("vm1", "ip", "route", "del", HOST)
    until(lambda: agent.shown().get("held"), "the change to be taken back")
    assert HOST not in agent.routes("proto", "168")
    (held,) = agent.shown()["held"]
    assert held["what"] == f"add route {HOST}/32 via 10.0.0.99 dev eth0"
    assert "cut off" in held["held"]
    until(lambda: agent.shown().get("reachable"), "the host to answer by the default route")
    shown = agent.agentctl("net", "show")
    assert shown.returncode == 1
    assert "cut off" in shown.stdout


def test_the_whole_agent_makes_a_fresh_vm_ready_and_leaves_it_as_it_was(lab: TestedLab, folder: Path) -> None:
    lab.up("vm1", static=False, host=True)
    root, host_root = folder / f"agent-of-{lab.lab.name}", folder / "lab" / lab.lab.name
    agentctl = (sys.executable, "-P", "-m", "agentctl")

    def resolver() -> str:
        return lab.said("vm1", "cat", "/etc/resolv.conf")

    def probed() -> str:
        (one,) = lab.shown("vm1")["probes"]
        return str(one["state"])

    before = resolver()
    lab.said("vm1", *agentctl, "up", "--no-host", "--detach", "--root", str(root))
    until(lambda: "nameserver 168.63.129.16" in resolver(), "the name server")
    assert "contoso.internal.cloudapp.net" in resolver()
    assert lab.said("vm1", "getent", "ahostsv4", "vm1.contoso.internal.cloudapp.net").startswith("10.0.0.4")
    lab.said("vm1", "rm", "/etc/resolv.conf")
    lab.said("vm1", "ip", "route", "del", "default")
    until(
        lambda: lab.run("vm1", "grep", "-q", "nameserver 168.63.129.16", "/etc/resolv.conf").returncode == 0, "the file"
    )
    # A new name is in DNS without a new lease or a link that goes down.
    lab.said("vm1", "hostname", "web7")
    until(
        lambda: lab.run("vm1", "getent", "ahostsv4", "web7.contoso.internal.cloudapp.net").returncode == 0, "its name"
    )
    told = [sys.executable, "-P", "-m", "fabric", "probe", "8080", "--root", str(host_root)]
    subprocess.run(told, check=True, capture_output=True)
    lab.lab.ask(orders.SetProbe("vm1", Probe(port=8080, http="/", interval=0.2, threshold=2)))
    until(lambda: probed() == "up", "the probe to be answered")
    # Who is not root has no business at the WireServer; names he may ask for.
    nobody = ("setpriv", "--reuid=65534", "--clear-groups", "curl", "-s", "-m", "1", f"http://{HOST}/?comp=versions")
    if os.geteuid() == 0:
        assert lab.run("vm1", *nobody).returncode == 28
    lab.said("vm1", *agentctl, "down", "--root", str(root))
    until(lambda: probed() == "down", "the probe to be refused")
    assert lab.said("vm1", "ip", "-json", "route") in {"", "[]", "[ ]"}
    assert lab.said("vm1", "nft", "list", "ruleset") == ""
    assert resolver() == before
