"""Process start to bound: our client beside dhclient, dhcpcd and udhcpc, interleaved, against one ISC dhcpd.

python -m bench.dhcp            (without root: everything is in namespaces of its own)
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import Figures, show

ROUNDS = 11
PATIENCE = 20.0
LINK = "azvmbench0"

OURS = """
import asyncio, sys
from pathlib import Path
from netagent.dhcp.client import DhcpClient, DhcpSettings

def on_lease(lease):
    Path(sys.argv[2]).touch()

client = DhcpClient(sys.argv[3], kept=Path(sys.argv[1]), settings=DhcpSettings(), on_lease=on_lease, on_lost=print)
asyncio.run(client.run())
"""
BARE = "import asyncio, pathlib, sys; asyncio.run(asyncio.sleep(0)); pathlib.Path(sys.argv[2]).touch()"

DHCPD = """
authoritative; ddns-update-style none; ping-check false; default-lease-time 600; max-lease-time 600;
subnet 10.0.0.0 netmask 255.255.255.0 { range 10.0.0.10 10.0.0.250; option routers 10.0.0.1; }
"""


class Wire:
    """Two namespaces and a cable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        wait = "ip link set lo up && echo up && exec cat"
        self._host = self._start(["unshare", "-rn", "sh", "-c", wait])
        # dhcpcd keeps its leases and its lock where it always does: here these places are nobody else's.
        private = "mount -t tmpfs private /run; test ! -d /var/lib/dhcpcd || mount -t tmpfs private /var/lib/dhcpcd; "
        self._vm = self._start([*self.enter(self._host), "unshare", "-n", "-m", "sh", "-ec", private + wait])
        self.run("host", f"ip link add p0 type veth peer name {LINK} netns {self._vm.pid}")
        self.run("host", "ip address add 10.0.0.1/24 dev p0")
        self.run("host", "ip link set p0 up")
        self.run("vm", f"ip link set {LINK} up")
        (folder / "dhcpd.conf").write_text(DHCPD)
        (folder / "leases").touch()
        command = f"dhcpd -f -4 -cf {folder}/dhcpd.conf -lf {folder}/leases --no-pid p0"
        with (folder / "log").open("wb") as log:
            self._server = subprocess.Popen([*self.enter(self._host), *command.split()], stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while "Socket/fallback" not in (folder / "log").read_text() and time.monotonic() < until:
            time.sleep(0.01)

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child

    def enter(self, child: subprocess.Popen[str]) -> list[str]:
        return ["nsenter", f"--target={child.pid}", "--user", "--net", "--mount", "--preserve-credentials"]

    def run(self, where: str, command: str, *, check: bool = True) -> None:
        child = self._host if where == "host" else self._vm
        subprocess.run([*self.enter(child), *command.split()], check=check, capture_output=True)

    def bound(self, command: list[str]) -> float:
        """Milliseconds from start to the sign that there is a lease."""
        sign = self.folder / "bound"
        sign.unlink(missing_ok=True)
        self.run("vm", "find /run/dhcpcd /var/lib/dhcpcd -xdev -type f -delete", check=False)
        started = time.monotonic()
        child = subprocess.Popen(
            [*self.enter(self._vm), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not sign.exists():
                assert time.monotonic() < started + PATIENCE, command
                time.sleep(0.0005)
            return (time.monotonic() - started) * 1000
        finally:
            # The session is this one's alone; dhcpcd has helpers of its own in it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            child.wait()
            self.run("vm", f"ip address flush dev {LINK}")

    def end(self) -> None:
        self._server.kill()
        self._server.wait()
        for child in (self._vm, self._host):
            child.communicate("")


@contextlib.contextmanager
def a_wire() -> Iterator[Wire]:
    with tempfile.TemporaryDirectory() as folder:
        wire = Wire(Path(folder))
        try:
            yield wire
        finally:
            wire.end()


def clients(folder: Path) -> dict[str, Callable[[], list[str]]]:
    """Each starts without a lease of its own, and tells by a script of ours that it is bound."""
    sign, lease = folder / "bound", folder / "client-lease"
    script = folder / "script"
    script.write_text(
        f'#!/bin/sh\ncase "$reason$1" in BOUND|bound) : > {sign};; PREINIT*|*deconfig) ip link set {LINK} up;; esac\n'
    )
    script.chmod(0o755)
    configuration = folder / "client.conf"
    configuration.write_text("request subnet-mask, routers, domain-name-servers;\n")

    def fresh(*command: str) -> Callable[[], list[str]]:
        def start() -> list[str]:
            lease.unlink(missing_ok=True)
            return list(command)

        return start

    found = {
        "ours": fresh(sys.executable, "-P", "-c", OURS, str(lease), str(sign), LINK),
        "bare python": fresh(sys.executable, "-P", "-c", BARE, str(lease), str(sign)),
    }
    dhclient = ["-4", "-d", "-sf", str(script), "-lf", str(lease), "-pf", f"{folder}/pid", "-cf", str(configuration)]
    peers = {
        "dhclient": [*dhclient, LINK],
        "dhcpcd": ["-B", "-4", "-A", "--nodelay", "-f", "/dev/null", "-c", str(script), LINK],
        "udhcpc": ["-f", "-q", "-i", LINK, "-s", str(script)],
    }
    for name, words in peers.items():
        if shutil.which(name):
            found[name] = fresh(name, *words)
    return found


def main() -> None:
    with a_wire() as wire:
        starts = clients(wire.folder)
        taken: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(ROUNDS):
            for name, start in starts.items():
                with contextlib.suppress(AssertionError):
                    taken[name].append(wire.bound(start()))
    figures: dict[str, Figures] = {
        name: {
            "to_bound_ms": statistics.median(times),
            "fastest_ms": min(times),
            "slowest_ms": max(times),
        }
        for name, times in taken.items()
        if times
    }
    show(f"dhcp, {ROUNDS} rounds", figures.pop("ours"), figures)


if __name__ == "__main__":
    main()
