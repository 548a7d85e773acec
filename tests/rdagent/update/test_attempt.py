"""Attempts, with processes that are only said to run."""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from typing import Literal, cast

import msgspec
import pytest

from ipc.places import Places
from rdagent.update.attempt import Attempts
from rdagent.update.chronicle import Chronicle
from rdagent.update.doing import Doing
from rdagent.update.gate import Observation, Verdict
from rdagent.update.install import Installer, InstallError
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.shelf import LAUNCHERS_SLOT, Shelf
from rdagent.update.trials import Trials
from release.errors import ReleaseError
from release.record import LOCK, SLOTS, Chosen, Trial, begin_trial
from release.signing import Trust
from tests.conftest import come_true
from tests.rdagent.update.situations import chosen, offer
from tests.release.product import CHECKOUT


class Look(Trials):
    """Sees 0.2.0 run; meanwhile the record may come to say so, too."""

    def __init__(self, shelf: Shelf, *, swapped: bool) -> None:
        self._shelf, self._swapped = shelf, swapped

    async def look(self, component: str) -> Observation:
        if self._swapped:
            put(self._shelf, component, "0.2.0")
        return Observation(now=time.monotonic(), answered=True, version="0.2.0")


def put(shelf: Shelf, component: str, version: str) -> None:
    shelf.change(component, lambda before: msgspec.structs.replace(before, current=chosen(version)))


@pytest.mark.parametrize("swapped", [True, False])
def test_only_what_was_not_in_force_all_the_while(places: Places, *, swapped: bool) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    put(shelf, "telemetry", "0.1.0")
    attempts = Attempts(
        places,
        shelf,
        memory,
        cast("Chronicle", None),
        cast("Installer", None),
        Look(shelf, swapped=swapped),
        running=dict,
        changed=lambda _: None,
        be_reborn=lambda: None,
    )
    asyncio.run(attempts.correct("telemetry"))
    assert memory.now.corrected == ({} if swapped else {"telemetry": shelf.record("telemetry").serial})


class Shelved(Installer):
    """All is on the disk already."""

    def __init__(self) -> None:
        self.alone = asyncio.Lock()

    async def install(self, offer: Offer) -> Chosen:
        return chosen(offer.version)


@pytest.mark.parametrize("may_begin", [True, False])
def test_a_version_that_is_tried_once_more_has_a_story_of_its_own(places: Places, *, may_begin: bool) -> None:
    """rdagent's own ends are told by whoever comes up next, unless that was done. What is held meanwhile waits."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    before = {"rdagent": [chosen("0.1.0").key, chosen("0.2.0").key], "telemetry": [chosen("0.2.0").key]}
    memory.change(known_bad=before)
    reborn = list[bool]()
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: reborn.append(True))
    begun = asyncio.run(attempts.make(offer("0.2.0", "host", component="rdagent"), lambda: may_begin))
    assert (begun, reborn) == (may_begin, [True] * may_begin)
    assert (shelf.record("rdagent").trial is not None) == may_begin
    assert memory.now.known_bad == ({**before, "rdagent": [chosen("0.1.0").key]} if may_begin else before)


def test_a_trial_that_cannot_begin_leaves_the_story_before_as_it_was(places: Places) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    before = {"rdagent": [chosen("0.2.0").key]}
    memory.change(known_bad=before)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None)
    shelf.make_folder("rdagent").chmod(0o777)  # nobody believes such a folder
    with pytest.raises((ReleaseError, InstallError)):
        asyncio.run(attempts.make(offer("0.2.0", "host", component="rdagent"), lambda: True))
    assert memory.now.known_bad == before


class Quiet(Chronicle):
    """What is told is not looked at."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def note(self, *_: object, **__: object) -> None:
        pass

    def end(self, *_: object, **__: object) -> None:
        pass

    def came_back(self, *_: object, **__: object) -> None:
        pass

    def expires(self) -> float | None:
        return None


def with_all_on_the_disk(
    places: Places, shelf: Shelf, memory: Memory, be_reborn: Callable[[], None], trials: Trials | None = None
) -> Attempts:
    return Attempts(
        places,
        shelf,
        memory,
        Quiet(memory),
        Shelved(),
        trials or Look(shelf, swapped=False),
        running=dict,
        changed=lambda _: None,
        be_reborn=be_reborn,
    )


def test_all_that_were_stopped_are_known_to_the_next_life(places: Places) -> None:
    """Two at once, an order and a trial: rdagent may end before either was started again. No supervisord runs here."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None)
    for name in ("telemetry", "netagent", "telemetry"):
        put(shelf, name, "0.1.0")
        memory.change(corrected={})
        asyncio.run(attempts.correct(name))
    assert Memory(places).now.to_start == ["netagent", "telemetry"]
    # A release before knows of one only, and left one only.
    assert Memory(places).now.restarting == "telemetry"
    memory.change(stopped=[], restarting="guestagent")
    assert Memory(places).now.to_start == ["guestagent"]
    memory.change(restarting="somebody")
    asyncio.run(attempts.restarts.finish())
    assert not memory.now.to_start


def test_who_cannot_be_tried_is_not_reborn_again_and_again(places: Places) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    reborn = list[bool]()
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: reborn.append(True))
    begun = shelf.change("rdagent", lambda before: begin_trial(before, chosen("0.2.0")))
    assert begun.trial is not None
    target = begun.trial.target
    asyncio.run(attempts.finish("rdagent", target))
    assert len(reborn) == 1
    # launch.py started the version before: it could not count a try, or the record would be another.
    with pytest.raises(ReleaseError, match="its try could not be counted"):
        asyncio.run(attempts.finish("rdagent", target))
    assert len(reborn) == 1
    shelf.change("rdagent", lambda before: msgspec.structs.replace(before, trial=Trial(target, tries=1)))
    asyncio.run(attempts.finish("rdagent", target))
    assert len(reborn) == 2


@pytest.mark.parametrize("component", ["rdagent", "telemetry"])
def test_nobody_is_started_for_a_trial_while_its_record_is_held(places: Places, component: str) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    reborn = list[bool]()
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: reborn.append(True))
    begun = shelf.change(component, lambda before: begin_trial(before, chosen("0.3.0")))
    places.run.mkdir(parents=True)
    assert begun.trial is not None
    with (shelf.folder(component) / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="is held by another process"):
            asyncio.run(attempts.finish(component, begun.trial.target))
    assert (reborn, memory.now.to_start) == ([], [])
    # Nor is rdagent's taken back by the watchdog, which would have to write the same record.
    assert places.waiting_trial.exists() == (component == "rdagent")


def test_nobody_is_started_for_a_trial_while_launch_py_cannot_count_it(places: Places) -> None:
    """It writes a file of its own, with the same name as here."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    reborn = list[bool]()
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: reborn.append(True))
    begun = shelf.change("rdagent", lambda before: begin_trial(before, chosen("0.3.0")))
    assert begun.trial is not None
    own = shelf.folder("rdagent") / LAUNCHERS_SLOT
    assert f"/{own.name}" in (CHECKOUT / "launch.py").read_text()
    own.mkdir()
    with pytest.raises(ReleaseError, match=f"{own} cannot be written: Is a directory"):
        asyncio.run(attempts.finish("rdagent", begun.trial.target))
    own.rmdir()
    own.symlink_to("state.0")
    with pytest.raises(ReleaseError, match=f"{own} cannot be written: Too many levels"):
        asyncio.run(attempts.finish("rdagent", begun.trial.target))
    assert not reborn
    own.unlink()
    own.write_text("left by one who was killed")
    asyncio.run(attempts.finish("rdagent", begun.trial.target))
    assert reborn
    assert not own.exists()


def test_who_cannot_remember_that_it_was_reborn_is_not(places: Places) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    reborn = list[bool]()
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: reborn.append(True))
    begun = shelf.change("rdagent", lambda before: begin_trial(before, chosen("0.3.0")))
    assert begun.trial is not None
    (places.state_of("rdagent") / "updates.json").mkdir(parents=True)
    with pytest.raises(ReleaseError, match="its try could not be counted"):
        asyncio.run(attempts.finish("rdagent", begun.trial.target))
    assert not reborn


class Judged(Look):
    """Mute, and the gate says what it is told to."""

    def __init__(self, state: Literal["passed", "failed"]) -> None:
        self._verdict, self.asked = Verdict(state=state, reason="hangs"), 0

    async def look(self, component: str) -> Observation:  # noqa: ARG002
        return Observation(now=time.monotonic(), answered=False)

    async def judge(self, *_: object) -> Verdict:
        self.asked += 1
        return self._verdict


def test_one_that_hangs_with_its_record_held_is_judged(places: Places) -> None:
    """It may be who holds it: only its end frees it. No supervisord runs here, so it is to be started."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    trials = Judged("failed")
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None, trials)
    begun = shelf.change("telemetry", lambda before: begin_trial(before, chosen("0.3.0")))
    assert begun.trial is not None
    target = begun.trial.target

    async def story() -> None:
        going = asyncio.create_task(attempts.finish("telemetry", target))
        await come_true(lambda: memory.now.to_start == ["telemetry"])
        going.cancel()

    with (shelf.folder("telemetry") / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(story())
    assert trials.asked == 1


def test_one_that_comes_back_says_so_and_why(places: Places) -> None:
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None, Judged("failed"))
    begun = shelf.change("telemetry", lambda before: begin_trial(before, chosen("0.3.0")))
    assert begun.trial is not None
    target = begun.trial.target

    async def story() -> None:
        going = asyncio.create_task(attempts.finish("telemetry", target))
        # Until the version before answers; no supervisord runs here, so that takes a while.
        await come_true(lambda: target.key in shelf.record("telemetry").bad and memory.now.to_start == ["telemetry"])
        assert attempts.doing is not None
        assert attempts.doing.why == "0.3.0 failed: hangs; the version before is started"
        going.cancel()

    asyncio.run(story())


def test_a_rdagent_that_waits_to_commit_says_so(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the operator and to the watchdog."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None, Judged("passed"))
    begun = shelf.change("rdagent", lambda before: begin_trial(before, chosen("0.3.0")))
    assert begun.trial is not None
    target = begun.trial.target
    monkeypatch.setenv("AZVMAGENT_DIGEST", target.digest)
    in_the_way = shelf.folder("rdagent") / SLOTS[(begun.serial + 1) % 2]
    in_the_way.mkdir()
    places.run.mkdir(parents=True)

    async def story() -> None:
        going = asyncio.create_task(attempts.finish("rdagent", target))
        await come_true(lambda: attempts.doing is not None and attempts.doing.why)
        assert attempts.doing is not None
        assert "0.3.0 proved itself, and has to wait: " in attempts.doing.why
        assert places.waiting_trial.read_text().split()[0] == str(os.getpid())
        in_the_way.rmdir()
        await come_true(lambda: shelf.record("rdagent").current == target)
        going.cancel()

    asyncio.run(story())


def test_two_orders_at_once_go_back_one_version(places: Places) -> None:
    """No supervisord runs here, so what the first brought into force has yet to be started."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None)
    three, two = chosen("0.3.0"), chosen("0.2.0")
    shelf.change("telemetry", lambda before: msgspec.structs.replace(before, current=three, previous=two))

    async def both(*versions: str) -> list[str]:
        orders = [attempts.roll_back("telemetry", one, "a test") for one in versions]
        return [str(one) for one in await asyncio.gather(*orders, return_exceptions=True) if one]

    unstarted = "telemetry is still to be started anew as the version that came into force last, so nothing was changed"
    # Who names none, as an older agentctl, means the one in force; who comes later may have read the new one.
    for versions in (("0.3", "", "0.3"), ("0.2.0",), ("",)):
        late = asyncio.run(both(*versions))
        assert len(late) == len(versions) - (versions[0] == "0.3")
        assert all(one.startswith(unstarted) for one in late)
        record = shelf.record("telemetry")
        assert (record.current, list(record.bad)) == (two, [three.key])
    # One who reads the record after its restart, and one who read it before.
    memory.change(stopped=[], restarting="")
    assert asyncio.run(both("0.3.0")) == ["telemetry 0.3.0 is not in force any more, 0.2.0 is; nothing was changed"]
    assert asyncio.run(both("")) == []
    memory.change(stopped=[], restarting="")
    gone = "telemetry 0.2.0 is not in force any more, the base install is; nothing was changed"
    assert asyncio.run(both("0.2.0")) == [gone]
    (nowhere,) = asyncio.run(both(""))
    assert "there is nothing to go back to" in nowhere


def test_who_is_on_its_way_back_is_not_taken_back_once_more(places: Places) -> None:
    """A failed trial: the record is changed, and the version before is not started yet."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)
    attempts = with_all_on_the_disk(places, shelf, memory, lambda: None)
    two = chosen("0.2.0")
    shelf.change("telemetry", lambda before: msgspec.structs.replace(before, current=two))
    attempts.doing = Doing(offer=offer("0.3.0"), phase="roll back", since=0.0)
    with pytest.raises(ReleaseError, match="still to be started anew"):
        asyncio.run(attempts.roll_back("telemetry", "", "a test"))
    assert shelf.record("telemetry").current == two
    # Another component's trial is none of ours.
    attempts.doing = Doing(offer=offer("0.3.0", component="netagent"), phase="roll back", since=0.0)
    asyncio.run(attempts.roll_back("telemetry", "0.2.0", "a test"))
    assert shelf.record("telemetry").current is None
