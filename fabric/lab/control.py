"""The command's side of a lab: start its keeper, ask it, end it, and clean up after one that is no more."""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from fabric.client import Client
from fabric.errors import FabricError, NoHost
from fabric.lab import orders
from fabric.lab.plan import Plan, check_name

_PATIENCE = 60.0
_END = 10.0
_ADMINISTRATION = "/usr/local/sbin:/usr/sbin:/sbin"
_PROGRAMS = {
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_DNSMASQ = {"dnsmasq": "dnsmasq-base"}
_NEW = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
_NEW_USER = ("--user", "--map-root-user")


class NoLab(NoHost):
    """No lab of this name runs."""


class CannotBuild(FabricError):
    """This machine or this user does not let a lab be."""


class Lab:
    """One lab of a root, by name."""

    def __init__(self, root: Path, name: str) -> None:
        """Raises BadLab: a name is a folder's, too."""
        check_name(name)
        self.name = name
        self.folder = root.absolute() / "lab" / name
        self._again = f"azfabric lab up --root {root} --name {name}"

    def up(self, plan: Plan, *, rootless: bool, said: Callable[[str], None]) -> None:
        """Build it; it stays when this process ends. Raises FabricError, and leaves nothing then."""
        _need({**_PROGRAMS, **_DNSMASQ})
        with self._locked() as lock:
            self._clear()
            with contextlib.ExitStack() as undo:
                undo.callback(self._remove)
                self._build(plan, undo, lock, rootless=rootless, said=said)
                undo.pop_all()

    def _build(
        self, plan: Plan, undo: contextlib.ExitStack, lock: int, *, rootless: bool, said: Callable[[str], None]
    ) -> None:
        log = self.folder / "keeper.log"
        new = (*_NEW_USER, *_NEW) if rootless else _NEW
        words = ["unshare", *new, sys.executable, "-P", "-m", "fabric.lab.keeper", str(self.folder)]
        pipe = subprocess.PIPE
        with log.open("wb") as errors:
            keeper = subprocess.Popen(
                words,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                pass_fds=[lock],
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
        undo.callback(_kill, keeper)
        with contextlib.suppress(BrokenPipeError), _pipes(keeper) as (orders_to, progress_of):
            orders_to.write(msgspec.json.encode(plan) + b"\n")
            orders_to.flush()
            for line in progress_of:
                progress = msgspec.json.decode(line, type=orders.Progress)
                if progress.ready:
                    self._introduce(plan)
                    orders_to.write(b"stay\n")
                    # It lives on, and is nobody's to wait for.
                    keeper.returncode = 0
                    return
                if progress.error:
                    raise CannotBuild(progress.error)
                said(progress.doing)
        keeper.wait()
        raise CannotBuild(f"the lab did not start: {_why(log, rootless=rootless)}")

    def _introduce(self, plan: Plan) -> None:
        """Have the host know the lab's VMs, and no others. Raises FabricError."""
        if not plan.host:
            return
        client = Client(self.folder)
        for known in client.get("/api/vms"):
            client.delete(f"/api/vms/{known['name']}")
        for vm in plan.vms:
            client.post("/api/vms", {"name": vm.name, "tenant": vm.tenant, "address": vm.address, "mac": vm.mac})

    def ask(self, order: orders.Order) -> Any:
        """Raises FabricError, NoLab."""
        with self._connected() as one:
            one.settimeout(_PATIENCE)
            return self._ask(one, order)

    def _ask(self, one: socket.socket, order: orders.Order) -> Any:
        try:
            one.sendall(msgspec.json.encode(order) + b"\n")
            with one.makefile("rb") as file:
                answer = msgspec.json.decode(file.readline(), type=orders.Answer)
        except (OSError, msgspec.DecodeError) as error:
            raise FabricError(f"lab {self.name} does not answer; end it with: azfabric lab down") from error
        if answer.error:
            refused = FabricError(answer.error)
            refused.exit_status = answer.exit_status
            raise refused
        return answer.value

    def command(self, name: str, command: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
        """What runs a command in a VM or beside a tenant's host, and its environment. Raises FabricError, NoLab."""
        _need(_PROGRAMS)
        with self._connected() as one:
            keeper = _peer(one)
            pid = self._ask(one, orders.Where(name))
        ours = Path(f"/proc/{keeper}/ns/user").stat().st_ino == Path("/proc/self/ns/user").stat().st_ino
        user = [] if ours else ["--user", "--preserve-credentials"]
        owner = Path(f"/proc/{keeper}").stat()
        # Root enters a user's lab as that user: it is the only one known in there.
        become = ["setpriv", f"--reuid={owner.st_uid}", f"--regid={owner.st_gid}", "--clear-groups", "--"]
        into_lab = ["nsenter", "--target", str(keeper), *user, "--mount", "--pid", "--"]
        if os.geteuid() != owner.st_uid:
            into_lab = [*become, *into_lab]
        into_lab[0] = shutil.which(into_lab[0], path=_environment()["PATH"]) or into_lab[0]
        into_vm = ["nsenter", "--target", str(pid), "--net", "--mount", "--uts", "--ipc", "--pid", "--"]
        return [*into_lab, *into_vm, *command], _root_environment()

    def down(self) -> bool:
        """End it and leave nothing; False if there was nothing. Raises FabricError."""
        if not self.folder.is_dir():
            return False
        until = time.monotonic() + _END
        while not self._ended():
            # It is only just being started, or has not quite ended.
            if time.monotonic() > until:
                raise LabRuns(f"lab {self.name} does not end; who holds it: fuser {self.folder}")
            select.select([], [], [], 0.02)
        return True

    def _ended(self) -> bool:
        with contextlib.suppress(NoLab):
            self._end()
        with contextlib.suppress(LabRuns), self._locked():
            self._remove()
            return True
        return False

    def _remove(self) -> None:
        shutil.rmtree(self.folder)
        # Other labs may be in there.
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _end(self) -> None:
        """Ask, then insist. Raises NoLab."""
        with self._connected() as one:
            keeper = os.pidfd_open(_peer(one))
            try:
                one.settimeout(_END / 2)
                try:
                    self._ask(one, orders.Down())
                    ended = select.select([keeper], [], [], _END)[0]
                except FabricError:
                    ended = []
                if not ended:
                    signal.pidfd_send_signal(keeper, signal.SIGKILL)
                    select.select([keeper], [], [], _END)
            finally:
                os.close(keeper)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The folder, which a lab that runs has locked. Raises LabRuns, FabricError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise FabricError(f"{self.folder} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise LabRuns(f"lab {self.name} runs already; choose another --name, or: azfabric lab down") from error
        try:
            yield lock
        finally:
            os.close(lock)

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as one:
            try:
                folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    # By a short name, since a socket's is limited to 107 bytes.
                    one.connect(f"/proc/self/fd/{folder}/control")
                finally:
                    os.close(folder)
            except PermissionError as error:
                raise FabricError(f"{self.folder} belongs to another user; be that user, or root") from error
            except OSError as error:
                raise NoLab(f"no lab {self.name} runs here. Start one with: {self._again}") from error
            yield one


class LabRuns(FabricError):
    """It is there already."""


def names(root: Path) -> list[str]:
    """The labs of a root, also those that are no more and left something."""
    folder = root.absolute() / "lab"
    return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


@contextlib.contextmanager
def _pipes(keeper: subprocess.Popen[bytes]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    if keeper.stdin is None or keeper.stdout is None:
        raise CannotBuild("the keeper has no pipes")
    with keeper.stdin as to, keeper.stdout as back:
        yield to, back


def _kill(unshare: subprocess.Popen[bytes]) -> None:
    """The keeper, which is the child of `unshare`; that ends when all of the lab has."""
    try:
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    except OSError:
        # It has just ended.
        children = []
    if not children:
        unshare.kill()
    unshare.wait()


def _peer(one: socket.socket) -> int:
    """The pid of who listens, as seen from here: what a pid in a file could not be trusted for."""
    return int(struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def _environment() -> dict[str, str]:
    """Where administrators' programs are is not in everybody's PATH."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_ADMINISTRATION}"}


def _root_environment() -> dict[str, str]:
    """Root's after a login: what its caller has set is of another machine."""
    kept = {name: os.environ[name] for name in ("LANG", "TERM") if name in os.environ}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**kept, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": path}


def _need(programs: dict[str, str]) -> None:
    path = _environment()["PATH"]
    missing = {name: package for name, package in programs.items() if shutil.which(name, path=path) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise CannotBuild(f"{', '.join(missing)} is missing; as root: apt-get install {packages}")


def _why(log: Path, *, rootless: bool) -> str:
    said = log.read_text(errors="replace").strip().splitlines() or ["it says nothing"]
    if "unshare" in said[-1] and not rootless:
        return f"{said[-1]}. Try --rootless"
    if "unshare" in said[-1]:
        return (
            f"{said[-1]}. Be root, or let users have namespaces: sysctl user.max_user_namespaces,"
            " kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns say who may"
        )
    return said[-1]
