"""Names, modes and small files of the library directory, as extensions know them (protocol: disk layout)."""

import contextlib
import glob
import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from guestagent import foreign
from guestagent.errors import PackageError
from guestagent.handlermanifest import SIZE_LIMIT as MANIFEST_LIMIT
from guestagent.handlermanifest import HandlerManifest, parse_handler_manifest
from guestagent.package import MANIFEST
from ipc.statefile import write_atomically
from wire.extensions import Settings

HandlerState = Literal["NotInstalled", "Installed", "Enabled", "FailedUpgrade"]

# A handler's name and version become a folder's name.
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+", re.ASCII)
_FOLDER = re.compile(r"(?P<name>[^-]+)-(?P<version>\d[0-9A-Za-z.]*)", re.ASCII)
_EXTENSION = re.compile(r"[^/\0]{1,100}")
# A file's name has 255 bytes, and ours stand around it.
_EXTENSION_BYTES = 200


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """A handler's folder whose state says that it was installed."""

    version: str
    state: HandlerState
    enabled_extensions: frozenset[str] = frozenset()
    """Of a multi-config handler."""


class HandlerFolder:
    """`<lib>/<Handler>-<Version>` and what belongs to it."""

    def __init__(self, lib: Path, log: Path, name: str, version: str) -> None:
        """Raises PackageError for a name that must not become a path."""
        if not _NAME.fullmatch(name) or not _FOLDER.fullmatch(f"x-{version}") or len(name) + len(version) > 200:
            raise PackageError(f"{name[:80]!r} version {version[:40]!r} cannot be a handler's name")
        self.name = name
        self.version = version
        self.path = lib / f"{name}-{version}"
        self.package = lib / f"{name}__{version}.zip"
        self.log = log / name

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def status(self) -> Path:
        return self.path / "status"

    @property
    def events(self) -> Path:
        return self.log / "events"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat.log"

    def settings_file(self, settings: Settings | None) -> Path:
        return self.config / f"{_stem(settings)}.settings"

    def status_file(self, settings: Settings | None) -> Path:
        return self.status / f"{_stem(settings)}.status"

    def command_log(self, settings: Settings | None) -> Path:
        extension = f"_{settings.name}" if settings and settings.name else ""
        return self.log / f"CommandExecution{extension}.log"

    def prepare(self) -> None:
        """The folders, and HandlerEnvironment.json."""
        for folder, mode in ((self.log, 0o755), (self.config, 0o700), (self.status, 0o700), (self.events, 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            # The umask may have taken bits away, and a package may have brought the folder with other ones.
            folder.chmod(mode)
        write_atomically(self.path / "HandlerEnvironment.json", self._environment(), 0o600)

    def mark_validated(self) -> None:
        """Its package's signature is good (protocol: package signature validation)."""
        (self.path / "package_validated").touch(mode=0o600)

    def write_settings(self, settings: Settings | None) -> None:
        """The current settings file, before every enable: extensions scrub theirs, and choose by its time.

        Keys are always there and publicSettings is an object; a handler without settings gets an empty `0.settings`.
        """
        write_atomically(self.settings_file(settings), settings_bytes(settings), 0o600)
        if settings is not None:
            # Some extensions take the highest number they find; the host may have gone back to a lower one.
            for path, number in self._numbered(settings.name):
                if number > settings.sequence_number:
                    path.unlink(missing_ok=True)

    def forget_extension(self, extension: str) -> None:
        """A disabled one of several: its settings, status and state go (protocol: multi-config)."""
        for folder, ending in ((self.config, "settings"), (self.status, "status")):
            for path in folder.glob(f"{glob.escape(extension)}.*.{ending}"):
                if path.name[len(extension) + 1 : -len(ending) - 1].isdigit():
                    path.unlink(missing_ok=True)
        self.extension_state(extension).unlink(missing_ok=True)

    def extension_state(self, extension: str) -> Path:
        return self.config / f"{extension}.HandlerState"

    def write_extension_state(self, extension: str, state: Literal["enabled", "disabled"]) -> None:
        write_atomically(self.extension_state(extension), state.encode(), 0o600)

    def read_enabled_extensions(self) -> frozenset[str]:
        found = set()
        for path in self.config.glob("*.HandlerState"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if path.read_text(encoding="ascii").strip() == "enabled":
                    found.add(path.name.removesuffix(".HandlerState"))
        return frozenset(found)

    def read_manifest(self) -> HandlerManifest:
        """Raises PackageError (1002, 1003)."""
        try:
            data = foreign.read(self.path / MANIFEST, MANIFEST_LIMIT + 1).data
        except OSError as error:
            raise PackageError(
                f"{MANIFEST} of {self.name} {self.version} cannot be read: {error.strerror}", 1002
            ) from error
        return parse_handler_manifest(data)

    def read_state(self) -> HandlerState:
        """`NotInstalled` also where nothing can be read."""
        try:
            text = (self.config / "HandlerState").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return "NotInstalled"
        match text:
            case "Installed" | "Enabled" | "FailedUpgrade":
                return text
        return "NotInstalled"

    def write_state(self, state: HandlerState) -> None:
        write_atomically(self.config / "HandlerState", state.encode(), 0o600)

    def write_handler_status(self, status: str, code: int, message: str, *, multi_config: bool) -> None:
        """The record other tools read beside the extension."""
        record = {
            "name": self.name,
            "version": self.version,
            "status": status,
            "code": code,
            "message": message,
            "supports_multi_config": multi_config,
            "extension_status": None,
        }
        write_atomically(self.config / "HandlerStatus", json.dumps(record).encode(), 0o600)

    def _numbered(self, extension: str) -> list[tuple[Path, int]]:
        """The settings files of one extension with their sequence numbers."""
        start = f"{extension}." if extension else ""
        found = []
        for path in self.config.glob("*.settings"):
            number = path.name.removesuffix(".settings")
            if number.startswith(start) and (number := number.removeprefix(start)).isascii() and number.isdigit():
                found.append((path, int(number)))
        return found

    def _environment(self) -> bytes:
        # One blank after each colon, logFolder first, the version a number: a widespread shell shim cuts it by text.
        environment = {
            "logFolder": str(self.log),
            "configFolder": str(self.config),
            "statusFolder": str(self.status),
            "heartbeatFile": str(self.heartbeat),
            "eventsFolder": str(self.events),
            "eventsFolder_preview": str(self.events),
        }
        return json.dumps([{"name": self.name, "version": 1.0, "handlerEnvironment": environment}]).encode()


def settings_bytes(settings: Settings | None) -> bytes:
    """What stands in the settings file."""
    if settings is None:
        return b""
    content: dict[str, Any] = {
        "publicSettings": settings.public if settings.public is not None else {},
        "protectedSettings": settings.protected,
        "protectedSettingsCertThumbprint": settings.thumbprint,
    }
    return json.dumps({"runtimeSettings": [{"handlerSettings": content}]}).encode()


def installed_handlers(lib: Path) -> dict[str, list[Installed]]:
    """By handler name, every version folder that was installed; other folders are the handlers' own affair."""
    found: dict[str, list[Installed]] = {}
    for path in sorted(lib.glob("*-*/config/HandlerState")):
        match = _FOLDER.fullmatch(path.parent.parent.name)
        if match is None or not _NAME.fullmatch(match["name"]):
            continue
        folder = HandlerFolder(lib, lib, match["name"], match["version"])
        state = folder.read_state()
        if state != "NotInstalled":
            one = Installed(version=match["version"], state=state, enabled_extensions=folder.read_enabled_extensions())
            found.setdefault(match["name"], []).append(one)
    return found


def version_folders(lib: Path, log: Path, name: str) -> list[HandlerFolder]:
    """Every version folder of a handler, installed or not."""
    found = []
    for path in sorted(lib.glob(f"{glob.escape(name)}-*")):
        match = _FOLDER.fullmatch(path.name)
        if match is not None and match["name"] == name and path.is_dir():
            found.append(HandlerFolder(lib, log, name, match["version"]))
    return found


def usable_extension_name(name: str) -> bool:
    """Whether a multi-config extension's name can be part of a file's name."""
    fits = len(name.encode(errors="replace")) <= _EXTENSION_BYTES
    return fits and bool(_EXTENSION.fullmatch(name)) and name not in {".", ".."}


def _stem(settings: Settings | None) -> str:
    if settings is None:
        return "0"
    return f"{settings.name}.{settings.sequence_number}" if settings.name else str(settings.sequence_number)
