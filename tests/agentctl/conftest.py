"""A supervisord whose programs never answer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl.deployment import Deployment
from agentctl.processes import wait_until
from ipc.places import Places
from ipc.supervisord import Supervisord, SupervisordError

SUPERVISORD = """
[unix_http_server]
file={run}/supervisor.sock
[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:guestagent]
command=sleep 600
startsecs=0
stdout_logfile=NONE
[program:watchdog]
command=sleep 600
startsecs=0
stdout_logfile=NONE
[program:rdagent]
command=sleep 600
autostart=false
stdout_logfile=NONE
"""


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[tuple[Deployment, int]]:
    """A guestagent that supervisord runs and that never answers, and its pid; rdagent is stopped, a watchdog runs."""
    deployment = Deployment(root=tmp_path, places=Places.under(tmp_path))
    run = deployment.places.run
    run.mkdir(parents=True)
    (run / "supervisord.conf").write_text(SUPERVISORD.format(run=run))

    def pid() -> int:
        try:
            programs = Supervisord(deployment.places).programs()
            runs = {one.name: one.pid for one in programs if one.statename == "RUNNING"}
            return runs["guestagent"] if "watchdog" in runs else 0
        except (SupervisordError, KeyError):
            return 0

    command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(run / "supervisord.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as supervisord:
        assert wait_until(lambda: pid() > 0, 30)
        yield deployment, pid()
        supervisord.terminate()
