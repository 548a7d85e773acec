"""Whether this user may talk to the agent at all: its sockets lie in a folder that only its owner may enter."""

import os
import pwd
from pathlib import Path

from agentctl.deployment import Deployment
from agentctl.errors import CommandError


def check_rights(deployment: Deployment) -> None:
    """Raises CommandError where we may not enter the folder of sockets: whoever asks there waits for nothing."""
    run = deployment.places.run
    try:
        run.stat()
    except PermissionError as error:
        raise _denied(run, _first_closed(run)) from error
    except OSError:
        return  # there is none: nobody runs
    if not os.access(run, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise _denied(run, run)


def is_there(deployment: Deployment) -> bool:
    """Whether anybody could answer. Raises CommandError like `check_rights`."""
    check_rights(deployment)
    return deployment.places.run.is_dir()


def _first_closed(path: Path) -> Path:
    """The folder on the way there that lets us no further."""
    for folder in reversed(path.parents):
        if not os.access(folder, os.X_OK, effective_ids=True):
            return folder
    return path


def _denied(run: Path, closed: Path) -> CommandError:
    try:
        uid = closed.stat().st_uid
        owner = pwd.getpwuid(uid).pw_name
    except OSError:
        owner = "its owner"
    except KeyError:
        owner = f"uid {uid}"
    return CommandError(f"permission denied on {run}: run it as {owner}")
