"""A network namespace of the test's own, without root."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipc.places import Places


class Namespace:
    """Lives as long as its child does; the machine's own network cannot be reached from it."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            ["unshare", "-rn", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "up\n"

    def inside(self, *command: str) -> list[str]:
        """The command as it is run in there."""
        return ["nsenter", f"--target={self._child.pid}", "--user", "--net", "--preserve-credentials", *command]

    def ip(self, *lines: str) -> None:
        """One or more `ip` command lines, each without the `ip`."""
        self.batch("\n".join(lines))

    def batch(self, lines: str) -> None:
        done = subprocess.run(self.inside("ip", "-batch", "-"), input=lines, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def read(self, *arguments: str) -> Any:
        """What `ip -json` says of it."""
        done = subprocess.run(self.inside("ip", "-json", "-N", *arguments), capture_output=True, text=True, check=True)
        return json.loads(done.stdout or "[]")

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program in there prints."""
        command = self.inside(sys.executable, "-P", "-c", program, *arguments)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def netagent(self, places: Places) -> subprocess.Popen[bytes]:
        """The real process in there."""
        environment = {**os.environ, "AZVMAGENT_ROOT": str(places.run.parent)}
        return subprocess.Popen(self.inside(sys.executable, "-P", "-m", "netagent"), env=environment)

    def end(self) -> None:
        self._child.communicate("")


@pytest.fixture(scope="session")
def make_namespace() -> Iterator[Callable[[], Namespace]]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def namespace(make_namespace: Callable[[], Namespace]) -> Namespace:
    return make_namespace()


@pytest.fixture(scope="session")
def furnish() -> Callable[[Namespace], None]:
    """Something of everything that `ip` can put into a namespace here."""
    return furnished


def furnished(namespace: Namespace) -> None:
    namespace.ip(
        "link add eth0 type veth peer name peer0",
        "link add eth1 type veth peer name peer1",
        "link add br0 type bridge",
        "link add mac0 link eth1 type macvlan mode bridge",
        "tuntap add dev tun0 mode tun",
        "link set eth0 address 00:0d:3a:01:02:03 mtu 1400",
        "link set eth0 up",
        "link set peer0 up",
        "link set peer1 master br0",
        "link set eth1 up",
        "link set tun0 up",
        "address add 10.0.0.4/24 dev eth0",
        "address add 10.0.0.5/24 dev eth0",
        "address add 10.9.0.1 peer 10.9.0.2/32 dev tun0",
        "address add fd00::4/64 dev eth0 nodad",
        "address add 10.1.0.4/24 dev eth1",
        "route add default via 10.0.0.1 dev eth0 metric 100 proto 66",
        "route add default via 10.1.0.1 dev eth1 metric 200",
        "route add 168.63.129.16/32 via 10.0.0.1 dev eth0 proto dhcp",
        "route add 169.254.169.254/32 via 10.0.0.1 dev eth0",
        "route add 192.0.2.0/24 via inet6 fd00::1 dev eth0",
        "route add 198.51.100.0/24 via 203.0.113.1 dev eth0 onlink",
        "route add 203.0.113.0/24 nexthop via 10.0.0.1 dev eth0 weight 1 nexthop via 10.1.0.1 dev eth1 weight 2",
        "route add blackhole 10.66.0.0/16",
        "route add unreachable 10.67.0.0/16 metric 5",
        "route add 10.68.0.0/16 via 10.0.0.1 dev eth0 table 500",
        "route add default via fd00::1 dev eth0 metric 1024",
        "route add fd01::/64 nexthop via fd00::1 dev eth0 nexthop via fd00::2 dev eth0",
        "route add fd02::/64 via fe80::1234:5678:9abc dev eth0",
    )
