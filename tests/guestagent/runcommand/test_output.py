"""What scripts write: whole in files, the end in the status, whatever the bytes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.runcommand.liveness import settle
from guestagent.runcommand.output import KEPT_RUNS, TAIL, tail
from guestagent.statusfile import SIZE_LIMIT, parse_status
from wire.redact import redact


@given(st.binary(max_size=3 * TAIL))
def test_any_bytes_have_a_tail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    text = tail(path)
    assert len(text.encode()) <= TAIL
    assert "\0" not in text
    assert redact(data.decode("utf-8", "replace").replace("\0", "")).endswith(text) or "\ufffd" in text
    assert redact(text) == text or "redacted" in text


@pytest.mark.parametrize("size", [0, 1, TAIL - 1, TAIL, TAIL + 1, 10 * TAIL])
def test_the_tail_is_the_last_4096_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "stdout"
    data = "".join(chr(ord("a") + number % 26) for number in range(size))
    path.write_text(data)
    assert tail(path) == data[-4096:]
    assert tail(tmp_path / "none") == ""


def test_a_character_cut_in_two_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_text("ü" * TAIL + "x")
    assert tail(path) == "ü" * (TAIL // 2 - 1) + "x"


def test_a_secret_that_the_cut_would_halve_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_text("https://x/y?sv=1&sig=" + "CANARY" * 100 + " " + "x" * (TAIL - 300))
    assert "CANARY" not in tail(path)


def test_bytes_that_are_no_text_and_nuls_reach_the_host_as_json(managed: Any, script: Any) -> None:
    managed.enable(script(r"printf 'a\xff\xfeb\0c\x1b[31m\n'; head -c 20000 /dev/zero >&2; printf '\xe2\x82' >&2"))
    managed.ended()
    view = managed.view()
    assert view["output"] == "a\ufffd\ufffdbc\x1b[31m\n"
    assert view["error"] == "\ufffd"
    place = managed.place()
    assert place.stdout.read_bytes() == b"a\xff\xfeb\0c\x1b[31m\n"
    assert place.stderr.read_bytes() == bytes(20000) + b"\xe2\x82"


def test_the_worst_text_still_fits_a_status_file(managed: Any, script: Any) -> None:
    """Each control character becomes seven in JSON within JSON."""
    managed.enable(script("yes $'\\x01' | head -c 9000; yes $'\\x02' | head -c 9000 >&2"))
    managed.ended()
    data = managed.place().status_file.read_bytes()
    assert len(data) < SIZE_LIMIT
    assert json.loads(parse_status(data).message or "")["exitCode"] == 0
    assert len(managed.view()["output"]) == TAIL


def test_a_hundred_megabytes_cost_no_memory(managed: Any, script: Any, until: Callable[..., Any]) -> None:
    size = 100_000_000
    managed.enable(script(f"yes 0123456789abcde | head -c {size}; mkfifo fifo; echo up >&2; read x < fifo"))
    until(lambda: managed.place().stderr.exists() and managed.place().stderr.read_text() == "up\n", "all to be written")
    record = managed.record()
    assert managed.place().stdout.stat().st_size == size
    (managed.place().work / "fifo").write_text("\n")
    status = Path(f"/proc/{record.worker.pid}/status")
    # It looks at the whole once more at its end; the highest mark is read while it is still there.
    peak = 0
    while record.worker.alive():
        try:
            peak = max(peak, int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]))
        except (OSError, IndexError):
            break
    assert 0 < peak < 80_000
    managed.ended()
    assert managed.view()["output"] == ("0123456789abcde\n" * TAIL)[-TAIL:]


def test_progress_is_told_while_it_runs(managed: Any, script: Any, until: Callable[..., Any]) -> None:
    """With a shorter period than the product's, in a worker of the test's own."""
    managed.settings(script("mkfifo fifo; echo first; read x < fifo; echo second"))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from guestagent.runcommand.outside import Outside\n"
        "from guestagent.runcommand.place import own_place\n"
        "from guestagent.runcommand.processes import myself\n"
        "from guestagent.runcommand.record import Record\n"
        "from guestagent.runcommand.worker import Worker\n"
        "place = own_place(Path(sys.argv[1]), {'ConfigExtensionName': 'job'})\n"
        "record = Record(name='job', sequence_number=0, phase='accepted', worker=myself(), mark='m', accepted_at=1.0)\n"
        "Worker(place, record, Outside(), report_seconds=0.1).run()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(managed.folder.path)], start_new_session=True)
    until(
        lambda: managed.place().status_file.exists() and managed.view()["output"] == "first\n",
        "the running view to show output",
    )
    assert managed.view()["executionState"] == "Running"
    assert managed.status()["status"] == "transitioning"
    (managed.place().work / "fifo").write_text("\n")
    assert worker.wait(60) == 0
    assert managed.view()["output"] == "first\nsecond\n"


def test_outputs_of_the_newest_runs_are_kept(managed: Any, script: Any) -> None:
    managed.run(script("echo 0"))
    old = managed.place(0).outputs
    for number in range(1, KEPT_RUNS + 5):
        (old / str(number)).mkdir()
    (old / "no number").mkdir()
    managed.run(script("echo last"), number=KEPT_RUNS + 5)
    kept = {path.name for path in old.iterdir()}
    assert "no number" in kept
    assert len(kept) == KEPT_RUNS + 2
    assert "0" not in kept
    assert str(KEPT_RUNS + 5) in kept


def test_a_full_disk_for_the_output_is_told(managed: Any, script: Any) -> None:
    """A file stands where the folder is to be."""
    managed.place().outputs.parent.mkdir()
    managed.place().outputs.write_text("in the way")
    managed.enable(script("echo never"))
    managed.ended()
    assert managed.view()["exitCode"] == -205
    assert not managed.record().started


def test_a_disk_that_fills_up_ends_no_script_and_its_end_is_told(
    managed: Any, script: Any, until: Callable[..., Any], tmp_path: Path
) -> None:
    """The data lies on a small disk of its own, in a mount namespace; its record cannot be brought to the end."""
    managed.command("install")
    mounts = f"mount -t tmpfs -o size=256k none {managed.place().data}"
    managed.prefix = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "--"]
    managed.settings(script("head -c 2000000 /dev/zero > fill; echo full; echo over >&2"))
    assert managed.command("enable").returncode == 0
    until(lambda: managed.status()["status"] == "success", "the end to be told")
    assert (managed.view()["executionState"], managed.view()["output"]) == ("Succeeded", "full\n")
    assert "No space left" in managed.view()["error"]
    assert "what became of it cannot be written" in managed.place().journal.read_text()


def test_a_status_that_cannot_be_written_ends_no_script(
    managed: Any, script: Any, until: Callable[..., Any], tmp_path: Path
) -> None:
    managed.enable(script(f"mkfifo fifo; echo up; read x < fifo; echo ran > {tmp_path}/ran"))
    managed.started()
    folder = managed.place().status
    away = folder.with_name("away")
    folder.rename(away)
    folder.write_text("in the way")
    (managed.place().work / "fifo").write_text("\n")
    until(lambda: managed.record().phase == "ended", "the record to end")
    assert (tmp_path / "ran").exists()
    folder.unlink()
    away.rename(folder)
    managed.ended()
    settle(managed.folder, "job", 0)
    assert managed.view()["executionState"] == "Succeeded"
