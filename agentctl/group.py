"""Starting and ending what one root runs: the local host and supervisord with the four."""

import contextlib
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from agentctl.asking import ask
from agentctl.deployment import Deployment, supervisord_configuration
from agentctl.errors import CommandError, WrongUse
from agentctl.processes import Process, command_line, end, process, wait_until, with_environment
from agentctl.view import Endpoints, read_endpoints
from ipc.contract.netagent import SwitchNetwork
from ipc.errors import UnsafeDirectory
from ipc.lock import make_private_directory
from ipc.places import COMPONENTS
from ipc.settings import CHECK, SettingsError, read_tables
from ipc.statefile import write_atomically
from ipc.supervisord import Supervisord, SupervisordError

_START_PATIENCE = 20.0
_END_PATIENCE = 10.0
_END_ROUNDS = 5
_WITHDRAW_PATIENCE = 2.0


def prepare(deployment: Deployment) -> None:
    """Make the folders, and refuse a configuration nobody could start with. Raises CommandError."""
    try:
        for folder in (deployment.places.state, deployment.places.log, deployment.places.lib):
            folder.mkdir(parents=True, exist_ok=True)
        # Extensions keep their keys and settings here.
        deployment.places.lib.chmod(0o700)
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be made, or made private: {error.strerror}") from error
    try:
        tables = read_tables(deployment.places)
    except SettingsError as error:
        raise CommandError(str(error)) from error
    if set(tables) - {"host"} or deployment.places.config.exists():
        _check_settings(deployment)


def _check_settings(deployment: Deployment) -> None:
    """Have each component read its own. Raises CommandError with what the first says that declines."""
    children = [
        subprocess.Popen(
            deployment.launch(name, CHECK),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env=deployment.environment(),
        )
        for name in COMPONENTS
    ]
    try:
        said = [(child.communicate(timeout=_START_PATIENCE)[0], child.returncode) for child in children]
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(error.cmd)} does not end within {_START_PATIENCE:g} s") from error
    finally:
        for child in children:
            child.kill()
    for output, status in said:
        if status != 0:
            # Its log line, without when and who.
            raise CommandError(output.strip().rpartition("CRITICAL ")[2].partition(" ")[2] or f"exit status {status}")


def start_host(deployment: Deployment) -> Endpoints:
    """Start the local host on free loopback ports, and point the agent at it by a drop-in. Raises CommandError."""
    if deployment.root is None:
        raise WrongUse("a local host needs a root of its own: agentctl up --root DIR")
    log = deployment.places.log / "fabric.log"
    command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(deployment.root)]
    child = _spawn(deployment, command, log)
    wait_until(lambda: _endpoints_of(deployment, child.pid) is not None or child.poll() is not None, _START_PATIENCE)
    endpoints = _endpoints_of(deployment, child.pid)
    if endpoints is None:
        raise CommandError(f"the local host did not start; the end of {log}:\n{log_tail(log)}")
    _write_drop_in(deployment, endpoints)
    _trust_repository(deployment, endpoints)
    return endpoints


def start_supervisord(deployment: Deployment) -> None:
    """Start supervisord, which starts the four. Raises CommandError."""
    log = deployment.places.log / "supervisord.out"
    configuration = supervisord_configuration()
    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "-c", str(configuration)]
    child = _spawn(deployment, command, log)

    def answers() -> bool:
        try:
            return Supervisord(deployment.places).pid() == child.pid
        except SupervisordError:
            return False

    wait_until(lambda: answers() or child.poll() is not None, _START_PATIENCE)
    if not answers():
        raise CommandError(f"supervisord did not start; the end of {log}:\n{log_tail(log)}")


def running(deployment: Deployment) -> set[Process]:
    """Every process this root started, directly or not, by the variable each inherits."""
    return with_environment("AZVMAGENT_ROOT", str(deployment.root or ""))


def end_all(deployment: Deployment, *, keep_network: bool = False) -> int:
    """End supervisord and the four, then the local host, then whatever is left; the number of processes ended.

    What netagent configured goes first, unless it is to be kept. Works from any state: half started, supervisord
    killed, a component stopped by SIGSTOP. Raises CommandError for a process that nothing ends.
    """
    before = running(deployment)
    supervisord = supervisord_process(deployment)
    if supervisord is not None:
        if not keep_network:
            # One that is gone or hangs has to be outlived: its network stays then.
            with contextlib.suppress(CommandError):
                ask(deployment, SwitchNetwork(on=False, keep=False), within=_WITHDRAW_PATIENCE)
        # By itself it ends one a second.
        with contextlib.suppress(SupervisordError):
            Supervisord(deployment.places).stop_all()
        end([supervisord], _END_PATIENCE)
    host = host_process(deployment)
    if host is not None:
        end([host], _END_PATIENCE)
        # One that was started by hand does not have the variable.
        before |= {host}
    # A process started while we looked inherits the variable too: look until there is none.
    for _ in range(_END_ROUNDS):
        if not (left := running(deployment)):
            break
        end(left, 2.0)
    else:
        pids = ", ".join(str(one.pid) for one in sorted(left))
        raise CommandError(f"these processes do not end, not even by SIGKILL: {pids}")
    shutil.rmtree(deployment.places.run, ignore_errors=True)
    return len(before)


def host_process(deployment: Deployment) -> Process | None:
    """The local host that serves this root, whoever started it."""
    endpoints = read_endpoints(deployment)
    found = process(endpoints.pid) if endpoints is not None else None
    if found is None:
        return None
    words = command_line(found.pid)
    return found if "serve" in words and str(deployment.root) in words else None


def supervisord_process(deployment: Deployment) -> Process | None:
    """The supervisord that answers on this root's socket."""
    try:
        return process(Supervisord(deployment.places).pid())
    except SupervisordError:
        return None


def _spawn(deployment: Deployment, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=deployment.environment(),
                start_new_session=True,
            )
    except OSError as error:
        # A virtual environment may lead to an interpreter in somebody else's home.
        raise CommandError(f"{command[0]} cannot be started: {error.strerror} ({error.filename})") from error


def _endpoints_of(deployment: Deployment, pid: int) -> Endpoints | None:
    endpoints = read_endpoints(deployment)
    return endpoints if endpoints is not None and endpoints.pid == pid else None


def _write_drop_in(deployment: Deployment, endpoints: Endpoints) -> None:
    folder = deployment.places.config.with_name(deployment.places.config.name + ".d")
    folder.mkdir(exist_ok=True)
    urls = {"wireserver": endpoints.wireserver, "hostgaplugin": endpoints.hostgaplugin, "imds": endpoints.imds}
    lines = ["# Written by `agentctl up` at each start: where the local host listens.", "[host]"]
    # A JSON string is a TOML basic string too.
    lines += [f"{name} = {json.dumps(url)}" for name, url in urls.items()]
    # Who publishes here waits for it to arrive.
    lines += ["[update]", f"repository = {json.dumps(endpoints.repository)}", "check_period = 60.0", "jitter = 0.0"]
    write_atomically(folder / "10-local-host.toml", "\n".join([*lines, ""]).encode(), 0o644)


def _trust_repository(deployment: Deployment, endpoints: Endpoints) -> None:
    """Its root of trust is this root's, as a machine's image would bring it. Raises CommandError."""
    try:
        with urllib.request.urlopen(f"{endpoints.portal}/api/repository/root", timeout=_START_PATIENCE) as answer:  # noqa: S310  # our own host
            root = answer.read(1 << 20)
        make_private_directory(deployment.places.trust)
        write_atomically(deployment.places.trust / "root.json", root, 0o644)
    except (OSError, UnsafeDirectory) as error:
        raise CommandError(f"the local host's repository cannot be trusted: {error}") from error


def log_tail(log: Path, lines: int = 15) -> str:
    """The end of what a process printed."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return str(error)
