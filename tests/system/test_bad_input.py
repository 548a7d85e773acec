"""Whatever comes from the host, from a package or over the bus: it is named, the rest goes on, no process ends."""

import asyncio
import io
import json
import random
import socket
import stat
import struct
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from fabric.client import Client
from fabric.packages import sample_package
from ipc.bus import Bus
from ipc.contract.every import Describe
from ipc.contract.guestagent import ExtensionView, GetStatus, GuestStatus
from ipc.errors import NoAnswer
from ipc.places import COMPONENTS, Places

pytestmark = pytest.mark.timeout(300)

# A host that is asked often meets its faults soon.
CONFIGURATION = "[guestagent]\nlong_poll = 0.0\ngoal_state_period = 0.3\n"
PATIENCE = 60.0
SAMPLE = "Azvmagent.Samples.Hello"


class Bench:
    """One group, its host's control API, and the bus."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.places = Places.under(group.root)
        self.host = Client(group.root)

    def until(self, condition: Callable[[GuestStatus], Any], what: str) -> GuestStatus:
        """guestagent's status once it is as wanted."""

        async def wait() -> GuestStatus | None:
            bus, end = Bus(self.places, "test", "0"), time.monotonic() + PATIENCE
            try:
                while time.monotonic() < end:
                    try:
                        status = await bus.ask(GetStatus())
                    except NoAnswer:
                        continue
                    if condition(status):
                        return status
                    await asyncio.sleep(0.05)
            finally:
                bus.close()
            return None

        found = asyncio.run(wait())
        if found is None:
            pytest.fail(f"waited {PATIENCE:g} s for {what}\n{self.group.logs()}")
        return found

    def pids(self) -> dict[str, int]:
        """Of all four, as each says itself."""

        async def ask() -> dict[str, int]:
            bus = Bus(self.places, "test", "0")
            try:
                return {name: (await bus.ask(Describe(), to=name, within=30.0)).pid for name in COMPONENTS}
            finally:
                bus.close()

        return asyncio.run(ask())

    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = self.host.get("/api/told")
        return found

    def told_of(self, name: str) -> dict[str, Any]:
        """What the status blob says of a handler."""
        handlers = self.told()["status"]["aggregateStatus"]["handlerAggregateStatus"]
        found: dict[str, Any] = next((one for one in handlers if one["handlerName"] == name), {})
        return found

    def heartbeat_after(self, before: int) -> None:
        self.group.until(lambda: self.told()["heartbeats"] > before, "a heartbeat")
        assert self.told()["ready"] is True

    def log(self) -> str:
        return (self.places.log / "WaAppAgent.log").read_text(errors="replace")

    def fault(self, endpoint: str, fault: str, value: float | None = None) -> None:
        self.host.post("/api/faults", {"endpoint": endpoint, "fault": fault, "value": value})

    def publish(self, name: str, content: bytes) -> None:
        """As version 1.0.0; the host's own check is passed by, as by a repository that was tampered with."""
        self.host.put("/api/packages", sample_package(), {"name": name, "version": "1.0.0"})
        (self.group.root / "fabric" / "blobs" / "packages" / f"{name}_1.0.0.zip").write_bytes(content)

    def order(self, name: str, *, fast_track: bool = False) -> None:
        self.host.post(
            "/api/extensions", {"name": name, "version": "1.0.0", "settings": {"who": "you"}, "fast_track": fast_track}
        )

    def add(self, name: str, *, fast_track: bool = False) -> None:
        """A good extension."""
        self.publish(name, sample_package())
        self.order(name, fast_track=fast_track)


def of(status: GuestStatus, name: str) -> ExtensionView | None:
    return next((one for one in status.extensions if one.name == name), None)


def succeeded(name: str) -> Callable[[GuestStatus], bool]:
    return lambda status: (found := of(status, name)) is not None and found.status == "success"


def failed(name: str) -> Callable[[GuestStatus], bool]:
    return lambda status: (found := of(status, name)) is not None and found.status == "error"


@pytest.fixture(scope="module")
def bench(group: Any) -> Iterator[Bench]:
    """At the end the four are the same processes as at the beginning."""
    bench = Bench(group)
    before = bench.pids()
    yield bench
    assert bench.pids() == before


@pytest.fixture
def faults(bench: Bench) -> Iterator[None]:
    """Heartbeats went on meanwhile; lifts what a test injected, and waits until guestagent is well again."""
    before = bench.told()["heartbeats"]
    yield
    bench.heartbeat_after(before)
    bench.host.delete("/api/faults")
    bench.until(lambda status: not status.problem and not status.report_problem, "guestagent to be well again")


# -- the host --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("fault", "value", "complaint"),
    [
        ("no-role-instance", None, "goal state: GoalState: has no RoleInstance"),
        ("wrong-bytes", None, "goal state: GoalState: is not well-formed XML"),
        ("status", 410, "/machine/?comp=goalstate: HTTP 410"),
        ("status", 500, "/machine/?comp=goalstate: HTTP 500"),
        ("truncate", None, "/machine/?comp=goalstate: "),
        ("reset", None, "/machine/?comp=goalstate: "),
        ("drip", 20, "/machine/?comp=goalstate: no complete answer in time"),
    ],
)
def test_a_bad_goal_state_is_named_while_the_other_channel_goes_on(
    bench: Bench, fault: str, value: float | None, complaint: str
) -> None:
    bench.fault("goalstate", fault, value)
    status = bench.until(lambda status: complaint in status.problem, f"{complaint!r} in the problem")
    assert complaint in bench.log()
    assert succeeded(SAMPLE)(status)
    name = f"Good.While{fault.title().replace('-', '')}"
    bench.add(name, fast_track=True)
    bench.until(succeeded(name), f"{name} by the other channel")


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("fault", "value", "complaint"),
    [
        ("wrong-bytes", None, "vmSettings: vmSettings: came without a usable ETag"),
        ("status", 410, "/vmSettings: HTTP 410"),
        ("status", 500, "/vmSettings: HTTP 500"),
        ("reset", None, "/vmSettings: "),
    ],
)
def test_bad_vm_settings_are_named_while_the_other_channel_goes_on(
    bench: Bench, fault: str, value: float | None, complaint: str
) -> None:
    bench.fault("vmsettings", fault, value)
    bench.until(lambda status: complaint in status.problem, f"{complaint!r} in the problem")
    assert complaint in bench.log()
    name = f"Good.Without{fault.title().replace('-', '')}"
    bench.add(name)
    bench.until(succeeded(name), f"{name} by the other channel")


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("extensionsconfig", "goal state: ExtensionsConfig: is not well-formed XML"),
        ("sharedconfig", "goal state: SharedConfig: is not well-formed XML"),
    ],
)
def test_a_part_of_the_goal_state_that_cannot_be_read_is_named_and_read_again(
    bench: Bench, endpoint: str, complaint: str
) -> None:
    bench.fault(endpoint, "wrong-bytes")
    name = f"Good.After{endpoint}"
    bench.add(name)
    status = bench.until(lambda status: complaint in status.problem, f"{complaint!r} in the problem")
    assert complaint in bench.log()
    assert succeeded(SAMPLE)(status)
    bench.host.delete("/api/faults")
    bench.until(succeeded(name), f"{name} once it can be read")


@pytest.mark.usefixtures("faults")
def test_certificates_that_cannot_be_read_hold_nothing_up(bench: Bench) -> None:
    bench.fault("certificates", "wrong-bytes")
    bench.add("Good.WithoutCertificates")
    status = bench.until(succeeded("Good.WithoutCertificates"), "an extension that needs none")
    assert "certificates" in status.problem
    assert "certificates: Certificates: is not well-formed XML" in bench.log()


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("name", "faults_", "code", "complaints"),
    [
        (
            "Late.Manifest",
            [("manifest", "wrong-bytes", None), ("artifact", "wrong-bytes", None)],
            -1,
            [
                "manifest of Late.Manifest",
                "PluginVersionManifest: is not",
            ],
        ),
        (
            "Late.Refused",
            [("package", "status", 403), ("artifact", "status", 500)],
            1001,
            [
                "package Late.Refused 1.0.0 could not be downloaded",
                "Late.Refused_1.0.0.zip?<redacted>: HTTP 403",
                "HTTP 500",
            ],
        ),
        (
            "Late.Half",
            [("package", "truncate", None), ("artifact", "status", 500)],
            1001,
            ["package Late.Half 1.0.0 could not be downloaded", "Late.Half_1.0.0.zip?<redacted>: ", "HTTP 500"],
        ),
    ],
)
def test_an_extension_that_cannot_be_fetched_says_from_where_and_why(
    bench: Bench, name: str, faults_: list[tuple[str, str, float | None]], code: int, complaints: list[str]
) -> None:
    for one in faults_:
        bench.fault(*one)
    bench.add(name)
    status = bench.until(failed(name), f"{name} to fail")
    found = of(status, name)
    assert found is not None
    assert (found.handler_status, found.code) == ("NotReady", code)
    assert [one for one in complaints if one not in found.message] == []
    assert [one for one in complaints if one not in bench.log()] == []
    assert succeeded(SAMPLE)(status)


@pytest.mark.usefixtures("faults")
def test_a_host_that_takes_no_status_is_named_and_told_later(bench: Bench) -> None:
    bench.fault("status", "status", 500)
    bench.fault("statusblob", "status", 500)
    bench.add("Good.Unheard")
    bench.until(succeeded("Good.Unheard"), "an extension of which nobody hears")
    bench.until(lambda status: status.report_problem.count("HTTP 500") == 2, "both channels in the problem")
    bench.host.delete("/api/faults")
    bench.group.until(lambda: bench.told_of("Good.Unheard").get("status") == "Ready", "the host to be told later")


# -- the bus ---------------------------------------------------------------------------------------------------------


def request(number: int) -> dict[str, Any]:
    """The header of a good request."""
    return {
        "id": f"good {number}",
        "kind": "request",
        "name": "every.Health",
        "sender": "test/1/a",
        "version": "0",
        "protocol": [1, 0],
        "deadline": None,
    }


def frames() -> Iterator[list[bytes]]:
    """What is no request: every part wrong in turn, then garbage."""
    header = {**request(0), "id": "bad"}
    good, body = msgpack.packb(header), msgpack.packb({})
    yield from ([b""], [good], [b"", b""], [good, b""], [b"", body], [good, body, body], [b""] * 50)
    wrongs: dict[str, list[Any]] = {
        "id": ["x" * 201, 7, None, b"\xff"],
        "kind": ["reply", "event", "refusal", "other", 7],
        "name": ["", "every.Nothing", "guestagent.GetStatus\0", "x" * 5000, ["every.Health"]],
        "sender": ["", None, {}],
        "protocol": [[99, 0], [1], [], "1.0", None, [2**70 % 2**64, -1]],
        "deadline": [-1.0, float("nan"), float("inf"), "soon", []],
    }
    for key, values in wrongs.items():
        for value in values:
            yield [msgpack.packb({**header, key: value}), body]
        yield [msgpack.packb({name: value for name, value in header.items() if name != key}), body]
    for wrong in (b"\xc1", b"\x91" * 2000, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", msgpack.packb(7), b"[]"):
        yield from ([wrong, body], [good, wrong], [wrong, wrong])
    # Past the limit of a whole message the connection ends, and is made anew.
    yield from ([good, bytes(300_000)], [bytes(300_000), body], [bytes(100_000), bytes(200_000)])
    dice = random.Random(2)
    for _ in range(300):
        mutated = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        yield [bytes(mutated), dice.randbytes(dice.randrange(40))]
        yield [dice.randbytes(dice.randrange(200)) for _ in range(dice.randrange(1, 5))]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_bad_frame_never_ends_a_process(bench: Bench, name: str) -> None:
    before = bench.pids()[name]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    rogue = context.socket(zmq.DEALER)
    rogue.setsockopt(zmq.LINGER, 0)
    rogue.connect(f"ipc://{bench.places.requests_socket(name)}")
    for number, one in enumerate(frames()):
        rogue.send_multipart(one)
        if number % 20 == 0:
            rogue.send_multipart([msgpack.packb(request(number)), msgpack.packb({})])
    answers: list[dict[str, Any]] = []
    last = [msgpack.packb(request(-1)), msgpack.packb({})]
    rogue.send_multipart(last)
    end = time.monotonic() + PATIENCE
    while not answers or answers[-1]["id"] != "good -1":
        assert time.monotonic() < end
        if rogue.poll(2000):
            answers.append(msgpack.unpackb(rogue.recv_multipart()[0]))
        else:
            rogue.send_multipart(last)  # what is on its way when a connection ends is lost
    assert {one["kind"] for one in answers if one["id"].startswith("good")} == {"reply"}
    assert {one["kind"] for one in answers if not one["id"].startswith(("good", "bad"))} == {"refusal"}
    rogue.close()
    context.term()
    assert bench.pids()[name] == before


@pytest.mark.parametrize("name", COMPONENTS)
def test_what_is_not_even_a_frame_never_ends_a_process(bench: Bench, name: str) -> None:
    before = bench.pids()[name]
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    for content in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 5000,
        greeting,
        greeting + struct.pack(">BQ", 2, 2**63) * 9,
    ):
        for path in (bench.places.requests_socket(name), bench.places.events_socket(name)):
            with socket.socket(socket.AF_UNIX) as rogue:
                rogue.connect(str(path))
                rogue.sendall(content)
    assert bench.pids()[name] == before


# -- packages --------------------------------------------------------------------------------------------------------

COMMANDS = {
    f"{name}Command": f"bin/hello.sh {name}" for name in ("install", "enable", "disable", "update", "uninstall")
}
MANIFEST = json.dumps([{"handlerManifest": COMMANDS}])


def package(*entries: tuple[str | zipfile.ZipInfo, str | bytes], manifest: str | None = MANIFEST) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names given twice
        if manifest is not None:
            archive.writestr("HandlerManifest.json", manifest)
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    data = bytearray(package(("secret", "x")))
    for header, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.rindex(header) + flags] |= 1
    return bytes(data)


def writes(status: str) -> bytes:
    """An extension whose enable leaves this as its status file, by a shell command."""
    script = f'#!/bin/sh\n[ "$1" = enable ] || exit 0\n{{ {status}\n}} > status/$ConfigSequenceNumber.status\n'
    return package(("bin/hello.sh", script))


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "Bad.Garbage": (b"\x00\xff rubbish" * 50, -1, "is no usable zip"),
    "Bad.Truncated": (sample_package()[:-100], -1, "is no usable zip"),
    "Bad.Damaged": (
        package(("big", random.Random(1).randbytes(5000))).replace(b"big", b"bag", 1),
        -1,
        "is no usable zip",
    ),
    "Bad.Absolute": (package(("/tmp/azvmagent-escaped", "x")), -1, "'/tmp/azvmagent-escaped', a path that leads out"),
    "Bad.Climbing": (package(("../../escaped", "x")), -1, "'../../escaped', a path that leads out"),
    "Bad.Link": (package((link("bin"), "/etc"), ("bin/escaped", "x")), -1, "'bin', which is a link"),
    "Bad.Twice": (package(("bin/hello.sh", "1"), ("bin/hello.sh", "2")), -1, "'bin/hello.sh' twice"),
    "Bad.Bomb": (package(("zeros", bytes(70 << 20))), -1, "times its size: a bomb"),
    "Bad.Encrypted": (encrypted(), -1, "'secret' encrypted"),
    "Bad.NoManifest": (package(("bin/hello.sh", "x"), manifest=None), 1002, "holds no HandlerManifest.json"),
    "Bad.NoJson": (package(manifest="[{half"), 1003, "HandlerManifest.json is not JSON"),
    "Bad.NoCommand": (package(manifest='[{"handlerManifest": {}}]'), 1003, "installCommand is not a command"),
    "Bad.HalfStatus": (writes("""printf '[{"status": {"sta'"""), 1012, "the status file is not JSON"),
    "Bad.DeepStatus": (writes("head -c 200000 /dev/zero | tr '\\0' '['"), 1012, "the status file is not JSON"),
    "Bad.EmptyStatus": (writes(":"), 1012, "the status file is not JSON"),
    "Bad.HugeStatus": (writes("head -c 20000000 /dev/zero | tr '\\0' ' '"), 1012, "the status file is larger than"),
}
PACKAGES = [name for name, (_, code, _) in HOSTILE.items() if code != 1012]


@pytest.fixture(scope="module")
def hostile(bench: Bench) -> GuestStatus:
    """All of them wanted at once, a good one last."""
    for name, (content, _, _) in HOSTILE.items():
        bench.publish(name, content)
    for name in HOSTILE:
        bench.order(name)
    bench.add("Good.Last")
    reported = [*HOSTILE, "Good.Last"]
    status = bench.until(
        lambda status: (
            succeeded("Good.Last")(status)
            and all(failed(name)(status) for name in HOSTILE)
            and not any(one.step for one in status.extensions)
        ),
        "every hostile package to be refused and the good one to succeed",
    )
    bench.group.until(lambda: all(bench.told_of(name) for name in reported), "the host to be told of all")
    return status


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_extension_is_an_error_that_names_it(bench: Bench, hostile: GuestStatus, name: str) -> None:
    _, code, complaint = HOSTILE[name]
    found = of(hostile, name)
    assert found is not None
    assert (found.status, found.code) == ("error", code)
    assert complaint in found.message
    told = bench.told_of(name)
    inner = told["runtimeSettingsStatus"]["settingsStatus"]["status"]
    assert (inner["status"], inner["code"]) == ("error", code)
    assert complaint in inner["formattedMessage"]["message"]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_hostile_package_is_in_status_and_log_and_nowhere_else(bench: Bench, hostile: GuestStatus, name: str) -> None:
    _, code, complaint = HOSTILE[name]
    told = bench.told_of(name)
    assert (told["status"], told["code"]) == ("NotReady", code)
    assert f"package {name} 1.0.0 " in told["formattedMessage"]["message"]
    lines = [line for line in bench.log().splitlines() if name in line and complaint in line]
    assert lines
    assert [path for path in bench.places.lib.iterdir() if name in path.name] == []


def test_nothing_escaped_and_the_others_go_on(bench: Bench, hostile: GuestStatus) -> None:
    assert list(bench.group.root.rglob("*escaped*")) == []
    assert not Path("/tmp/azvmagent-escaped").exists()
    for name in (SAMPLE, "Good.Last"):
        assert succeeded(name)(hostile)
        told = bench.told_of(name)
        assert told["status"] == "Ready"
        assert told["runtimeSettingsStatus"]["settingsStatus"]["status"]["status"] == "success"
    bench.heartbeat_after(bench.told()["heartbeats"])
