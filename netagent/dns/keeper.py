"""Puts the wish where it belongs, and remembers what was given to whom: what a killed netagent gave, the next takes."""

from pathlib import Path
from typing import Protocol

import msgspec

from ipc.errors import StateError
from ipc.statefile import read_state, write_state
from netagent.dns.detect import Manager, detect
from netagent.dns.errors import DnsError, NotOurs
from netagent.dns.file import ResolvFile
from netagent.dns.networkmanager import NetworkManager
from netagent.dns.openresolv import Openresolv
from netagent.dns.resolved import Resolved
from netagent.dns.wanted import DnsWanted, Old


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """Written before anything is done."""

    manager: Manager
    wanted: tuple[DnsWanted, ...]
    """More than one only while one takes the place of another."""


class _Owner(Protocol):
    def apply(self, wanted: DnsWanted, old: Old) -> None: ...

    def undo(self, given: DnsWanted) -> None: ...


class DnsKeeper:
    """Blocking; its children have time limits. `folder`: netagent's state. `own`: a plain file may be written."""

    def __init__(
        self, folder: Path, *, own: bool, resolv_conf: Path = Path("/etc/resolv.conf"), bus: str = "SYSTEM"
    ) -> None:
        self._own = own
        self._resolv_conf = resolv_conf
        self._memory = folder / "dns.json"
        self._file = ResolvFile(resolv_conf, folder / "resolv.conf.before")
        self._owners: dict[Manager, _Owner] = {
            "systemd-resolved": Resolved(bus),
            "NetworkManager": NetworkManager(),
            "resolvconf": Openresolv(),
            "file": self._file,
        }

    def apply(self, wanted: DnsWanted) -> Manager:
        """Through whom. Done again, it puts back what was lost. Raises DnsError."""
        manager = detect(self._resolv_conf)
        if manager == "file" and not self._own:
            raise NotOurs(f"{self._resolv_conf} is a plain file, which is written in own mode only: nothing was done")
        try:
            given = self._given()
        except DnsError:
            if manager != "file":
                raise
            self._memory.unlink(missing_ok=True)
            given = None
        if given is not None and given.manager != manager:
            self.undo()
            given = None
        old = tuple(one for one in given.wanted if one != wanted) if given else ()
        self._remember(Given(manager=manager, wanted=(*old, wanted)))
        self._owners[manager].apply(wanted, old)
        self._remember(Given(manager=manager, wanted=(wanted,)))
        return manager

    def undo(self) -> None:
        """Nothing of ours is left. Raises DnsError."""
        try:
            given = self._given()
        except DnsError:
            # What was given to a manager is not known any more; a file of ours knows itself.
            if detect(self._resolv_conf) != "file":
                raise
            self._file.undo()
            self._memory.unlink(missing_ok=True)
            return
        if given is None:
            return
        for one in given.wanted:
            self._owners[given.manager].undo(one)
        self._memory.unlink(missing_ok=True)

    def _given(self) -> Given | None:
        try:
            return read_state(self._memory, Given)
        except (StateError, DnsError) as error:
            raise DnsError(f"{error}: undo DNS by hand, then delete {self._memory}") from error

    def _remember(self, given: Given) -> None:
        try:
            if given != self._given():
                write_state(self._memory, given)
        except OSError as error:
            raise DnsError(f"{self._memory} cannot be written: {error.strerror}: mend the disk") from error
