"""Seeded failures, each with the verdict and the next step a person is told. Asked by the real command."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., bytes]


def test_all_is_well(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    found = life.verdict("well")
    stages = [(link["stage"], link["ok"]) for link in found["chain"]]
    assert stages == [
        ("goal state", True),
        ("package", True),
        ("command", True),
        ("command", True),
        ("status file", True),
        ("report", True),
    ]
    assert "pid" in found["chain"][3]["text"]
    assert "ended with 0" in found["chain"][3]["text"]


@pytest.mark.parametrize("status", [403, 404, 409, 503])
def test_a_repository_that_says_no_is_the_platforms_fault(life: Any, make_package: Make, status: int) -> None:
    life.fault("package", "status", status)
    life.fault("artifact", "status", status)
    life.want(make_package())
    life.verdict("platform", f"HTTP {status}", "tried again by itself")


def test_a_repository_that_cannot_be_reached_is_the_networks_fault(life: Any, make_package: Make) -> None:
    life.fault("manifest", "reset")
    life.fault("artifact", "reset")
    life.want(make_package())
    life.verdict("network", "repository")


def test_a_package_that_is_no_zip_is_the_repositorys_fault(life: Any, make_package: Make) -> None:
    life.fault("package", "wrong-bytes")
    life.fault("artifact", "wrong-bytes")
    life.want(make_package())
    life.verdict("platform", "zip")


def test_a_manifest_that_cannot_be_read_is_the_repositorys_fault(life: Any, make_package: Make) -> None:
    life.fault("manifest", "wrong-bytes")
    life.fault("artifact", "wrong-bytes")
    life.want(make_package())
    life.verdict("platform", "PluginVersionManifest", f"/manifests/{life.name}.xml")


def test_a_version_nobody_published_is_the_repositorys_fault(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.goal({"version": "9.0.0", "settings": {}})
    life.verdict("platform", "9.0.0", "1.0.0 goes on")
    told = life.failed()
    assert (told["handlerVersion"], told["status"]) == ("1.0.0", "Ready")


@pytest.mark.parametrize(
    ("body", "expected", "words"),
    [
        ("echo boom >&2; exit 1", "extension", ["boom", "ended with 1", "agentctl ext logs"]),
        ("exit 51", "platform", ["does not support this machine"]),
        ("no-such-interpreter", "platform", ["a program it needs is not on this machine"]),
        ('status error "my own fault"', "extension", ["my own fault"]),
        ('echo "{" > "$AZURE_GUEST_AGENT_EXTENSION_PATH/status/0.status"', "extension", ["nobody can read"]),
        ("kill -9 $$", "extension", ["ended with 137"]),
    ],
)
def test_what_its_commands_do_is_its_own_fault_or_the_machines(
    life: Any, make_package: Make, body: str, expected: str, words: list[str]
) -> None:
    life.want(make_package({"enable": f"set -e; {body}"}))
    life.verdict(expected, *words)


def test_an_extension_that_says_nothing_is_waited_for(life: Any, make_package: Make) -> None:
    life.want(make_package({"enable": ":"}))
    life.until(lambda: life.calls("end enable"), "enable to end")
    life.verdict("waiting", "was not written")


def test_a_failed_update_is_told_with_its_way_back(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.want(make_package({"update": "exit 3"}), "1.1.0")
    life.verdict("extension", "update to 1.1.0 failed, 1.0.0 is enabled again")


def test_a_chain_of_dependencies_leads_to_the_one_that_failed(life: Any, make_package: Make) -> None:
    life.publish(make_package({"enable": 'status error "the cause"'}))
    life.publish(make_package(supportsMultipleExtensions=True), name=life.other)
    first = {"name": "a", "settings": {}, "dependency_level": 1, "depends_on": [life.name]}
    second = {"name": "b", "settings": {}, "dependency_level": 2, "depends_on": [f"{life.other}/a"]}
    life.goal({"settings": {}}, {"name": life.other, "instances": [first, second]})
    for extension in ("a", "b"):
        found = life.verdict("extension", "the cause", name=life.other, extension=extension)
        assert found["next_step"] == f"agentctl explain {life.name}"


def test_what_nobody_asked_for_is_unknown(life: Any) -> None:
    done = life.agentctl("explain", "Nobody.Knows")
    assert done.returncode == 1
    assert "no extension 'Nobody.Knows' is known" in done.stderr


def test_retry_runs_what_failed_once_more(life: Any, make_package: Make) -> None:
    flag = life.root / f"{life.name}.flag"
    life.want(make_package({"enable": f'test -f {flag} || exit 9; status success "at last"'}))
    life.failed()
    flag.touch()
    short = life.name.partition(".")[2].lower()
    done = life.agentctl("ext", "retry", short)
    assert done.returncode == 0, done.stderr
    life.ready()
    assert life.agentctl("ext", "retry", short).returncode == 1
    assert len(life.calls("begin enable")) == 2


def test_list_show_and_logs(life: Any, make_package: Make) -> None:
    life.want(make_package({"enable": 'echo out; echo err >&2; status success "done"'}))
    life.ready()
    listed = json.loads(life.agentctl("ext", "list", "--json").stdout)
    assert [one["status"] for one in listed if one["name"] == life.name] == ["success"]
    assert life.name in life.agentctl("ext", "list").stdout
    shown = json.loads(life.agentctl("ext", "show", life.name, "--json").stdout)
    assert [one["kind"] for one in shown["operations"]] == ["install", "enable"]
    assert shown["operations"][1]["environment"]["ConfigSequenceNumber"] == "0"
    assert [one["state"] for one in shown["folders"]] == ["Enabled"]
    assert f"{life.name}-1.0.0" in life.agentctl("ext", "show", life.name).stdout
    logs = life.agentctl("ext", "logs", life.name)
    assert (logs.stdout, "err" in logs.stderr) == ("out\n", True)


def test_each_command_has_one_heading_in_the_logs(life: Any, make_package: Make) -> None:
    waits = 'until [ -f "$go.$ConfigExtensionName" ]; do sleep 0.1; done'
    speaks = 'echo "out $ConfigExtensionName"; echo "err $ConfigExtensionName" >&2'
    life.publish(make_package({"enable": f"{waits}; {speaks}"}, supportsMultipleExtensions=True))
    life.goal({"instances": [{"name": "a", "settings": {}}, {"name": "b", "settings": {}}]})
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    command = [sys.executable, "-m", "agentctl", "ext", "logs", "-f", life.name, "--root", str(life.root)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as follower:
        assert follower.stderr is not None
        told = [follower.stderr.readline()]
        for name in ("a", "b"):
            (life.root / f"{life.go.name}.{name}").touch()
            told += [follower.stderr.readline() for _ in range(2 if name == "a" else 1)]
        follower.terminate()
    assert told == ["==> enable 1.0.0 a\n", "err a\n", "==> enable 1.0.0 b\n", "err b\n"]
    whole = life.agentctl("ext", "logs", life.name, "--all")
    assert whole.stdout == "out a\nout b\n"
    assert whole.stderr.splitlines() == ["==> install 1.0.0 a", *(line.strip() for line in told)]


def test_logs_are_followed_live(life: Any, make_package: Make) -> None:
    waiting = 'echo first; until [ -f "$go" ]; do sleep 0.1; done; echo second; status success x'
    life.want(make_package({"enable": waiting}))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    command = [sys.executable, "-m", "agentctl", "ext", "logs", "-f", life.name, "--kind", "enable"]
    with subprocess.Popen([*command, "--root", str(life.root)], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        life.go.touch()
        assert follower.stdout.readline() == "second\n"
        follower.terminate()


def test_a_program_that_its_own_package_lacks_is_its_publishers_fault(life: Any, make_package: Make) -> None:
    life.want(make_package(enableCommand="bin/nothere enable"))
    life.verdict("extension", "its package has no bin/nothere", "its publisher")
