"""Who owns the resolver. Pure, but for one read and one look for a program."""

import os
import shutil
from pathlib import Path
from typing import Literal

from netagent.resolver import read_resolver

Manager = Literal["systemd-resolved", "NetworkManager", "resolvconf", "file"]

FOLDERS = "/usr/sbin:/sbin:/usr/bin:/bin"
"""Where programs of the system are: not our own PATH, which may be a user's."""

_RESOLVED = "/systemd/resolve/"


def detect(resolv_conf: Path, folders: str = FOLDERS) -> Manager:
    """A link into resolved's folder, NetworkManager's header, resolvconf's header or program, else a plain file."""
    # Also where it leads nowhere: resolved has not started yet.
    if _RESOLVED in os.path.realpath(resolv_conf):
        return "systemd-resolved"
    manager = read_resolver(resolv_conf).manager
    if manager == "NetworkManager" or "/NetworkManager/" in os.path.realpath(resolv_conf):
        return "NetworkManager"
    if manager == "resolvconf" or has_resolvconf(folders):
        return "resolvconf"
    return "file"


def has_resolvconf(folders: str = FOLDERS) -> bool:
    """Not resolved's imitation of it, which does not own a plain file."""
    program = shutil.which("resolvconf", path=folders)
    return program is not None and Path(os.path.realpath(program)).name != "resolvectl"
