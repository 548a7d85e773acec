"""Handlers whose package comes with the product: their folder is written here instead of being unpacked.

Everything after that is as with any handler: settings and status files, commands, sequence numbers.
"""

import json
import shlex
import shutil
import sys
from pathlib import Path

from guestagent.handlermanifest import HandlerManifest, parse_handler_manifest
from guestagent.layout import HandlerFolder
from guestagent.package import MANIFEST
from guestagent.runcommand.place import ACTION, MANAGED, shape_of
from ipc.statefile import sync_directory, write_atomically

LAUNCHER = Path("bin") / "run-command"

_NAMES = {ACTION.lower(), MANAGED.lower()}
_VERBS = ("install", "enable", "disable", "update", "uninstall")


def provides(name: str) -> bool:
    """Whether this handler is one of ours; names are compared without case."""
    return name.lower() in _NAMES


def lay_out(folder: HandlerFolder) -> HandlerManifest:
    """Write the handler's folder, which appears whole or not at all; in one that is there only our files are renewed.

    Call it again after the product was updated: the launcher names the interpreter. Raises OSError.
    """
    if folder.path.is_dir():
        _write(folder.path, folder)
    else:
        staging = folder.path.with_name(f".{folder.path.name}.staging")
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(mode=0o700, parents=True)
            _write(staging, folder)
            staging.rename(folder.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_directory(folder.path.parent)
    return parse_handler_manifest(_manifest(folder.name))


def _write(path: Path, folder: HandlerFolder) -> None:
    (path / LAUNCHER).parent.mkdir(mode=0o755, exist_ok=True)
    write_atomically(path / LAUNCHER, _launcher(), 0o755)
    write_atomically(path / MANIFEST, _manifest(folder.name), 0o644)


def _manifest(name: str) -> bytes:
    manifest = {
        **{f"{verb}Command": f"{LAUNCHER} {verb}" for verb in _VERBS},
        "rebootAfterInstall": False,
        "reportHeartbeat": False,
        "updateMode": "UpdateWithInstall",
        "supportsMultipleExtensions": shape_of(name) == "managed",
    }
    return json.dumps([{"version": 1.0, "handlerManifest": manifest}], indent=2).encode()


def _launcher() -> bytes:
    """The interpreter of whoever calls it if that is known, else the one that wrote it."""
    return (
        "#!/bin/sh\n"
        "# Written by the agent; renewed when the agent is updated.\n"
        f"python={shlex.quote(sys.executable)}\n"
        'python="${AZVMAGENT_PYTHON:-$python}"\n'
        # The version of whoever calls it; as ipc/child.py does. A version's folder must not be named here: it goes.
        'if [ -n "$AZVMAGENT_IMPORTS" ]; then\n'
        '    exec "$python" -I -S "${AZVMAGENT_IMPORTS%%:*}/ipc/child.py" guestagent.runcommand "$@"\n'
        "fi\n"
        'exec "$python" -P -m guestagent.runcommand "$@"\n'
    ).encode()
