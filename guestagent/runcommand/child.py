"""The script as a process, and waiting for whatever comes first: its end, its limit, a cancel, the time to report.

One thread, one poll: signals arrive on a pipe, so none is missed between two looks.
"""

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType
from typing import Literal

import msgspec

from guestagent.runcommand.errors import EarlyCancel, NotStarted
from guestagent.runcommand.prepare import Ready
from guestagent.runcommand.processes import descendants, end_all

Wake = Literal["ended", "canceled", "time"]

_SHELLS = ("/bin/bash", "/bin/sh")
_GRACE = 2.0


class Signals:
    """SIGTERM and SIGINT ask for a cancel; SIGCHLD wakes."""

    def __init__(self) -> None:
        self.canceled = False
        self._interrupts = False
        self._reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @contextlib.contextmanager
    def caught(self) -> Iterator["Signals"]:
        """Until the block ends. Call in the main thread."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        before = [signal.signal(number, self._received) for number in numbers]
        earlier = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(earlier)
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
            os.close(self._reading)
            os.close(self._writing)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A cancel raises EarlyCancel inside the block, whatever it waits for."""
        self._interrupts = True
        try:
            if self.canceled:
                raise EarlyCancel
            yield
        finally:
            self._interrupts = False

    def wait(self, seconds: float) -> None:
        """Until a signal came, or the time is over."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(self._reading, 4096)

    def _received(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.canceled = True
            if self._interrupts:
                self._interrupts = False
                raise EarlyCancel


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Exit status, or the signal that ended it."""

    code: int
    signal: int = 0


class Child:
    """A running script. This process must have no other children to wait for."""

    def __init__(self, ready: Ready, stdout: int, stderr: int) -> None:
        """Starts it, in a session of its own. Raises NotStarted."""
        self._process = _start(ready, stdout, stderr)
        self.pid = self._process.pid
        self.ended: Ended | None = None

    def reap(self) -> None:
        """Take in what has ended: the script, and the orphans it left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                code = os.waitstatus_to_exitcode(status)
                self._process.returncode = code
                self.ended = Ended(code=code) if code >= 0 else Ended(code=-1, signal=-code)

    def wait(self, signals: Signals, until: float) -> Wake:
        """`until` on CLOCK_MONOTONIC. An end that comes together with a cancel is an end."""
        while True:
            self.reap()
            if self.ended is not None:
                return "ended"
            if signals.canceled:
                return "canceled"
            left = until - time.monotonic()
            if left <= 0:
                return "time"
            signals.wait(left)

    def end(self) -> None:
        """The script and everything it started, sessions of their own or not."""
        end_all(lambda: descendants(os.getpid()), _GRACE, self.reap)


def _start(ready: Ready, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    try:
        return _popen(ready, ready.command, stdout, stderr)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise _not_started(ready, error) from error
    # No interpreter named: a shell runs it, as a shell would.
    shell = next((one for one in _SHELLS if os.access(one, os.X_OK)), _SHELLS[-1])
    try:
        return _popen(ready, (shell, *ready.command), stdout, stderr)
    except OSError as error:
        raise _not_started(ready, error) from error


def _popen(ready: Ready, command: tuple[str, ...], stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    account = ready.account if ready.account is not None and not ready.account.is_us else None
    return subprocess.Popen(
        command,
        cwd=ready.folder,
        env=ready.environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=list(account.groups) if account else None,
    )


def _not_started(ready: Ready, error: OSError) -> NotStarted:
    reason = f"{ready.command[0]}: {error.strerror or error}"
    if error.errno == errno.ENOENT:
        return NotStarted(f"failed to execute command: {reason} (the file, or the interpreter it names)", 127)
    return NotStarted(f"failed to execute command: {reason}", 126)
