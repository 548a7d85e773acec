"""One at a time: threads, processes, and who is killed meanwhile."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fabric.errors import Busy, Unwritable
from fabric.locking import locked

HOLDER = """
import sys
from pathlib import Path
from fabric.locking import locked
with locked(Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_threads_take_turns(tmp_path: Path) -> None:
    inside, most, count = 0, 0, 0
    start = threading.Barrier(8)

    def act(_: int) -> None:
        nonlocal inside, most, count
        start.wait(30)
        for _ in range(20):
            with locked(tmp_path / "lock", 30):
                inside += 1
                most = max(most, inside)
                before = count
                (tmp_path / "file").write_bytes(b"lets another thread run")
                count = before + 1
                inside -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(8)))
    assert (most, count) == (1, 160)


def test_another_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "lock"
    command = [sys.executable, "-P", "-c", HOLDER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Busy, match="another worker"), locked(file, 0.05):
            pytest.fail("two at a time")
        holder.kill()
        with locked(file, 30):
            pass


def test_a_place_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unwritable), locked(tmp_path / "file" / "lock", 1):
        pass
