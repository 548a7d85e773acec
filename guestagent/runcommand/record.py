"""A run's record: the truth about it, from which every status is written. Each step is on disk before it is done."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from guestagent.runcommand.place import Place
from guestagent.runcommand.processes import Process
from ipc.errors import StateError
from ipc.statefile import read_state, write_atomically, write_state

Phase = Literal["accepted", "started", "ended"]
State = Literal["Unknown", "Pending", "Running", "Failed", "Succeeded", "TimedOut", "Canceled"]


class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """v2's instance view, keys in the order the original writes them."""

    execution_state: State
    execution_message: str
    output: str = ""
    error: str = ""
    exit_code: int = 0
    start_time: str = ""
    end_time: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`runs/<stem>.json`."""

    name: str
    sequence_number: int
    phase: Phase
    """`accepted`: nothing was run. `started`: the script was, or was just about to be. `ended`: see `view`."""
    worker: Process
    """Who works on it: the command `enable` first, then the worker."""
    mark: str
    """Value of the variable that all its processes inherit."""
    accepted_at: float
    """UTC, seconds since the epoch, as all times here."""
    script: Process | None = None
    """The script's first process, leader of its session."""
    started: bool = False
    """Whether it ever reached `started`."""
    started_at: float | None = None
    ended_at: float | None = None
    view: View | None = None
    """How it ended."""
    ran: bool = False
    """It ran until it ended by itself."""
    interrupted: bool = False
    """Its worker ended before it did."""
    asynchronous: bool = False
    failure_is_error: bool = False
    work: str = ""
    """Where the script runs."""
    run_as: str = ""
    temporary: bool = False
    """`work` belongs to `run_as` and goes when the run ends."""


def new_mark() -> str:
    return secrets.token_hex(12)


def read_record(place: Place) -> Record | None:
    """None where there is none, and for a damaged one: it then tells nothing."""
    try:
        return read_state(place.record, Record)
    except StateError:
        return None


def write_record(place: Place, record: Record) -> None:
    """Raises OSError."""
    write_state(place.record, record)


def read_mrseq(place: Place) -> int | None:
    """The highest sequence number that was taken up; None before the first. What cannot be read is none."""
    try:
        text = place.mrseq.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() and len(text) < 12 else None


def write_mrseq(place: Place) -> None:
    """Raises OSError."""
    write_atomically(place.mrseq, str(place.sequence_number).encode(), 0o600)


@contextlib.contextmanager
def locked(place: Place, *, wait: bool = True) -> Iterator[bool]:
    """One at a time decides about a name; False if somebody else does and we did not want to wait. Raises OSError."""
    make_folder(place.lock.parent)
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        yield False
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """0700, and so is every parent that had to be made. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
