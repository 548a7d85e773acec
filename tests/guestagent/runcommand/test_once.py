"""Exactly one run: the same sequence number never runs twice, whoever is killed, and nobody waits for the dead."""

import json
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.runcommand.liveness import judge, settle
from guestagent.runcommand.processes import Process, boot_id
from guestagent.runcommand.record import Phase, Record, View, write_mrseq, write_record
from guestagent.runcommand.verbs import decide

GONE = Process(pid=2**22 + 1, start_ticks=1, boot=boot_id())


def counting(tmp_path: Path, rest: str = "") -> str:
    """A script that leaves a line for each time it ran."""
    return f"#!/bin/bash\necho x >> {tmp_path}/count\n{rest}"


def runs(tmp_path: Path) -> int:
    count = tmp_path / "count"
    return len(count.read_text().splitlines()) if count.exists() else 0


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30)


def test_enabled_again_nothing_is_run_and_the_status_stays(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.run(script(counting(tmp_path)))
    before = managed.place().status_file.read_bytes()
    for _ in range(2):
        done = managed.command("enable")
        assert done.returncode == 0
        assert "already been processed" in done.stdout
    assert runs(tmp_path) == 1
    assert managed.place().status_file.read_bytes() == before


def test_enabled_again_while_it_runs_it_goes_on(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.enable(script(counting(tmp_path, "mkfifo fifo; echo up; read x < fifo")))
    record = managed.started()
    assert managed.command("enable").returncode == 0
    assert record.worker.alive()
    assert managed.status()["status"] == "transitioning"
    (managed.place().work / "fifo").write_text("\n")
    managed.ended()
    assert (runs(tmp_path), managed.view()["executionState"]) == (1, "Succeeded")


def test_two_enables_at_once_run_it_once(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.settings(script(counting(tmp_path)))
    with ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: managed.command("enable"), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    managed.ended()
    assert runs(tmp_path) == 1


def test_an_older_number_is_not_run_and_gets_a_final_status(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.run(script(counting(tmp_path)), number=7)
    managed.enable(script(counting(tmp_path)), number=5)
    assert runs(tmp_path) == 1
    assert managed.status(5)["status"] == "success"
    assert managed.view(5)["executionState"] == "Unknown"
    assert "7 was run before" in managed.view(5)["executionMessage"]


def test_a_worker_killed_while_the_script_runs_is_interrupted_and_never_repeated(
    managed: Any, script: Any, tmp_path: Path
) -> None:
    managed.enable(script(counting(tmp_path, "echo up; exec sleep 600")))
    record = managed.started()
    kill(record.worker)
    assert settle(managed.folder, "job", 0)
    assert managed.status()["status"] == "success"
    view = managed.view()
    assert (view["executionState"], view["exitCode"], view["output"]) == ("Failed", -1, "up\n")
    assert "interrupted" in view["executionMessage"]
    assert f"still runs as pid {record.script.pid}" in view["executionMessage"]
    assert not settle(managed.folder, "job", 0), "told once"
    assert managed.command("enable").returncode == 0
    assert (runs(tmp_path), managed.view()) == (1, view)
    # The next run of that name ends what was left.
    managed.run(script("true"), number=1)
    assert not record.script.alive()


def test_treat_failure_as_deployment_failure_counts_for_interrupted_ones(managed: Any, script: Any) -> None:
    managed.enable(script("echo up; exec sleep 600", treatFailureAsDeploymentFailure=True))
    kill(managed.started().worker)
    settle(managed.folder, "job", 0)
    assert managed.status()["status"] == "error"


def test_an_asynchronous_one_whose_worker_is_gone_ends_too(managed: Any, script: Any) -> None:
    managed.enable(script("echo up; exec sleep 600", asyncExecution=True))
    kill(managed.started().worker)
    assert managed.view()["executionState"] == "Running"
    assert settle(managed.folder, "job", 0)
    assert managed.view()["executionState"] == "Failed"


def test_a_worker_killed_before_the_script_began_leaves_it_to_be_run_once(
    managed: Any, files: Any, until: Callable[..., Any], tmp_path: Path
) -> None:
    # Nobody answers there: it waits for the download until it is killed.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        managed.enable({"source": {"scriptUri": f"http://127.0.0.1:{silent.getsockname()[1]}/s.sh"}})
        connection, _ = silent.accept()
        with connection:
            record = managed.record()
            assert not record.started
            kill(record.worker)
    assert settle(managed.folder, "job", 0)
    assert "before the script began" in managed.view()["executionMessage"]
    files.files = {"/s.sh": counting(tmp_path).encode()}
    managed.enable({"source": {"scriptUri": f"{files.url}/s.sh"}})
    managed.ended()
    assert managed.view()["executionState"] == "Succeeded"
    assert managed.command("enable").returncode == 0
    assert runs(tmp_path) == 1


def test_after_a_reboot_it_is_interrupted(managed: Any, script: Any) -> None:
    """The pid may be anybody's by then, even with the same start time."""
    managed.enable(script("echo up; exec sleep 600"))
    record = managed.started()
    before = msgspec.structs.replace(record.worker, boot="another-boot")
    write_record(managed.place(), msgspec.structs.replace(record, worker=before))
    assert settle(managed.folder, "job", 0)
    assert "interrupted" in managed.view()["executionMessage"]


def test_killed_between_its_record_and_its_status_the_status_is_written_by_whoever_looks(
    managed: Any, script: Any
) -> None:
    managed.run(script("echo done"))
    final = managed.view()
    managed.enable(script("echo up; exec sleep 600"), number=1)
    managed.started(1)
    running = managed.place(1).status_file.read_bytes()
    managed.place(0).status_file.write_bytes(running)
    assert settle(managed.folder, "job", 0)
    assert managed.view(0) == final
    managed.place(0).status_file.unlink()
    assert settle(managed.folder, "job", 0)
    assert managed.view(0) == final
    assert not settle(managed.folder, "job", 0)


def test_settle_leaves_the_living_and_the_unknown_alone(managed: Any, script: Any) -> None:
    assert not settle(managed.folder, "nobody", 3)
    managed.enable(script("echo up; exec sleep 600"))
    managed.started()
    before = managed.place().status_file.read_bytes()
    assert not settle(managed.folder, "job", 0)
    assert managed.place().status_file.read_bytes() == before


def test_a_name_that_was_deleted_and_made_anew_begins_from_zero(managed: Any, script: Any, tmp_path: Path) -> None:
    """The agent takes the status files of a deleted name away (protocol: multi-config specifics)."""
    managed.run(script(counting(tmp_path)))
    assert managed.command("disable").returncode == 0
    managed.place().status_file.unlink()
    managed.run(script(counting(tmp_path)))
    assert runs(tmp_path) == 2
    # Disabled and enabled again with its status in place: the same run.
    assert managed.command("disable").returncode == 0
    managed.enable(script(counting(tmp_path)))
    assert runs(tmp_path) == 2


def test_a_worker_that_cannot_be_started_is_told(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.settings(script("echo never"))
    # Where the journal is to be stands a folder.
    managed.place().journal.mkdir()
    assert managed.command("enable").returncode == 3
    assert managed.view()["exitCode"] == -204


@pytest.mark.parametrize(
    ("mrseq", "number", "phase", "started", "interrupted", "alive", "wanted"),
    [
        (None, 0, None, False, False, False, "run"),
        (0, 1, None, False, False, False, "run"),
        (1, 1, "ended", True, False, False, "taken"),
        (1, 1, "ended", False, False, False, "taken"),  # a failed download was told; a new number asks for another
        (1, 1, "ended", False, True, False, "run"),
        (1, 1, "ended", True, True, False, "taken"),
        (1, 1, "accepted", False, False, True, "taken"),
        (1, 1, "accepted", False, False, False, "run"),
        (1, 1, "started", True, False, False, "taken"),
        (1, 1, None, False, False, False, "taken"),
        (2, 1, None, False, False, False, "older"),
        (2, 1, "ended", True, False, False, "taken"),
        (2, 1, "accepted", False, False, False, "taken"),
    ],
)
def test_what_is_decided(
    mrseq: int | None, number: int, phase: Phase | None, started: bool, interrupted: bool, alive: bool, wanted: str
) -> None:
    record = None
    if phase is not None:
        record = Record(
            name="job", sequence_number=number, phase=phase, worker=GONE, mark="m", accepted_at=1.0, started=started,
            interrupted=interrupted,
        )  # fmt: skip
    assert decide(mrseq, number, record, worker_alive=alive) == wanted


@given(
    mrseq=st.none() | st.integers(0, 5),
    number=st.integers(0, 5),
    phase=st.sampled_from(["accepted", "started", "ended"]),
    alive=st.booleans(),
    interrupted=st.booleans(),
)
def test_what_may_have_begun_is_never_run_again(
    mrseq: int | None, number: int, phase: Phase, alive: bool, interrupted: bool
) -> None:
    record = Record(
        name="", sequence_number=number, phase=phase, worker=GONE, mark="m", accepted_at=1.0, started=True,
        interrupted=interrupted,
    )  # fmt: skip
    decision = decide(mrseq, number, record, worker_alive=alive)
    assert decision != "run" or mrseq is None or mrseq < number


def test_the_verdict_on_a_run() -> None:
    view = View(execution_state="Succeeded", execution_message="Execution completed")
    record = Record(name="", sequence_number=0, phase="ended", worker=GONE, mark="m", accepted_at=1.0, view=view)
    running = json.dumps({"executionState": "Running"}, separators=(",", ":"))
    assert judge(None, worker_alive=False, told=None) == "leave"
    assert judge(record, worker_alive=False, told="whatever is final") == "leave"
    assert judge(record, worker_alive=False, told=running) == "tell again"
    assert judge(record, worker_alive=False, told="Enable in progress") == "tell again"
    assert judge(record, worker_alive=False, told=None) == "tell again"
    for phase in ("accepted", "started"):
        begun = msgspec.structs.replace(record, phase=phase, view=None)
        assert judge(begun, worker_alive=True, told=running) == "leave"
        assert judge(begun, worker_alive=False, told=running) == "interrupted"
        assert judge(begun, worker_alive=False, told=None) == "interrupted"
        assert judge(begun, worker_alive=False, told='{"executionState":"Succeeded"}') == "leave"


def test_a_damaged_record_stops_nothing(managed: Any, script: Any, tmp_path: Path) -> None:
    managed.run(script(counting(tmp_path)))
    managed.place().record.write_bytes(b'{"name": 3')
    assert not settle(managed.folder, "job", 0)
    assert managed.command("enable").returncode == 0
    assert runs(tmp_path) == 1
    managed.run(script(counting(tmp_path)), number=1)
    assert runs(tmp_path) == 2


def test_killed_between_record_and_sequence_number_it_is_run(managed: Any, script: Any, tmp_path: Path) -> None:
    place = managed.place()
    write_record(place, Record(name="job", sequence_number=0, phase="accepted", worker=GONE, mark="m", accepted_at=1.0))
    managed.run(script(counting(tmp_path)))
    assert runs(tmp_path) == 1


def test_killed_before_its_worker_was_there_it_is_run(managed: Any, script: Any, tmp_path: Path) -> None:
    place = managed.place()
    write_record(place, Record(name="job", sequence_number=0, phase="accepted", worker=GONE, mark="m", accepted_at=1.0))
    write_mrseq(place)
    managed.run(script(counting(tmp_path)))
    assert runs(tmp_path) == 1
