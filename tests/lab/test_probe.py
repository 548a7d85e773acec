"""Probes: what they conclude, and what they see of a VM's real listeners."""

import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import FabricError
from fabric.lab import orders
from fabric.lab.probe import Probe, Result, Seen, judge, judge_line
from tests.lab.conftest import TestedLab, until

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()
        print(self.client_address[0], flush=True)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""
GOOD, BAD = Result(ok=True, reason=""), Result(ok=False, reason="")


def states(results: list[Result], threshold: int) -> list[str]:
    found: list[str] = []
    seen = Seen()
    for result in results:
        seen = judge(seen, result, threshold)
        found.append(seen.state)
    return found


def test_so_many_in_a_row_change_the_state() -> None:
    assert states([GOOD, GOOD, BAD, GOOD, BAD, BAD, GOOD, GOOD], 2) == (
        ["unknown", "up", "up", "up", "up", "down", "down", "up"]
    )


def test_a_refusal_counts_at_once() -> None:
    assert states([GOOD] * 5 + [Result(ok=False, reason="", refused=True)], 5)[-2:] == ["up", "down"]


@given(st.lists(st.sampled_from([GOOD, BAD])), st.integers(1, 5))
def test_a_state_is_what_the_last_long_enough_row_was(results: list[Result], threshold: int) -> None:
    expected = "unknown"
    for end in range(len(results) + 1):
        row = [one.ok for one in results[:end]][-threshold:]
        if len(row) == threshold and len(set(row)) == 1:
            expected = "up" if row[0] else "down"
        assert [*["unknown"], *states(results, threshold)][end] == expected


@given(st.binary(max_size=60))
def test_only_a_200_is_well(line: bytes) -> None:
    assert not judge_line(line).ok or line.split()[1] == b"200"


@pytest.mark.parametrize(
    ("line", "ok", "reason"),
    [
        (b"HTTP/1.1 200 OK\r", True, "HTTP 200"),
        (b"HTTP/1.0 200", True, "HTTP 200"),
        (b"HTTP/1.1 204 No Content", False, "HTTP 204"),
        (b"HTTP/1.1 2000", False, "HTTP 2000"),
        (b"SSH-2.0-OpenSSH 200", False, "no HTTP answer"),
        (b"", False, "no HTTP answer"),
    ],
)
def test_answers(line: bytes, ok: bool, reason: str) -> None:
    assert (judge_line(line).ok, judge_line(line).reason) == (ok, reason)


@pytest.fixture
def server(pair: TestedLab) -> Iterator[subprocess.Popen[str]]:
    # In a shell of the VM, since it is a child there that is to end.
    with pair.start("a", "/usr/bin/python3", "-c", SERVER, "8080") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()
        pair.run("a", "sh", "-c", "kill -9 -1")


def probe(lab: TestedLab, http: str = "", *, remove: bool = False) -> None:
    lab.lab.ask(orders.SetProbe("a", Probe(port=8080, http=http, interval=0.1), remove))


def state(lab: TestedLab) -> str:
    return str(lab.shown("a")["probes"][0]["state"])


def reason(lab: TestedLab) -> str:
    return str(lab.shown("a")["probes"][0]["reason"])


@pytest.mark.parametrize("http", ["", "/well"])
def test_a_listener_is_up_and_its_end_is_seen(pair: TestedLab, server: subprocess.Popen[str], http: str) -> None:
    probe(pair, http)
    until(lambda: state(pair) == "up", "the probe to be up")
    if http:
        assert server.stdout is not None
        assert server.stdout.readline() == "168.63.129.16\n"
    pair.run("a", "sh", "-c", "kill -9 -1")
    until(lambda: (state(pair), reason(pair)) == ("down", "Connection refused"), "the probe to be refused")
    probe(pair, remove=True)
    assert pair.shown("a")["probes"] == []


def test_an_unwell_answer_is_down(pair: TestedLab, server: subprocess.Popen[str]) -> None:
    probe(pair, "/unwell")
    until(lambda: (state(pair), reason(pair)) == ("down", "HTTP 503"), "the probe to be down")
    probe(pair, remove=True)


def test_a_vm_without_a_cable_is_down_and_says_why(pair: TestedLab, server: subprocess.Popen[str]) -> None:
    pair.lab.ask(orders.SetLink("a", up=False))
    probe(pair)
    until(lambda: reason(pair) in {"no answer within 0.1 s", "No route to host"}, "the probe to be unanswered")
    until(lambda: state(pair) == "down", "the probe to be down")
    pair.lab.ask(orders.SetLink("a", up=True))
    until(lambda: state(pair) == "up", "the probe to be up again")
    probe(pair, remove=True)


def test_what_is_not_probed_cannot_be_stopped(pair: TestedLab) -> None:
    with pytest.raises(FabricError, match="port 8080 of a is not probed"):
        probe(pair, remove=True)
