"""A machine whose resolver has a real manager: in namespaces of its own, from packages that are only unpacked."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache"
PATIENCE = 20.0


class Machine:
    """Its /etc, /usr, /var and /run are in memory. eth0 is at 10.0.0.4; resolv.conf is a plain file, nobody's."""

    def __init__(self, layers: Path, *packages: str) -> None:
        assert os.geteuid() == 0, "a machine of one's own takes root"
        for package in packages:
            subprocess.run([HERE / "fetch.sh", package, CACHE / package], check=True, timeout=120)
        folders = [layers, *(CACHE / one for one in packages)]
        command = ["unshare", "-m", "-n", str(HERE / "machine.sh"), *map(str, folders)]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"
        self._services: list[subprocess.Popen[bytes]] = []

    def command(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._child.pid}", "--mount", "--net", "--wd=/", *command]

    def run(self, *command: str, given: str = "") -> str:
        done = subprocess.run(self.command(*command), input=given, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ours(self, *lines: str) -> list[str]:
        """What our own code prints in there; an error of ours is printed."""
        program = "\n".join(
            [
                "from pathlib import Path",
                "from netagent.dns.errors import DnsError",
                "from netagent.dns.file import ResolvFile",
                "from netagent.dns.keeper import DnsKeeper",
                "from netagent.dns.openresolv import Openresolv",
                "from netagent.dns.resolved import Resolved",
                "from netagent.dns.wanted import DnsWanted",
                "search = ('a.example', 'b.example')",
                "one = DnsWanted(link='eth0', nameservers=('168.63.129.16', 'fd00::1'), search=search)",
                "other = DnsWanted(link='eth0', nameservers=('168.63.129.17',))",
                "keeper = lambda: DnsKeeper(Path('/run/netagent'), own=True)",
                "try:",
                *(f"    {line}" for line in lines),
                "except DnsError as error: print(type(error).__name__, error)",
            ]
        )
        return self.run(sys.executable, "-P", "-c", program).splitlines()

    def serve(self, *command: str) -> None:
        quiet = subprocess.DEVNULL
        self._services.append(subprocess.Popen(self.command(*command), stdout=quiet, stderr=quiet))

    def bus(self) -> None:
        self.serve("dbus-daemon", "--system", "--nofork", "--nopidfile")
        until(lambda: self._says("test", "-S", "/run/dbus/system_bus_socket"), "the bus")

    def resolved(self) -> None:
        self.serve("/lib/systemd/systemd-resolved")
        until(lambda: self._has_owner("org.freedesktop.resolve1"), "systemd-resolved")

    def networkd(self) -> None:
        """Owns eth0."""
        options = ("KeepConfiguration=static", "LinkLocalAddressing=no", "IPv6AcceptRA=no")
        self.write("/etc/systemd/network/1.network", "\n".join(["[Match]", "Name=eth0", "[Network]", *options, ""]))
        self.serve("/lib/systemd/systemd-networkd")
        until(lambda: "(configured)" in self.run("networkctl", "status", "eth0"), "systemd-networkd to own the link")

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f'mkdir -p "$(dirname {path})" && cat >{path}', given=text)

    def read(self, path: str = "/etc/resolv.conf") -> list[str]:
        return self.run("cat", path).splitlines()

    def end(self) -> None:
        for service in self._services:
            with service:
                service.kill()
        self._child.communicate("")

    def _has_owner(self, name: str) -> bool:
        where = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"]
        return self.run("busctl", "call", *where, "NameHasOwner", "s", name) == "b true\n"

    def _says(self, *command: str) -> bool:
        return subprocess.run(self.command(*command), capture_output=True).returncode == 0


def until(condition: Callable[[], bool], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []
    with tempfile.TemporaryDirectory(prefix="netagent-dns-") as folder:

        def make(*packages: str) -> Machine:
            made.append(Machine(Path(folder), *packages))
            return made[-1]

        yield make
        for one in made:
            one.end()
