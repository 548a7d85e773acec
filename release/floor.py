"""How far back a component may go by hand: no further than the floor of the version in force, which wrote its state."""

import ast
import contextlib
from pathlib import Path

from release.errors import ManifestError, RecordError, Unfit
from release.manifest import MANIFEST, decode_manifest, is_version, same_version, version_key
from release.record import Record
from release.unpack import component_folder


def check_step_back(root: Path, base: Path | None, record: Record, given_up: str = "") -> None:
    """Whether `record.step_back` gives up this version (empty: any), and leads to one that can read what that wrote.

    Raises RecordError if another is in force by now, else Unfit. `base`: the base install; None: not known, as is the
    version of one that says none. A current version that cannot be read has no floor: it is left in any case.
    """
    current = record.current.version if record.current else ""
    if given_up and not same_version(given_up, current):
        text = f"{record.component} {given_up} is not in force any more, {current or 'the base install'} is"
        raise RecordError(f"{text}; nothing was changed")
    floor = _floor(root, record)
    previous = record.previous if record.previous and record.previous.key not in record.bad else None
    version = previous.version if previous else _base_version(base, record.component)
    if record.current is None or not is_version(version) or version_key(version) >= version_key(floor):
        return
    where = "" if previous else ", the base install,"
    raise Unfit(
        f"{record.component} {version}{where} is below {floor}, the floor of {record.component} "
        f"{record.current.version}: what that wrote it cannot read. Only a version from {floor} on can follow"
    )


def _floor(root: Path, record: Record) -> str:
    if record.current is not None:
        file = component_folder(root, record.component) / "versions" / record.current.version / MANIFEST
        with contextlib.suppress(OSError, ManifestError):
            return decode_manifest(file.read_bytes()).floor
    return "0.0.0"


def _base_version(base: Path | None, component: str) -> str:
    """Empty if it says none."""
    if base is None:
        return ""
    with contextlib.suppress(OSError, ValueError, SyntaxError):
        for node in ast.parse((base / component / "__init__.py").read_bytes()).body:
            if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["__version__"]:
                return str(ast.literal_eval(node.value))
    return ""
