"""One command of a handler: built from its manifest, run as an operation, told to log and record."""

import asyncio
import shlex
import time
from pathlib import Path

import msgspec

from guestagent import confinement
from guestagent.environment import Codes, command_environment
from guestagent.errors import GuestAgentError
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder
from guestagent.limits import Machine, Placement, choose
from guestagent.operation import TIMEOUTS, Kind, Operation, Operations, Outcome, operation_id
from ipc.record import Emitter
from wire.extensions import Settings
from wire.redact import redact

_WORDS: dict[Kind, str] = {
    "install": "Install",
    "enable": "Enable",
    "disable": "Disable",
    "update": "Update",
    "uninstall": "UnInstall",
}
_LOG_LIMIT = 10 * 1024 * 1024


class Occasion(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is part of. `parts` go into its id: the same work after a restart is the same operation."""

    goal_state: str
    wireserver: str
    parts: tuple[str, ...]


class Commands:
    """Runs commands; two calls for the same work run it once."""

    def __init__(self, operations: Operations, emitter: Emitter, *, enforce_limits: bool) -> None:
        self._operations = operations
        self._emitter = emitter
        self._enforce_limits = enforce_limits
        self._machine: Machine | None = None
        self._looking = asyncio.Lock()
        self._told: set[tuple[str, str]] = set()

    def known(self, kind: Kind, folder: HandlerFolder, settings: Settings | None, occasion: Occasion) -> bool:
        """Whether this very operation was begun, by us or by an earlier us."""
        return self._operations.known(_id(kind, folder, settings, occasion))

    async def run(
        self,
        kind: Kind,
        folder: HandlerFolder,
        settings: Settings | None,
        occasion: Occasion,
        *,
        codes: Codes,
        version: str = "",
    ) -> Outcome:
        """Run it, or adopt it. `version` is what an update is told to update to; the folder's own by default.

        Raises GuestAgentError, OSError.
        """
        manifest = await asyncio.to_thread(folder.read_manifest)
        own = _id(kind, folder, settings, occasion)
        placement = Placement()
        if not self._operations.known(own):
            placement = await self._place(folder, manifest, own)
        operation = Operation(
            id=own,
            handler=folder.name,
            version=folder.version,
            extension=settings.name if settings else "",
            kind=kind,
            # A shell reads the line: the folder's own path must come through it unharmed.
            command=f"{shlex.quote(str(folder.path))}/{_line(manifest, kind)}",
            folder=str(folder.path),
            environment=command_environment(
                kind, folder, settings, wireserver=occasion.wireserver, codes=codes, version=version or folder.version
            ),
            timeout_seconds=TIMEOUTS[kind],
            goal_state=occasion.goal_state,
            launcher=placement.launcher,
            cgroup=placement.cgroup,
        )
        if not self._operations.known(operation.id):
            await asyncio.to_thread(folder.prepare)
            if kind in {"install", "enable", "update"}:
                await asyncio.to_thread(folder.write_settings, settings)
        try:
            outcome = await self._run(operation, folder.command_log(settings))
            if kind == "enable":
                # By what the manifest said before: some extensions leave nothing of it.
                await self._limit_services(folder, manifest)
            return outcome
        finally:
            await asyncio.to_thread(confinement.release, placement)

    async def _place(self, folder: HandlerFolder, manifest: HandlerManifest, unit: str) -> Placement:
        """Where its limits hold, as far as this machine can make them; what does not hold is told once."""
        if not self._enforce_limits:
            return Placement()
        async with self._looking:
            if self._machine is None:
                self._machine = await asyncio.to_thread(confinement.look)
        placement = choose(self._machine, folder.name, manifest.limits, unit)
        placement = await asyncio.to_thread(confinement.prepare, placement)
        problems = (*manifest.limits.problems, *placement.not_enforced)
        if problems and (folder.name, folder.version) not in self._told:
            self._told.add((folder.name, folder.version))
            self._tell_limits(folder, problems)
        return placement

    def _tell_limits(self, folder: HandlerFolder, problems: tuple[str, ...]) -> None:
        text = "; ".join(problems)
        self._emitter.emit("ResourceLimits", text, ok=False, subject=folder.name, subject_version=folder.version)

    async def _limit_services(self, folder: HandlerFolder, manifest: HandlerManifest) -> None:
        """Limits of the services an extension has installed, which are there only once it is enabled."""
        services = manifest.limits.services
        if self._enforce_limits and services and self._machine is not None:
            problems = await asyncio.to_thread(confinement.limit_services, self._machine, services)
            if problems:
                self._tell_limits(folder, problems)

    async def _run(self, operation: Operation, log: Path) -> Outcome:
        message, outcome = "", None
        began = time.time()
        try:
            outcome = await self._operations.run(operation)
            message = outcome.output
        except GuestAgentError as error:
            message = str(error)
            raise
        finally:
            # Cancelled: this guestagent ends, the command goes on and the next one hears how it ended.
            if message:
                await asyncio.to_thread(_append, log, operation, message)
                seconds = outcome.ended - outcome.began if outcome else time.time() - began
                self._emitter.emit(
                    _WORDS[operation.kind],
                    message,
                    ok=outcome is not None,
                    subject=operation.handler,
                    subject_version=operation.version,
                    correlation=operation.goal_state,
                    duration_ms=int(seconds * 1000),
                )
        return outcome


def _id(kind: Kind, folder: HandlerFolder, settings: Settings | None, occasion: Occasion) -> str:
    extension = settings.name if settings else ""
    return operation_id(folder.name, folder.version, extension, kind, *occasion.parts)


def _line(manifest: HandlerManifest, kind: Kind) -> str:
    return {
        "install": manifest.install,
        "enable": manifest.enable,
        "disable": manifest.disable,
        "update": manifest.update,
        "uninstall": manifest.uninstall,
    }[kind]


def _append(log: Path, operation: Operation, message: str) -> None:
    """CommandExecution.log keeps its newest 10 MiB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = redact(f"{stamp} {operation.kind} {operation.version}: {operation.command}\n{message}\n")
    with log.open("ab") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    if log.stat().st_size > _LOG_LIMIT:
        kept = log.read_bytes()[-_LOG_LIMIT // 2 :]
        log.write_bytes(kept)
