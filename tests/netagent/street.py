"""A VM and its host as two network namespaces on one cable; commands in there as any user, rules as anybody's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from fabric.lab.namespaces import inside

WIRESERVER = "168.63.129.16"
VM = "10.0.0.4"
NOBODY, AGENT = 65534, 12345

# Answers at every port of the host that something may be asked at, and says when it does.
HOST = """
import asyncio, sys
async def answer(reader, writer):
    writer.write(b"here")
    writer.close()
class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, sender): self.transport.sendto(data, sender)
async def main():
    loop = asyncio.get_running_loop()
    for host in ("168.63.129.16", "169.254.169.254", "10.0.0.1", "fd00::1"):
        for port in (53, 80, 8080, 32526):
            await asyncio.start_server(answer, host, port)
        for port in (53, 67, 123):
            await loop.create_datagram_endpoint(Echo, (host, port))
    print("ready", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""
# What can be asked: `tcp HOST PORT` or `udp HOST PORT`, all at once; prints those that answered.
CLIENT = """
import asyncio, sys
async def tcp(host, port):
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = await reader.read()
    writer.close()
    return answer == b"here"
class Hears(asyncio.DatagramProtocol):
    def __init__(self): self.heard = asyncio.Event()
    def datagram_received(self, data, sender): self.heard.set()
async def udp(host, port):
    local = (("::" if ":" in host else "0.0.0.0"), 68) if port == "67" else None
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Hears, local, remote_addr=(host, int(port)))
    transport.sendto(b"x")
    await protocol.heard.wait()
    return True
async def one(line):
    kind, host, port = line.split()
    try:
        if await asyncio.wait_for({"tcp": tcp, "udp": udp}[kind](host, port), 1.0):
            print(line, flush=True)
    except OSError: pass
    except asyncio.TimeoutError: pass
async def main():
    await asyncio.gather(*map(one, sys.argv[1:]))
asyncio.run(main())
"""
# The user's own program behind a load balancer, as whatever user it is started.
LISTENER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""
PYTHON = "/usr/bin/python3"
"""A user may not be allowed to see the interpreter of the tests."""
Found = TypeVar("Found")


class Space:
    """A network namespace that lives as long as its child. Users are real: the tests have to be root."""

    def __init__(self) -> None:
        assert os.geteuid() == 0, "rules for users can be tried by root only"
        self._child = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "up\n"
        self.pid = self._child.pid
        self.descriptor = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def command(self, *command: str, uid: int = 0) -> list[str]:
        other = ["setpriv", f"--reuid={uid}", "--regid=65534", "--clear-groups"] if uid else []
        # The privilege a service of another user would have: DHCP clients speak from port 68.
        caps = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"] if uid else []
        return ["nsenter", f"--target={self.pid}", "--net", *other, *caps, *command]

    def run(self, *command: str, uid: int = 0, given: str = "") -> str:
        done = subprocess.run(self.command(*command, uid=uid), input=given, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, program: str, *arguments: str, uid: int = 0) -> subprocess.Popen[str]:
        """A server that says `ready`."""
        command = self.command(PYTHON, "-c", program, *arguments, uid=uid)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ip(self, *lines: str) -> None:
        self.run("ip", "-batch", "-", given="\n".join(lines))

    def nft(self, text: str) -> None:
        """Anybody's rules."""
        self.run("nft", "-f", "-", given=text)

    def act(self, act: Callable[[], Found]) -> Found:
        """Ours, done in there."""
        with ThreadPoolExecutor(1) as pool:
            # A thread starts in the namespace of the one that starts it.
            return inside(self.descriptor, lambda: pool.submit(act)).result()

    def listing(self) -> Any:
        return json.loads(self.run("nft", "-j", "list", "ruleset"))["nftables"]

    def end(self) -> None:
        os.close(self.descriptor)
        self._child.communicate("")


class Street:
    """`vm` at 10.0.0.4, `host` with the WireServer's and IMDS's addresses."""

    def __init__(self) -> None:
        self.vm, self.host = Space(), Space()
        self.vm.ip(f"link add eth0 type veth peer name port0 netns {self.host.pid}")
        self.host.ip(
            "address add 10.0.0.1/24 dev port0",
            f"address add {WIRESERVER}/32 dev lo",
            "address add 169.254.169.254/32 dev lo",
            "address add fd00::1/64 dev port0 nodad",
            "link set port0 up",
        )
        self.vm.ip(
            f"address add {VM}/24 dev eth0",
            "address add fd00::4/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.0.0.1",
        )
        self._server = self.host.start(HOST)

    def reached(self, uid: int, *asked: str) -> set[str]:
        """Which of `tcp HOST PORT` answer a user of the VM."""
        return set(self.vm.run(PYTHON, "-c", CLIENT, *asked, uid=uid).splitlines())

    def ours(self, program: str) -> list[str]:
        """A command that runs our own code."""
        return [sys.executable, "-P", "-c", program]

    def end(self) -> None:
        with self._server:
            self._server.kill()
        self.vm.end()
        self.host.end()


@pytest.fixture
def street() -> Iterator[Street]:
    made = Street()
    yield made
    made.end()


@pytest.fixture
def listener(street: Street) -> Iterator[int]:
    """The port of a user's program, which is none of ours."""
    with street.vm.start(LISTENER, "8080", uid=NOBODY) as process:
        yield 8080
        process.kill()
