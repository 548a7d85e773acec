"""Judging, readiness and bringing back: tables, and what holds for every input."""

import itertools
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.rdagent import ComponentTruth, TruthState
from rdagent.plan import (
    HUNG_AFTER,
    NEIGHBOURS,
    RESTART_GRACE,
    Answer,
    Observed,
    Readiness,
    Restart,
    after_start,
    given_up,
    judge,
    next_look,
    readiness,
)

NOW = 1000.0
PROGRAM_STATES = ["", "STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN"]


def answer(
    state: Literal["ok", "busy", "degraded"] = "ok",
    *,
    at: float = NOW,
    what: str = "",
    since: float | None = None,
    limit: float | None = None,
    pid: int = 7,
) -> Answer:
    return Answer(at=at, state=state, what=what, since=since, limit_seconds=limit, version="1", pid=pid)


def observed(
    program: str = "RUNNING",
    pid: int | None = 7,
    *,
    last: Answer | None = None,
    answered: bool = False,
    silent: float = 0.0,
    refusal: str = "",
) -> Observed:
    heard_at = last.at if last else NOW - silent
    return Observed(
        name="guestagent",
        answer=last,
        answered=answered,
        refusal=refusal,
        program=program,
        pid=pid,
        heard_at=heard_at,
        silent_since=NOW - silent,
    )


def truth(state: TruthState, *, version: str = "1", why: str = "why", since: float = 0.0) -> ComponentTruth:
    return ComponentTruth(name="guestagent", state=state, version=version, why=why, since=since)


OLD = answer(at=NOW - HUNG_AFTER)
RECENT = answer(at=NOW - 1)

JUDGED: list[tuple[str, Observed, TruthState, str]] = [
    ("answers, runs", observed(last=answer(), answered=True), "ok", ""),
    ("answers, first second", observed("STARTING", last=answer(), answered=True), "ok", ""),
    ("answers, no supervisord", observed("", None, last=answer(), answered=True), "ok", ""),
    (
        "answers, an orphan",
        observed("FATAL", None, last=answer(), answered=True),
        "ok",
        "runs, though supervisord says",
    ),
    ("answers, another waits", observed("BACKOFF", None, last=answer(), answered=True), "ok", ""),
    ("answers, another starts", observed("STARTING", 8, last=answer(), answered=True), "ok", ""),
    ("answered a moment ago", observed(last=RECENT, silent=1), "ok", ""),
    ("busy", observed(last=answer("busy", what="unpacking"), answered=True), "busy", "unpacking"),
    (
        "busy, with a limit",
        observed(last=answer("busy", what="unpacking", since=5.0, limit=90), answered=True),
        "busy",
        "unpacking, limit 90 s",
    ),
    ("degraded", observed(last=answer("degraded", what="disk full"), answered=True), "degraded", "disk full"),
    (
        "of another protocol",
        observed("RUNNING", 8, last=OLD, silent=99, refusal="protocol 2"),
        "degraded",
        "protocol 2",
    ),
    ("silent, runs", observed(last=OLD, silent=HUNG_AFTER), "hung", "process 7 runs and has not answered for 10 s"),
    ("never answered, runs", observed(silent=HUNG_AFTER), "hung", "process 7 runs"),
    ("silent, runs, no supervisord", observed("", 7, last=OLD, silent=HUNG_AFTER), "hung", "process 7 runs"),
    ("silent, gone, no supervisord", observed("", None, last=OLD, silent=HUNG_AFTER), "absent", "not answer either"),
    ("silent, runs nowhere", observed("UNKNOWN", None, last=OLD, silent=99), "absent", "supervisord says UNKNOWN"),
    ("new process", observed("RUNNING", 8, last=RECENT, silent=0), "restarting", "not answered yet"),
    ("new process, still silent", observed("RUNNING", 8, last=OLD, silent=HUNG_AFTER), "hung", "process 8 runs"),
    ("about to start", observed("STARTING", 8, last=RECENT, silent=0), "restarting", "supervisord says STARTING"),
    ("about to try again", observed("BACKOFF", None, last=RECENT, silent=1), "restarting", "supervisord says BACKOFF"),
    ("try after try", observed("BACKOFF", None, last=OLD, silent=99), "restarting", "supervisord says BACKOFF"),
    ("not yet looked at", observed("", None, silent=0), "restarting", "not answered yet"),
    ("given up", observed("FATAL", None, last=RECENT, silent=1), "absent", "supervisord says FATAL"),
    ("ended", observed("EXITED", None, last=RECENT, silent=1), "absent", "supervisord says EXITED"),
    ("stopped by hand", observed("STOPPED", None, last=RECENT, silent=1), "absent", "supervisord says STOPPED"),
]


@pytest.mark.parametrize(("seen", "state", "why"), [one[1:] for one in JUDGED], ids=[one[0] for one in JUDGED])
def test_judge(seen: Observed, state: TruthState, why: str) -> None:
    judged = judge(seen, None, now=NOW, wall=50.0)
    assert judged.state == state
    assert why in judged.why
    assert bool(judged.why) == bool(why)


def test_since_is_kept_while_the_state_stays() -> None:
    first = judge(observed(last=answer(), answered=True), None, now=NOW, wall=50.0)
    again = judge(observed(last=answer(), answered=True), first, now=NOW + 5, wall=55.0)
    assert (first.since, again.since) == (50.0, 50.0)
    gone = judge(observed("FATAL", None, last=RECENT, silent=1), again, now=NOW + 9, wall=59.0)
    assert (gone.state, gone.since) == ("absent", 59.0)


def test_a_busy_neighbour_says_itself_since_when() -> None:
    judged = judge(
        observed(last=answer("busy", what="x", since=5.0, limit=90), answered=True), None, now=NOW, wall=50.0
    )
    assert (judged.since, judged.limit_seconds) == (5.0, 90)


def test_the_pid_is_the_answers_or_supervisords() -> None:
    assert judge(observed("FATAL", None, last=answer(), answered=True), None, now=NOW, wall=0).pid == 7
    assert judge(observed("RUNNING", 8, last=OLD, silent=99), None, now=NOW, wall=0).pid == 8
    assert judge(observed("RUNNING", 8, last=OLD, refusal="protocol 2"), None, now=NOW, wall=0).pid == 8


answers = st.builds(
    Answer,
    at=st.floats(0, NOW),
    state=st.sampled_from(["ok", "busy", "degraded"]),
    what=st.text(max_size=5),
    since=st.none() | st.floats(0, 1e9),
    limit_seconds=st.none() | st.floats(0, 1e6),
    version=st.sampled_from(["1", "2"]),
    pid=st.integers(1, 3),
)


@st.composite
def looks(draw: st.DrawFn) -> Observed:
    last = draw(st.none() | answers)
    heard_at = last.at if last else draw(st.floats(0, NOW))
    return Observed(
        name=draw(st.sampled_from(NEIGHBOURS)),
        answer=last,
        answered=last is not None and draw(st.booleans()),
        program=draw(st.sampled_from(PROGRAM_STATES)),
        pid=draw(st.none() | st.integers(1, 3)),
        heard_at=heard_at,
        silent_since=draw(st.floats(heard_at, NOW)),
    )


@given(looks())
def test_nobody_is_well_unheard_and_everybody_heard_is_not_hung(seen: Observed) -> None:
    judged = judge(seen, None, now=NOW, wall=50.0)
    well = judged.state in {"ok", "busy", "degraded"}
    if seen.answered:
        assert seen.answer is not None
        assert judged.state == seen.answer.state
    elif well:
        assert NOW - seen.silent_since < HUNG_AFTER
        assert seen.program not in {"FATAL", "EXITED", "STOPPED", "BACKOFF"}
    if judged.state == "hung":
        assert judged.pid is not None
    assert well or judged.why, "what is not well has a reason"


# -- readiness ---------------------------------------------------------------------------------------------------------

READY = Readiness(ready=True)
STARTING = Readiness(ready=False, substatus="Provisioning", description="Starting")
AWAY = RESTART_GRACE

READINESS: list[tuple[ComponentTruth, float, bool, str]] = [
    (truth("ok"), 0, True, ""),
    (truth("busy"), 0, True, ""),
    (truth("degraded"), 0, True, ""),
    (truth("restarting"), AWAY - 1, True, ""),
    (truth("absent"), AWAY - 1, True, ""),
    (truth("restarting"), AWAY, False, "NotReady"),
    (truth("absent"), AWAY, False, "NotReady"),
    (truth("hung"), 10, False, "NotReady"),
    (truth("restarting", version=""), 0, False, "Provisioning"),
    (truth("absent", version=""), AWAY - 1, False, "Provisioning"),
    (truth("hung", version=""), AWAY - 1, False, "Provisioning"),
    (truth("hung", version=""), AWAY, False, "ProvisioningFailed"),
    (truth("restarting", version=""), AWAY, False, "ProvisioningFailed"),
]


@pytest.mark.parametrize(("guest", "away", "ready", "substatus"), READINESS)
def test_readiness(guest: ComponentTruth, away: float, ready: bool, substatus: str) -> None:
    told = readiness(guest, away=away)
    assert (told.ready, told.substatus) == (ready, substatus)
    if substatus in {"NotReady", "ProvisioningFailed"}:
        assert told.description == f"guestagent is {guest.state}: why"


@given(
    st.lists(st.tuples(st.sampled_from(["restarting", "absent", "hung"]), st.floats(0, 20)), max_size=40),
    st.sampled_from(["", "1"]),
)
def test_one_that_dies_at_each_start_does_not_flap(steps: list[tuple[TruthState, float]], version: str) -> None:
    away, told = 0.0, []
    for state, seconds in steps:
        away += seconds
        if away >= RESTART_GRACE:
            told.append(readiness(truth(state, version=version, since=away), away=away).ready)
    assert not any(told)


# -- bringing back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", PROGRAM_STATES)
def test_only_what_supervisord_gave_up_is_brought_back(state: str) -> None:
    assert list(given_up({"netagent": state}, {}, now=NOW)) == (["netagent"] if state in {"FATAL", "EXITED"} else [])


def test_the_first_start_waits_a_little_then_comes() -> None:
    decided = given_up({"netagent": "FATAL"}, {}, now=NOW)["netagent"]
    assert decided is not None
    assert decided.next_at > NOW
    waiting = {"netagent": decided}
    assert given_up({"netagent": "FATAL"}, waiting, now=decided.next_at - 0.1) == waiting
    assert given_up({"netagent": "FATAL"}, waiting, now=decided.next_at) == {"netagent": None}


def test_rdagent_brings_nobody_else_back() -> None:
    assert given_up({"rdagent": "FATAL", "stranger": "FATAL"}, {}, now=NOW) == {}


@given(st.floats(0.1, 10), st.integers(1, 3000))
def test_a_program_that_never_lives_is_started_for_ever_and_ever_more_seldom(look: float, looks: int) -> None:
    now, waiting, started = NOW, dict[str, Restart](), []
    for _ in range(looks):
        for name, decided in given_up({"telemetry": "FATAL"}, waiting, now=now).items():
            waiting[name] = decided or after_start(waiting[name], now=now)
            if decided is None:
                started.append(now)
        now += look
    pauses = [later - earlier for earlier, later in itertools.pairwise(started)]
    assert all(shorter <= longer + look for shorter, longer in itertools.pairwise(pauses))
    # Never for good: the next start is at most the longest pause away.
    last = started[-1] if started else NOW
    assert now - last <= 300 + 2 * look
    assert msgspec.structs.asdict(waiting["telemetry"])["pause"] <= 300


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 4.0)), max_size=60))
def test_arrivals_bring_a_look_forward_and_put_none_off(looks: list[tuple[float, float]]) -> None:
    """Each look begins so long after the one before ended, unless it is due earlier, and takes so long."""
    planned = now = 0.0
    for arrival, takes in looks:
        began = min(now + arrival, max(planned, now))
        now = began + takes
        planned = next_look(planned, began=began, now=now, period=5.0)
        assert now <= planned <= now + 5.0
        assert planned <= began + 5.0 or planned == now


def test_undisturbed_looks_keep_their_beat() -> None:
    assert next_look(100.0, began=100.01, now=100.2, period=5.0) == 105.0
