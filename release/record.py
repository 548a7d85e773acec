"""Which version of a component is to run: the commit point of every update.

Two slots beside the versions, `state.0` and `state.1`, each a checksum and a JSON document with a serial, written in
turn. A torn slot leaves the other; an update is done when its slot's rename is on disk, not before. `launch.py`
reads and writes the same files without us. The symbolic link `current` is for people.
"""

import contextlib
import fcntl
import json
import os
import time
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
)
from release.signing import Trust, signers
from release.tree import check_layer, check_private, check_version

TRIES = 3
SLOTS = ("state.0", "state.1")
LOCK = "state.lock"
_SIZE_LIMIT = 1 << 20
_LOCK_SECONDS, _LOCK_LOOK_SECONDS = 3.0, 0.02
_CLOCK_SECONDS = 3600.0
"""So far a clock may be put back without a word."""


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
    """Where it failed, see `release.environment`; empty: not known."""

    def holds(self, *, now: float, environment: str) -> bool:
        """Whether it still counts: not expired, and the machine is the one it failed on. `now`: seconds since 1970."""
        elsewhere = self.environment and environment and self.environment != environment
        return not elsewhere and (self.expires is None or now < self.expires)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is remembered of one component's versions."""

    format: Literal[1] = 1
    serial: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the slot it was read from; 0 if it was never written."""
    component: Name
    current: Chosen | None = None
    """None: the base install."""
    previous: Chosen | None = None
    """The one to go back to; None: the base install."""
    trial: Trial | None = None
    bad: dict[str, Bad] = {}


def begin_trial(record: Record, target: Chosen, tries: int = TRIES) -> Record:
    """Raises RecordError for a version on the bad list, or while another one is on trial."""
    if bad := record.bad.get(target.key):
        raise RecordError(f"{record.component} {target.version} is on the bad list: {bad.reason}; take it off first")
    if record.trial and record.trial.target != target:
        raise RecordError(f"{record.component} {record.trial.target.version} is still on trial; wait for its end")
    return msgspec.structs.replace(record, trial=Trial(target, tries))


def step_back(record: Record, reason: str, expires: float | None = None) -> Record:
    """The current version is on the bad list and the one before in force. Raises RecordError for the base install."""
    if record.current is None:
        raise RecordError(f"{record.component} runs from the base install; there is nothing to go back to")
    bad = {**record.bad, record.current.key: Bad(reason, expires)}
    back = record.previous if record.previous and record.previous.key not in bad else None
    return msgspec.structs.replace(record, current=back, previous=None, trial=None, bad=bad)


def commit(record: Record) -> Record:
    """The version on trial is the current one. Raises RecordError when there is none."""
    if record.trial is None:
        raise RecordError(f"no version of {record.component} is on trial")
    target = record.trial.target
    previous = record.previous if record.current == target else record.current
    return msgspec.structs.replace(record, current=target, previous=previous, trial=None)


def reject(record: Record, reason: str, expires: float | None = None, environment: str = "") -> Record:
    """The version on trial is on the bad list. Raises RecordError when there is none."""
    if record.trial is None:
        raise RecordError(f"no version of {record.component} is on trial")
    bad = {**record.bad, record.trial.target.key: Bad(reason, expires, environment)}
    return msgspec.structs.replace(record, bad=bad, trial=None)


def forgive(record: Record, *, now: float, environment: str) -> Record:
    """Without the bad versions that may be tried again: `begin_trial` and `launch.py` go by the list alone."""
    held = {key: bad for key, bad in record.bad.items() if bad.holds(now=now, environment=environment)}
    return record if held == record.bad else msgspec.structs.replace(record, bad=held)


def complete(record: Record, *, expires: float | None, environment: str) -> Record:
    """`launch.py` says only why a version is bad; this adds where and until when (seconds since 1970).

    An end much later than `expires` was set by a clock that was wrong, and is put right.
    """
    bad = {
        key: one
        if one.environment and not _is_late(one, expires)
        else msgspec.structs.replace(one, expires=expires, environment=one.environment or environment)
        for key, one in record.bad.items()
    }
    return record if bad == record.bad else msgspec.structs.replace(record, bad=bad)


def _is_late(bad: Bad, latest: float | None) -> bool:
    return bad.expires is not None and latest is not None and bad.expires > latest + _CLOCK_SECONDS


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
    """Hold this from reading to writing: `launch.py` counts its tries meanwhile.

    Raises DiskTrouble, RottenTree, and RecordError when somebody else holds it for 3 s: one that hangs may have to be
    ended by whoever waits here.
    """
    try:
        check_private(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / LOCK, flags, 0o600)
    except OSError as error:
        raise DiskTrouble(f"{folder / LOCK} cannot be locked", error) from error
    try:
        _lock(descriptor, folder / LOCK)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                text = f"{path} is held by another process for {_LOCK_SECONDS:g} s, `fuser -v {path}` names it"
                raise RecordError(text) from None
            time.sleep(_LOCK_LOOK_SECONDS)
        else:
            return


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
    """Point the link `current` at the current version, for people; none for the base install. Raises DiskTrouble."""
    disk = disk or Disk()
    try:
        if record.current is None:
            disk.remove(folder / "current")
        else:
            disk.link(folder / "current", f"versions/{record.current.version}")
    except OSError as error:
        raise DiskTrouble(f"{folder / 'current'} cannot be written", error) from error


def rebuild(root: Path, component: str, trust: Trust) -> Record:
    """A record from what is on disk, when both slots are gone. Only signed, whole versions with whole layers count.

    Current is the one `current` points to, else the base install. What was on trial or on the bad list is not known any
    more, so others are left alone.
    """
    folder = root / "components" / component
    versions = {
        path.name: chosen
        for path in _folders(folder / "versions")
        if (chosen := _vouched(root, path, component, trust)) and chosen.version == path.name
    }
    shown = (folder / "current").readlink().name if (folder / "current").is_symlink() else ""
    return Record(component=component, current=versions.get(shown))


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
