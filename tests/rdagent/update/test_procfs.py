"""The counters of real processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from agentctl.processes import wait_until
from rdagent.config import UpdateSettings
from rdagent.update import procfs
from rdagent.update.usage import Tally

_MIB = 1 << 20

WRITES = """
import os, subprocess, sys, threading
pipe = os.open(os.devnull, os.O_WRONLY)
def write(mib):
    for _ in range(mib):
        os.write(pipe, bytes(1 << 20))
for line in sys.stdin:
    what, mib = line.split()
    if what == "self":
        write(int(mib))
    if what == "child":
        code = f"import os\\nfor _ in range({mib}): os.write(2, bytes(1 << 20))"
        subprocess.run([sys.executable, "-c", code], stderr=pipe, check=True)
    if what == "thread":
        threading.Thread(target=lambda: (write(int(mib)), threading.Event().wait()), daemon=True).start()
    if what == "ends":
        thread = threading.Thread(target=write, args=[int(mib)])
        thread.start()
        thread.join()
    print("done", flush=True)
"""
BURNS = "while True: pass"


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield child
        child.kill()


def order(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdin
    assert child.stdout
    child.stdin.write(f"{word}\n")
    child.stdin.flush()
    assert child.stdout.readline() == "done\n"


def written(child: subprocess.Popen[str]) -> float:
    usage = procfs.usage(child.pid)
    assert usage
    return sum(usage.written.values()) / _MIB


def test_what_its_threads_wrote_is_seen_and_what_its_children_wrote_is_not() -> None:
    with running(WRITES) as child:
        order(child, "self 3")
        assert 3 <= written(child) < 4
        order(child, "child 50")
        assert 3 <= written(child) < 4
        order(child, "thread 5")
        assert wait_until(lambda: 8 <= written(child) < 9, 30)


def test_what_threads_wrote_that_have_ended_is_seen_and_what_children_wrote_is_not() -> None:
    """The gate counts 32 MiB for these settings as a flood: four times what a trial of 8 s may write."""
    settings = UpdateSettings(trial_written=1.0, trial_seconds=1.0, trial_limit=8.0)
    tally, seen = Tally(), list[str]()
    with running(WRITES) as child:
        for word in ("self 1", "child 50", "ends 20", "child 50", "ends 20", "self 1"):
            order(child, word)
            usage = procfs.usage(child.pid)
            assert usage
            tally.note(usage, counts=True)
            seen.append(tally.why_flooded(settings))
    assert seen[:4] == [""] * 4
    assert seen[4:] == [f"writes without end: {mib} MiB so far, limit 32 MiB" for mib in (40, 41)]


def test_its_time_on_the_processor_is_seen() -> None:
    def burnt(child: subprocess.Popen[str]) -> float:
        usage = procfs.usage(child.pid)
        return usage.cpu_seconds if usage else 0.0

    with running(BURNS) as child:
        assert wait_until(lambda: burnt(child) > 0.5, 60)
        assert (procfs.resident(child.pid) or 0) > _MIB


def test_of_who_is_gone_nothing_is_known() -> None:
    with running(BURNS) as child:
        pass
    for pid in (None, child.pid):
        assert procfs.usage(pid) is None
        assert procfs.resident(pid) is None
