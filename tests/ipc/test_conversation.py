"""Asking, refusing, announcing: real components on real sockets."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest
import zmq
import zmq.asyncio

from ipc.bus import Bus
from ipc.component import Component
from ipc.contract import PROTOCOL
from ipc.contract.every import Describe, Health, HealthReport, Hello
from ipc.contract.guestagent import GetStatus, GuestStatus, StatusChanged
from ipc.contract.telemetry import GetTimeline, Timeline
from ipc.errors import AlreadyRunning, NoAnswer, Refused, UnsafeDirectory
from ipc.frame import BODY_LIMIT, Header, RefusalBody, decode_body, decode_header, encode
from ipc.places import Places
from ipc.sockets import QUEUE_LIMIT

CHILD = """
import asyncio, os, sys
from pathlib import Path
from ipc.component import Component
from ipc.places import Places
from ipc.sockets import QUEUE_LIMIT
async def tell():
    print(os.getpid(), flush=True)
async def main():
    async with Component("guestagent", "9", Places.under(Path(sys.argv[1]))) as component:
        await component.run(tell())
asyncio.run(main())
"""


def start_child(places: Places) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(places.run.parent)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def running_child(places: Places) -> subprocess.Popen[str]:
    child = start_child(places)
    assert child.stdout is not None
    assert child.stdout.readline()
    return child


def end_child(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_every_component_describes_itself(places: Places, alive: Callable[..., Any]) -> None:
    async def talk() -> None:
        async with alive(Component("netagent", "1.2.3", places)) as component:
            answer = await component.bus.ask(Describe(), to="netagent")
            assert (answer.component, answer.version, answer.pid) == ("netagent", "1.2.3", os.getpid())

    asyncio.run(talk())


def test_health_keeps_since_while_it_stays_the_same(places: Places, alive: Callable[..., Any]) -> None:
    async def talk() -> None:
        async with alive(Component("netagent", "1", places)) as component:
            component.judge(HealthReport(state="busy", what="downloading", since=5.0, limit_seconds=60))
            component.judge(HealthReport(state="busy", what="downloading", since=7.0, limit_seconds=60))
            first = await component.bus.ask(Health(), to="netagent")
            component.judge(HealthReport(state="ok"))
            second = await component.bus.ask(Health(), to="netagent")
        assert (first.state, first.what, first.since) == ("busy", "downloading", 5.0)
        assert second.state == "ok"
        assert second.since is not None
        assert second.since > 7.0

    asyncio.run(talk())


def test_a_typed_reply_comes_back(places: Places, alive: Callable[..., Any]) -> None:
    async def status(_: GetStatus) -> GuestStatus:
        return GuestStatus(goal_state="incarnation_7")

    async def talk() -> None:
        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, status)
            bus = Bus(places, "test", "0")
            assert (await bus.ask(GetStatus())).goal_state == "incarnation_7"
            bus.close()

    asyncio.run(talk())


def test_an_unknown_request_is_refused_and_a_refusal_is_passed_on(places: Places, alive: Callable[..., Any]) -> None:
    async def not_now(_: GetTimeline) -> Timeline:
        raise Refused("telemetry.GetTimeline", "not-now", "the journal is being repaired")

    async def talk() -> None:
        async with alive(Component("telemetry", "1", places)) as component:
            component.answer(GetTimeline, not_now)
            with pytest.raises(Refused, match="not-now.*being repaired"):
                await component.bus.ask(GetTimeline())
            with pytest.raises(Refused, match="unsupported.*telemetry 1 does not answer guestagent.GetStatus"):
                await component.bus.ask(GetStatus(), to="telemetry")

    asyncio.run(talk())


def test_another_major_version_is_refused_at_once_whoever_asks(places: Places, alive: Callable[..., Any]) -> None:
    major = PROTOCOL[0] + 1

    async def talk() -> None:
        async with alive(Component("telemetry", "1", places)) as component:
            reasons = []
            bus = component.bus
            component.bus.on(Hello, lambda event: reasons.append(event.component), of="netagent")
            stranger = bus.context.socket(zmq.ROUTER)
            stranger.bind(f"ipc://{places.requests_socket('netagent')}")
            announcing = bus.context.socket(zmq.PUB)
            announcing.bind(f"ipc://{places.events_socket('netagent')}")
            asking = bus.context.socket(zmq.DEALER)
            asking.connect(f"ipc://{places.requests_socket('telemetry')}")
            foreign = msgspec.structs.replace(bus.header("request", "every.Health"), protocol=(major, 4))
            try:
                asking.send_multipart(encode(foreign, Health()))
                answered = await asyncio.to_thread(asking.recv_multipart)
                header = decode_header(answered)
                assert (header.id, header.kind) == (foreign.id, "refusal")
                assert decode_body(answered[1], RefusalBody).code == "unsupported"
                assert f"protocol {major}.4" in decode_body(answered[1], RefusalBody).reason

                question = asyncio.ensure_future(bus.ask(Health(), to="netagent", within=30))
                peer, first, _ = await asyncio.to_thread(stranger.recv_multipart)
                asked = decode_header([first, b""])
                reply = msgspec.structs.replace(asked, kind="reply", protocol=(major, 4))
                # Not even a body of another shape is looked at.
                stranger.send_multipart([peer, *encode(reply, Health())])
                with pytest.raises(Refused, match=f"unsupported.*protocol {major}.4, which does not go with"):
                    await question
                assert not reasons
            finally:
                for socket in (stranger, announcing, asking):
                    socket.close(0)

    asyncio.run(talk())


def test_a_bug_in_one_answer_ends_nothing(places: Places, alive: Callable[..., Any]) -> None:
    async def broken(_: GetStatus) -> GuestStatus:
        raise IndexError("a bug")

    async def talk() -> None:
        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, broken)
            with pytest.raises(Refused, match="failed.*IndexError"):
                await component.bus.ask(GetStatus())
            assert (await component.bus.ask(Health(), to="guestagent")).state == "ok"

    asyncio.run(talk())


def test_an_answer_too_large_for_a_frame_is_a_refusal(places: Places, alive: Callable[..., Any]) -> None:
    async def huge(_: GetStatus) -> GuestStatus:
        return GuestStatus(problem="x" * BODY_LIMIT)

    async def talk() -> None:
        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, huge)
            with pytest.raises(Refused, match="failed"):
                await component.bus.ask(GetStatus())

    asyncio.run(talk())


def test_absent_and_hung_neighbours_are_no_answer_within_the_deadline(
    places: Places, alive: Callable[..., Any]
) -> None:
    async def forever(_: GetStatus) -> GuestStatus:
        await asyncio.Event().wait()
        raise AssertionError

    async def talk() -> None:
        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, forever)
            with pytest.raises(NoAnswer, match="guestagent did not answer"):
                await component.bus.ask(GetStatus(), within=0.05)
            with pytest.raises(NoAnswer, match="rdagent did not answer"):
                await component.bus.ask(Health(), to="rdagent", within=0.05)

    asyncio.run(talk())


def test_a_request_that_waited_past_its_deadline_is_not_carried_out(places: Places, alive: Callable[..., Any]) -> None:
    seen: list[GetStatus] = []

    async def status(request: GetStatus) -> GuestStatus:
        seen.append(request)
        return GuestStatus()

    async def talk() -> None:
        bus = Bus(places, "test", "0")
        with pytest.raises(NoAnswer):
            await bus.ask(GetStatus(), within=0.01)  # queued: nobody is there yet
        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, status)
            await bus.ask(GetStatus(), within=10)
        bus.close()

    asyncio.run(talk())
    assert len(seen) == 1


def test_a_neighbour_killed_and_started_again_answers_the_same_bus(places: Places) -> None:
    async def talk() -> None:
        bus = Bus(places, "test", "0")
        pids = []
        for _ in range(2):
            child = await asyncio.to_thread(running_child, places)
            pids.append((await bus.ask(Describe(), to="guestagent", within=10)).pid)
            child.send_signal(signal.SIGKILL)
            await asyncio.to_thread(child.communicate)
        bus.close()
        assert pids[0] != pids[1]

    asyncio.run(talk())


def test_a_second_instance_is_refused_and_the_first_keeps_its_sockets(places: Places) -> None:
    first = running_child(places)
    try:
        second = start_child(places)
        _, errors = second.communicate(timeout=20)
        assert second.returncode != 0
        assert f"guestagent is already running (pid {first.pid})" in errors

        async def ask() -> int:
            bus = Bus(places, "test", "0")
            try:
                return (await bus.ask(Describe(), to="guestagent", within=10)).pid
            finally:
                bus.close()

        assert asyncio.run(ask()) == first.pid
    finally:
        end_child(first)


def test_the_lock_of_a_killed_instance_does_not_outlive_it(places: Places) -> None:
    end_child(running_child(places))
    end_child(running_child(places))


def test_a_run_directory_others_can_write_to_is_refused(places: Places) -> None:
    async def start() -> None:
        Component("guestagent", "1", places)

    places.run.mkdir(parents=True)
    places.run.chmod(0o777)
    with pytest.raises(UnsafeDirectory, match="can be written to by others.*chmod 700"):
        asyncio.run(start())
    places.run.rmdir()
    places.run.symlink_to("/tmp")
    with pytest.raises(UnsafeDirectory, match="is not a directory"):
        asyncio.run(start())


def test_events_reach_their_listeners_also_after_their_speaker_came_back(
    places: Places, alive: Callable[..., Any]
) -> None:
    async def listen() -> None:
        bus = Bus(places, "test", "0")
        heard: asyncio.Queue[object] = asyncio.Queue()
        bus.on(StatusChanged, heard.put_nowait)
        bus.on(Hello, heard.put_nowait, of="guestagent")
        for _ in range(2):
            async with alive(Component("guestagent", "1", places)) as component:
                async with asyncio.timeout(10):
                    # Events may be lost until the subscription has arrived: announce until one is heard.
                    while not isinstance(await _next(heard), StatusChanged):
                        component.announce(StatusChanged())
            while not heard.empty():
                heard.get_nowait()
        bus.close()

    asyncio.run(listen())


async def _next(queue: asyncio.Queue[object]) -> object | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            return await queue.get()
    return None


def test_who_subscribes_late_hears_that_the_speaker_is_here(places: Places) -> None:
    """A Hello sent once, at the start, is gone before a neighbour has connected again."""
    child = running_child(places)

    async def listen() -> None:
        for name in ("one", "another"):
            bus = Bus(places, name, "1")
            heard: asyncio.Queue[Hello] = asyncio.Queue()
            bus.on(Hello, heard.put_nowait, of="guestagent")
            async with asyncio.timeout(20):
                assert (await heard.get()).pid == child.pid
            bus.close()

    try:
        asyncio.run(listen())
    finally:
        end_child(child)


def test_a_flood_of_bad_frames_is_counted_refused_and_survived(places: Places, alive: Callable[..., Any]) -> None:
    async def attack() -> None:
        async with alive(Component("guestagent", "1", places)) as component:
            context = zmq.asyncio.Context()
            socket = context.socket(zmq.DEALER)
            socket.connect(f"ipc://{places.requests_socket('guestagent')}")
            good = encode(Header(id="x", kind="request", name="every.Health", sender="s", version="1"), Health())
            bad = [
                [b"", b""],
                [b"\xc1", b"\x80"],
                [b"one"],
                [good[0], b"\x80", b"three"],
                [msgpack.packb({"id": 7}), b"\x80"],
                [good[0].replace(b"\x92" + bytes(PROTOCOL), b"\x92\x09\x00"), b"\x80"],
                [good[0], b"\x93\x01\x02\x03"],
            ]
            for _ in range(30):
                for frames in bad:
                    await socket.send_multipart(frames)
            refusals = [await socket.recv_multipart() for _ in range(30 * len(bad))]
            assert {decode_header(frames).kind for frames in refusals} == {"refusal"}
            await socket.send_multipart(good)
            assert decode_header(await socket.recv_multipart()).kind == "reply"
            assert sum(component.bus.bad_frames.counts.values()) == 30 * len(bad)
            socket.close(0)
            context.term()

    asyncio.run(attack())


def test_too_many_requests_at_once_are_told_to_come_back(places: Places, alive: Callable[..., Any]) -> None:
    async def talk() -> None:
        gate = asyncio.Event()

        async def slow(_: GetStatus) -> GuestStatus:
            await gate.wait()
            return GuestStatus()

        async with alive(Component("guestagent", "1", places)) as component:
            component.answer(GetStatus, slow)
            asked = [asyncio.create_task(component.bus.ask(GetStatus(), within=20)) for _ in range(80)]
            while sum(task.done() for task in asked) < 80 - 64:
                await asyncio.sleep(0.01)
            gate.set()
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, Refused)]
        assert len(refused) == 80 - 64
        assert {one.code for one in refused} == {"busy"}

    asyncio.run(talk())


def test_a_full_queue_is_said_at_once_and_what_is_in_it_is_answered(places: Places, alive: Callable[..., Any]) -> None:
    async def talk() -> None:
        bus = Bus(places, "test", "0")
        asked = [asyncio.create_task(bus.ask(Health(), to="guestagent", within=60)) for _ in range(QUEUE_LIMIT + 10)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        refused = {task for task in asked if task.done()}
        assert len(refused) == 10
        for task in refused:
            with pytest.raises(NoAnswer, match="too many requests are waiting"):
                task.result()
        async with alive(Component("guestagent", "1", places)):
            async with asyncio.timeout(30):
                answers = await asyncio.gather(*(task for task in asked if task not in refused))
            assert {answer.state for answer in answers} == {"ok"}
        bus.close()

    asyncio.run(talk())


def test_sigterm_ends_a_component_in_order(places: Places) -> None:
    child = running_child(places)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=20)
    assert (child.returncode, errors) == (0, "")


def test_already_running_names_the_holder(places: Places, alive: Callable[..., Any]) -> None:
    async def twice() -> None:
        async with alive(Component("guestagent", "1", places)):
            with pytest.raises(AlreadyRunning, match=str(os.getpid())):
                Component("guestagent", "1", places)

    asyncio.run(twice())


def test_a_neighbour_that_does_not_answer_is_looked_for_while_somebody_waits_only(places: Places) -> None:
    """A look costs little, but is made often."""

    async def talk() -> None:
        bus = Bus(places, "agentctl", "1")
        with socket.socket(socket.AF_UNIX) as listener, contextlib.closing(bus):
            places.run.mkdir(mode=0o700, exist_ok=True)
            waiting = asyncio.create_task(bus.ask(Describe(), to="netagent", within=2.0))
            with pytest.raises(NoAnswer):
                await bus.ask(Describe(), to="netagent", within=0.1)
            listener.setblocking(False)
            listener.bind(str(places.requests_socket("netagent")))
            listener.listen()
            loop = asyncio.get_running_loop()
            # The other one still waits.
            (await loop.sock_accept(listener))[0].close()
            with pytest.raises(NoAnswer):
                await waiting
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_accept(listener), 1.5)
            # And anew with the next question.
            asking = asyncio.create_task(bus.ask(Describe(), to="netagent", within=0.5))
            (await loop.sock_accept(listener))[0].close()
            with pytest.raises(NoAnswer):
                await asking

    asyncio.run(talk())
