"""Which version of a component is to run: the commit point of every update.

Two slots beside the versions, `state.0` and `state.1`, each a checksum and a JSON document with a serial, written in
turn. A torn slot leaves the other; an update is done when its slot's rename is on disk, not before. `launch.py`
reads and writes the same files without us. The symbolic link `current` is for people.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from release.carried import carried
from release.disk import Disk
from release.errors import DiskTrouble, RecordError, ReleaseError
from release.manifest import (
    MANIFEST,
    SIGNATURES,
    Digest,
    Name,
    Version,
    canonical,
    digest,
    version_key,
)
from release.signing import Trust, signers
from release.tree import check_layer, check_private, check_version

TRIES = 3
SLOTS = ("state.0", "state.1")
LOCK = "state.lock"
_SIZE_LIMIT = 1 << 20


class Chosen(msgspec.Struct, frozen=True):
    """A version, by its number and its content."""

    version: Version
    digest: Digest

    @property
    def key(self) -> str:
        """In the bad list."""
        return f"{self.version}+{self.digest}"


class Trial(msgspec.Struct, frozen=True):
    """A version that has to prove itself; `launch.py` counts a try before each start."""

    target: Chosen
    tries: Annotated[int, msgspec.Meta(ge=0, le=100)]


class Bad(msgspec.Struct, frozen=True):
    """Why a version is not tried again."""

    reason: str
    expires: float | None = None
    """Seconds since 1970; None: until somebody takes it off the list."""
    environment: str = ""
    """Where it failed (Python, platform), so that another machine may try again; empty: not known."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is remembered of one component's versions."""

    format: Literal[1] = 1
    serial: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the slot it was read from; 0 if it was never written."""
    component: Name
    current: Chosen | None = None
    previous: Chosen | None = None
    factory: Chosen | None = None
    """From the base install, in `factory/` beside `versions/`; never replaced by an update."""
    trial: Trial | None = None
    bad: dict[str, Bad] = {}


def begin_trial(record: Record, target: Chosen, tries: int = TRIES) -> Record:
    """Raises RecordError for a version on the bad list, or while another one is on trial."""
    if bad := record.bad.get(target.key):
        raise RecordError(f"{record.component} {target.version} is on the bad list: {bad.reason}; take it off first")
    if record.trial and record.trial.target != target:
        raise RecordError(f"{record.component} {record.trial.target.version} is still on trial; wait for its end")
    return msgspec.structs.replace(record, trial=Trial(target, tries))


def commit(record: Record) -> Record:
    """The version on trial is the current one. Raises RecordError when there is none."""
    if record.trial is None:
        raise RecordError(f"no version of {record.component} is on trial")
    target = record.trial.target
    previous = record.previous if record.current == target else record.current
    return msgspec.structs.replace(record, current=target, previous=previous, trial=None)


def reject(record: Record, reason: str, expires: float | None = None) -> Record:
    """The version on trial is on the bad list. Raises RecordError when there is none."""
    if record.trial is None:
        raise RecordError(f"no version of {record.component} is on trial")
    bad = {**record.bad, record.trial.target.key: Bad(reason, expires)}
    return msgspec.structs.replace(record, bad=bad, trial=None)


def encode(record: Record) -> bytes:
    return _slot(record)


def decode(data: bytes) -> Record:
    """Raises RecordError for anything but a whole slot."""
    return _decode(data)[0]


def read(folder: Path) -> Record | None:
    """The newest whole slot in a component's folder; None when there is none: see `rebuild`."""
    return _newest(folder)[0]


def _slot(value: Record | dict[str, Any]) -> bytes:
    body = canonical(value)
    return f"{digest(body)}\n".encode() + body


def _decode(data: bytes) -> tuple[Record, dict[str, Any]]:
    """The record, and everything that stands in the slot."""
    checksum, newline, body = data.partition(b"\n")
    if len(data) > _SIZE_LIMIT or not newline or digest(body).encode() != checksum:
        raise RecordError("torn: its checksum does not fit")
    try:
        fields = json.loads(body)
        return msgspec.convert(fields, Record), fields
    except (ValueError, RecursionError) as error:
        raise RecordError(f"no record of ours: {error}") from error


def _newest(folder: Path) -> tuple[Record | None, dict[str, Any]]:
    found = []
    for name in SLOTS:
        with contextlib.suppress(OSError, RecordError):
            found.append(_decode((folder / name).read_bytes()))
    return max(found, key=lambda slot: slot[0].serial, default=(None, {}))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold this from reading to writing: `launch.py` counts its tries meanwhile. Raises DiskTrouble, RottenTree."""
    try:
        check_private(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / LOCK, flags, 0o600)
    except OSError as error:
        raise DiskTrouble(f"{folder / LOCK} cannot be locked", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(folder: Path, record: Record, disk: Disk | None = None) -> Record:
    """Write what was made of the newest record; on disk when this returns. Gives it back with its new serial.

    Fields that a newer release wrote, and that we do not know, stay. Raises RecordError if it changed since it was
    read, DiskTrouble if it cannot be written: the old one is in force.
    """
    disk = disk or Disk()
    newest, fields = _newest(folder)
    if (newest.serial if newest else 0) != record.serial:
        raise RecordError(f"the record of {record.component} was changed by somebody else; read it again")
    new = msgspec.structs.replace(record, serial=record.serial + 1)
    slot = folder / SLOTS[new.serial % 2]
    temporary = folder / ".state.tmp"
    try:
        check_private(folder)
        disk.remove(temporary)  # left by one who was killed
        disk.write(temporary, _slot(carried(fields, msgspec.to_builtins(new))), 0o600)
        disk.replace(temporary, slot)
        disk.sync_folder(folder)
    except OSError as error:
        raise DiskTrouble(f"{slot} cannot be written", error) from error
    return new


def show_current(folder: Path, record: Record, disk: Disk | None = None) -> None:
    """Point the link `current` at the current version, for people. Raises DiskTrouble."""
    if record.current is None:
        return
    try:
        (disk or Disk()).link(folder / "current", f"versions/{record.current.version}")
    except OSError as error:
        raise DiskTrouble(f"{folder / 'current'} cannot be written", error) from error


def rebuild(root: Path, component: str, trust: Trust) -> Record:
    """A record from what is on disk, when both slots are gone. Only signed, whole versions with whole layers count.

    Current is the one `current` points to; failing that the factory version; failing that the newest. What was on
    trial or on the bad list is not known any more, so newer ones are left alone. Raises ReleaseError if there is none.
    """
    folder = root / "components" / component
    versions = {
        path.name: chosen
        for path in _folders(folder / "versions")
        if (chosen := _vouched(root, path, component, trust)) and chosen.version == path.name
    }
    factory = _vouched(root, folder / "factory", component, trust)
    shown = (folder / "current").readlink().name if (folder / "current").is_symlink() else ""
    newest = max(versions.values(), key=lambda one: version_key(one.version), default=None)
    current = versions.get(shown) or factory or newest
    if current is None:
        raise ReleaseError(f"{folder} holds no signed and whole version: unpack a package of {component}")
    return Record(component=component, current=current, factory=factory)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _vouched(root: Path, folder: Path, component: str, trust: Trust) -> Chosen | None:
    try:
        written = (folder / MANIFEST).read_bytes()
        signers(written, (folder / SIGNATURES).read_bytes(), trust)
        manifest = check_version(folder, digest(written))
        for layer in manifest.layers:
            check_layer(root / "deps" / layer.sha256, layer)
    except (OSError, ReleaseError):
        return None
    return Chosen(manifest.version, digest(written)) if manifest.component == component else None
