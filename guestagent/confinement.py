"""Holding commands to their limits: looking at the machine, and making what a Placement names. Blocking."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from guestagent.limits import SLICE, Machine, Placement, ServiceLimits, missing, service_properties

_SECONDS = 20.0
_WANTED = ("cpu", "memory")
_OOM_POLICY_SINCE = 253


def look(mounts: Path = Path("/proc/self/mounts"), booted: Path = Path("/run/systemd/system")) -> Machine:
    """What this machine offers. Starts a scope to see that one can be started; changes nothing."""
    if os.geteuid() != 0:
        return Machine(manager="none", reason="it takes root")
    unified, legacy = _hierarchies(mounts)
    if booted.is_dir():
        return _look_at_systemd(unified if not legacy else None)
    if unified is None:
        return Machine(manager="none", reason="cgroup v1 here" if legacy else "no cgroup v2 here")
    controllers = _controllers(unified)
    if not controllers:
        return Machine(manager="none", reason="cgroup v1 here" if legacy else "cgroup v2 without controllers here")
    if not os.access(unified / "cgroup.subtree_control", os.W_OK):
        return Machine(manager="none", reason=f"{unified} cannot be written here")
    missing = ", ".join(name for name in _WANTED if name not in controllers)
    reason = f"no controller {missing} in {unified}" if missing else ""
    return Machine(manager="cgroup", controllers=controllers, cgroup_root=str(unified), reason=reason)


def prepare(placement: Placement) -> Placement:
    """Make the slice's or the cgroup's limits hold. What cannot be done is taken out and said in `not_enforced`."""
    if placement.properties:
        # For this boot only: what is wanted is set anew each time.
        problem = _run("systemctl", "set-property", "--runtime", placement.unit, *placement.properties)
        return _with(placement, placement.unit, problem) if problem else placement
    if not placement.cgroup:
        return placement
    folder = Path(placement.cgroup)
    wanted = {name.partition(".")[0] for name, _ in placement.files}
    try:
        for parent in (folder.parent.parent, folder.parent):
            parent.mkdir(mode=0o755, exist_ok=True)
            _write(parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(wanted)))
        folder.mkdir(mode=0o755, exist_ok=True)
        for name, content in placement.files:
            _write(folder / name, content)
    except OSError as error:
        release(placement)
        nowhere = msgspec.structs.replace(placement, cgroup="", files=())
        return _with(nowhere, str(error.filename or folder), str(error.strerror))
    return placement


def release(placement: Placement) -> None:
    """Remove the cgroup if nothing runs in it any more. systemd does it by itself."""
    if placement.cgroup:
        folder = Path(placement.cgroup)
        for path in (folder, folder.parent):
            # Busy: something the extension left there, which goes on; or another handler's.
            with contextlib.suppress(OSError):
                path.rmdir()


def limit_services(machine: Machine, services: tuple[ServiceLimits, ...]) -> tuple[str, ...]:
    """Once the extension was enabled, for only then its services are there. What does not hold, and why."""
    problems = []
    for one in services:
        if machine.manager != "systemd":
            problems.append(f"{one.name}: not enforced: {machine.reason or 'no systemd here'}")
            continue
        problems += [f"{one.name}: {text}" for text in missing(machine, one)]
        properties = service_properties(one)
        if properties and (problem := _run("systemctl", "set-property", "--runtime", one.name, *properties)):
            problems.append(f"{one.name}: not enforced: {problem}")
    return tuple(problems)


def _look_at_systemd(unified: Path | None) -> Machine:
    if not shutil.which("systemd-run") or not shutil.which("systemctl"):
        return Machine(manager="none", reason="systemd runs here, but systemd-run is missing")
    problem = _run("systemd-run", "--scope", "--quiet", "--collect", f"--slice={SLICE}.slice", "--", "true")
    if problem:
        return Machine(manager="none", reason=f"systemd starts no scope: {problem}")
    # Of cgroup v1 systemd knows no limit that slows down; its limit of memory there kills.
    controllers = _controllers(unified) if unified else frozenset({"cpu"})
    missing = ", ".join(name for name in _WANTED if name not in controllers)
    reason = "" if not missing else f"no controller {missing} here" if unified else "cgroup v1 here"
    return Machine(
        manager="systemd",
        controllers=controllers,
        reason=reason,
        oom_policy=_systemd_version() >= _OOM_POLICY_SINCE,
    )


def _hierarchies(mounts: Path) -> tuple[Path | None, bool]:
    """Where cgroup v2 is, and whether there is any of v1 that holds a controller we want."""
    unified, legacy = None, False
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, place, kind, options = line.split(" ")[:4]
        if kind == "cgroup2" and unified is None:
            unified = Path(place)
        legacy = legacy or (kind == "cgroup" and not set(_WANTED).isdisjoint(options.split(",")))
    return unified, legacy


def _controllers(unified: Path) -> frozenset[str]:
    try:
        found = (unified / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return frozenset()
    return frozenset(_WANTED) & frozenset(found)


def _systemd_version() -> int:
    try:
        done = subprocess.run(["systemd-run", "--version"], capture_output=True, timeout=_SECONDS, check=False)  # noqa: S607
        return int(done.stdout.split()[1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return 0


def _run(*command: str) -> str:
    """Why it failed; empty if it did not."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def _with(placement: Placement, what: str, problem: str) -> Placement:
    return msgspec.structs.replace(
        placement, not_enforced=(*placement.not_enforced, f"the limits are not enforced: {what}: {problem}")
    )


def _write(path: Path, content: str) -> None:
    """Into a file that is there, for these are the kernel's. Raises OSError that names the file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
