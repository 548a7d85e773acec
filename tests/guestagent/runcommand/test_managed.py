"""v2, managed run command: each row of the facts' table, with real scripts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_script_that_succeeds_is_told_in_the_original_s_shape(managed: Any, script: Any) -> None:
    managed.enable(script("#!/bin/bash\necho out; echo err >&2"))
    status = managed.ended()
    assert (status["name"], status["operation"], status["status"]) == ("job", "Enable", "success")
    message = status["formattedMessage"]["message"]
    keys = list(json.loads(message))
    assert keys == ["executionState", "executionMessage", "output", "error", "exitCode", "startTime", "endTime"]
    view = managed.view()
    assert (view["executionState"], view["executionMessage"], view["exitCode"]) == (
        "Succeeded",
        "Execution completed",
        0,
    )
    assert (view["output"], view["error"]) == ("out\n", "err\n")
    for time in (view["startTime"], view["endTime"]):
        assert len(time) == len("2031-05-06T07:08:09Z")
        assert time.endswith("Z")


def test_parameters_reach_the_script_and_no_shell_reads_them(managed: Any, script: Any, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    hostile = f"a b; touch {trap} $(touch {trap}) `touch {trap}` ' \" * \\ \n end"
    show = 'printf "%s|" "$NAMED" "$SECRET" "${EMPTY-unset}" "$#" "$@"'
    view = managed.run(
        script(
            f"#!/bin/bash\n{show}",
            parameters=[
                {"name": "NAMED", "value": hostile},
                {"name": "EMPTY", "value": ""},
                {"value": hostile},
                {"value": ""},
                {"name": "", "value": "-n"},
            ],
        ),
        {"protectedParameters": [{"name": "SECRET", "value": hostile}, {"value": "last"}]},
    )
    assert view["output"] == "|".join([hostile, hostile, "unset", "3", hostile, "-n", "last", ""])
    assert not trap.exists()


def test_a_protected_parameter_overrides_a_public_one_of_the_same_name(managed: Any, script: Any) -> None:
    view = managed.run(
        script("echo $X", parameters=[{"name": "X", "value": "public"}]),
        {"protectedParameters": [{"name": "X", "value": "protected"}]},
    )
    assert view["output"] == "protected\n"


@pytest.mark.parametrize(("failure_is_error", "word"), [(False, "success"), (True, "error")])
def test_a_script_that_fails_is_the_extension_s_failure_only_on_demand(
    managed: Any, script: Any, failure_is_error: bool, word: str
) -> None:
    managed.enable(script("echo bad >&2; exit 7", treatFailureAsDeploymentFailure=failure_is_error))
    assert managed.ended()["status"] == word
    view = managed.view()
    assert (view["executionState"], view["exitCode"], view["error"]) == ("Failed", 7, "bad\n")
    assert view["executionMessage"] == (
        "Execution failed: failed to execute command: command terminated with exit status=7"
    )


def test_a_script_ended_by_a_signal_has_exit_code_minus_one(managed: Any, script: Any) -> None:
    view = managed.run(script("kill -KILL $$"))
    assert (view["executionState"], view["exitCode"]) == ("Failed", -1)
    assert "signal 9" in view["executionMessage"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("#!/usr/bin/env python3\nimport sys; print(sys.argv[1:]); sys.exit(3)", 3, "['x']"),
        ("echo $BASH_VERSION | grep -c .", 0, "1"),  # no interpreter named: bash
        ("#!/nonexistent/interpreter\necho never", 127, ""),
    ],
)
def test_interpreters_are_the_script_s_own_choice(managed: Any, script: Any, text: str, code: int, said: str) -> None:
    view = managed.run(script(text, parameters=[{"value": "x"}]))
    assert view["exitCode"] == code
    assert view["output"].strip() == said
    if code == 127:
        assert "interpreter" in view["error"]


@pytest.mark.parametrize(
    ("public", "protected", "reason"),
    [
        ({}, None, "exactly one of"),
        ({"source": {"script": "x"}, "timeoutInSeconds": "soon"}, None, "timeoutInSeconds"),
        ({"source": {"script": "x"}}, b"no json", "are not JSON"),
    ],
)
def test_bad_settings_are_success_and_failed_with_their_code(
    managed: Any, public: Any, protected: Any, reason: str
) -> None:
    managed.enable(public, protected)
    assert managed.ended()["status"] == "success"
    view = managed.view()
    assert (view["executionState"], view["exitCode"]) == ("Failed", -202)
    assert view["executionMessage"].startswith("Execution failed: failed to get configuration: ")
    assert reason in view["executionMessage"]
    assert (view["output"], view["error"]) == ("", "")


def test_a_thumbprint_nobody_has_is_a_configuration_error(managed: Any, script: Any) -> None:
    settings = managed.settings(script("echo never"), {"runAsPassword": "x"})
    (managed.folder.path.parent / f"{settings.thumbprint}.prv").unlink()
    assert managed.command("enable").returncode == 0
    managed.ended()
    view = managed.view()
    assert view["exitCode"] == -202
    assert settings.thumbprint in view["executionMessage"]


def test_missing_settings_are_told_too(managed: Any) -> None:
    assert managed.command("enable").returncode == 0
    managed.ended()
    assert managed.view()["exitCode"] == -202


def test_while_it_runs_it_is_transitioning_and_running(managed: Any, script: Any) -> None:
    managed.enable(script("mkfifo fifo; echo up; read x < fifo; echo $x"))
    managed.started()
    assert managed.status()["status"] == "transitioning"
    view = managed.view()
    assert (view["executionState"], view["executionMessage"], view["endTime"]) == (
        "Running",
        "Execution in progress",
        "",
    )
    (managed.place().work / "fifo").write_text("go\n")
    managed.ended()
    assert managed.view()["output"] == "up\ngo\n"


def test_an_asynchronous_one_is_success_at_once_and_final_later(managed: Any, script: Any, until: Any) -> None:
    managed.enable(script("mkfifo fifo; echo up; read x < fifo; exit 5", asyncExecution=True))
    managed.started()
    assert managed.status()["status"] == "success"
    assert managed.view()["executionState"] == "Running"
    (managed.place().work / "fifo").write_text("go\n")
    managed.ended()
    assert managed.status()["status"] == "success"
    assert (managed.view()["executionState"], managed.view()["exitCode"]) == ("Failed", 5)


def test_the_script_runs_in_its_folder_with_files_where_the_original_has_them(managed: Any, script: Any) -> None:
    view = managed.run(script("pwd; echo $0; stat -c %a $0"))
    folder = managed.folder.path.parent / "run-command-handler" / "download" / "job" / "0"
    assert view["output"].split() == [str(folder), str(folder / "script.sh"), "500"]
    assert (folder / "stdout").read_text() == view["output"]
    assert (folder / "stderr").read_text() == ""
    assert (managed.folder.path / "job.mrseq").read_text() == "0"


def test_what_was_made_is_private(managed: Any, script: Any) -> None:
    managed.run(script("true"), {"runAsPassword": "x"})
    place = managed.place()
    for path in (place.data, place.work, place.record.parent, place.stdout.parent):
        assert path.stat().st_mode & 0o77 == 0, path
    for path in (place.record, place.status_file, place.stdout, place.stderr, place.journal, place.mrseq):
        assert path.stat().st_mode & 0o77 == 0, path


def test_names_do_not_disturb_each_other(managed: Any, script: Any) -> None:
    for name in ("a", "a.1", "a*", "Ünï côde"):
        managed.enable(script(f"echo {name[0]}", parameters=[]), name=name)
    for name in ("a", "a.1", "a*", "Ünï côde"):
        assert managed.ended(name=name)["name"] == name
        assert managed.view(name=name)["output"].strip() == name[0]


def test_the_older_script_and_settings_go_with_a_new_run_outputs_stay(managed: Any, script: Any) -> None:
    managed.run(script("echo first"))
    managed.run(script("echo second"), number=1)
    assert not managed.place(0).work.exists()
    assert managed.place(0).settings_file.read_bytes() == b""
    assert managed.place(0).stdout.read_text() == "first\n"
    assert managed.place(1).settings_file.stat().st_size > 0


def test_background_processes_of_an_ended_script_live_on(managed: Any, script: Any, until: Any) -> None:
    managed.run(script("nohup sh -c 'mkfifo f; echo $$ > pid; read x < f; echo late' & while [ ! -s pid ]; do :; done"))
    pid = int((managed.place().work / "pid").read_text())
    assert Path(f"/proc/{pid}").exists()
    (managed.place().work / "f").write_text("x\n")
    until(lambda: managed.output() == "late\n", "the background process to write on")


def test_secrets_stand_in_no_command_line_and_no_file(managed: Any, script: Any, until: Callable[..., Any]) -> None:
    canary = "CANARY7731"
    managed.enable(
        script("mkfifo fifo; echo up; read x < fifo"),
        {"protectedParameters": [{"name": "SECRET", "value": canary}], "runAsPassword": canary},
    )
    record = managed.started()
    for pid in (record.worker.pid, record.script.pid):
        assert canary.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    (managed.place().work / "fifo").write_text("\n")
    managed.ended()
    for path in managed.folder.path.parent.parent.rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path


def test_the_environment_is_the_handler_s_own(managed: Any, script: Any) -> None:
    view = managed.run(script("echo $ConfigSequenceNumber $ConfigExtensionName"), name="n1", number=4)
    assert view["output"] == "4 n1\n"
