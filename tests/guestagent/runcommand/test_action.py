"""v1, action run command: each row of the facts' table, with real scripts."""

import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest


def message(status: dict[str, Any]) -> str:
    text: str = status["formattedMessage"]["message"]
    return text


def test_a_script_s_output_is_told_in_the_original_s_words(action: Any, encoded: Any) -> None:
    status = action.run({"script": encoded("#!/bin/sh\necho out; echo err >&2"), "timestamp": 12})
    assert "name" not in status
    assert (status["operation"], status["status"], status["formattedMessage"]["lang"]) == ("Enable", "success", "en")
    assert message(status) == "Enable succeeded: \n[stdout]\nout\n\n[stderr]\nerr\n"
    assert (action.folder.path / "mrseq").read_text() == "0"
    assert action.place().status_file.name == "0.status"


def test_the_file_is_a_list_of_one_with_a_number_for_a_version(action: Any, encoded: Any) -> None:
    action.run({"script": encoded("true")})
    (item,) = json.loads(action.place().status_file.read_text())
    assert list(item) == ["version", "timestampUTC", "status"]
    assert item["version"] == 1


@pytest.mark.parametrize("where", ["public", "protected"])
@pytest.mark.parametrize("kind", ["commandToExecute", "script"])
def test_what_to_run_comes_from_either_side(action: Any, encoded: Any, where: str, kind: str) -> None:
    text = "echo $((20 + 3)); pwd"
    found = {kind: text if kind == "commandToExecute" else encoded(text)}
    status = action.run(found if where == "public" else {}, found if where == "protected" else None)
    folder = action.folder.path.parent / "run-command" / "download" / "0"
    assert message(status) == f"Enable succeeded: \n[stdout]\n23\n{folder}\n\n[stderr]\n"


def test_a_zipped_script_is_unzipped(action: Any, encoded: Any) -> None:
    status = action.run({"script": encoded(gzip.compress(b"echo zipped"))})
    assert "zipped" in message(status)


def test_a_script_that_fails_is_success_all_the_same(action: Any, encoded: Any) -> None:
    status = action.run({"script": encoded("echo no; exit 9")})
    assert (status["status"], message(status)) == ("success", "Enable succeeded: \n[stdout]\nno\n\n[stderr]\n")


def test_while_it_runs_there_is_the_placeholder(action: Any) -> None:
    action.enable({"commandToExecute": "mkfifo fifo; echo up; read x < fifo"})
    action.started()
    status = action.status()
    assert (status["status"], message(status)) == ("transitioning", "Enable in progress")
    (action.place().work / "fifo").write_text("\n")
    assert action.ended()["status"] == "success"


@pytest.mark.parametrize(
    ("public", "protected", "reason"),
    [
        ({"commandToExecute": "x", "surprise": 1}, None, "additional property 'surprise' is not allowed"),
        ({"commandToExecute": "x"}, {"commandToExecute": "y"}, "both in public and protected"),
    ],
)
def test_bad_settings_are_an_error(action: Any, public: Any, protected: Any, reason: str) -> None:
    status = action.run(public, protected)
    assert status["status"] == "error"
    assert "failed to get configuration: " in message(status)
    assert message(status).startswith("Enable failed: ")
    assert reason in message(status)


def test_files_are_fetched_beside_the_command(action: Any, files: Any) -> None:
    files.files = {"/a/one.sh": b"\xef\xbb\xbf#!/bin/sh\r\necho one\r\n", "/two.dat": b"\r\n\x00\xff"}
    urls = [f"{files.url}/a/one.sh?sv=1", f"{files.url}/two.dat"]
    status = action.run({"commandToExecute": "./one.sh && od -An -c two.dat", "fileUris": urls})
    assert message(status) == "Enable succeeded: \n[stdout]\none\n  \\r  \\n  \\0 377\n\n[stderr]\n"


def test_files_stay_as_they_are_on_demand(action: Any, files: Any) -> None:
    files.files = {"/one.sh": b"\xef\xbb\xbfecho one\r\n"}
    action.run({"commandToExecute": "true", "skipDos2Unix": True, "fileUris": [f"{files.url}/one.sh"]})
    assert (action.place().work / "one.sh").read_bytes() == b"\xef\xbb\xbfecho one\r\n"


def test_a_file_that_does_not_come_is_an_error_without_its_signature(action: Any, files: Any) -> None:
    status = action.run({"commandToExecute": "true", "fileUris": [f"{files.url}/gone.sh?sv=1&sig=CANARY"]})
    assert status["status"] == "error"
    assert "processing file downloads failed" in message(status)
    assert "404" in message(status)
    assert "CANARY" not in message(status)
    assert not list(Path(action.place().data).glob("download/0/*"))


def test_an_interrupted_one_is_an_error(action: Any) -> None:
    action.enable({"commandToExecute": "echo up; exec sleep 600"})
    record = action.started()
    os.kill(record.worker.pid, signal.SIGKILL)
    assert record.worker.wait(30)
    assert action.command("enable").returncode == 0
    status = action.status()
    assert status["status"] == "error"
    assert message(status).startswith("Enable failed: Execution was interrupted")
