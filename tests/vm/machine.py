"""A Debian VM with one of the network managers in charge, booted by systemd-nspawn, and the host at its cable."""

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from ipc.bus import Bus
from ipc.contract.netagent import ChangeView, GetNetwork, Network, NetworkPlan, SwitchNetwork
from ipc.errors import NoAnswer, Refused
from ipc.message import R, Request
from ipc.places import Places

Manager = Literal["networkd", "NetworkManager", "ifupdown"]
Lease = Literal["endless", "short"]
LEASES: tuple[Lease, ...] = get_args(Lease)
MANAGERS: tuple[Manager, ...] = get_args(Manager)
HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
PATIENCE = 30.0
SHORT = 20
"""Seconds of a short lease: renewed after 10."""
ADDRESS = "10.0.0.4"
WIRESERVER = "168.63.129.16"
PLATFORM = {"default", WIRESERVER, "169.254.169.254"}
"""The routes of Azure's option 121."""

_ROUTES = "0.0.0.0/0,10.0.0.1,168.63.129.16/32,10.0.0.1,169.254.169.254/32,10.0.0.1"
_ROUTES_BYTES = "0, 10,0,0,1, 32, 168,63,129,16, 10,0,0,1, 32, 169,254,169,254, 10,0,0,1"
# dhcpd gives out short leases, and calls itself what the host in Azure does; dnsmasq's last two minutes at least.
_DHCPD = f"""
option static-routes-3442 code 121 = array of unsigned integer 8;
option static-routes-ms code 249 = array of unsigned integer 8;
option wireserver code 245 = ip-address;
authoritative;
ping-check false;
server-identifier 168.63.129.16;
default-lease-time {SHORT};
max-lease-time {SHORT};
min-lease-time {SHORT};
subnet 10.0.0.0 netmask 255.255.255.0 {{
    range {ADDRESS} {ADDRESS};
    option routers 10.0.0.1;
    option domain-name-servers 168.63.129.16;
    option domain-name "lab.internal.cloudapp.net";
    option domain-search "lab.internal.cloudapp.net";
    option interface-mtu 1500;
    option wireserver 168.63.129.16;
    option static-routes-3442 {_ROUTES_BYTES};
    option static-routes-ms {_ROUTES_BYTES};
    # Azure says where its WireServer is whether it was asked or not.
    option dhcp-parameter-request-list = concat(option dhcp-parameter-request-list, f5);
}}
"""
# dnsmasq gives out Azure's endless leases; dhcpd's end in 2038.
_DNSMASQ = f"""
port=0
no-ping
interface=lan0
bind-interfaces
dhcp-authoritative
dhcp-leasefile=/run/dhcp/leases
dhcp-range={ADDRESS},{ADDRESS},255.255.255.0,infinite
dhcp-option=3,10.0.0.1
dhcp-option=6,168.63.129.16
dhcp-option=15,lab.internal.cloudapp.net
dhcp-option=26,1500
dhcp-option=119,lab.internal.cloudapp.net
dhcp-option=121,{_ROUTES}
dhcp-option-force=249,{_ROUTES}
dhcp-option-force=245,168.63.129.16
"""
_SERVERS = {
    "endless": (_DNSMASQ, ("dnsmasq", "--keep-in-foreground", "--conf-file=/run/dhcp/conf", "--pid-file=")),
    "short": (
        _DHCPD,
        ("dhcpd", "-f", "-d", "-4", "-cf", "/run/dhcp/conf", "-lf", "/run/dhcp/leases", "--no-pid", "lan0"),
    ),
}
_UNITS: dict[Manager, tuple[str, ...]] = {
    "networkd": ("systemd-networkd.service", "systemd-resolved.service"),
    "NetworkManager": ("NetworkManager.service",),
    "ifupdown": ("networking.service",),
}
_FILES: dict[Manager, tuple[str, str]] = {
    "networkd": (
        "etc/systemd/network/10-eth0.network",
        "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n",
    ),
    "NetworkManager": (
        "etc/NetworkManager/system-connections/eth0.nmconnection",
        "[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=ignore\n",
    ),
    "ifupdown": ("etc/network/interfaces.d/eth0", "auto eth0\niface eth0 inet dhcp\n"),
}


class Machine:
    """Up when made. `folder` is the agent's root, at the same path inside."""

    def __init__(self, base: Path, folder: Path, manager: Manager, lease: Lease, *, openresolv: bool = False) -> None:
        self.folder = folder
        self.manager = manager
        self.lease = lease
        self.name = f"azvmagent-vm-{uuid.uuid4()}"
        self._log = (folder / "machine.log").open("w+b")
        self._children: list[subprocess.Popen[bytes]] = []
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", HERE / "machine.sh", base, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            assert self._holder.stdout is not None
            line = self._holder.stdout.readline()
            assert line, self.log()
            self._first = int(line)
            self._openresolv = openresolv
            self._furnish(Path(f"/proc/{self._first}/root/run/vm/root"))
            self.server: subprocess.Popen[bytes] | None = None
            self.serve()
            # Something that takes a connection, as WireServer does.
            words = ("-m", "http.server", "--directory=/run/dhcp", f"--bind={WIRESERVER}", "80")
            self._start(*self._in_network("host"), sys.executable, *words)
            self._boot()
        except BaseException:
            self.end()
            raise

    def log(self) -> str:
        """What was said while it was made, and by its console."""
        return (self.folder / "machine.log").read_text(errors="replace")

    def end(self) -> None:
        """All of it; the kernel ends the processes."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(PATIENCE)
        self._holder.stdout.close()
        for child in self._children:
            child.wait(PATIENCE)
        self._log.close()

    def run(self, *command: str | Path) -> str:
        """What a command in the VM prints; it must succeed."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """A command in the VM."""
        words = ["nsenter", f"--target={self._leader}", "--all", "--wd=/", *command]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "AZVMAGENT_ROOT": str(self.folder)}
        return subprocess.run(words, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def ip(self, *arguments: str) -> Any:
        """What `ip -json` says in the VM's network."""
        return json.loads(self._network("vm", "ip", "-json", "-N", *arguments) or "[]")

    def host(self, *command: str) -> str:
        """What a command on the host's side of the cable prints."""
        return self._network("host", *command)

    def routes(self) -> set[str]:
        """Where the VM's IPv4 routes lead, but the connected ones."""
        return {route["dst"] for route in self.ip("-4", "route", "show") if "gateway" in route}

    def addressed(self) -> bool:
        """Whether the lease's address is there, with the lease's prefix length."""
        links = self.ip("-4", "address", "show", "eth0")
        return (ADDRESS, 24) in {(one["local"], one["prefixlen"]) for link in links for one in link["addr_info"]}

    def leased(self) -> bool:
        """Whether address and routes of the lease are there."""
        return self.addressed() and self.routes() >= PLATFORM

    def resolves(self) -> bool:
        """Whether the manager has written down whom to ask for names; it may do so after all else."""
        return "nameserver" in self.attempt("cat", "/etc/resolv.conf").stdout

    def settled(self) -> bool:
        """Whether the start is over, the manager's own too."""
        if self.attempt("systemctl", "is-system-running").stdout not in {"running\n", "degraded\n"}:
            return False
        if self.manager == "networkd":
            return "ADMIN_STATE=configured" in self.run("cat", "/run/systemd/netif/links/2")
        if self.manager == "NetworkManager":
            return self.run("nmcli", "--get-values", "STARTUP", "general") == "started\n"
        return True

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """Its first true value."""
        deadline = time.monotonic() + patience
        while not (value := condition()):
            assert self._ended() == [], f"ended while waiting for {what}: {self._ended()}\n{self.log()}"
            assert time.monotonic() < deadline, f"waited {patience:g} s for {what}\n{self.ip('route')}\n{self.log()}"
        return value

    def serve(self) -> None:
        """The host gives out leases."""
        inside = Path(f"/proc/{self._first}/root/run/dhcp")
        inside.mkdir(exist_ok=True)
        text, words = _SERVERS[self.lease]
        (inside / "conf").write_text(text)
        (inside / "leases").touch()
        self.server = self._start(*self._in_network("host"), *words)

    def acknowledged(self) -> int:
        """How often dhcpd has given out or renewed the lease."""
        return self.log().count("DHCPACK on ")

    def watch_routes(self) -> Callable[[], list[str]]:
        """From now on: each change to routes, with the numbers of their protocols. Not what goes with a link."""
        changes = self.folder / "routes.log"
        with changes.open("wb") as log:
            self._start(*self._in_network("vm"), "stdbuf", "--output=L", "ip", "-N", "monitor", "route", log=log)
        # It has begun when it tells of this one.
        probe = "198.51.100.1"

        def begun() -> bool:
            self._network("vm", "ip", "route", "add", "blackhole", probe)
            self._network("vm", "ip", "route", "delete", "blackhole", probe)
            return probe in changes.read_text()

        self.until(begun, "the kernel's announcements")
        return lambda: [line for line in changes.read_text().splitlines() if probe not in line]

    def netagent(self, settings: str = "") -> "Agent":
        """The real process, as a unit of the VM's systemd, with these lines in its table of the configuration."""
        return Agent(self, settings)

    def _furnish(self, root: Path) -> None:
        for unit in _UNITS[self.manager]:
            subprocess.run(["systemctl", f"--root={root}", "--quiet", "enable", unit], check=True, capture_output=True)
        name, text = _FILES[self.manager]
        (root / name).write_text(text)
        (root / name).chmod(0o600 if self.manager == "NetworkManager" else 0o644)
        (root / "etc/hostname").write_text("vm\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 vm\n")
        resolver = root / "etc/resolv.conf"
        resolver.unlink(missing_ok=True)
        if self.manager == "networkd":
            resolver.symlink_to("../run/systemd/resolve/stub-resolv.conf")
        else:
            # A file that is there is left to the manager; for one that is not, systemd makes that link at boot.
            resolver.touch()
            # It comes with systemd-resolved, works only while that runs, and NetworkManager would rely on it.
            (root / "usr/sbin/resolvconf").unlink()
        if self._openresolv:
            # Not by --extract: /sbin is a link and has to remain one.
            package = ["dpkg-deb", "--fsys-tarfile", str(root / "opt/fetched/openresolv.deb")]
            packed = subprocess.run(package, check=True, capture_output=True).stdout
            subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", str(root)], input=packed, check=True)

    def _boot(self) -> None:
        seen = {CHECKOUT, Path(sys.prefix)} | ({Path(sys.base_prefix)} - {Path("/usr")})
        spawn = self._start(
            *self._in_network(""),
            # Entering the namespace of a cgroup does not move anybody into it.
            *("sh", "-c", 'echo 0 >/sys/fs/cgroup/cgroup.procs && exec "$@"', "enter"),
            # The VM may set its own network's sysctls, as any VM may.
            *("env", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"),
            "systemd-nspawn",
            "--directory=/run/vm/root",
            "--network-namespace-path=/run/netns/vm",
            "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
            *(f"--bind-ro={path}" for path in sorted(seen)),
            f"--bind={self.folder}",
            # Nothing of it is told to the machine's own systemd, if there is one.
            "--register=no",
            "--keep-unit",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            # With a pipe the VM would have no /dev/console, and systemd says nothing and does nothing then.
            "--console=read-only",
            "--boot",
            "systemd.show_status=error",
        )
        self._leader = self.until(lambda: _leader(spawn.pid), "the VM's first process")
        self.until(lambda: self.leased() and self.resolves(), "the lease")
        # Until then a manager may write once more what a test has just deleted.
        self.until(self.settled, "the end of its start")

    def _ended(self) -> list[str]:
        """What should run and does not."""
        return [str(child.args) for child in (self._holder, *self._children) if child.poll() is not None]

    def _in_network(self, name: str) -> list[str]:
        words = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--cgroup"]
        return [*words, f"--net=/proc/{self._first}/root/run/netns/{name}"] if name else words

    def _network(self, name: str, *command: str) -> str:
        done = subprocess.run([*self._in_network(name), *command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, *command: str, log: BinaryIO | None = None) -> subprocess.Popen[bytes]:
        log = log or self._log
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._children.append(child)
        return child


class Agent:
    """netagent, while it runs in a VM."""

    def __init__(self, machine: Machine, settings: str) -> None:
        self._machine = machine
        self.places = Places.under(machine.folder)
        self.places.config.write_text(f"[netagent]\n{settings}\n")
        self.start()

    def start(self) -> None:
        self._machine.run(
            "systemd-run",
            "--quiet",
            "--collect",
            "--unit=netagent",
            "--property=Type=exec",
            f"--property=StandardError=append:{self._machine.folder}/netagent.log",
            f"--setenv=AZVMAGENT_ROOT={self._machine.folder}",
            *(sys.executable, "-P", "-m", "netagent"),
        )

    def stop(self) -> None:
        """Politely; returns when it has ended."""
        self._machine.run("systemctl", "stop", "netagent")

    def log(self) -> str:
        return (self._machine.folder / "netagent.log").read_text()

    def network(self) -> Network | None:
        """What it answers, None as long as it answers nothing."""
        try:
            return asyncio.run(self._ask(GetNetwork()))
        except (NoAnswer, Refused):
            return None

    def held(self) -> list[ChangeView]:
        """What it leaves alone, and why."""
        return self.sees(lambda _: True, "an answer").held

    def sees(self, condition: Callable[[Network], bool], what: str) -> Network:
        """Its first answer of which this is true."""
        last: Network | None = None

        def look() -> bool:
            nonlocal last
            last = self.network()
            return last is not None and condition(last)

        try:
            self._machine.until(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{last}\n{self.log()}") from None
        assert last is not None
        return last

    def switch(self, *, on: bool) -> NetworkPlan:
        """What `agentctl net on` and `off` ask for."""
        return asyncio.run(self._ask(SwitchNetwork(on=on)))

    async def _ask(self, request: Request[R]) -> R:
        bus = Bus(self.places, "test", "0")
        try:
            return await bus.ask(request, within=10.0)
        finally:
            bus.close()


def _leader(pid: int) -> int:
    """The first process of the namespace below systemd-nspawn, 0 as long as there is none."""
    for child in _children(pid):
        try:
            lines = Path(f"/proc/{child}/status").read_text().splitlines()
        except OSError:
            continue  # systemd-nspawn's helper has done its work
        namespaces = next(line for line in lines if line.startswith("NSpid:")).split()
        # Ours, the one of the holder, and its own.
        if len(namespaces) == 4 and namespaces[-1] == "1":
            return child
        if found := _leader(child):
            return found
    return 0


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
