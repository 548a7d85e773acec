"""The command azfabric: what it teaches, its exit status, and that nothing the VM says harms its user."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from fabric.cli import cli
from fabric.errors import FabricError, NoHost
from fabric.faults import ENDPOINTS, FAULTS
from tests.fabric.conftest import NAME, RunningHost, handler_status, package, run_azfabric, status_blob, until, vm_of


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "greeter.zip"
    path.write_bytes(package())
    return path


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def in_process(*arguments: str) -> Result:
    """For what ends before a host is asked: the same command without the price of a process."""
    return CliRunner().invoke(cli, arguments, prog_name="azfabric")


# -- what it teaches -----------------------------------------------------------------------------------------------


def test_help_teaches_the_first_steps_and_the_exit_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fabric", "--help"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0
    text = done.stdout
    assert text.startswith("Usage: azfabric ")
    for word in ("azfabric ext add PACKAGE.zip", "azfabric told", "azfabric fault add", "agentctl up"):
        assert word in text
    assert re.search(r"Exit status: 0 .*1 .*2 .*3 ", text, re.DOTALL)
    for command in ("serve", "told", "vm", "ext", "fault"):
        assert re.search(rf"^  {command} +\w", text, re.MULTILINE), command


COMMANDS = ["serve", "told", "vm list", "ext add", "ext remove", "ext list", "fault add", "fault list", "fault clear"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_names_the_root(command: str) -> None:
    text = in_process(*command.split(), "-h").output
    assert "--root" in text
    # Each option says what it is for.
    options = re.split(r"\n  (?=-)", text.partition("Options:")[2].partition("\n\n")[0])
    assert all(len(one.split()) > 3 for one in options if one.strip())


def leaves(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    """Every command there is, by its words."""
    for name, one in group.commands.items():
        if isinstance(one, click.Group):
            yield from leaves(one, *before, name)
        else:
            yield " ".join([*before, name]), one


@pytest.mark.parametrize(("words", "command"), [one for one in leaves(cli) if one[0] not in {"serve", "lab exec"}])
def test_every_command_speaks_json(words: str, command: click.Command) -> None:
    found = [one.opts for one in command.params if one.name == "as_json"]
    assert found == [["--json"]], words


ORDERS = [
    ["vm", "add", "other", "--own-ports"],
    ["vm", "remove", "other"],
    ["vm", "move"],
    ["certificate", "rotate"],
    ["certificate", "add", "--ec"],
    ["hold", "off"],
    ["fast-track", "on"],
    ["require"],
    ["probe", "80"],
    ["ext", "add", "--sample"],
    ["ext", "remove", "Azvmagent.Samples.Hello"],
    ["want", "--clear"],
    ["run", __file__],
    ["run", "--remove", "run"],
    ["fault", "add", "versions", "reset"],
    ["fault", "lift", "1"],
    ["fault", "clear"],
    ["scenario", "stop"],
]


def test_orders_are_answered_in_json_and_nothing_else(own_host: RunningHost) -> None:
    for words in ORDERS:
        done = in_process(*words, "--json", "--root", str(own_host.root))
        assert done.exit_code == 0, f"{words}: {done.output}"
        assert isinstance(json.loads(done.stdout), dict), words


@pytest.mark.parametrize("name", ["../x", "", "a b", "/", "x" * 64])
def test_a_family_with_an_impossible_name_is_told_what_names_are(tmp_path: Path, name: str) -> None:
    package = written(tmp_path, "x-1.0.zip", b"")
    done = in_process("family", "publish", name, str(package), "--root", str(tmp_path))
    assert str(done.exception) == f"a family is called by up to 63 letters, digits, dots and dashes, not {name!r}"


def test_fault_add_explains_every_fault() -> None:
    text = re.sub(r"\s+", " ", in_process("fault", "add", "-h").output)
    for name, meaning in FAULTS.items():
        assert f"{name} {meaning}" in text
    assert all(endpoint in text for endpoint in ENDPOINTS)


# -- exit status ---------------------------------------------------------------------------------------------------

NEEDS_HOST = ["told", "vm list", "ext list", "fault list", "fault clear", "ext remove A.B", "fault add package reset"]


@pytest.mark.parametrize("command", [*NEEDS_HOST, "ext add --sample"])
def test_every_command_needs_a_host(tmp_path: Path, command: str) -> None:
    done = in_process(*command.split(), "--root", str(tmp_path))
    assert isinstance(done.exception, NoHost)
    assert done.output == ""


def test_without_a_host_it_is_3_and_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_azfabric(tmp_path, "told", check=3)
    assert f"azfabric serve --root {tmp_path}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"portal": 5}'])
def test_a_damaged_endpoints_file_is_no_host(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fabric").mkdir()
    written(tmp_path / "fabric", "endpoints.json", content)
    assert isinstance(in_process("told", "--root", str(tmp_path)).exception, NoHost)


def test_a_host_that_was_killed_is_no_host(own_host: RunningHost) -> None:
    own_host.kill()
    done = run_azfabric(own_host.root, "told", check=3)
    assert "does not answer" in done.stderr
    own_host.start()
    run_azfabric(own_host.root, "told")


WRONG_USE = [
    "nonsense",
    "ext add",
    "ext add /nowhere/package.zip",
    "ext add /",
    "ext add --sample --settings /nowhere.json",
    "ext add --sample --protected /nowhere.json",
    "ext add --sample --wait -1",
    "ext add --sample --wait soon",
    "ext remove",
    "fault add package",
    "fault add nowhere reset",
    "fault add package nothing",
    "fault add package status --value many",
    "fault add package reset --count 1.5",
    "told --unknown",
    "serve --blob-port 70000",
    "serve --blob-port -1",
]


@pytest.mark.parametrize("command", WRONG_USE)
def test_wrong_use_is_2_and_says_what_is_right(command: str) -> None:
    done = in_process(*command.split())
    assert done.exit_code == 2
    assert done.output.startswith("Usage: azfabric ")
    assert "Error: " in done.output


def test_a_package_and_the_sample_at_once_is_wrong_use(host: RunningHost, zipped: Path) -> None:
    run_azfabric(host.root, "ext", "add", zipped, "--sample", check=2)


REFUSED = ["ext remove ../faults", "ext remove a?now=true", "fault add package status --value 99"]


@pytest.mark.parametrize("command", REFUSED)
def test_what_the_host_refuses_is_1_with_its_reason(host: RunningHost, command: str) -> None:
    host.fault("imds", "slow", 0)
    before = vm_of(host).incarnation
    done = run_azfabric(host.root, *command.split(), check=1)
    assert re.match("azfabric: .{10,}\n", done.stderr)
    assert done.stdout == ""
    assert vm_of(host).incarnation == before
    assert host.api("DELETE", "/api/faults") == {"lifted": 1}


BAD_PACKAGES = {"empty.zip": b"", "text.zip": b"no zip", "cut.zip": package()[:-30]}


@pytest.mark.parametrize("name", BAD_PACKAGES)
def test_a_package_that_is_none_is_1(host: RunningHost, tmp_path: Path, name: str) -> None:
    done = run_azfabric(host.root, "ext", "add", written(tmp_path, name, BAD_PACKAGES[name]), check=1)
    assert "zip" in done.stderr


def test_a_package_without_a_name_says_which_option_names_it(host: RunningHost, tmp_path: Path) -> None:
    bare = written(tmp_path, "bare.zip", package(name=".", version=""))
    assert "--name Publisher.Type" in run_azfabric(host.root, "ext", "add", bare, check=1).stderr
    assert "--version" in run_azfabric(host.root, "ext", "add", bare, "--name", "A.B", check=1).stderr
    run_azfabric(host.root, "ext", "add", bare, "--name", "A.B", "--version", "1.0")


BAD_SETTINGS: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "not UTF-8": b'{"a": "\xff"}',
    "half a character": '{"a": "\\ud800"}',
    "NaN": '{"a": NaN}',
    "deep": '{"a":' * 100_000,
    "rather deep": '{"a":' * 300 + "1" + "}" * 300,
    "a huge number": '{"a": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("content", BAD_SETTINGS.values(), ids=BAD_SETTINGS.keys())
def test_settings_that_are_none_are_refused_and_nothing_is_wanted(
    host: RunningHost, tmp_path: Path, zipped: Path, content: str | bytes
) -> None:
    before = vm_of(host).incarnation
    path = str(written(tmp_path, "settings.json", content))
    for option in ("--settings", "--protected"):
        done = in_process("ext", "add", str(zipped), option, path, "--root", str(host.root))
        assert isinstance(done.exception, FabricError)
        assert "settings.json" in str(done.exception) or "levels" in str(done.exception)
    assert vm_of(host).incarnation == before


def test_bad_settings_are_1(host: RunningHost, tmp_path: Path, zipped: Path) -> None:
    path = written(tmp_path, "settings.json", "[]")
    assert "settings.json" in run_azfabric(host.root, "ext", "add", zipped, "--settings", path, check=1).stderr


# -- orders --------------------------------------------------------------------------------------------------------


def test_ext_add_list_and_remove(host: RunningHost, tmp_path: Path, zipped: Path) -> None:
    public = written(tmp_path, "public.json", '\ufeff{"who": "w\u00f6rld"}')
    secret = written(tmp_path, "secret.json", '{"word": "sesame"}')
    done = run_azfabric(host.root, "ext", "add", zipped, "--settings", public, "--protected", secret)
    assert re.fullmatch(rf"{NAME} 1\.0\.0 is wanted, sequence number \d+\.\n", done.stdout)
    listed = json.loads(run_azfabric(host.root, "ext", "list", "--json").stdout)
    (one,) = [one for one in listed if one["name"] == NAME]
    assert one["public"] == {"who": "w\u00f6rld"}
    assert one["protected"]
    assert "sesame" not in json.dumps(listed)
    assert NAME in run_azfabric(host.root, "ext", "list").stdout
    assert "uninstalled" in run_azfabric(host.root, "ext", "remove", NAME).stdout
    assert "uninstall" in run_azfabric(host.root, "ext", "list").stdout
    assert "vanished" in run_azfabric(host.root, "ext", "remove", NAME, "--now").stdout
    assert NAME not in run_azfabric(host.root, "ext", "list").stdout


def test_fast_track_is_no_new_incarnation(host: RunningHost, zipped: Path) -> None:
    before = vm_of(host).incarnation
    run_azfabric(host.root, "ext", "add", zipped, "--fast-track")
    run_azfabric(host.root, "ext", "remove", NAME, "--fast-track")
    vm = vm_of(host)
    assert vm.incarnation == before
    states = {one["name"]: one["state"] for one in vm.vm_settings()["extensionGoalStates"]}
    assert states[NAME] == "uninstall"


def test_an_order_by_fast_track_that_nobody_may_read_is_told_so(own_host: RunningHost, zipped: Path) -> None:
    said = "has never asked for vmSettings"
    orders: list[tuple[str | Path, ...]] = [
        ("ext", "add", zipped),
        ("ext", "remove", NAME),
        ("run", zipped, "--name", "a"),
        ("run", "--remove", "a"),
    ]
    for order in orders:
        assert said in run_azfabric(own_host.root, *order, "--fast-track").stderr
        assert said not in run_azfabric(own_host.root, *order).stderr
    vm_of(own_host).vm_settings()
    assert said not in run_azfabric(own_host.root, "ext", "add", zipped, "--fast-track").stderr


def test_the_sample_has_settings_of_its_own(host: RunningHost) -> None:
    run_azfabric(host.root, "ext", "add", "--sample")
    listed = json.loads(run_azfabric(host.root, "ext", "list", "--json").stdout)
    assert {"who": "world"} in [one["public"] for one in listed if one["name"] == "Azvmagent.Samples.Hello"]


def test_faults_are_added_listed_and_cleared(host: RunningHost) -> None:
    done = run_azfabric(host.root, "fault", "add", "package", "status", "--value", "403", "--count", "2")
    assert "answer with HTTP status" in done.stdout
    (rule,) = json.loads(run_azfabric(host.root, "fault", "list", "--json").stdout)
    assert (rule["endpoint"], rule["fault"], rule["value"], rule["count"]) == ("package", "status", 403, 2)
    assert "package" in run_azfabric(host.root, "fault", "list").stdout
    assert run_azfabric(host.root, "fault", "clear").stdout == "1 faults lifted.\n"
    assert json.loads(run_azfabric(host.root, "fault", "list", "--json").stdout) == []


def test_vm_list(host: RunningHost) -> None:
    (one,) = json.loads(run_azfabric(host.root, "vm", "list", "--json").stdout)
    assert one["container_id"] == vm_of(host).container_id
    assert "vm1" in run_azfabric(host.root, "vm", "list").stdout


# -- told ----------------------------------------------------------------------------------------------------------


def test_told_json_is_what_the_vm_told(host: RunningHost) -> None:
    vm = vm_of(host)
    vm.health()
    blob = status_blob(handler_status())
    vm.report(blob)
    told = json.loads(run_azfabric(host.root, "told", "--json").stdout)
    assert told["ready"] is True
    assert told["status"] == json.loads(blob)
    assert {"heartbeats", "health", "events", "observations"} <= set(told)


def test_told_for_people(host: RunningHost) -> None:
    vm = vm_of(host)
    vm.health("NotReady", "<Details><SubStatus>Sub</SubStatus><Description>why</Description></Details>")
    vm.report(status_blob(handler_status(message="[red]markup[/red] [/] done")))
    text = run_azfabric(host.root, "told").stdout
    for word in ("Not Ready", "Sub: why", NAME, "success", "[red]markup[/red] [/] done"):
        assert word in re.sub(r"\s+", " ", text), word


def test_nothing_the_vm_says_steers_the_terminal(host: RunningHost) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202egnp.exe\x00"
    vm = vm_of(host)
    vm.report(status_blob(handler_status(name=f"A{evil}", version=evil, message=evil, status=evil)))
    one = {"ObservationName": evil, "IsHealthy": True, "Description": evil, "Value": evil}
    host.call("wireserver", "POST", "/HealthService", json={"Observations": [one]})
    text = run_azfabric(host.root, "told").stdout
    assert not set(text) & set("\x1b\x07\x9b\u202e\x00")
    assert "title" in text


# -- waiting -------------------------------------------------------------------------------------------------------


@contextmanager
def a_vm_that_reports(host: RunningHost, *blobs: bytes) -> Iterator[None]:
    """After the next order, these status blobs, one after another."""
    known = vm_of(host).incarnation

    def live() -> None:
        until(lambda: vm_of(host).incarnation != known, "an order")
        for blob in blobs:
            vm_of(host).report(blob)

    thread = threading.Thread(target=live)
    thread.start()
    yield
    thread.join()


def test_wait_ends_with_success(host: RunningHost, tmp_path: Path, zipped: Path) -> None:
    settings = written(tmp_path, "s.json", "{}")
    sequence = host.add(settings={})["sequence_number"] + 1
    # Neither the sequence number before nor a passing state is the answer.
    old = status_blob(handler_status(sequence=sequence - 1, status="error", message="old"))
    passing = status_blob(handler_status(sequence=sequence, status="transitioning"))
    done = status_blob(handler_status(sequence=sequence, message="all is well"))
    with a_vm_that_reports(host, old, passing, done):
        ended = run_azfabric(host.root, "ext", "add", zipped, "--settings", settings, "--wait", "30")
    assert ended.stdout.endswith(f"{NAME}: success: all is well\n")


def test_wait_for_an_extension_that_fails_is_1(host: RunningHost, tmp_path: Path, zipped: Path) -> None:
    settings = written(tmp_path, "s.json", "{}")
    sequence = host.add(settings={})["sequence_number"] + 1
    failed = status_blob(handler_status(sequence=sequence, status="error", message="\x1b[31mit broke"))
    with a_vm_that_reports(host, failed):
        ended = run_azfabric(host.root, "ext", "add", zipped, "--settings", settings, "--wait", "30", check=1)
    assert ended.stdout.endswith(f"{NAME}: error: \ufffd[31mit broke\n")


def test_wait_for_a_handler_that_cannot_be_installed_is_1(host: RunningHost, zipped: Path) -> None:
    broken = {
        "handlerName": NAME,
        "handlerVersion": "1.0.0",
        "status": "NotReady",
        "formattedMessage": {"lang": "en-US", "message": "no install"},
    }
    with a_vm_that_reports(host, b"garbage", status_blob(broken)):
        ended = run_azfabric(host.root, "ext", "add", zipped, "--wait", "30", check=1)
    assert "error: no install" in ended.stdout


def test_wait_without_settings_is_for_the_handler(host: RunningHost, zipped: Path) -> None:
    ready = {"handlerName": NAME, "handlerVersion": "1.0.0", "status": "Ready"}
    with a_vm_that_reports(host, status_blob(ready)):
        run_azfabric(host.root, "ext", "add", zipped, "--wait", "30")


def test_wait_that_sees_nothing_is_1_and_says_where_to_look(host: RunningHost, zipped: Path) -> None:
    host.add("Contoso.Tools.Reset")
    vm_of(host).report(status_blob())
    done = run_azfabric(host.root, "ext", "add", zipped, "--wait", "0.1", check=1)
    assert "within 0.1 s" in done.stderr
    assert "azfabric told" in done.stderr


@pytest.mark.parametrize("status", ["Ready", "NotReady"])
def test_what_was_said_before_the_order_is_no_answer_to_it(host: RunningHost, zipped: Path, status: str) -> None:
    vm_of(host).report(status_blob({"handlerName": NAME, "handlerVersion": "1.0.0", "status": status}))
    done = run_azfabric(host.root, "ext", "add", zipped, "--wait", "0.3", check=1)
    assert "no final status" in done.stderr


def test_a_host_that_answers_nonsense_is_1(tmp_path: Path) -> None:
    """Something else listens at the port the host had."""
    (tmp_path / "fabric").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        written(tmp_path / "fabric", "endpoints.json", json.dumps({"portal": address}))

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        done = run_azfabric(tmp_path, "told", check=1)
        thread.join()
    assert "no JSON" in done.stderr


def test_a_command_loads_nothing_of_the_server() -> None:
    """Each call of the command would pay for it, and scripts make many."""
    heavy = ("sqlalchemy", "fastapi", "uvicorn")
    code = f"import sys, fabric.cli; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
