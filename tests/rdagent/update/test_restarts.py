"""What was stopped to be started anew is started, also when rdagent ends meanwhile; by a real supervisord."""

import asyncio
import json
import os
import signal

import pytest

from ipc.places import Places
from ipc.supervisord import SupervisordError
from rdagent.update.memory import Memory
from rdagent.update.restarts import Restarts
from tests.conftest import come_true
from tests.rdagent.conftest import Supervision


def states(supervision: Supervision) -> dict[str, str]:
    """Empty before it answers."""
    try:
        return {one.name: one.statename for one in supervision.asking.programs()}
    except SupervisordError:
        return {}


def patient(supervision: Supervision, name: str) -> str:
    """A program that supervisord lets take as long to its end as it likes."""
    return f"[program:{name}]\ncommand={supervision.own(name)}\nstdout_logfile=NONE\nstopwaitsecs=600\n"


def test_two_at_once_are_both_remembered(places: Places, supervision: Supervision) -> None:
    """As a roll back by hand of one, while another is swapped: the next life hears of the one that has not ended."""
    restarts, file = Restarts(places, Memory(places)), places.state_of("rdagent") / "updates.json"

    async def story() -> None:
        supervision.start({"netagent": ""}, more=patient(supervision, "telemetry"))
        await come_true(lambda: set(states(supervision).values()) == {"RUNNING"})
        before = supervision.pids()
        os.kill(before["telemetry"], signal.SIGSTOP)
        slow = asyncio.create_task(restarts.make("telemetry"))
        await come_true(lambda: states(supervision)["telemetry"] == "STOPPING")
        assert await restarts.make("netagent")
        assert supervision.pids()["netagent"] != before["netagent"]
        assert await restarts.finish() == {}  # waits for nobody who is waited for
        assert states(supervision)["telemetry"] == "STOPPING"
        assert Memory(places).now.to_start == ["telemetry"]
        assert json.loads(file.read_text())["restarting"] == "telemetry"  # what an older release reads
        os.kill(before["telemetry"], signal.SIGKILL)
        assert await slow
        assert states(supervision)["telemetry"] in {"STARTING", "RUNNING"}
        assert Memory(places).now.to_start == []
        assert json.loads(file.read_text())["restarting"] == ""

    asyncio.run(story())


@pytest.mark.parametrize(
    ("noted", "left"),
    [({"stopped": ["telemetry", "netagent"]}, ["telemetry"]), ({"restarting": "netagent"}, [])],
    ids=["one of them is gone", "by an older release"],
)
def test_all_that_an_earlier_life_stopped_are_started(
    places: Places, supervision: Supervision, noted: dict[str, object], left: list[str]
) -> None:
    memory = Memory(places)
    memory.change(**noted)

    async def story() -> None:
        supervision.start({"netagent": ""})
        await come_true(lambda: states(supervision))
        supervision.asking.stop("netagent")
        await come_true(lambda: states(supervision) == {"netagent": "STOPPED"})
        restarts = Restarts(places, memory)
        troubles = await restarts.finish()
        assert list(troubles) == left
        assert all("cannot be: supervisord: it has no program telemetry" in one for one in troubles.values())
        assert await restarts.why_nobody_starts() == ""
        assert states(supervision)["netagent"] in {"STARTING", "RUNNING"}
        assert Memory(places).now.to_start == left

    asyncio.run(story())
