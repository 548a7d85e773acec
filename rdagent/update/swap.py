"""Replacing a running process by the version in force: by supervisord, or by itself. Blocking: call it in a thread.

The command stays the same, launch.py starts what the record says; a rewritten configuration would touch the others.
"""

import os
import sys
import time

from ipc.places import Places
from ipc.supervisord import Supervisord, SupervisordError

_STOP_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_ENDED = frozenset({"STOPPED", "EXITED", "FATAL"})
_STARTED = frozenset({"STARTING", "RUNNING", "BACKOFF"})


def restart(places: Places, component: str) -> None:
    """Stop it, which never signals its children, and start it. Raises SupervisordError.

    One that does not hear is killed by supervisord after `stopwaitsecs`.
    """
    supervisord = Supervisord(places)
    supervisord.stop(component)
    _start(supervisord, component)


def start(places: Places, component: str) -> None:
    """Start it unless it runs. Raises SupervisordError."""
    _start(Supervisord(places), component)


def _start(supervisord: Supervisord, component: str) -> None:
    """Until supervisord says that it runs: asked while it is still stopping one, it says yes and does nothing.

    Raises SupervisordError.
    """
    until = time.monotonic() + _STOP_SECONDS
    while (state := _state(supervisord, component)) not in _STARTED:
        if time.monotonic() > until:
            raise SupervisordError(f"{component} is {state} for {_STOP_SECONDS:g} s")
        if state in _ENDED:
            supervisord.start(component)
        time.sleep(_LOOK_SECONDS)


def _state(supervisord: Supervisord, component: str) -> str:
    """Raises SupervisordError."""
    found = next((one.statename for one in supervisord.programs() if one.name == component), None)
    if found is None:
        raise SupervisordError(f"it has no program {component}")
    return found


def exec_anew() -> None:
    """Become whatever version of rdagent launch.py chooses: the same process, so nothing has to be handed over.

    Call it from the main thread, with everything closed. Does not return.
    """
    base, installed = os.environ["AZVMAGENT_BASE"], os.environ["AZVMAGENT_INSTALLED"]
    command = [sys.executable, "-I", "-S", os.path.join(base, "launch.py"), installed, "rdagent"]  # noqa: PTH118
    os.execv(sys.executable, command)  # noqa: S606  # no shell wanted
