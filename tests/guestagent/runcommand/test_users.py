"""runAsUser: the user's identity, environment and files; no password anywhere, and no way in through a user's links.

Users are made in a mount namespace of the test's own. Needs root, as the product does for this.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

UID, GID, EXTRA = 54321, 54322, 54323
CANARY = "PASSWORD7731"


@pytest.fixture
def home() -> Iterator[Path]:
    """Where a user can get at it: pytest's own folders are root's."""
    path = Path(tempfile.mkdtemp(prefix="runner-home-", dir="/tmp"))
    os.chown(path, UID, GID)
    path.chmod(0o700)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def runner(managed: Any, home: Path, tmp_path: Path) -> Any:
    """The handler on a machine that has a user called runner."""
    passwd, group = tmp_path / "passwd", tmp_path / "group"
    passwd.write_text(Path("/etc/passwd").read_text() + f"runner:x:{UID}:{GID}::{home}:/bin/bash\n")
    group.write_text(Path("/etc/group").read_text() + f"runners:x:{GID}:\nextra:x:{EXTRA}:runner\n")
    mounts = f"mount --bind {passwd} /etc/passwd && mount --bind {group} /etc/group"
    managed.prefix = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "--"]
    return managed


def test_the_script_is_the_user_s(runner: Any, script: Any, files: Any, home: Path) -> None:
    files.files = {"/data": b"artifact"}
    text = """#!/bin/bash
id -u; id -g; id -G; pwd; stat -c '%U %a' "$0"; cat data; echo
echo "$NAMED|$SECRET|$1|$HOME|$USER|$SHELL"
echo to the device > /dev/stderr
touch made
"""
    view = runner.run(
        script(
            text,
            runAsUser="runner",
            parameters=[{"name": "NAMED", "value": "a b"}, {"value": "x; id"}],
            artifacts=[{"id": 1, "uri": f"{files.url}/data", "fileName": "data"}],
        ),
        {"runAsPassword": CANARY, "protectedParameters": [{"name": "SECRET", "value": "s"}]},
    )
    folder = home / "waagent" / "run-command-handler-runas" / "download" / "job" / "0"
    assert view["exitCode"] == 0, view
    assert view["output"].splitlines() == [
        str(UID),
        str(GID),
        f"{GID} {EXTRA}",
        str(folder),
        "runner 500",
        "artifact",
        f"a b|s|x; id|{home}|runner|/bin/bash",
    ]
    assert view["error"] == "to the device\n"
    assert (folder / "made").stat().st_uid == UID
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nothing_of_root_s_environment_gets_there(runner: Any, script: Any) -> None:
    runner.environment = {"ROOTS_SECRET": CANARY, "LANG": "C.UTF-8"}
    view = runner.run(script("env", runAsUser="runner"))
    assert CANARY not in view["output"]
    assert "ConfigSequenceNumber" not in view["output"]
    assert "LANG=C.UTF-8" in view["output"]


def test_the_password_stands_nowhere(runner: Any, script: Any, home: Path) -> None:
    runner.enable(script("mkfifo fifo; echo up; read x < fifo", runAsUser="runner"), {"runAsPassword": CANARY})
    record = runner.started()
    for pid in (record.worker.pid, record.script.pid):
        for name in ("cmdline", "environ"):
            assert CANARY.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    Path(record.work, "fifo").write_text("\n")
    runner.ended()
    for root in (home, runner.folder.path.parent.parent):
        for path in root.rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["nobody-of-that-name", "0", "-u"])
def test_an_unknown_user_is_minus_102(managed: Any, script: Any, tmp_path: Path, name: str) -> None:
    managed.enable(script(f"touch {tmp_path}/ran", runAsUser=name))
    assert managed.ended()["status"] == "success"
    view = managed.view()
    assert (view["executionState"], view["exitCode"]) == ("Failed", -102)
    assert "failed to lookup RunAs user" in view["executionMessage"]
    assert not (tmp_path / "ran").exists()


def test_a_user_without_a_home_has_a_folder_for_the_time(managed: Any, script: Any) -> None:
    view = managed.run(script("pwd; id -un; touch here", runAsUser="nobody"))
    folder, name = view["output"].split()
    assert name == "nobody"
    assert folder.startswith("/tmp/run-command-")
    assert not Path(folder).exists()


def test_the_copy_goes_with_the_next_run(runner: Any, script: Any, home: Path) -> None:
    runner.run(script("true", runAsUser="runner"))
    runner.run(script("true", runAsUser="runner"), number=1)
    folder = home / "waagent" / "run-command-handler-runas" / "download" / "job"
    assert [path.name for path in folder.iterdir()] == ["1"]


@pytest.mark.parametrize("where", ["waagent", "waagent/run-command-handler-runas"])
def test_a_link_in_the_home_leads_root_nowhere(
    runner: Any, script: Any, home: Path, tmp_path: Path, where: str
) -> None:
    precious = tmp_path / "precious"
    (precious / "download" / "job" / "0").mkdir(parents=True)
    (precious / "download" / "job" / "0" / "keep").write_text("kept")
    (home / where).parent.mkdir(exist_ok=True)
    (home / where).symlink_to(precious)
    for path in (home, *home.rglob("*")):
        os.chown(path, UID, GID, follow_symlinks=False)
    view = runner.run(script("pwd", runAsUser="runner"))
    assert view["output"].startswith("/tmp/run-command-")
    assert [path.name for path in precious.rglob("*")] == ["download", "job", "0", "keep"]


def test_the_time_limit_ends_the_user_s_processes_too(runner: Any, script: Any, until: Callable[..., Any]) -> None:
    runner.enable(script("setsid sleep 600 & echo $!; exec sleep 600", runAsUser="runner", timeoutInSeconds=2))
    runner.ended()
    assert runner.view()["executionState"] == "TimedOut"
    assert not Path(f"/proc/{runner.view()['output'].strip()}").exists()


def test_the_agent_s_own_user_needs_no_change(managed: Any, script: Any) -> None:
    view = managed.run(script("pwd; echo $FOO", runAsUser="root", parameters=[{"name": "FOO", "value": "bar"}]))
    assert view["output"] == f"{managed.place().work}\nbar\n"


def test_an_agent_that_is_not_root_cannot_become_somebody_else() -> None:
    code = (
        "import os\n"
        "from guestagent.runcommand.errors import NoSuchUser\n"
        "from guestagent.runcommand.users import find\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "assert find('nobody').is_us\n"
        "try:\n"
        "    find('root')\n"
        "except NoSuchUser as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "to run as 'root' the agent must be root; it is nobody\n", done.stderr
