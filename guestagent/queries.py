"""What guestagent answers about single extensions: everything on disk and in the records, for `agentctl ext`."""

import asyncio
import os
import shlex
from pathlib import Path

from guestagent.explain import SHOWN, Case, explain
from guestagent.layout import HandlerFolder, version_folders
from guestagent.operation import Found, Operations
from guestagent.record import Records, key
from guestagent.report import ExtensionReport, view
from guestagent.reporting import Reporter
from guestagent.watch import HostWatch
from ipc.contract.guestagent import (
    ExplainExtension,
    Explanation,
    ExtensionDetail,
    FolderView,
    GetExtension,
    OperationView,
    RetryBegun,
    RetryExtension,
)
from ipc.errors import Refused
from wire.extensions import Handler, Settings
from wire.redact import redact

_OPERATIONS = 50
# How many that wait for each other in vain are followed to the one that failed.
_DEPTH = 20
_LAST_WORDS = 1500
_SHOWN = (*SHOWN, "AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE", "AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE")


class Queries:
    """Reads; `retry` alone changes anything, and asks for a new plan."""

    def __init__(
        self,
        *,
        watch: HostWatch,
        records: Records,
        operations: Operations,
        reporter: Reporter,
        lib: Path,
        log: Path,
        again: asyncio.Event,
    ) -> None:
        self._watch = watch
        self._records = records
        self._operations = operations
        self._reporter = reporter
        self._lib = lib
        self._log = log
        self._again = again

    async def get_extension(self, request: GetExtension) -> ExtensionDetail:
        """Raises Refused for a handler nobody knows."""
        name = self._full_name(request.name)
        return await asyncio.to_thread(self._detail, name)

    async def retry_extension(self, request: RetryExtension) -> RetryBegun:
        """Raises Refused for a handler nobody knows."""
        name = self._full_name(request.name)
        begun = self._records.retry(name, request.extension)
        if begun:
            self._again.set()
        return RetryBegun(extensions=begun)

    async def explain_extension(self, request: ExplainExtension) -> Explanation:
        """Raises Refused for a handler nobody knows."""
        name = self._full_name(request.name)
        return await asyncio.to_thread(self._explain, name, request.extension)

    def _full_name(self, asked: str) -> str:
        known = {one.name for one in self._watch.current.handlers} if self._watch.current else set()
        known |= {own.partition("/")[0] for own in self._records.applied}
        known |= {path.name.rpartition("-")[0] for path in self._lib.glob("*.*-*") if path.is_dir()}
        known = {name for name in known if name and not name.startswith(".")}
        wanted = asked.lower()
        for fits in ({one for one in known if one.lower() == wanted}, {one for one in known if _ends(one, wanted)}):
            if len(fits) == 1:
                return fits.pop()
            if fits:
                raise Refused("GetExtension", "bad-request", f"{asked} may be {', '.join(sorted(fits))}: say which")
        there = ", ".join(sorted(known)[:20]) or "none at all"
        raise Refused("GetExtension", "bad-request", f"no extension {asked[:100]!r} is known; there is {there}")

    def _detail(self, name: str) -> ExtensionDetail:
        handler = self._wanted(name)
        folders = version_folders(self._lib, self._log, name)
        return ExtensionDetail(
            name=name,
            wanted_version=handler.version if handler else "",
            wanted_state=handler.state if handler else "",
            locations=[redact(one) for one in handler.locations] if handler else [],
            extensions=[view(one, self._records.applied) for one in self._reports(name)],
            folders=[
                FolderView(
                    version=one.version,
                    state=one.read_state(),
                    path=str(one.path),
                    extensions=sorted(one.read_enabled_extensions()),
                )
                for one in folders
            ],
            operations=[_operation(one) for one in self._operations.of(name)[-_OPERATIONS:]],
            files=[str(path) for folder in folders for path in _files(folder)][:200],
        )

    def _explain(self, name: str, extension: str, depth: int = _DEPTH) -> Explanation:
        handler = self._wanted(name)
        reports = [
            one for one in self._reports(name) if not extension or (one.settings and one.settings.name == extension)
        ]
        # The worst of several tells most.
        report = min(reports, key=_wellness, default=None)
        settings = report.settings if report else None
        record = self._records.applied.get(key(name, settings)) or self._records.applied.get(name)
        found = [one for one in self._operations.of(name) if not extension or one.operation.extension == extension]
        status_file, status_at = self._status_file(report, settings)
        status = self._reporter.summary()
        return explain(
            Case(
                name=name,
                handler=handler,
                goal_state=self._watch.current.id if self._watch.current else "",
                goal_state_at=self._watch.current_at,
                goal_state_problem=self._watch.problem,
                report=report,
                record=record,
                operations=tuple(found),
                last_words=_last_words(found[-1]) if found else "",
                package_lacks=_lacking(found[-1]) if found else "",
                missing_certificate=self._missing_certificate(settings),
                status_file=status_file,
                status_file_at=status_at,
                reported_at=status.reported_at,
                report_problem=status.report_problem,
                agent_problem=self._records.problem,
                depends_on=self._obstacle(report, depth) if depth else None,
                depends_on_extension=self._obstacle_name(report)[1],
            )
        )

    def _obstacle(self, report: ExtensionReport | None, depth: int) -> Explanation | None:
        """Of the extension that another one waits for in vain."""
        name, extension = self._obstacle_name(report)
        return self._explain(name, extension, depth - 1) if name else None

    def _obstacle_name(self, report: ExtensionReport | None) -> tuple[str, str]:
        """Handler and extension; both empty if it waits for none in vain."""
        waiting = self._reporter.waiting.get(key(report.handler, report.settings)) if report else None
        if waiting is None or not waiting.failed:
            return "", ""
        name, _, extension = waiting.on.partition("/")
        return name, extension

    def _wanted(self, name: str) -> Handler | None:
        handlers = self._watch.current.handlers if self._watch.current else ()
        return next((one for one in handlers if one.name == name), None)

    def _reports(self, name: str) -> list[ExtensionReport]:
        return [one for one in self._reporter.reports if one.handler == name]

    def _status_file(self, report: ExtensionReport | None, settings: Settings | None) -> tuple[str, float | None]:
        if report is None or settings is None:
            return "", None
        for folder in version_folders(self._lib, self._log, report.handler):
            if folder.version == report.version:
                path = folder.status_file(settings)
                try:
                    return str(path), path.stat().st_mtime
                except OSError:
                    return str(path), None
        return "", None

    def _missing_certificate(self, settings: Settings | None) -> str:
        if settings is None or not settings.protected or not settings.thumbprint:
            return ""
        return "" if self._watch.has_certificate(settings.thumbprint) else settings.thumbprint


def _lacking(found: Found) -> str:
    """Below the handler's folder, what the command should have started; empty if it is there, or lies elsewhere."""
    folder = Path(found.operation.folder)
    try:
        program = Path(shlex.split(found.operation.command)[0])
        return "" if program.exists() else str(program.relative_to(folder))
    except (ValueError, IndexError, OSError):
        return ""


def _operation(found: Found) -> OperationView:
    operation, ended = found.operation, found.exit
    return OperationView(
        id=operation.id,
        kind=operation.kind,
        version=operation.version,
        extension=operation.extension,
        command=redact(operation.command),
        environment={name: operation.environment[name] for name in _SHOWN if name in operation.environment},
        state=found.state,
        pid=found.pid,
        began=ended.began if ended else None,
        ended=ended.ended if ended else None,
        exit_status=ended.code if ended else None,
        timed_out=ended.timed_out if ended else False,
        error=ended.error if ended else "",
        limit_seconds=operation.timeout_seconds,
        goal_state=operation.goal_state,
        stdout=str(found.folder / "stdout"),
        stderr=str(found.folder / "stderr"),
    )


def _files(folder: HandlerFolder) -> list[Path]:
    own = [*folder.config.glob("*.settings"), *folder.status.glob("*.status"), folder.heartbeat]
    return sorted(path for path in (*own, *folder.log.glob("*.log")) if path.is_file())


def _last_words(found: Found) -> str:
    """The end of what it wrote, errors first."""
    for name in ("stderr", "stdout"):
        try:
            with (found.folder / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - _LAST_WORDS))
                text = file.read().decode("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            return redact(text)
    return ""


def _ends(name: str, wanted: str) -> bool:
    return name.lower().endswith(f".{wanted}")


def _wellness(report: ExtensionReport) -> int:
    word = report.status.status if report.status else ""
    return 0 if report.handler_status == "NotReady" or word == "error" else 1 if word != "success" else 2
