"""Runs without the host, asked for on a real bus; what agentctl makes of them has its own tests."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guestagent.layout import HandlerFolder
from guestagent.localrun import LocalRuns
from guestagent.runcommand.place import LOCAL, MANAGED, place_of
from guestagent.runcommand.processes import myself
from guestagent.runcommand.record import Phase, Record, View, read_record, write_mrseq, write_record
from ipc.bus import Bus
from ipc.component import Component
from ipc.contract.guestagent import RUN_SCRIPT_LIMIT, CancelRun, GetRun, RunParameter, RunScript, RunView
from ipc.errors import Refused
from ipc.places import Places
from ipc.record import Emitter

FIRST, OTHER, OUTSIDE = "token-of-the-first", "token-of-another", "../../../x"


def asked(root: Path, conversation: Callable[[Bus], Awaitable[Any]]) -> Any:
    """What a conversation with a component that answers these requests comes to."""
    places = Places.under(root)

    async def run() -> Any:
        async with Component("guestagent", "1", places) as component:
            emitter = Emitter(places, component.bus, "guestagent", "1", str)
            local = LocalRuns(places.state_of("guestagent"), places.lib, places.log, emitter)
            component.answer(RunScript, local.run)
            component.answer(GetRun, local.get)
            component.answer(CancelRun, local.cancel)
            bus = Bus(places, "test", "1")
            try:
                return await conversation(bus)
            finally:
                bus.close()

    return asyncio.run(run())


async def ended(bus: Bus, name: str) -> RunView:
    while True:
        view = await bus.ask(GetRun(name=name), within=30.0)
        if view.state != "Running":
            return view
        await asyncio.sleep(0.05)


def test_a_run_from_request_to_view(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> RunView:
        parameters = [RunParameter(name="WHO", value="a b"), RunParameter(value="x;y")]
        script = b'#!/bin/sh\necho "$WHO|$1"; printf "\\377" >&2; exit 3'
        started = await bus.ask(RunScript(name="job", script=script, parameters=parameters), within=60.0)
        assert (started.name, started.sequence_number) == ("job", 0)
        await ended(bus, "job")
        again = await bus.ask(RunScript(name="job", script=b"exit 0"), within=60.0)
        assert again.sequence_number == 1
        assert (await ended(bus, "job")).state == "Succeeded"
        return await bus.ask(GetRun(name="job", sequence_number=0), within=30.0)

    view = asked(tmp_path, conversation)
    assert (view.state, view.exit_code, view.output, view.error) == ("Failed", 3, "a b|x;y\n", "\ufffd")
    assert Path(view.stdout).read_text() == view.output
    assert view.started_at is not None
    assert view.ended_at is not None


def test_names_are_made_up_and_differ(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> list[str]:
        runs = [bus.ask(RunScript(script=b"true"), within=60.0) for _ in range(3)]
        names = [one.name for one in await asyncio.gather(*runs)]
        for name in names:
            assert (await ended(bus, name)).state == "Succeeded"
        return names

    assert sorted(asked(tmp_path, conversation)) == ["local-1", "local-2", "local-3"]


def test_a_request_asked_again_is_the_same_run_and_another_one_is_not(tmp_path: Path) -> None:
    counted, script = tmp_path / "counted", tmp_path / "script"
    script.write_text(f"echo once >> {counted}")
    first = RunScript(name="job", script_path=str(script), token=FIRST)

    async def conversation(bus: Bus) -> None:
        started = await asyncio.gather(*(bus.ask(first, within=60.0) for _ in range(3)))
        await ended(bus, "job")
        script.unlink()  # of no matter to what was begun
        started.append(await bus.ask(first, within=60.0))
        assert {one.sequence_number for one in started} == {0}
        assert counted.read_text() == "once\n"
        other = msgspec.structs.replace(first, script=b"true", script_path="", token=OTHER)
        assert (await bus.ask(other, within=60.0)).sequence_number == 1
        assert (await bus.ask(first, within=60.0)).sequence_number == 0

    asked(tmp_path, conversation)
    assert counted.read_text() == "once\n"


def test_a_number_that_was_given_away_is_begun_by_its_own_request_only(tmp_path: Path) -> None:
    """As a kill leaves it between the reservation and the beginning."""
    places = Places.under(tmp_path)
    folder = HandlerFolder(places.state_of("guestagent") / "localrun", places.log, LOCAL, "1.0")
    folder.path.mkdir(parents=True)
    folder.prepare()
    place = place_of(folder, "job", 0)
    place.token_file.write_text(FIRST)
    lost = msgspec.structs.replace(place, name="lost")
    lost.token_file.write_text(FIRST)

    async def conversation(bus: Bus) -> None:
        request = RunScript(name="job", script=b"true", token=FIRST)
        assert (await bus.ask(request, within=60.0)).sequence_number == 0
        other = RunScript(name="lost", script=b"true")
        assert (await bus.ask(other, within=60.0)).sequence_number == 1
        with pytest.raises(Refused, match="a later run of that name took its place"):
            await bus.ask(msgspec.structs.replace(request, name="lost"), within=60.0)
        assert (await ended(bus, "lost")).state == "Succeeded"

    asked(tmp_path, conversation)
    assert read_record(lost) is None


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (RunScript(), "exactly one of"),
        (RunScript(script=b"x", script_path="/bin/true"), "exactly one of"),
        (RunScript(script=b"x", name="a/b"), "cannot be the name"),
        (RunScript(script=b"x", name=".."), "cannot be the name"),
        (RunScript(script=b"x" * (RUN_SCRIPT_LIMIT + 1)), "name its file"),
        (RunScript(script=b"x", timeout_seconds=-1), "out of range"),
        (RunScript(script=b"x", parameters=[RunParameter(name="A=B", value="1")]), "cannot be a variable"),
        (RunScript(script=b"x", parameters=[RunParameter(value="\0")]), "cannot be a variable"),
        (RunScript(script=b"x", name="job", token=OUTSIDE), "cannot be a token"),
        (RunScript(script=b"x", token="t" * 8), "needs a name"),
        (RunScript(script=b"x", run_as="nobody-of-that-name"), "does not exist"),
        (RunScript(script_path="relative"), "not an absolute path"),
        (RunScript(script_path="/nonexistent/x"), "cannot be read"),
        (RunScript(script_path="/dev/zero"), "is not a file"),
        (RunScript(script_path="/proc/self/mem"), "cannot be read"),
        (GetRun(name="never"), "there is no run"),
        (GetRun(name="../../x"), "there is no run"),
        (CancelRun(name="never"), "there is no run"),
    ],
)
def test_what_is_refused_and_why(tmp_path: Path, request_: Any, said: str) -> None:
    async def conversation(bus: Bus) -> None:
        await bus.ask(request_, within=30.0)

    with pytest.raises(Refused, match=said):
        asked(tmp_path, conversation)
    state = tmp_path / "state" / "guestagent" / "localrun"
    assert not list(state.rglob("*.settings"))


def test_a_run_of_the_host_is_found_and_canceled_too(
    tmp_path: Path, make_handler: Callable[..., Any], script: Any
) -> None:
    places = Places.under(tmp_path)
    handler = make_handler(tmp_path)
    # Where the agent of this root looks.
    handler.folder = HandlerFolder(places.lib, places.log, MANAGED, "1.3.27")
    handler.folder.path.parent.mkdir(parents=True)
    (tmp_path / "lib" / f"{MANAGED}-1.3.27").rename(handler.folder.path)
    handler.folder.prepare()
    handler.folder.write_state("Enabled")
    handler.enable(script("echo up; exec sleep 600"), name="ordered")
    record = handler.started(name="ordered")

    async def conversation(bus: Bus) -> tuple[RunView, RunView]:
        running = await bus.ask(GetRun(name="ordered"), within=30.0)
        return running, await bus.ask(CancelRun(name="ordered"), within=60.0)

    running, canceled = asked(tmp_path, conversation)
    assert (running.state, running.pid, running.output) == ("Running", record.script.pid, "up\n")
    assert (canceled.state, canceled.exit_code, canceled.pid) == ("Canceled", -1, None)
    assert not record.script.alive()
    assert handler.view(name="ordered")["executionState"] == "Canceled"


def test_the_newest_runs_are_kept_and_running_ones_always(tmp_path: Path) -> None:
    places = Places.under(tmp_path)
    folder = HandlerFolder(places.state_of("guestagent") / "localrun", places.log, LOCAL, "1.0")
    folder.path.mkdir(parents=True)
    view = View(execution_state="Succeeded", execution_message="Execution completed")
    for number in range(110):
        place = place_of(folder, f"old-{number}", 0)
        phase: Phase = "accepted" if number == 0 else "ended"
        record = Record(
            name=place.name, sequence_number=0, phase=phase, worker=myself(), mark="m", accepted_at=1.0, view=view
        )
        write_record(place, record)
        write_mrseq(place)
        os.utime(place.record, (number, number))
        place.stdout.parent.mkdir(parents=True)
        place.stdout.write_text("x")

    async def conversation(bus: Bus) -> None:
        await bus.ask(RunScript(name="new", script=b"true"), within=60.0)
        await ended(bus, "new")

    asked(tmp_path, conversation)
    kept = [number for number in range(110) if read_record(place_of(folder, f"old-{number}", 0)) is not None]
    assert kept == [0, *range(10, 110)]
    gone = place_of(folder, "old-5", 0)
    assert not gone.stdout.exists()
    assert not gone.mrseq.exists()
    assert place_of(folder, "old-50", 0).stdout.exists()
