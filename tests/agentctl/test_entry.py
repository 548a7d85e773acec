"""Ctrl-C while a command is still loading: it ends as by the signal, without a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

_GATE = """
import sys

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            sys.meta_path.remove(self)
            print("loading", flush=True)
            sys.stdin.readline()

sys.meta_path.insert(0, Gate())
"""
"""A sitecustomize that stops the command in the middle of its imports, until a line comes."""


def loading(tmp_path: Path, module: str, *, ignored: bool) -> subprocess.Popen[str]:
    (tmp_path / "sitecustomize.py").write_text(_GATE)
    trap = "trap '' INT; " if ignored else ""
    child = subprocess.Popen(
        ["/bin/sh", "-c", f'{trap}exec "$0" -m {module} --version', sys.executable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "loading\n"
    return child


@pytest.mark.parametrize("module", ["agentctl", "fabric"])
def test_ctrl_c_while_it_loads(tmp_path: Path, module: str) -> None:
    child = loading(tmp_path, module, ignored=False)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("module", ["agentctl", "fabric"])
def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path: Path, module: str) -> None:
    child = loading(tmp_path, module, ignored=True)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate("\n", timeout=60)
    assert (child.returncode, "version" in out, err) == (0, True, "")
