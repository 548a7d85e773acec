"""What `agentctl up` refuses before it makes anything; the rest has a real group (tests/system)."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.deployment import choose


@pytest.mark.parametrize("bad", ["%", '"', "\n", "\\"])
def test_a_root_that_supervisord_cannot_name_is_refused_at_once(tmp_path: Path, bad: str) -> None:
    root = tmp_path / f"r{bad}s"
    command = [sys.executable, "-P", "-m", "agentctl", "up", "--detach", "--no-sample", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert f"supervisord cannot cope with {bad!r} in a path. Choose another folder" in " ".join(done.stderr.split())
    assert not root.exists()


def test_odd_names_that_work_are_not_refused(tmp_path: Path) -> None:
    choose(tmp_path / "a b;#$'ü").check_names()
