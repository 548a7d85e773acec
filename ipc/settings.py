"""The configuration file, read once: TOML, one table per component plus `[host]`, drop-ins after it.

Unknown tables and keys are errors that name the nearest one, for who asks whether the configuration is good. Who starts
passes over them: after a roll-back a newer release's are still there, and must not keep the older one from running.
"""

import difflib
import logging
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ipc.errors import IpcError
from ipc.places import COMPONENTS, Places

CHECK = "--check-settings"
"""A component's only argument: read the configuration, say what is wrong with it, and end."""

TABLES = ("host", "update", *COMPONENTS)

_SIZE_LIMIT = 1024 * 1024

C = TypeVar("C", bound=msgspec.Struct)

logger = logging.getLogger("ipc")


class SettingsError(IpcError):
    """The configuration cannot be used; the text names file, key, reason and the nearest key."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[host]`: where the host is, for whoever speaks to it. Empty means: found out, or the well-known address."""

    wireserver: str = ""
    """Base URL, e.g. `http://168.63.129.16:80`; empty: what netagent found, else 168.63.129.16."""
    hostgaplugin: str = ""
    """Base URL; empty: port 32526 of the WireServer's address."""
    imds: str = "http://169.254.169.254"
    """Base URL of the instance metadata service."""


def read_tables(places: Places, *, strict: bool = True) -> dict[str, dict[str, Any]]:
    """All tables, drop-ins (`<file>.d/*.toml` in name order) laid over the file key by key. No file: no tables.

    Raises SettingsError, for unknown tables if `strict`.
    """
    tables: dict[str, dict[str, Any]] = {}
    folder = places.config.with_name(places.config.name + ".d")
    try:
        further = sorted(folder.glob("*.toml"))
    except OSError as error:
        raise SettingsError(folder, f"cannot be read: {error.strerror}") from error
    for path in (places.config, *further):
        for name, table in _known(path, "table", _read_file(path), TABLES, strict=strict).items():
            if not isinstance(table, dict):
                raise SettingsError(path, f"{name} must be a table: write [{name}]")
            tables.setdefault(name, {}).update(table)
    return tables


def load_settings(places: Places, table: str, kind: type[C], *, strict: bool = True) -> C:
    """The table as a `kind`, whose defaults fill in what the file leaves out.

    Raises SettingsError, for unknown keys and tables if `strict`.
    """
    keys = tuple(field.name for field in msgspec.structs.fields(kind))
    given = read_tables(places, strict=strict).get(table, {})
    found = _known(places.config, f"key in [{table}]", given, keys, strict=strict)
    try:
        return msgspec.convert(found, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(places.config, f"[{table}]: {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_LIMIT + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(path, f"cannot be read: {error.strerror}") from error
    if len(data) > _SIZE_LIMIT:
        raise SettingsError(path, f"is larger than {_SIZE_LIMIT} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(path, f"is not TOML: {error}") from error


def _known(path: Path, what: str, given: dict[str, Any], known: tuple[str, ...], *, strict: bool) -> dict[str, Any]:
    for name in given.keys() - set(known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; did you mean {near[0]}?" if near else ""
        error = SettingsError(path, f"unknown {what}: {name!r}{hint}")
        if strict:
            raise error
        logger.warning("passed over: %s", error)
    return {name: value for name, value in given.items() if name in known}
