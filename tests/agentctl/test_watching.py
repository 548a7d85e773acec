"""Ctrl-C in `agentctl update now`: it says that the update goes on, and where to look."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from agentctl.deployment import Deployment
from ipc.component import Component
from ipc.contract.rdagent import (
    GetUpdateHistory,
    GetUpdatePlan,
    GetUpdates,
    RepositoryView,
    UpdateHistory,
    UpdateNow,
    UpdatePlan,
    Updates,
    UpdateView,
)
from ipc.places import Places


@pytest.mark.parametrize("heard", [True, False])
def test_ctrl_c_ends_the_watching_only(tmp_path: Path, *, heard: bool) -> None:
    """Also before rdagent has said that it heard."""
    places = Places.under(tmp_path)

    async def story() -> tuple[int | None, str]:
        asked = asyncio.Event()

        async def begin(_: UpdateNow) -> UpdatePlan:
            asked.set()
            if not heard:
                await asyncio.Event().wait()
            return UpdatePlan(steps=[])

        async def views(_: GetUpdates) -> Updates:
            view = UpdateView(component="telemetry", state="fetching", wanted="9.9.9")
            return Updates(components=[view], repository=RepositoryView(), looked_at=time.time())

        async def plan(_: GetUpdatePlan) -> UpdatePlan:
            return UpdatePlan(steps=[])

        async def history(_: GetUpdateHistory) -> UpdateHistory:
            return UpdateHistory(events=[])

        async with Component("rdagent", "1", places) as component:
            component.answer(UpdateNow, begin)
            component.answer(GetUpdates, views)
            component.answer(GetUpdatePlan, plan)
            component.answer(GetUpdateHistory, history)
            words = ["-m", "agentctl", "update", "now", "telemetry", "--root", str(tmp_path)]
            pipe = asyncio.subprocess.PIPE
            child = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=pipe, stderr=pipe)
            assert child.stderr is not None
            await asked.wait()
            if heard:
                line = await asyncio.wait_for(child.stderr.readline(), 60)
                assert line.startswith(b"telemetry  fetching")
            child.send_signal(signal.SIGINT)
            _, said = await asyncio.wait_for(child.communicate(), 60)
            return child.returncode, said.decode()

    status, said = asyncio.run(story())
    assert status == 130
    command = Deployment(root=tmp_path, places=places).command
    assert said == (
        "\nOnly the watching has ended: what was asked for, and what is on trial, goes on.\n"
        f"Look: {command('agentctl update status')}\nWhat came of it: {command('agentctl update history')}\n"
    )
