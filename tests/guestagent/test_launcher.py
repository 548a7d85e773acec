"""Where the runner runs: behind a launcher, in a cgroup, and what becomes of a command when neither will have it."""

import asyncio
import json
from pathlib import Path

import pytest

from guestagent.errors import CommandFailed
from guestagent.operation import Operation, Operations


def operation(folder: Path, command: str, *launcher: str, cgroup: str = "") -> Operation:
    return Operation(
        id="Contoso.Tools.Greeter-1.0-enable-1",
        handler="Contoso.Tools.Greeter",
        version="1.0",
        extension="",
        kind="enable",
        command=command,
        folder=str(folder),
        environment={"PATH": "/usr/bin:/bin"},
        timeout_seconds=60.0,
        launcher=launcher,
        cgroup=cgroup,
    )


def test_a_launcher_starts_the_runner_and_so_the_command(tmp_path: Path) -> None:
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, "nice", "nice", "-n", "7", "--")))
    assert "[stdout]\n7\n" in outcome.output
    assert outcome.outside == ""


def test_a_launcher_that_fails_does_not_keep_the_command_from_running_once(tmp_path: Path) -> None:
    launcher = ("sh", "-c", "echo one >&2; echo no bus here >&2; exit 1")
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, "echo ran >>ran", *launcher)))
    assert outcome.outside == "sh failed: no bus here"
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_launcher_that_says_nothing_and_starts_nothing(tmp_path: Path) -> None:
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, "true", "true")))
    assert outcome.outside == "true failed: no reason given"


def test_the_exit_status_is_the_commands_and_not_the_launchers(tmp_path: Path) -> None:
    # The launcher becomes the runner; one that comes back with an error after it ran changes nothing.
    launcher = ("sh", "-c", '"$@"; exit 5', "sh")
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, "echo ran >>ran", *launcher)))
    assert (outcome.code, outcome.outside) == (0, "")
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_command_that_fails_behind_a_launcher_is_not_run_again(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="ended with 3"):
        asyncio.run(Operations(tmp_path).run(operation(tmp_path, "echo ran >>ran; exit 3", "nice", "--")))
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_the_runner_enters_the_cgroup_before_the_command_starts(tmp_path: Path) -> None:
    """The file is the kernel's on a VM: writing 0 to it moves the writer."""
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "cgroup.procs").touch()
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, f"cat {cgroup}/*", cgroup=str(cgroup))))
    assert "[stdout]\n0\n" in outcome.output
    assert outcome.outside == ""


def test_a_cgroup_that_is_gone_is_told_and_the_command_runs(tmp_path: Path) -> None:
    outcome = asyncio.run(Operations(tmp_path).run(operation(tmp_path, "echo ran", cgroup=str(tmp_path / "gone"))))
    assert "[stdout]\nran\n" in outcome.output
    assert outcome.outside == f"{tmp_path}/gone cannot be entered: No such file or directory"


def test_what_an_earlier_version_wrote_down_is_run(tmp_path: Path) -> None:
    old = operation(tmp_path, "echo ran")
    folder = tmp_path / "operations" / old.id
    folder.mkdir(parents=True)
    content = {name: getattr(old, name) for name in old.__struct_fields__ if name not in {"launcher", "cgroup"}}
    (folder / "operation.json").write_text(json.dumps(content))
    assert "ran" in asyncio.run(Operations(tmp_path).run(old)).output
