"""Run Command from the host's side: append blobs, multi-config goal states, `azfabric run` with a real guestagent."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agentctl.processes import end, with_environment
from fabric.appendblobs import BLOCK_LIMIT
from fabric.runview import seen
from wire.extensions import ExtensionsGoalState
from wire.extensionsconfig import parse_extensions_config
from wire.vmsettings import parse_vm_settings

PATIENCE = 60.0
ACTION = "Microsoft.CPlat.Core.RunCommandLinux"
MANAGED = "Microsoft.CPlat.Core.RunCommandHandlerLinux"
_ASKING = {"x-ms-version": "2012-11-30", "x-ms-agent-name": "test"}


class Host:
    """`azfabric serve` on a root, and one guestagent if it is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with (root / "fabric.out").open("wb") as log:
            command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(root)]
            self._serving = subprocess.Popen(command, stdout=log, stderr=log)
        file = root / "fabric" / "endpoints.json"
        until_true(file.exists, "the host to listen")
        self.endpoints: dict[str, Any] = json.loads(file.read_text())
        lines = [f'{name} = "{self.endpoints[name]}"' for name in ("wireserver", "hostgaplugin", "imds")]
        (root / "azvmagent.toml").write_text("\n".join(["[host]", *lines, ""]))
        self._agent: subprocess.Popen[bytes] | None = None

    def start_agent(self) -> None:
        with (self.root / "guestagent.out").open("ab") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-P", "-m", "guestagent"],
                env={**os.environ, "AZVMAGENT_ROOT": str(self.root)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_agent(self) -> None:
        assert self._agent is not None
        self._agent.kill()
        self._agent.wait(30)

    def azfabric(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "fabric", *arguments, "--root", str(self.root)]
        return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)

    def run(self, text: str, *arguments: str, wait: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        script = self.root / "script.sh"
        script.write_text(text)
        waiting = ["--wait", str(wait)] if wait else []
        return self.azfabric("run", str(script), *waiting, *arguments)

    def status(self, handler: str = MANAGED, name: str = "run") -> dict[str, Any]:
        """The newest report of one run."""
        told = json.loads(self.azfabric("told", "--json").stdout)
        aggregate = (told.get("status") or {}).get("aggregateStatus") or {}
        for one in aggregate.get("handlerAggregateStatus", []):
            runtime = one.get("runtimeSettingsStatus") or {}
            if (one["handlerName"], runtime.get("extensionName", "")) == (handler, name):
                found: dict[str, Any] = {**runtime["settingsStatus"]["status"], "seq": runtime["sequenceNumber"]}
                return found
        return {}

    def goal_states(self) -> tuple[ExtensionsGoalState, ExtensionsGoalState]:
        """What both channels say, read by the agent's own parsers."""
        state = self._get(f"{self.endpoints['wireserver']}/machine/?comp=goalstate", _ASKING)
        text = state.decode()

        def between(tag: str) -> str:
            return text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0].replace("&amp;", "&")

        config = self._get(between("ExtensionsConfig"), _ASKING)
        headers = {
            "x-ms-version": "2015-09-01",
            "x-ms-containerid": between("ContainerId"),
            "x-ms-host-config-name": between("ConfigName"),
        }
        settings = self._get(f"{self.endpoints['hostgaplugin']}/vmSettings", headers)
        return parse_extensions_config(config, "1"), parse_vm_settings(settings, "tag").extensions

    def put(self, url: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], str]:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            named = {f"x-ms-{name.replace('_', '-')}": value for name, value in headers.items()}
            connection.request("PUT", f"{parts.path}?{parts.query}", body, named)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        for child in (self._agent, self._serving):
            if child is not None and child.poll() is None:
                child.terminate()
                child.wait(30)
        # What a test that failed left running.
        end(with_environment("AZVMAGENT_ROOT", str(self.root)), 5.0)

    @staticmethod
    def _get(url: str, headers: dict[str, str]) -> bytes:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return answer.read()
        finally:
            connection.close()


def until_true(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {PATIENCE:g} s for {what}")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """No agent: what the host keeps and says."""
    one = Host(tmp_path_factory.mktemp("h"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """With a guestagent that reports to it."""
    one = Host(tmp_path_factory.mktemp("v"))
    one.start_agent()
    yield one
    one.close()


@pytest.fixture
def blob(host: Host, request: pytest.FixtureRequest) -> str:
    """Signed URL of an output blob of this test's own."""
    name = f"blob-{abs(hash(request.node.name)) % 10**8}"
    return host.run("true", "--name", name, "--output-blob", wait=0).stdout.splitlines()[1]


def test_an_append_blob_grows_where_its_sender_says(host: Host, blob: str) -> None:
    block = f"{blob}&comp=appendblock"
    assert host.put(block, b"x")[0] == 404
    assert host.put(blob, b"", blob_type="AppendBlob")[0] == 201
    status, headers, _ = host.put(block, b"one ", blob_condition_appendpos="0")
    assert (status, headers["x-ms-blob-append-offset"], headers["x-ms-blob-committed-block-count"]) == (201, "0", "1")
    status, headers, _ = host.put(block, b"two", blob_condition_appendpos="4")
    assert (status, headers["x-ms-blob-append-offset"], headers["x-ms-blob-committed-block-count"]) == (201, "4", "2")
    status, headers, said = host.put(block, b"two", blob_condition_appendpos="4")
    assert (status, headers["x-ms-error-code"]) == (412, "AppendPositionConditionNotMet")
    assert "7 bytes" in said
    assert host.put(block, b"three", blob_condition_maxsize="8")[1]["x-ms-error-code"] == "MaxBlobSizeConditionNotMet"
    assert host.put(block, b"3", blob_condition_maxsize="8")[0] == 201
    assert Host._get(blob, {}) == b"one two3"
    # Made anew, it is empty.
    assert host.put(blob, b"", blob_type="AppendBlob")[0] == 201
    assert Host._get(blob, {}) == b""


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", {}, 400, "InvalidHeaderValue"),
        (b"x" * (BLOCK_LIMIT + 1), {}, 413, "RequestBodyTooLarge"),
        (b"x", {"blob_condition_appendpos": "-1"}, 400, "InvalidHeaderValue"),
        (b"x", {"blob_condition_maxsize": "many"}, 400, "InvalidHeaderValue"),
    ],
)
def test_blocks_that_are_none(
    host: Host, blob: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    assert host.put(blob, b"", blob_type="AppendBlob")[0] == 201
    found = host.put(f"{blob}&comp=appendblock", body, **headers)
    assert (found[0], found[1]["x-ms-error-code"]) == (status, code)


def test_only_append_blobs_take_blocks(host: Host, blob: str) -> None:
    assert host.put(blob, b"whole", blob_type="BlockBlob")[0] == 201
    assert host.put(f"{blob}&comp=appendblock", b"x")[1]["x-ms-error-code"] == "InvalidBlobType"
    assert host.put(blob, b"body", blob_type="AppendBlob")[0] == 400
    assert host.put(blob, b"", blob_type="AppendBlob")[0] == 201
    assert host.put(f"{blob}&comp=appendblock", b"x")[0] == 201
    assert host.put(blob, b"whole", blob_type="BlockBlob")[0] == 201
    assert host.put(f"{blob}&comp=appendblock", b"x")[0] == 409


def test_without_a_signature_nothing_is_made(host: Host, blob: str) -> None:
    bare = blob.partition("?")[0]
    for url in (bare, f"{bare}?sig=x", f"{bare}?sig=x&comp=appendblock"):
        assert host.put(url, b"", blob_type="AppendBlob")[0] == 403


@pytest.mark.parametrize("fast_track", [False, True])
def test_both_channels_carry_several_runs(host: Host, fast_track: bool) -> None:
    channel = ["--fast-track"] if fast_track else []
    one, two = f"one{fast_track}", f"two{fast_track}"
    parameters = ["--parameter", "A=1", "--parameter", "two", "--timeout", "9"]
    host.run("true", "--name", one, wait=0)
    host.run("true", "--name", two, "--protected-parameter", "B=secret", *channel, wait=0)
    host.run("true", "--name", one, *channel, wait=0)
    host.run("echo <&>\ufffe\x07", "--name", one, *parameters, *channel, wait=0)
    wanted = host.goal_states()[1 if fast_track else 0]
    (handler,) = [handler for handler in wanted.handlers if handler.name == MANAGED]
    assert handler.multi_config
    assert handler.error == ""
    found = {settings.name: settings for settings in handler.settings}
    assert (found[one].sequence_number, found[two].sequence_number) == (2, 0)
    assert found[one].public["source"] == {"script": "echo <&>\ufffe\x07"}
    assert found[one].public["parameters"] == [{"name": "A", "value": "1"}, {"name": "", "value": "two"}]
    assert found[one].public["timeoutInSeconds"] == 9
    assert found[two].protected
    assert "secret" not in json.dumps(found[two].public)
    assert host.azfabric("run", "--remove", two, *channel).returncode == 0
    after = host.goal_states()[1 if fast_track else 0]
    (handler,) = [handler for handler in after.handlers if handler.name == MANAGED]
    states = {settings.name: settings.state for settings in handler.settings}
    assert (states[one], states[two]) == ("enabled", "disabled")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--name", "a/b"), 1, "cannot be the name of a run"),
        (("--v1", "--parameter", "A=1"), 1, "v1 knows no parameters"),
        (("--timeout", "-1"), 2, "timeout"),
    ],
)
def test_orders_that_are_none(host: Host, arguments: tuple[str, ...], status: int, said: str) -> None:
    done = host.run("true", *arguments, wait=0)
    assert (done.returncode, said in done.stderr) == (status, True)


def test_what_is_not_there_cannot_be_removed(host: Host) -> None:
    done = host.azfabric("run", "--remove", "never-was")
    assert (done.returncode, done.stderr) == (1, "azfabric: there is no run called 'never-was'\n")
    assert host.azfabric("run").returncode == 2
    assert host.run("", wait=0).returncode == 1


def test_a_managed_run_end_to_end(vm: Host) -> None:
    done = vm.run(
        'echo "$WHO|$SECRET|$1"; echo bad >&2',
        *("--name", "e2e", "--parameter", "WHO=a b", "--parameter", "x;y", "--protected-parameter", "SECRET=s"),
        "--output-blob",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Succeeded: Execution completed\na b|s|x;y\n" in done.stdout
    out, err = done.stdout.splitlines()[1:3]
    assert (Host._get(out, {}), Host._get(err, {})) == (b"a b|s|x;y\n", b"bad\n")
    status = vm.status(name="e2e")
    assert (status["status"], status["seq"], status["name"]) == ("success", 0, "e2e")


def test_a_run_that_fails_is_exit_status_1_and_success_for_the_host(vm: Host) -> None:
    done = vm.run("echo no; exit 6", "--name", "fails", "--fast-track")
    assert done.returncode == 1
    assert "exit status=6" in done.stdout
    assert vm.status(name="fails")["status"] == "success"


def test_an_action_run_end_to_end(vm: Host) -> None:
    done = vm.run("echo one; echo two >&2", "--v1")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "Enable succeeded: \n[stdout]\none\n\n[stderr]\ntwo\n" in done.stdout
    assert vm.run("echo again", "--v1").returncode == 0
    assert vm.status(ACTION, "")["seq"] == 1


def test_an_asynchronous_run_is_success_first_and_final_later(vm: Host, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    vm.run(f"echo up; read x < {fifo}; exit 4", "--name", "later", "--async", wait=0)
    until_true(lambda: vm.status(name="later").get("status") == "success", "success to be told")
    assert '"Running"' in vm.status(name="later")["formattedMessage"]["message"]
    fifo.write_text("\n")
    until_true(lambda: '"exitCode":4' in vm.status(name="later")["formattedMessage"]["message"], "the end to be told")


def test_a_time_limit_and_a_user(vm: Host) -> None:
    done = vm.run("id -un; exec sleep 600", "--name", "limited", "--timeout", "2", "--user", "nobody")
    assert done.returncode == 1
    assert "TimedOut" in done.stdout
    assert "nobody\n" in done.stdout


def test_a_removed_run_is_ended_and_forgotten_the_others_stay(vm: Host, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    vm.run(f"echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 600", "--name", "gone", wait=0)
    until_true(pid.exists, "the script to run")
    until_true(lambda: vm.status(name="gone"), "it to be told")
    assert vm.azfabric("run", "--remove", "gone").returncode == 0
    until_true(lambda: not vm.status(name="gone"), "it to be told no more")
    until_true(lambda: not running(int(pid.read_text())), "its process to end")
    done = vm.run("echo here", "--name", "stays")
    assert done.returncode == 0, done.stdout


def test_a_killed_guestagent_runs_nothing_twice(vm: Host, tmp_path: Path) -> None:
    fifo, count = tmp_path / "fifo", tmp_path / "count"
    os.mkfifo(fifo)
    vm.run(f"echo x >> {count}; read x < {fifo}; echo went on", "--name", "once", wait=0)
    until_true(count.exists, "the script to run")
    vm.kill_agent()
    fifo.write_text("\n")
    vm.start_agent()
    until_true(lambda: "went on" in str(vm.status(name="once")), "its end to be told")
    vm.kill_agent()
    vm.start_agent()
    done = vm.run("echo next", "--name", "once")
    assert "next" in done.stdout
    assert count.read_text() == "x\n"


def test_a_killed_worker_is_told_as_interrupted(vm: Host, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    vm.run(f"echo $PPID > {pid}.part; mv {pid}.part {pid}; exec sleep 600", "--name", "orphan", wait=0)
    until_true(pid.exists, "the script to run")
    os.kill(int(pid.read_text()), signal.SIGKILL)
    until_true(lambda: "interrupted" in str(vm.status(name="orphan")), "the interruption to be told")
    assert vm.run("echo next", "--name", "orphan").returncode == 0


def running(pid: int) -> bool:
    """Zombies have ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@pytest.mark.parametrize(
    ("word", "message", "ok", "state"),
    [
        ("success", '{"executionState":"Succeeded","exitCode":0}', True, "Succeeded"),
        ("success", '{"executionState":"Failed","exitCode":3}', False, "Failed"),
        ("success", '{"executionState":"Running"}', None, ""),
        ("transitioning", '{"executionState":"Running"}', None, ""),
        ("error", "the agent's own words", False, "Failed"),
        ("error", '{"executionState":"TimedOut"}', False, "TimedOut"),
    ],
)
def test_what_is_seen_of_a_run(word: str, message: str, ok: bool | None, state: str) -> None:
    inner = {"status": word, "formattedMessage": {"message": message}}
    runtime = {"extensionName": "n", "sequenceNumber": 2, "settingsStatus": {"status": inner}}
    status = {
        "aggregateStatus": {"handlerAggregateStatus": [{"handlerName": MANAGED, "runtimeSettingsStatus": runtime}]}
    }
    found = seen(status, MANAGED, "n", 2)
    assert (found.ok if found else None, found.state if found else "") == (ok, state)
    assert seen(status, MANAGED, "n", 3) is None
    assert seen(status, MANAGED, "other", 2) is None
    assert seen(None, MANAGED, "n", 2) is None
