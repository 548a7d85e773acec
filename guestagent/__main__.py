"""The process: joins the parts and runs them."""

import asyncio
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guestagent import __version__, builtin
from guestagent.agent import GuestAgent
from guestagent.approval import Approval
from guestagent.artifacts import Artifacts
from guestagent.cache import Cache
from guestagent.command import Commands
from guestagent.config import Settings
from guestagent.history import History
from guestagent.layout import installed_handlers
from guestagent.localrun import LocalRuns
from guestagent.operation import Operations
from guestagent.queries import Queries
from guestagent.record import Records
from guestagent.reporting import Reporter
from guestagent.steps import Worker
from guestagent.updatestatus import UpdateNews
from guestagent.watch import HostWatch
from ipc.component import Component
from ipc.contract.guestagent import (
    CancelRun,
    ExplainExtension,
    GetExtension,
    GetRun,
    GetStatus,
    GoalStateArrived,
    RetryExtension,
    RunScript,
)
from ipc.ending import end_process
from ipc.errors import IpcError
from ipc.hostaddress import find_host
from ipc.logs import start_logging
from ipc.places import Places
from ipc.record import Emitter
from ipc.settings import CHECK, HostSettings, load_settings
from wire.errors import WireError
from wire.http import HttpClient
from wire.redact import redact

NAME = "guestagent"


async def run(places: Places, settings: Settings, host: HostSettings) -> None:
    """One life of the component."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16, NAME))
    places.lib.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = HttpClient(f"azvmagent/{__version__}")
    state = places.state_of(NAME)
    changed, again = asyncio.Event(), asyncio.Event()
    async with Component(NAME, __version__, places) as component:
        emitter = Emitter(places, component.bus, NAME, __version__, redact)
        records, operations, history = Records(state), Operations(state), History(places.lib)
        cache = Cache(state / "cache", limit_bytes=settings.cache_bytes, limit_entries=settings.cache_entries)
        artifacts = Artifacts(client, places.lib, cache, history.manifest)

        def goal_state_arrived() -> None:
            component.announce(GoalStateArrived(goal_state=watch.current.id if watch.current else ""))
            again.set()
            changed.set()

        watch = HostWatch(
            settings=settings,
            client=client,
            find_host=lambda: find_host(places, host),
            lib=places.lib,
            state=state,
            history=history,
            emitter=emitter,
            arrived=goal_state_arrived,
            changed=changed.set,
        )
        worker = Worker(
            lib=places.lib,
            log=places.log,
            artifacts=artifacts,
            approval=Approval(
                mode=settings.signature_check,
                policy_file=Path(settings.policy_file),
                root=settings.signature_root,
                lib=places.lib,
                emitter=emitter,
            ),
            commands=Commands(operations, emitter, enforce_limits=settings.enforce_limits),
            records=records,
            emitter=emitter,
            changed=changed.set,
            downloads=settings.concurrent_downloads,
            roll_back=settings.roll_back,
            built_in=builtin.provides if settings.built_in_run_command else lambda _: False,
        )
        updates = UpdateNews(component.bus, changed.set)
        reporter = Reporter(
            component=component,
            settings=settings,
            client=client,
            watch=watch,
            worker=worker,
            records=records,
            emitter=emitter,
            history=history,
            lib=places.lib,
            log=places.log,
            changed=changed,
            again=again,
            updates=updates,
        )
        agent = GuestAgent(
            watch=watch,
            worker=worker,
            records=records,
            operations=operations,
            reporter=reporter,
            lib=places.lib,
            find_host=lambda: find_host(places, host),
            again=again,
            concurrent_handlers=settings.concurrent_handlers,
            policy_file=Path(settings.policy_file),
        )
        queries = Queries(
            watch=watch,
            records=records,
            operations=operations,
            reporter=reporter,
            lib=places.lib,
            log=places.log,
            again=again,
        )
        component.answer(GetStatus, reporter.get_status)
        component.answer(GetExtension, queries.get_extension)
        component.answer(RetryExtension, queries.retry_extension)
        component.answer(ExplainExtension, queries.explain_extension)
        local = LocalRuns(state, places.lib, places.log, emitter)
        component.answer(RunScript, local.run)
        component.answer(GetRun, local.get)
        component.answer(CancelRun, local.cancel)
        emitter.emit("Start", f"{NAME} {__version__}")
        try:
            await asyncio.to_thread(_tidy, artifacts, places.lib)
            await component.run(
                watch.watch_wireserver(),
                watch.watch_host_plugin(),
                agent.work(),
                reporter.report(),
                updates.follow(),
                emitter.deliver(),
            )
        finally:
            client.close()


def _tidy(artifacts: Artifacts, lib: Path) -> None:
    artifacts.clean()
    artifacts.pin((name, one.version) for name, found in installed_handlers(lib).items() for one in found)


def main() -> int:
    places = Places.from_environment(os.environ)
    start_logging(NAME, redact)
    checking = sys.argv[1:] == [CHECK]
    try:
        settings = load_settings(places, NAME, Settings, strict=checking)
        host = load_settings(places, "host", HostSettings, strict=checking)
        if checking:
            return 0
        asyncio.run(run(places, settings, host))
    except (IpcError, WireError, OSError) as error:
        logging.getLogger(NAME).critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
