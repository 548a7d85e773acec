"""The control API does what its description says, and the description says what it does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fabric.conftest import RunningHost

SECONDS = 40
"""Schemathesis stops asking after this; it has seen every operation long before."""


@pytest.mark.timeout(SECONDS + 200)
def test_whatever_is_asked_is_answered_as_described(own_host: RunningHost, tmp_path: Path) -> None:
    """Every operation with data that fits its schema, and with data that does not."""
    # What the description's examples name is there.
    own_host.add()
    command: list[str | Path] = [Path(sys.executable).with_name("st"), "run"]
    command += [own_host.endpoints["portal"] + "/openapi.json", "--seed", "1", "--max-examples", "5", "--no-shrink"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-time", str(SECONDS), "--request-timeout", "20"]
    # A stream does not end.
    command += ["--continue-on-failure", "--no-color", "--exclude-path-regex", "stream"]
    # An order that fits its schema may still ask for what is not there: an address that is none, a fault without its
    # value.
    command += ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS + 180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Failures" not in done.stdout


def test_each_refusal_is_described_and_each_reason_has_one_shape(host: RunningHost) -> None:
    paths = host.api("GET", "/openapi.json")["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            answers = operation["responses"]
            # Any operation may meet a full disk, and no page elsewhere may change anything.
            expected = {"507"} | ({"403"} if method != "get" else set())
            expected |= {"413"} if "requestBody" in operation else set()
            assert expected <= set(answers), (method, path)
            for status, answer in answers.items():
                schema = answer["content"]["application/json"]["schema"] if "content" in answer else {}
                if status != "200":
                    assert list(schema["properties"]) == ["reason"], (method, path, status)
                elif "stream" not in path:
                    assert schema, (method, path)


def test_what_is_allowed_at_a_place_is_said_whole(host: RunningHost) -> None:
    for path, allowed in (
        ("/api/faults", {"GET", "POST", "DELETE"}),
        ("/api/vms", {"GET", "POST"}),
        ("/api/runs/x", {"DELETE"}),
    ):
        answer = host.call("portal", "OPTIONS", path)
        assert answer.status_code == 405
        assert set(answer.headers["Allow"].split(", ")) == allowed
