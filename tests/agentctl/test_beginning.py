"""Asking for a run again: whoever knows tokens is, an older guestagent is only looked at. On real sockets."""

import asyncio
import time
from pathlib import Path

import pytest

from agentctl.asking import ask
from agentctl.beginning import begin
from agentctl.deployment import Deployment
from agentctl.errors import NothingThere
from ipc.component import Component
from ipc.contract.every import Describe, Description
from ipc.contract.guestagent import GetRun, RunScript, RunStarted, RunView
from ipc.places import Places
from ipc.supervisord import Supervisord


@pytest.mark.parametrize(("minor", "times"), [(1, 1), (3, 2)])
def test_who_remembers_no_tokens_is_asked_once(tmp_path: Path, minor: int, times: int) -> None:
    """Its first answer gets lost."""
    places = Places.under(tmp_path)
    asked: list[RunScript] = []

    async def describe(_: Describe) -> Description:
        return Description(
            component="guestagent", version="1", pid=1, protocol_major=1, protocol_minor=minor, started_at=1.0
        )

    async def run(request: RunScript) -> RunStarted:
        asked.append(request)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return RunStarted(name=request.name, sequence_number=4, stdout="out", stderr="err")

    async def get(request: GetRun) -> RunView:
        return RunView(
            name=request.name, sequence_number=4, state="Running", stdout="out", stderr="err", started_at=time.time()
        )

    async def conversation() -> RunStarted:
        async with Component("guestagent", "1", places) as component:
            component.answer(Describe, describe)
            component.answer(RunScript, run)
            component.answer(GetRun, get)
            once = "made-up-once"
            return await begin(Deployment(root=tmp_path, places=places), RunScript(name="job", script=b"x", token=once))

    started = asyncio.run(conversation())
    assert (started.name, started.sequence_number, started.stdout, started.stderr) == ("job", 4, "out", "err")
    assert len(asked) == times
    assert len({one.token for one in asked}) == 1


def test_a_guestagent_that_hangs_is_not_to_be_started_with_up(mute: tuple[Deployment, int]) -> None:
    deployment, pid = mute
    once = "made-up-once"
    words = f"Its process {pid} runs, so it hangs or is very busy. See: .*; start it anew with: .*restart guestagent"
    with pytest.raises(NothingThere, match=f"guestagent does not answer. {words}"):
        asyncio.run(begin(deployment, RunScript(name="job", script=b"x", token=once)))
    with pytest.raises(NothingThere, match=words):
        ask(deployment, GetRun(name="job"), to="guestagent", within=0.5)
    Supervisord(deployment.places).stop("guestagent")
    with pytest.raises(NothingThere, match="supervisord says STOPPED.*Start it with: .*agentctl restart guestagent"):
        asyncio.run(begin(deployment, RunScript(name="job", script=b"x", token=once)))
