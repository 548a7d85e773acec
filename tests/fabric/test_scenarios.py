"""Scenarios, recordings and their replay: the same thing, again."""

import http.client
import json
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import FabricError
from fabric.recording import Beginning, read
from fabric.replay import replay
from fabric.scenario import Play, Scenario, Step, check
from fabric.scenario import read as read_scenario
from tests.fabric.conftest import (
    NAME,
    PATIENCE,
    RunningHost,
    Vm,
    connected,
    handler_status,
    package,
    run_azfabric,
    status_blob,
    vm_of,
)

BLACKOUT = """
name = "the repository goes and comes back"
seed = 11
packages = ["greeter.zip"]

[[step]]
name = "wanted"
want = {name = "Contoso.Tools.Greeter", version = "1.0.0", settings = {who = "world"}}

[[step]]
name = "flaky"
after = {endpoint = "goalstate", count = 2}
fault = {endpoint = "wireserver", fault = "status", value = 503, probability = 0.5}

[[step]]
name = "blackout"
after = {endpoint = "artifacts", count = 2}
fault = {endpoint = "artifacts", fault = "status", value = 403}

[[step]]
name = "moved"
after = {endpoint = "artifacts", count = 5}
move = true

[[step]]
name = "back"
after = {endpoint = "artifacts", count = 9}
lift = true
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "greeter.zip").write_bytes(package())
    file = tmp_path / "blackout.toml"
    file.write_text(BLACKOUT)
    return file


class Hands:
    """Notes what it is to do."""

    def __init__(self) -> None:
        self.taken: list[Step] = []

    def take(self, step: Step) -> None:
        self.taken.append(step)


def a_client(host: RunningHost) -> list[int]:
    """A VM that asks the same questions in the same order, whatever the answers; their statuses."""
    statuses = []
    vm = vm_of(host)
    location = f"/manifests/{NAME}.xml"
    url = host.endpoints["blob"] + location
    for _ in range(12):
        statuses.append(host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE).status_code)
        statuses.append(host.call("blob", "GET", url).status_code)
        hgap = {**vm.plugin, "x-ms-artifact-location": url}
        statuses.append(host.call("hostgaplugin", "GET", "/extensionArtifact", headers=hgap).status_code)
        statuses.append(vm.health().status_code)

    return statuses


def transcript(host: RunningHost) -> list[tuple[str, str, int, str]]:
    lines = host.api("GET", "/api/transcript", params={"limit": 20_000})
    return [(one["endpoint"], one["method"], one["status"], one.get("fault", "")) for one in lines]


def test_a_blackout_replays_identically_twice(tmp_path: Path, scenario: Path) -> None:
    """The same scenario and the same client at three hosts: the same answers to the last one."""
    found = []
    for name in ("one", "two", "three"):
        host = RunningHost(tmp_path / name)
        host.start()
        try:
            played = run_azfabric(host.root, "scenario", "run", scenario, "--json").stdout
            assert [one["step"] for one in json.loads(played) if one["at"] is not None] == ["wanted"]
            found.append((a_client(host), transcript(host)))
            steps = json.loads(run_azfabric(host.root, "scenario", "show", "--json").stdout)
            assert steps["left"] == 0
            assert not any(one["problem"] for one in steps["steps"])
        finally:
            assert host.stop() == 0
    assert found[0] == found[1] == found[2]
    faults = {fault for _, _, _, fault in found[0][1]}
    statuses = {status for _, _, status, _ in found[0][1]}
    assert faults == {"", "status"}
    assert {200, 403, 410, 503} <= statuses


def test_another_seed_spoils_other_answers(tmp_path: Path, scenario: Path) -> None:
    found = []
    for seed in (11, 12):
        scenario.write_text(BLACKOUT.replace("seed = 11", f"seed = {seed}"))
        host = RunningHost(tmp_path / str(seed))
        host.start()
        try:
            run_azfabric(host.root, "scenario", "run", scenario)
            a_client(host)
            found.append(transcript(host))
        finally:
            assert host.stop() == 0
    assert found[0] != found[1]


@pytest.fixture
def recorded(tmp_path: Path, scenario: Path) -> Path:
    """A recording of a host with two VMs, orders, a scenario, faults of every kind and what a VM tells."""
    host, file = RunningHost(tmp_path / "recorded"), tmp_path / "recording.jsonl"
    host.start("--record", str(file))
    try:
        host.add("Contoso.Tools.Other", settings={"a": 1}, protected={"b": 2})
        run_azfabric(host.root, "scenario", "run", scenario)
        a_client(host)
        host.api("DELETE", "/api/scenario")
        vm = vm_of(host)
        assert vm.report(status_blob(handler_status())).status_code == 200
        assert host.call("blob", "PUT", vm.status_url(), data=b"{}", headers={"x-ms-blob-type": "BlockBlob"}).ok
        for fault, value in (("truncate", None), ("wrong-bytes", None), ("drip", 5000), ("slow", 0.1)):
            host.fault("versions", fault, value, count=1)
            host.raw("wireserver", b"GET /?comp=versions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        host.fault("versions", "reset", count=1)
        assert host.raw("wireserver", b"GET /?comp=versions HTTP/1.1\r\nHost: a\r\n\r\n") == b""
        places = host.api("POST", "/api/vms", json={"name": "second", "own_ports": True})
        headers = {**Vm.WIRE}
        host.call("wireserver", "GET", f"{places['wireserver']}/machine/?comp=goalstate", headers=headers)
        host.call("portal", "POST", "/api/faults", json={"endpoint": "nowhere", "fault": "reset"})
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    return file


def replayed(recording: Path, check: int = 0) -> dict[str, Any]:
    done = run_replay(recording, "--json", check=check)
    found: dict[str, Any] = json.loads(done)
    return found


def run_replay(recording: Path, *options: str, check: int = 0) -> str:
    command = [sys.executable, "-P", "-m", "fabric", "replay", str(recording), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == check, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout or done.stderr


def test_a_recording_is_had_again_and_again(recorded: Path) -> None:
    # It holds private keys.
    assert recorded.stat().st_mode & 0o077 == 0
    first, second = replayed(recorded), replayed(recorded)
    assert first == second
    assert first["differences"] == []
    assert first["requests"] > 50
    assert first["orders"] > 8
    assert "every one" in run_replay(recorded)


def flaky(host: RunningHost) -> None:
    """Half of what VMs ask of the WireServer fails; which half is drawn as requests come in."""
    order = {"endpoint": "wireserver", "fault": "status", "value": 503, "probability": 0.5, "seed": 7}
    host.api("POST", "/api/faults", json=order)


def versions(host: RunningHost, count: int) -> list[int]:
    return [host.call("wireserver", "GET", "/?comp=versions").status_code for _ in range(count)]


def test_requests_that_overlap_are_had_again(tmp_path: Path) -> None:
    host, file = RunningHost(tmp_path / "recorded"), tmp_path / "recording.jsonl"
    host.start("--record", str(file))
    try:
        host.add(fast_track=True)
        vm = vm_of(host)
        etag = host.call("hostgaplugin", "GET", "/vmSettings", headers=vm.plugin).headers["ETag"]
        flaky(host)
        with ExitStack() as stack:
            waiting = [stack.enter_context(connected(host, "wireserver")) for _ in range(4)]
            for one in waiting:
                known = {"If-None-Match": f'"{vm.incarnation}"', "Prefer": "wait=60"}
                one.request("GET", "/machine/?comp=goalstate", headers={**Vm.WIRE, **known})
            waiting.append(stack.enter_context(connected(host, "hostgaplugin")))
            waiting[-1].request("GET", "/vmSettings", headers={**vm.plugin, "If-None-Match": etag, "Prefer": "wait=60"})
            assert set(versions(host, 12)) == {200, 503}
            host.add(settings={"woken": 1}, fast_track=True)
            assert waiting.pop().getresponse().status == 200
            assert set(versions(host, 6)) == {200, 503}
            host.add(settings={"woken": 2})
            assert {one.getresponse().status for one in waiting} == {200, 503}
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    found = replayed(file)
    assert (found["differences"], found["requests"]) == ([], 25)


def test_who_leaves_before_the_answer_has_drawn_too(tmp_path: Path) -> None:
    host, file = RunningHost(tmp_path / "recorded"), tmp_path / "recording.jsonl"
    host.start("--record", str(file))
    asked: list[int] = []
    try:
        flaky(host)
        head = b"POST /HealthService HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc"
        for _ in range(4):
            with socket.create_connection(host.address("wireserver"), PATIENCE) as connection:
                connection.sendall(head)
            asked += versions(host, 6)
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    assert set(asked) == {200, 503}
    assert replayed(file)["differences"] == []


def test_what_is_too_long_to_be_recorded_counts_as_it_did(tmp_path: Path) -> None:
    """It drew a fault, and a scenario counted it."""
    host, file = RunningHost(tmp_path / "recorded"), tmp_path / "recording.jsonl"
    (tmp_path / "moves.toml").write_text('[[step]]\nafter = {endpoint = "agentlog", count = 2}\nmove = true\n')
    host.start("--record", str(file))
    try:
        run_azfabric(host.root, "scenario", "run", tmp_path / "moves.toml")
        vm = vm_of(host)
        host.fault("everything", "status", 418, count=1)
        statuses = []
        for _ in range(3):
            log = bytes(5 * 1024 * 1024)
            statuses.append(host.call("hostgaplugin", "PUT", "/vmAgentLog", data=log, headers=vm.plugin).status_code)
            statuses += versions(host, 1)
        answer = host.call("hostgaplugin", "GET", "/vmSettings", headers=vm.plugin)
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    assert (statuses, answer.status_code) == ([418, 200, 200, 200, 410, 200], 410)
    found = replayed(file)
    assert (found["differences"], found["passed_over"]) == ([], 1)


def test_another_answer_is_found_and_named(recorded: Path, tmp_path: Path) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    number = next(
        n for n, line in enumerate(lines) if b'"type":"request"' in line and b'"endpoint":"goalstate"' in line
    )
    lines[number] = lines[number].replace(b'"status":200', b'"status":299')
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(lines))
    (difference,) = replayed(other, check=1)["differences"]
    assert (difference["endpoint"], difference["recorded"], difference["replayed"]) == ("goalstate", "299", "200")
    assert "299" in run_replay(other, check=1)


def test_a_vm_of_the_same_name_is_another_one_also_when_replayed(tmp_path: Path) -> None:
    host, file = RunningHost(tmp_path / "recorded"), tmp_path / "recording.jsonl"
    host.start("--record", str(file))
    try:
        ids, statuses = [], []
        for _ in range(2):
            host.api("POST", "/api/vms", json={"name": "again", "address": "127.0.0.9"})
            (container,) = (one["container_id"] for one in host.api("GET", "/api/vms") if one["name"] == "again")
            ids.append(container)
            with closing(
                http.client.HTTPConnection(
                    *host.address("hostgaplugin"), timeout=PATIENCE, source_address=("127.0.0.9", 0)
                )
            ) as connection:
                for known in ids:
                    connection.request("GET", "/versions", headers={"x-ms-containerid": known})
                    with connection.getresponse() as answer:
                        answer.read()
                        statuses.append(answer.status)
            if len(ids) == 1:
                host.api("DELETE", "/api/vms/again")
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    assert statuses == [200, 410, 200]
    assert replayed(file)["differences"] == []


def test_an_order_that_was_too_long_to_be_recorded_is_said(recorded: Path, tmp_path: Path) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if b'"type":"order"' in line)
    lines[number] = lines[number].replace(b'"answer":', b'"cut":true,"answer":')
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines))
    assert "PUT /api/packages without its body" in run_replay(tmp_path / "cut.jsonl", check=1)


def test_the_transcript_is_compared_piece_by_piece(recorded: Path, tmp_path: Path) -> None:
    """A host keeps and gives out so many lines only, and a recording may have more."""
    whole = recorded.read_bytes()
    assert whole.count(b'"endpoint":"versions"') > 3
    other = tmp_path / "other.jsonl"
    other.write_bytes(whole.replace(b'"status":410', b'"status":299'))
    found = [replay(other, tmp_path / str(page), lambda _, __: None, page) for page in (7, 5000)]
    assert found[0] == found[1]
    assert found[0].requests > 50
    assert {one.replayed for one in found[0].differences} == {"410"}


def test_a_recording_of_a_killed_host_is_read_to_its_last_whole_line(recorded: Path, tmp_path: Path) -> None:
    whole = recorded.read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole[: len(whole) - 40])
    beginning, entries = read(cut)
    assert isinstance(beginning, Beginning)
    assert len(entries) == len(read(recorded)[1]) - 1


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"nonsense\n", b'{"type":"order"}\n', b"\xff\n", b"[" * 10_000 + b"\n"]
)
def test_what_is_no_recording_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.jsonl"
    file.write_bytes(content)
    assert str(file) in run_replay(file, check=1)


def test_a_step_by_time_is_taken_also_when_nobody_asks(host: RunningHost, tmp_path: Path) -> None:
    file = tmp_path / "timed.toml"
    file.write_text('[[step]]\nat = 0.2\nfault = {endpoint = "versions", fault = "reset"}\n')
    run_azfabric(host.root, "scenario", "run", file, "--wait", "20")
    assert [one["fault"] for one in host.api("GET", "/api/faults")] == ["reset"]
    host.api("DELETE", "/api/faults")


def test_a_step_that_fails_says_why_and_the_next_is_taken(host: RunningHost, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        '[[step]]\nwant = {name = "No.Such", version = "1.0"}\n[[step]]\nfault = {endpoint = "x", fault = "reset"}\n'
        '[[step]]\nvm = "vm9"\nmove = true\n[[step]]\nhold = true\n'
    )
    shown = run_azfabric(host.root, "scenario", "run", file, "--json", check=1).stdout
    problems = [one["problem"] for one in json.loads(shown)]
    assert [bool(one) for one in problems] == [True, True, True, False]
    assert "no package No.Such" in problems[0]
    run_azfabric(host.root, "scenario", "stop")
    assert "no scenario is played" in run_azfabric(host.root, "scenario", "show", check=1).stderr


WRONG = [
    ("x", "is no scenario"),
    ("[[step]]\n", "this one does nothing"),
    ("[[step]]\nmove = true\nrotate = true\n", "rotate and move"),
    ("[[step]]\nmoves = true\n", "moves"),
    ('[[step]]\nmove = true\nafter = {endpoint = "nowhere"}\n', "unknown endpoint"),
    ("[[step]]\nmove = true\nat = -1\n", "negative"),
    ("seed = true\n", "seed"),
    ('packages = ["../x.zip"]\n', "packages stand beside it"),
]


@pytest.mark.parametrize(("text", "reason"), WRONG)
def test_a_scenario_that_cannot_be_played_is_refused(host: RunningHost, tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    done = run_azfabric(host.root, "scenario", "run", file, check=1)
    assert reason in done.stderr


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "x.toml"
    file.write_bytes(content)
    try:
        check(read_scenario(file))
    except FabricError as error:
        assert str(error)


@given(st.lists(st.tuples(st.sampled_from(["goalstate", "package", "manifest"]), st.floats(0, 3)), max_size=40))
def test_each_step_is_taken_once_and_not_before_it_is_due(requests: list[tuple[str, float]]) -> None:
    steps = [
        {"move": True},
        {"after": {"endpoint": "package", "count": 3}, "rotate": True},
        {"at": 5.0, "lift": True},
        {"after": {"endpoint": "artifacts", "count": 4}, "at": 2.0, "hold": True},
    ]
    hands = Hands()
    now = 100.0
    play = Play(msgspec.convert({"step": steps}, Scenario), hands, now)
    seen: list[str] = []
    for endpoint, pause in requests:
        now += pause
        play.tick(now)
        seen.append(endpoint)
        play.seen("vm1", endpoint, now)
    acts = [one.acts[0] for one in hands.taken]
    assert len(acts) == len(set(acts))
    due = {
        "move": True,
        "rotate": seen.count("package") >= 3,
        "lift": now >= 105.0,
        "hold": now >= 102.0 and seen.count("package") + seen.count("manifest") >= 4,
    }
    assert set(acts) == {name for name, is_due in due.items() if is_due}
