"""`azfabric lab` as typed."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import command_line


class Typed:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = command_line(command, "--root", self.root, *arguments)
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def typed(folder: Path) -> Iterator[Typed]:
    one = Typed(folder / "typed")
    done = one("up", "--vm", "a", "--vm", "b@red", "--tenant", "blue", "--static", "--no-host")
    assert done.returncode == 0, done.stderr
    assert "azfabric lab exec a -- COMMAND" in done.stdout
    yield one
    assert one("down").stdout == "Lab lab is gone.\n"
    assert one("down").stdout == "There was no lab lab.\n"


def test_exec_hands_through_output_and_status(typed: Typed) -> None:
    done = typed("exec", "a", "--", "sh", "-c", "hostname; echo wrong >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("a\n", "wrong\n", 7)


def test_options_of_the_command_are_the_commands(typed: Typed) -> None:
    assert typed("exec", "a", "ls", "-d", "/etc").stdout == "/etc\n"


def test_a_fault_is_shown_and_lifted(typed: Typed) -> None:
    ordered = ("--delay", "25ms", "--jitter", "5ms", "--loss", "20%", "--duplicate", "1%", "--direction", "out")
    assert typed("fault", "a", *ordered).stdout == "The cable of a is spoilt.\n"
    found = json.loads(typed("show", "--json").stdout)["vms"][0]
    spoilt = {"delay": 0.025, "jitter": 0.005, "loss": 0.2, "duplicate": 0.01, "direction": "out", "seed": 0}
    assert found["fault"] == spoilt
    assert typed("fault", "a", "--lift").stdout == "The cable of a is whole again.\n"
    assert json.loads(typed("show", "--json").stdout)["vms"][0]["fault"] is None


def test_link_and_probe_are_shown(typed: Typed) -> None:
    assert typed("link", "b", "down").stdout == "The cable of b is plugged out.\n"
    assert typed("probe", "b", "80", "--http", "/health").stdout == "Port 80 of b is probed.\n"
    shown = json.loads(typed("show", "--json").stdout)["vms"][1]
    assert (shown["link"], shown["probes"][0]["http"]) == ("down", "/health")
    assert typed("probe", "b", "80", "--remove").returncode == 0
    assert typed("link", "b", "up").returncode == 0


def test_each_order_answers_in_json(typed: Typed) -> None:
    for words in (("fault", "a", "--loss", "1%"), ("fault", "a", "--lift"), ("link", "a", "up")):
        assert json.loads(typed(*words, "--json").stdout)["name"] == "a"
    assert [one["port"] for one in json.loads(typed("probe", "a", "81", "--json").stdout)["probes"]] == [81]
    assert json.loads(typed("probe", "a", "81", "--remove", "--json").stdout)["probes"] == []
    assert json.loads(typed("list", "--json").stdout) == ["lab"]
    gone = typed("down", "--name", "other", "--json")
    assert json.loads(gone.stdout) == [{"name": "other", "was_there": False}]


def test_show_is_a_table_for_people(typed: Typed) -> None:
    said = typed("show").stdout
    assert said.split()[:3] == ["VM", "TENANT", "ADDRESS"]
    assert "red: DHCP and DNS running" in said


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("exec", "c", "--", "true"), 2, "lab lab has no VM 'c'; it has a, b"),
        (("exec", "host", "--", "true"), 2, "'host' is none of host@blue, host@red"),
        (("exec", "host@green", "--", "true"), 2, "'host@green' is none of host@blue, host@red"),
        (("fault", "a"), 2, "say what to do with packets"),
        (("fault", "a", "--lift", "--loss", "1%"), 2, "or --lift"),
        (("fault", "a", "--loss", "120%"), 2, "'120%' is no share"),
        (("fault", "a", "--delay", "25"), 2, "'25' is no time: say 25ms"),
        (("probe", "a", "0"), 2, "0 is not in the range"),
        (("probe", "a", "80", "--http", "/a b\r\n"), 2, "is no path"),
        (("probe", "a", "81", "--remove"), 1, "port 81 of a is not probed"),
        (("show", "--name", "other"), 3, "no lab other runs here"),
        (("up", "--vm", "A"), 2, "'A' is no name"),
        (("up", "--name", "../x"), 2, "'../x' is no name"),
        (("down", "--name", "../x"), 2, "'../x' is no name"),
    ],
)
def test_what_is_wrong_is_said(typed: Typed, arguments: tuple[str, ...], status: int, why: str) -> None:
    done = typed(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert why in " ".join(done.stderr.split())


def test_all_labs_end_at_once(folder: Path) -> None:
    typed = Typed(folder / "all")
    for name in ("one", "two"):
        assert typed("up", "--no-host", "--name", name).returncode == 0
    assert typed("list").stdout == "one\ntwo\n"
    assert typed("down", "--all").stdout == "Lab one is gone.\nLab two is gone.\n"
    assert typed("list").stdout == ""


def test_a_command_has_roots_environment_and_not_its_callers(typed: Typed) -> None:
    found = dict(line.partition("=")[::2] for line in typed("exec", "a", "--", "env").stdout.splitlines())
    assert (found["HOME"], found["USER"]) == ("/root", "root")
    assert "LAB_MARK" not in found
