"""Asking supervisord, over XML-RPC on its Unix socket. Blocking: call it in a thread.

Only what we need of http://supervisord.org/api.html; importing supervisor's own client would cost 10 MB a process.
"""

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any, Literal
from xml.parsers.expat import ExpatError

import msgspec

from ipc.errors import IpcError
from ipc.places import Places

StateName = Literal["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"]


class SupervisordError(IpcError):
    """supervisord is not there, or declined (`fault` is then its own word, e.g. `BAD_NAME`)."""

    def __init__(self, reason: str, fault: str = "") -> None:
        super().__init__(f"supervisord: {reason}")
        self.fault = fault


class ProgramState(msgspec.Struct, frozen=True, kw_only=True):
    """What supervisord says of one program."""

    name: str
    statename: StateName
    pid: int
    """0 when it does not run."""
    start: int
    """UTC, seconds since the epoch, of the last start."""
    spawnerr: str = ""
    description: str = ""
    stdout_logfile: str = ""
    """Where its output goes."""


class Supervisord:
    """One connection per call, so a restarted supervisord is no special case."""

    def __init__(self, places: Places, *, within: float = 5.0) -> None:
        """`within`: seconds one call waits for an answer."""
        self._socket = places.supervisor_socket
        self._within = within

    def programs(self) -> list[ProgramState]:
        """All programs. Raises SupervisordError."""
        answer = self._call("supervisor.getAllProcessInfo")
        try:
            return msgspec.convert(answer, list[ProgramState])
        except msgspec.ValidationError as error:
            raise SupervisordError(f"an answer we cannot read: {error}") from error

    def pid(self) -> int:
        """Of supervisord itself. Raises SupervisordError."""
        answer = self._call("supervisor.getPID")
        if not isinstance(answer, int):
            raise SupervisordError("an answer we cannot read: no pid")
        return answer

    def start(self, program: str) -> None:
        """Ask for a start without waiting for it; one that runs already is left alone. Raises SupervisordError."""
        self._tolerate("ALREADY_STARTED", "supervisor.startProcess", program, False)

    def stop(self, program: str) -> None:
        """Ask for its end without waiting for it; a hung one takes `stopwaitsecs`. Raises SupervisordError."""
        self._tolerate("NOT_RUNNING", "supervisor.stopProcess", program, False)

    def stop_all(self) -> None:
        """Ask all programs to end, at once. Raises SupervisordError."""
        self._call("supervisor.stopAllProcesses", False)

    def shutdown(self) -> None:
        """End supervisord and all its programs. Raises SupervisordError."""
        self._call("supervisor.shutdown")

    def _tolerate(self, fault: str, method: str, *arguments: object) -> None:
        try:
            self._call(method, *arguments)
        except SupervisordError as error:
            if error.fault != fault:
                raise

    def _call(self, method: str, *arguments: object) -> Any:
        proxy = xmlrpc.client.ServerProxy("http://supervisord", transport=_UnixTransport(self._socket, self._within))
        try:
            with proxy:
                return getattr(proxy, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            word, _, _detail = fault.faultString.partition(":")
            raise SupervisordError(f"{method}{arguments}: {fault.faultString}", word) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError) as error:
            raise SupervisordError(f"no answer on {self._socket}: {error}") from error


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, within: float) -> None:
        super().__init__()
        self._path = path
        self._within = within

    def make_connection(self, host: str) -> http.client.HTTPConnection:  # type: ignore[override]  # a name, no tuple
        connection = _UnixConnection(self._path, self._within)
        # Where the base class looks for what it has to close.
        self._connection = host, connection
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, within: float) -> None:
        super().__init__("supervisord", timeout=within)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        self.sock = connection
