"""Doing what the plan says, one handler at a time, several handlers at once."""

import asyncio
import logging
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from guestagent import builtin
from guestagent.artifacts import Artifacts, as_agent_error
from guestagent.environment import command_environment
from guestagent.errors import GuestAgentError, PackageError
from guestagent.layout import HandlerFolder, installed_handlers, usable_extension_name
from guestagent.operation import TIMEOUTS, Kind, Operation, Operations, Outcome, operation_id
from guestagent.plan import Step, Work
from guestagent.record import Applied, Records, digest, key
from ipc.record import Emitter
from wire.errors import DocumentError
from wire.extensions import Settings
from wire.hostplugin import HostPlugin

logger = logging.getLogger("guestagent")

_MESSAGES: dict[str, str] = {"enable": "Plugin enabled", "disable": "Plugin disabled"}
_OPERATIONS = {
    "install": "Install",
    "enable": "Enable",
    "disable": "Disable",
    "update": "Update",
    "uninstall": "UnInstall",
}


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done to a handler right now."""

    doing: str
    version: str
    since: float
    limit_seconds: float | None = None


class _Progress(msgspec.Struct, kw_only=True):
    """What one handler's steps hand to the next."""

    folder: HandlerFolder
    old: HandlerFolder | None
    disable_code: str = "NOT_RUN"
    uninstall_code: str = "NOT_RUN"


class Worker:
    """Carries out work; `changed` is called whenever there is something new to report."""

    def __init__(
        self,
        *,
        lib: Path,
        log: Path,
        artifacts: Artifacts,
        operations: Operations,
        records: Records,
        emitter: Emitter,
        changed: Callable[[], None],
        built_in: Callable[[str], bool] = builtin.provides,
    ) -> None:
        """`built_in` says which handlers come with the product."""
        self._lib = lib
        self._log = log
        self._built_in = built_in
        self._artifacts = artifacts
        self._operations = operations
        self._records = records
        self._emitter = emitter
        self._changed = changed
        self.doing: dict[str, Doing] = {}
        """By handler name."""

    async def do(self, work: Work, goal_state: str, plugin: HostPlugin, wireserver: str) -> None:
        """All steps of one handler; what fails is recorded, told and ends this handler's steps only."""
        name = work.handler.name
        pending = list(dict.fromkeys(key(name, step.settings) for step in work.steps if step.action == "enable"))
        version = work.handler.version
        if work.error:
            self._failed(work, [name], version, goal_state, GuestAgentError(work.error))
            return
        try:
            folder = HandlerFolder(self._lib, self._log, name, version)
            old = HandlerFolder(self._lib, self._log, name, work.old_version) if work.old_version else None
            if work.handler.state != "enabled" and old is not None:
                folder = old
            progress = _Progress(folder=folder, old=old)
            for step in work.steps:
                version = progress.folder.version
                await self._step(work, step, progress, goal_state, plugin, wireserver)
                if step.action == "enable":
                    pending.remove(key(name, step.settings))
        except (GuestAgentError, DocumentError, OSError) as error:
            self._failed(work, pending or [name], version, goal_state, error)
        finally:
            self.doing.pop(name, None)
            self._changed()

    def skip(self, work: Work, goal_state: str, reason: str) -> None:
        """Record that this work was not begun."""
        pending = [key(work.handler.name, one) for one in work.handler.settings] or [work.handler.name]
        self._failed(work, pending, work.handler.version, goal_state, GuestAgentError(reason))
        self._changed()

    async def remove_vanished(self, names: list[str]) -> None:
        """Handlers the goal state does not name any more."""
        for name in names:
            logger.info("%s is gone from the goal state and removed without a command", name)
            await asyncio.to_thread(self._remove_folders, name)
            self._records.forget(name)
            self._emitter.emit("UnInstall", "gone from the goal state", subject=name)

    async def _step(
        self, work: Work, step: Step, progress: _Progress, goal_state: str, plugin: HostPlugin, wireserver: str
    ) -> None:
        handler, folder, old = work.handler, progress.folder, progress.old
        self._now(work, step.doing, folder.version, None)
        match step.action:
            case "fetch":
                await self._fetch(work, step, progress, goal_state, plugin)
            case "install":
                updates_only = (
                    old is not None and not (await asyncio.to_thread(folder.read_manifest)).update_with_install
                )
                if not updates_only:
                    await self._command(work, step, progress, "install", folder, goal_state, wireserver)
            case "enable" | "disable" | "update":
                outcome = await self._command(work, step, progress, step.action, folder, goal_state, wireserver)
                if step.action != "update":
                    self._done(work, step, folder, goal_state, outcome)
            case "disable-old" if old is not None:
                progress.disable_code = await self._tolerant(
                    work, step, progress, "disable", old, goal_state, wireserver
                )
            case "uninstall-old" if old is not None:
                code = await self._tolerant(work, step, progress, "uninstall", old, goal_state, wireserver)
                progress.uninstall_code = code
                await asyncio.to_thread(shutil.rmtree, old.path, ignore_errors=True)
            case "copy" if old is not None:
                await asyncio.to_thread(_copy, old, folder)
            case "uninstall":
                try:
                    await self._command(work, step, progress, "uninstall", folder, goal_state, wireserver)
                except GuestAgentError as error:
                    # Only told: a handler that cannot even uninstall itself must go all the same.
                    logger.warning("%s: %s", handler.name, error)
            case "remove":
                await asyncio.to_thread(self._remove_folders, handler.name)
                self._records.forget(handler.name)
        if step.after is not None and folder.path.exists():
            await asyncio.to_thread(folder.write_state, step.after)

    async def _fetch(self, work: Work, step: Step, progress: _Progress, goal_state: str, plugin: HostPlugin) -> None:
        handler = work.handler
        began = time.monotonic()
        for settings in handler.settings:
            if settings.name and not usable_extension_name(settings.name):
                raise PackageError(f"{settings.name[:80]!r} cannot be the name of an extension")
        if self._built_in(handler.name):
            progress.folder = folder = HandlerFolder(self._lib, self._log, handler.name, handler.version)
            await asyncio.to_thread(builtin.lay_out, folder)
            await asyncio.to_thread(folder.prepare)
            return
        try:
            package, url = await asyncio.to_thread(
                self._artifacts.choose, plugin, handler.name, handler.version, handler.locations
            )
        except DocumentError as error:
            raise as_agent_error(error) from error
        progress.folder = folder = HandlerFolder(self._lib, self._log, handler.name, package.version)
        first: Kind = "install" if progress.old is None else "update"
        if self._operations.known(self._operation_id(work, step, folder, first)):
            # An earlier us came further: what it unpacked is in use.
            return
        await asyncio.to_thread(self._artifacts.fetch, plugin, folder, package, url)
        await asyncio.to_thread(folder.prepare)
        self._emitter.emit(
            "Download",
            f"{handler.name} {package.version}",
            subject=handler.name,
            subject_version=package.version,
            correlation=goal_state,
            duration_ms=int((time.monotonic() - began) * 1000),
        )

    async def _tolerant(
        self,
        work: Work,
        step: Step,
        progress: _Progress,
        kind: Kind,
        old: HandlerFolder,
        goal_state: str,
        wireserver: str,
    ) -> str:
        """A command of the old version during an update; its exit code, which the new version is told."""
        try:
            await self._command(work, step, progress, kind, old, goal_state, wireserver)
        except GuestAgentError as error:
            manifest = await asyncio.to_thread(progress.folder.read_manifest)
            if not manifest.continue_on_update_failure:
                raise GuestAgentError(f"{kind} of the old version {old.version} failed: {error}", 1008) from error
            return str(error.code)
        return "0"

    async def _command(
        self,
        work: Work,
        step: Step,
        progress: _Progress,
        kind: Kind,
        folder: HandlerFolder,
        goal_state: str,
        wireserver: str,
    ) -> Outcome:
        manifest = await asyncio.to_thread(folder.read_manifest)
        line = {
            "install": manifest.install,
            "enable": manifest.enable,
            "disable": manifest.disable,
            "update": manifest.update,
            "uninstall": manifest.uninstall,
        }[kind]
        operation = Operation(
            id=self._operation_id(work, step, folder, kind),
            handler=folder.name,
            version=folder.version,
            extension=step.settings.name if step.settings else "",
            kind=kind,
            # A shell reads the line: the folder's own path must come through it unharmed.
            command=f"{_quoted(folder.path)}/{line}",
            folder=str(folder.path),
            environment=command_environment(
                kind,
                folder,
                step.settings,
                wireserver=wireserver,
                old_version=progress.old.version if progress.old else "",
                disable_code=progress.disable_code,
                uninstall_code=progress.uninstall_code,
            ),
            timeout_seconds=TIMEOUTS[kind],
        )
        self._now(work, step.doing, folder.version, TIMEOUTS[kind])
        if not self._operations.known(operation.id) and kind in {"install", "enable", "update"}:
            await asyncio.to_thread(folder.prepare)
            await asyncio.to_thread(folder.write_settings, step.settings)
        return await self._run(operation, folder, step.settings, goal_state)

    async def _run(
        self, operation: Operation, folder: HandlerFolder, settings: Settings | None, goal_state: str
    ) -> Outcome:
        began = time.monotonic()
        message, ok = "", False
        try:
            outcome = await self._operations.run(operation)
            message, ok = outcome.output, True
        except GuestAgentError as error:
            message = str(error)
            raise
        finally:
            if message:
                await asyncio.to_thread(_append_log, folder.command_log(settings), operation, message)
                self._emitter.emit(
                    _OPERATIONS[operation.kind],
                    message,
                    ok=ok,
                    subject=operation.handler,
                    subject_version=operation.version,
                    correlation=goal_state,
                    duration_ms=int((time.monotonic() - began) * 1000),
                )
        return outcome

    def _done(self, work: Work, step: Step, folder: HandlerFolder, goal_state: str, outcome: Outcome) -> None:
        own = key(work.handler.name, step.settings)
        message = _MESSAGES[step.action]
        ready = step.action == "enable"
        self._records.set(
            own,
            Applied(
                version=folder.version,
                digest=digest(work.handler, step.settings),
                ok=True,
                goal_state=goal_state,
                attempts=self._records.attempt(own),
                message=message,
                handler_status="Ready" if ready else "NotReady",
                at=outcome.ended,
            ),
        )
        folder.write_handler_status(
            "Ready" if ready else "NotReady", 0, message, multi_config=work.handler.multi_config
        )
        self._changed()

    def _failed(self, work: Work, pending: list[str], version: str, goal_state: str, error: Exception) -> None:
        code = error.code if isinstance(error, GuestAgentError) else -1
        message = str(error)
        logger.warning("%s %s: %s", work.handler.name, version, message)
        by_key = {key(work.handler.name, one): one for one in (None, *work.handler.settings)}
        for own in pending:
            applied = Applied(
                version=version,
                digest=digest(work.handler, by_key.get(own)),
                ok=False,
                goal_state=goal_state,
                attempts=self._records.attempt(own),
                code=code,
                message=message,
                handler_status="NotReady",
                at=time.time(),
            )
            self._records.set(own, applied)
        self._emitter.emit(
            "ExtensionProcessing",
            message,
            ok=False,
            subject=work.handler.name,
            subject_version=version,
            correlation=goal_state,
        )

    def _operation_id(self, work: Work, step: Step, folder: HandlerFolder, kind: Kind) -> str:
        extension = step.settings.name if step.settings else ""
        attempt = self._records.attempt(key(work.handler.name, step.settings))
        return operation_id(folder.name, folder.version, extension, kind, digest(work.handler, step.settings), attempt)

    def _now(self, work: Work, doing: str, version: str, limit: float | None) -> None:
        self.doing[work.handler.name] = Doing(doing=doing, version=version, since=time.time(), limit_seconds=limit)
        self._changed()

    def _remove_folders(self, name: str) -> None:
        for one in installed_handlers(self._lib).get(name, []):
            folder = HandlerFolder(self._lib, self._log, name, one.version)
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.package.unlink(missing_ok=True)


def _copy(old: HandlerFolder, new: HandlerFolder) -> None:
    """mrseq and the status files: the handler's memory of what it has done."""
    mrseq = old.path / "mrseq"
    if mrseq.is_file() and not mrseq.is_symlink():
        shutil.copy2(mrseq, new.path / "mrseq")
    for path in old.status.glob("*"):
        if path.is_file() and not path.is_symlink():
            shutil.copy2(path, new.status / path.name)


_LOG_LIMIT = 10 * 1024 * 1024


def _append_log(log: Path, operation: Operation, message: str) -> None:
    """CommandExecution.log keeps its newest 10 MiB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with log.open("ab") as file:
        file.write(f"{stamp} {operation.kind} {operation.version}: {operation.command}\n{message}\n".encode())
    if log.stat().st_size > _LOG_LIMIT:
        kept = log.read_bytes()[-_LOG_LIMIT // 2 :]
        log.write_bytes(kept)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
