"""Doing what the plan says: one handler's steps in order, several handlers at once, and the way back."""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from guestagent import builtin
from guestagent.approval import Approval
from guestagent.artifacts import Artifacts
from guestagent.command import Commands, Occasion
from guestagent.environment import Codes
from guestagent.errors import (
    CommandFailed,
    ConfigurationError,
    GuestAgentError,
    PackageError,
    RefusedByPolicy,
    VersionMissing,
    failure_kind,
)
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder, Installed, usable_extension_name, version_folders
from guestagent.operation import TIMEOUTS, Kind, Outcome
from guestagent.plan import Action, Step, Work, version_of, way_back
from guestagent.record import Applied, HandlerWord, Records, digest, key
from guestagent.retry import next_try
from ipc.record import Emitter
from wire.errors import DocumentError
from wire.extensions import Settings
from wire.hostplugin import HostPlugin

logger = logging.getLogger("guestagent")

_COMMAND_OF: dict[Action, Kind] = {
    "disable-old": "disable",
    "uninstall-old": "uninstall",
    "uninstall-new": "uninstall",
    "install-old": "install",
    "enable-old": "enable",
    "install": "install",
    "enable": "enable",
    "disable": "disable",
    "update": "update",
    "uninstall": "uninstall",
}
# What is wrong with one of several extensions is no reason to stop with the others.
_OWN_BUSINESS: frozenset[Action] = frozenset({"enable", "disable"})


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done to a handler right now."""

    doing: str
    version: str
    since: float
    limit_seconds: float | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf work is done."""

    goal_state: str
    plugin: HostPlugin
    wireserver: str
    """Bare address, as extensions are told it."""
    fast_track: bool
    """Told to the host when artifacts are fetched through it (protocol: HostGAPlugin calls)."""
    certificates: Callable[[], Awaitable[None]]
    """Waits until they are on disk: any command may read any of them."""


class _Progress(msgspec.Struct, kw_only=True):
    """What one handler's steps hand to the next."""

    folder: HandlerFolder
    old: HandlerFolder | None
    was_enabled: bool
    codes: Codes
    begun: set[Action] = set()


class Worker:
    """Carries out work; `changed` is called whenever there is something new to report."""

    def __init__(
        self,
        *,
        lib: Path,
        log: Path,
        artifacts: Artifacts,
        approval: Approval,
        commands: Commands,
        records: Records,
        emitter: Emitter,
        changed: Callable[[], None],
        downloads: int,
        roll_back: bool,
        built_in: Callable[[str], bool] = builtin.provides,
    ) -> None:
        """`built_in` says which handlers come with the product."""
        self._lib = lib
        self._log = log
        self._built_in = built_in
        self._artifacts = artifacts
        self._approval = approval
        self._commands = commands
        self._records = records
        self._emitter = emitter
        self._changed = changed
        self._downloads = asyncio.Semaphore(downloads)
        self._roll_back = roll_back
        self.doing: dict[str, Doing] = {}
        """By handler name."""

    def expect(self, work: Work) -> None:
        """Say what it begins with, though its turn may come later: no report goes out without it."""
        for step in work.steps[:1]:
            version = work.version or work.handler.version
            self.doing[work.handler.name] = Doing(doing=step.doing, version=version, since=time.time())

    async def do(self, work: Work, asked: Asked) -> None:
        """All steps of one handler; what fails is recorded and told, and after a failed update the way back is gone."""
        name = work.handler.name
        try:
            if work.error:
                self._failed(work, self._keys(work), _refusal(work), asked)
                return
            await self._steps(work, asked)
        finally:
            self.doing.pop(name, None)
            self._changed()

    def keep_copies(self, found: Mapping[str, list[Installed]], wanted: set[str]) -> None:
        """Of packages that are installed, or that a way back leads to. Blocking."""
        versions = {(name, one.version) for name, several in found.items() for one in several}
        versions |= {(name, good.version) for name, good in self._records.good.items()}
        self._artifacts.wanted(wanted)
        self._artifacts.pin(versions)

    async def remove_vanished(self, name: str) -> None:
        """A handler the goal state does not name any more."""
        logger.info("%s is gone from the goal state and removed without a command", name)
        await asyncio.to_thread(self._remove_folders, name, "")
        self._records.forget(name)
        self._emitter.emit("UnInstall", "gone from the goal state", subject=name)
        self._changed()

    # -- one handler's work ----------------------------------------------------------------------------------------

    async def _steps(self, work: Work, asked: Asked) -> None:
        pending = self._keys(work)
        try:
            progress = await asyncio.to_thread(self._begin, work)
        except GuestAgentError as error:
            self._failed(work, pending, error, asked)
            return
        for step in work.steps:
            own = key(work.handler.name, step.settings)
            progress.begun.add(step.action)
            try:
                await self._step(work, step, progress, asked)
            except (GuestAgentError, DocumentError, OSError) as error:
                if work.handler.multi_config and step.action in _OWN_BUSINESS:
                    self._failed(work, [own], error, asked, progress.folder)
                    continue
                await self._give_up(work, pending, progress, error, asked)
                return
            if step.action in {"enable", "rewrite"} and own in pending:
                pending.remove(own)
        if work.handler.multi_config:
            self._records.well(work.handler.name)

    def _begin(self, work: Work) -> _Progress:
        """Raises PackageError for a name that must not become a path, ConfigurationError."""
        handler = work.handler
        for settings in handler.settings:
            if settings.name and not usable_extension_name(settings.name):
                raise ConfigurationError(f"{settings.name[:80]!r} cannot be the name of an extension")
        folder = HandlerFolder(self._lib, self._log, handler.name, work.version or handler.version)
        old = HandlerFolder(self._lib, self._log, handler.name, work.old_version) if work.old_version else None
        codes = Codes(updating_from=old.version if old else "")
        # HandlerState may say Installed by now: an earlier us may have come as far as the update.
        good = self._records.good.get(handler.name)
        was_enabled = old is not None and (
            old.read_state() == "Enabled" or (good is not None and good.version == old.version)
        )
        return _Progress(folder=folder, old=old, was_enabled=was_enabled, codes=codes)

    async def _step(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        self._now(work, step.doing, progress.folder.version, step.action)
        match step.action:
            case "fetch":
                await self._fetch(work, step, progress, asked)
            case "copy":
                await self._copy(work, progress, asked)
            case "disable-old" | "uninstall-old":
                await self._old(work, step, progress, asked)
            case "update":
                await self._update(work, step, progress, asked)
            case "install":
                await self._install(work, step, progress, asked)
            case "enable":
                await self._enable(work, step, progress, asked)
            case "rewrite":
                await self._rewrite(work, step, progress)
            case "disable":
                await self._disable(work, step, progress, asked)
            case "uninstall":
                await self._uninstall(work, step, progress, asked)
            case "commit":
                await asyncio.to_thread(self._remove_folders, work.handler.name, progress.folder.version)
            case "remove":
                await asyncio.to_thread(self._remove_folders, work.handler.name, "")
                self._records.forget(work.handler.name)

    async def _fetch(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        handler = work.handler
        if self._built_in(handler.name):
            progress.folder = HandlerFolder(self._lib, self._log, handler.name, handler.version)
            await asyncio.to_thread(builtin.lay_out, progress.folder)
            await asyncio.to_thread(progress.folder.prepare)
            return
        began = time.monotonic()
        async with self._downloads:
            choice = await asyncio.to_thread(
                self._artifacts.choose,
                asked.plugin,
                handler.name,
                handler.version,
                handler.locations,
                fast_track=asked.fast_track,
            )
            package = choice.package
            progress.folder = folder = HandlerFolder(self._lib, self._log, handler.name, package.version)
            first: Kind = "install" if progress.old is None else "update"
            if self._commands.known(first, folder, step.settings, self._occasion(work, step, asked)):
                return  # an earlier us came further: what it unpacked is in use

            validated = False

            def approve(zipped: Path, manifest: HandlerManifest) -> None:
                nonlocal validated
                validated = self._approval.judge(zipped, manifest, handler, package.version)

            fetched = await asyncio.to_thread(
                self._artifacts.fetch,
                asked.plugin,
                folder,
                package,
                choice.manifest_url,
                approve=approve,
                fast_track=asked.fast_track,
            )
        await asyncio.to_thread(folder.prepare)
        if validated:
            await asyncio.to_thread(folder.mark_validated)
        if handler.multi_config and not (await asyncio.to_thread(folder.read_manifest)).multi_config:
            raise ConfigurationError(
                f"{handler.name} {package.version} is asked for with several extensions,"
                " and its manifest does not say supportsMultipleExtensions"
            )
        text = f"{handler.name} {package.version}"
        for one in (choice, fetched):
            if one.stale_since is not None:
                text += f"; the repository did not answer, as known since {stamp(one.stale_since)}: {one.reason}"
        self._emitter.emit(
            "Download",
            text,
            subject=handler.name,
            subject_version=package.version,
            correlation=asked.goal_state,
            duration_ms=int((time.monotonic() - began) * 1000),
        )

    async def _copy(self, work: Work, progress: _Progress, asked: Asked) -> None:
        """mrseq and the status files: the handler's memory of what it has done."""
        update = next(step for step in work.steps if step.action == "update")
        where = _updating_folder(progress)
        if progress.old and not self._commands.known(
            "update", where, update.settings, self._occasion(work, update, asked)
        ):
            await asyncio.to_thread(_copy_memory, progress.old, progress.folder)

    async def _old(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        """A command of the old version during an update; the new version is told how it ended."""
        if progress.old is None:
            return
        kind = _COMMAND_OF[step.action]
        try:
            await self._command(work, step, progress, progress.old, asked)
            code = "0"
        except CommandFailed as error:
            manifest = await asyncio.to_thread(progress.folder.read_manifest)
            if not manifest.continue_on_update_failure:
                error.args = (f"{kind} of the old version {progress.old.version} failed: {error}",)
                error.code = 1008
                raise
            code = str(error.exit_status)
        if step.action == "uninstall-old":
            progress.codes.uninstall = code
            return
        if work.handler.multi_config and step.settings is not None:
            progress.codes.disables[step.settings.name] = code
        else:
            progress.codes.disable = code
        await asyncio.to_thread(progress.old.write_state, "Installed")

    async def _update(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        """A downgrade's update is run by the version that leaves (protocol: sequences)."""
        where = _updating_folder(progress)
        if where is not progress.folder:
            progress.codes.updating_from = progress.folder.version
        await self._command(work, step, progress, where, asked, version=progress.folder.version)

    async def _install(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        manifest = await asyncio.to_thread(progress.folder.read_manifest)
        if progress.old is None or manifest.update_with_install:
            await self._command(work, step, progress, progress.folder, asked)
        await asyncio.to_thread(progress.folder.write_state, "Installed")

    async def _enable(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        folder, settings = progress.folder, step.settings
        outcome = await self._command(work, step, progress, folder, asked)
        await asyncio.to_thread(folder.write_state, "Enabled")
        if settings is not None and settings.name:
            await asyncio.to_thread(folder.write_extension_state, settings.name, "enabled")
        self._record(work, settings, folder, asked, "Ready", "Plugin enabled", outcome.ended)
        self._records.enabled(work.handler.name, folder.version, settings)

    async def _rewrite(self, work: Work, step: Step, progress: _Progress) -> None:
        """The same settings, encrypted for another certificate: nothing is to be run for that."""
        await asyncio.to_thread(progress.folder.write_settings, step.settings)
        self._records.enabled(work.handler.name, progress.folder.version, step.settings)

    async def _disable(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        folder, handler, settings = progress.folder, work.handler, step.settings
        try:
            outcome = await self._command(work, step, progress, folder, asked)
            ended = outcome.ended
        except GuestAgentError as error:
            # One of several, or a handler that goes anyway: it must not be kept by a disable that fails.
            if not handler.multi_config and handler.state != "uninstall":
                raise
            logger.warning("%s: %s", handler.name, error)
            ended = time.time()
        if settings is not None and settings.name:
            await asyncio.to_thread(folder.forget_extension, settings.name)
            self._records.forget(handler.name, settings.name)
            if await asyncio.to_thread(folder.read_enabled_extensions):
                return
        await asyncio.to_thread(folder.write_state, "Installed")
        if handler.state == "disabled":
            self._records.disabled(handler.name)
            self._record(work, None, folder, asked, "NotReady", "Plugin disabled", ended)

    async def _uninstall(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        try:
            await self._command(work, step, progress, progress.folder, asked)
        except GuestAgentError as error:
            # Only told: a handler that cannot even uninstall itself must go all the same.
            logger.warning("%s: %s", work.handler.name, error)

    async def _command(
        self,
        work: Work,
        step: Step,
        progress: _Progress,
        folder: HandlerFolder,
        asked: Asked,
        *,
        version: str = "",
        way: str = "",
    ) -> Outcome:
        kind = _COMMAND_OF[step.action]
        await asked.certificates()
        await asyncio.to_thread(self._make_whole, folder)
        occasion = self._occasion(work, step, asked, way)
        return await self._commands.run(kind, folder, step.settings, occasion, codes=progress.codes, version=version)

    def _make_whole(self, folder: HandlerFolder) -> None:
        """A folder whose manifest was damaged is restored from the copy we keep. Raises PackageError, OSError."""
        try:
            folder.read_manifest()
        except PackageError as damage:
            if self._built_in(folder.name):
                builtin.lay_out(folder)
                return
            try:
                self._artifacts.restore(folder)
            except PackageError as error:
                raise damage from error
            self._emitter.emit(
                "Restore", f"{damage}; put back from our copy", subject=folder.name, subject_version=folder.version
            )

    def _occasion(self, work: Work, step: Step, asked: Asked, way: str = "") -> Occasion:
        """`way` tells the way back's commands from those before."""
        wanted = step.settings if step.settings in work.handler.settings else work.steps[0].settings
        parts = (digest(work.handler, wanted), str(self._records.turn(work.handler.name)), way)
        return Occasion(goal_state=asked.goal_state, wireserver=asked.wireserver, parts=parts)

    # -- failing ---------------------------------------------------------------------------------------------------

    async def _give_up(
        self, work: Work, pending: list[str], progress: _Progress, error: Exception, asked: Asked
    ) -> None:
        """The handler's steps end here; after a failed update the version before is brought back."""
        old, new = progress.old, progress.folder
        if old is None:
            self._failed(work, pending, error, asked, new)
            return
        good = self._records.good.get(work.handler.name)
        first = work.steps[0].settings
        steps = way_back(frozenset(progress.begun), first, good, was_enabled=progress.was_enabled)
        if new.path.exists():
            await asyncio.to_thread(new.write_state, "FailedUpgrade")
        if steps and not await self._may_go_back(new):
            self._failed(work, pending, error, asked, new)
            return
        try:
            for step in steps:
                await self._back(work, step, progress, asked)
        except (GuestAgentError, OSError) as second:
            error.args = (f"{error}\nand the way back to {old.version} failed too: {second}",)
            self._failed(work, pending, error, asked, old)
            return
        if not steps and failure_kind(error) == "transient" and not isinstance(error, VersionMissing):
            since = stamp(self._artifacts.unreachable.get(old.name, time.time()))
            error.args = (f"degraded: artifacts unreachable since {since}, running {old.version}: {error}",)
            self._failed(work, pending, error, asked, old, goes_on=progress.was_enabled)
            return
        told = "goes on" if not steps else "is enabled again" if progress.was_enabled else "is installed again"
        error.args = (f"update to {new.version} failed, {old.version} {told}: {error}",)
        self._failed(work, pending, error, asked, old, goes_on=progress.was_enabled)

    async def _may_go_back(self, new: HandlerFolder) -> bool:
        """Unless the configuration or the new version's author forbids it."""
        if not self._roll_back:
            return False
        try:
            return (await asyncio.to_thread(new.read_manifest)).roll_back
        except GuestAgentError:
            return True

    async def _back(self, work: Work, step: Step, progress: _Progress, asked: Asked) -> None:
        old = progress.old
        if old is None:
            return
        self._now(work, step.doing, old.version, step.action)
        if step.action == "uninstall-new":
            try:
                await self._command(work, step, progress, progress.folder, asked, way="back")
            except GuestAgentError as error:
                logger.info("%s %s: %s", old.name, progress.folder.version, error)
            return
        await self._command(work, step, progress, old, asked, way="back")
        if step.after is not None:
            await asyncio.to_thread(old.write_state, step.after)

    def _failed(
        self,
        work: Work,
        pending: list[str],
        error: Exception,
        asked: Asked,
        folder: HandlerFolder | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        """Record and tell. `goes_on`: the version in `folder` is in force all the same."""
        handler = work.handler
        message, kind = str(error), failure_kind(error)
        code = error.code if isinstance(error, GuestAgentError) else -1
        now = time.time()
        by_key = {key(handler.name, one): one for one in (None, *handler.settings)}
        logger.warning("%s: %s", handler.name, message)
        for own in pending:
            before = self._records.applied.get(own)
            asked_for = digest(handler, by_key.get(own))
            again = before is not None and not before.ok and (before.digest, before.kind) == (asked_for, kind)
            tries = before.tries + 1 if again and before is not None else 0
            applied = Applied(
                version=folder.version if folder else handler.version,
                digest=asked_for,
                ok=False,
                goal_state=asked.goal_state,
                code=code,
                message=message,
                handler_status="Ready" if goes_on else "NotReady",
                at=now,
                kind=kind,
                tries=tries,
                retry_at=next_try(kind, tries, now=now),
                since=before.since if again and before is not None else now,
                wanted=handler.version if goes_on else "",
            )
            self._records.set(own, applied)
        self._emitter.emit(
            "ExtensionProcessing",
            message,
            ok=False,
            subject=handler.name,
            subject_version=folder.version if folder else handler.version,
            correlation=asked.goal_state,
        )

    def _record(
        self,
        work: Work,
        settings: Settings | None,
        folder: HandlerFolder,
        asked: Asked,
        word: HandlerWord,
        message: str,
        at: float,
    ) -> None:
        own = key(work.handler.name, settings)
        applied = Applied(
            version=folder.version,
            digest=digest(work.handler, settings),
            ok=True,
            goal_state=asked.goal_state,
            message=message,
            handler_status=word,
            at=at,
        )
        self._records.set(own, applied)
        folder.write_handler_status(word, 0, message, multi_config=work.handler.multi_config)
        self._changed()

    def _keys(self, work: Work) -> list[str]:
        """Whom a failure of this work concerns."""
        keys = [key(work.handler.name, step.settings) for step in work.steps if step.action in {"enable", "rewrite"}]
        return list(dict.fromkeys(keys)) or [work.handler.name]

    def _now(self, work: Work, doing: str, version: str, action: Action) -> None:
        limit = float(TIMEOUTS[_COMMAND_OF[action]]) if action in _COMMAND_OF else None
        self.doing[work.handler.name] = Doing(doing=doing, version=version, since=time.time(), limit_seconds=limit)
        self._changed()

    def _remove_folders(self, name: str, but: str) -> None:
        for folder in version_folders(self._lib, self._log, name):
            if folder.version != but:
                shutil.rmtree(folder.path, ignore_errors=True)


def _updating_folder(progress: _Progress) -> HandlerFolder:
    """Where the update command is run: a downgrade's is the old version's own."""
    if progress.old is not None and version_of(progress.folder.version) < version_of(progress.old.version):
        return progress.old
    return progress.folder


def _copy_memory(old: HandlerFolder, new: HandlerFolder) -> None:
    mrseq = old.path / "mrseq"
    if mrseq.is_file() and not mrseq.is_symlink():
        shutil.copy2(mrseq, new.path / "mrseq")
    for path in old.status.glob("*"):
        if path.is_file() and not path.is_symlink():
            shutil.copy2(path, new.status / path.name)


def stamp(at: float) -> str:
    """For people, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))


def _refusal(work: Work) -> GuestAgentError:
    """Told with the code of the command that is not run (protocol: policy)."""
    if work.refused:
        return RefusedByPolicy(work.error, 1009 if work.handler.state == "enabled" else 1010)
    return ConfigurationError(work.error)
