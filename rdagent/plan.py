"""What is true of the others, and what follows from it. Pure: observations and clocks in, decisions out."""

from typing import Literal

import msgspec

from ipc.contract.rdagent import ComponentTruth, TruthState

NEIGHBOURS = ("guestagent", "netagent", "telemetry")

HUNG_AFTER = 10.0
"""Seconds without an answer from a process that runs."""
RESTART_GRACE = 30.0
"""Seconds guestagent may be away before the host hears of it."""

_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0

# supervisord's states (supervisor: process states): does a process run, or is one about to?
_RUNS = frozenset({"RUNNING", "STOPPING", "UNKNOWN"})
_COMES = frozenset({"STARTING", "BACKOFF"})


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A neighbour's reply to Health and Describe."""

    at: float
    """CLOCK_MONOTONIC."""
    state: Literal["ok", "busy", "degraded"]
    what: str
    since: float | None
    limit_seconds: float | None
    version: str
    pid: int


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one neighbour at one moment."""

    name: str
    answer: Answer | None
    """The last one, however old."""
    answered: bool
    """In this very look: it runs, whatever supervisord says."""
    refusal: str = ""
    """Why it declined to say how it is, in this very look: it speaks another version of the protocol."""
    program: str
    """supervisord's state of it; empty if supervisord does not answer."""
    pid: int | None
    """By supervisord; if that does not answer, by the last answer, as long as such a process runs."""
    heard_at: float
    """CLOCK_MONOTONIC: the last answer, or when we began to look."""
    silent_since: float
    """CLOCK_MONOTONIC: the last answer of the process that runs now, or when we first saw it."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What the host is to be told."""

    ready: bool
    substatus: str = ""
    description: str = ""


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """When a program that supervisord gave up is started again."""

    next_at: float
    """CLOCK_MONOTONIC."""
    pause: float


def judge(seen: Observed, before: ComponentTruth | None, *, now: float, wall: float) -> ComponentTruth:
    """The truth about one neighbour. `since` is kept while the state and the process stay."""
    state, why = _state(seen, now)
    answer = seen.answer
    fresh = answer is not None and not seen.refusal and state in {"ok", "busy", "degraded"}
    pid = answer.pid if fresh and answer else seen.pid
    same = before is not None and (before.state, before.pid) == (state, pid)
    since = before.since if same and before is not None else wall
    if fresh and answer is not None and answer.since is not None and state != "ok":
        since = answer.since
    return ComponentTruth(
        name=seen.name,
        state=state,
        version=answer.version if answer else "",
        pid=pid,
        health=answer.state if answer else "",
        why=why,
        since=since,
        limit_seconds=answer.limit_seconds if fresh and answer else None,
    )


def readiness(guest: ComponentTruth, *, away: float) -> Readiness:
    """Only guestagent decides: without the others the VM still does what it is asked.

    `away`: seconds since it last answered, or since we began to look. Not since its state began: one that dies at each
    start goes from state to state.
    """
    if guest.state in {"ok", "busy", "degraded"}:
        return Readiness(ready=True)
    if away < RESTART_GRACE and not guest.version:
        return Readiness(ready=False, substatus="Provisioning", description="Starting")
    if away < RESTART_GRACE and guest.state in {"restarting", "absent"}:
        return Readiness(ready=True)
    return _not_ready(guest)


def next_look(planned: float, *, began: float, now: float, period: float) -> float:
    """When to look again, by the same clock as all three times.

    `planned`: when this look was due; `began`: when it began. One that somebody's arrival brought forward counts from
    its beginning: else ten arrivals would put the next one off by ten periods.
    """
    return max(min(planned, began) + period, now)


def given_up(programs: dict[str, str], restarts: dict[str, Restart], *, now: float) -> dict[str, Restart | None]:
    """What supervisord has given up: None to start it now, else when. Never for good."""
    decided: dict[str, Restart | None] = {}
    for name in NEIGHBOURS:
        if programs.get(name) not in {"FATAL", "EXITED"}:
            continue
        waiting = restarts.get(name)
        if waiting is None:
            decided[name] = first_restart(now)
        elif now >= waiting.next_at:
            decided[name] = None
        else:
            decided[name] = waiting
    return decided


def first_restart(now: float) -> Restart:
    """Of a program that is given up for the first time."""
    return Restart(next_at=now + _FIRST_PAUSE, pause=_FIRST_PAUSE)


def after_start(restart: Restart, *, now: float) -> Restart:
    """The next pause, should it be given up again."""
    pause = min(restart.pause * 2, _LONGEST_PAUSE)
    return Restart(next_at=now + pause, pause=pause)


def _state(seen: Observed, now: float) -> tuple[TruthState, str]:
    answer, silent = seen.answer, now - seen.silent_since
    restarted = answer is not None and seen.pid is not None and seen.pid != answer.pid
    if answer is not None and seen.answered:
        # supervisord calls a process STARTING for its first second; who answers has started.
        return _own_words(answer, seen.program)
    if seen.refusal:
        # It runs and answers: to start it again would mend nothing.
        return "degraded", f"it cannot be understood: {seen.refusal}"
    if seen.program and seen.program not in _RUNS | _COMES:
        return "absent", f"supervisord says {seen.program}"
    if answer is not None and not restarted and silent < HUNG_AFTER and seen.program != "BACKOFF":
        return _own_words(answer, seen.program)
    if seen.program in _COMES:
        return "restarting", f"supervisord says {seen.program}"
    if silent < HUNG_AFTER:
        return "restarting", "it has not answered yet"
    if seen.pid is not None:
        return "hung", f"process {seen.pid} runs and has not answered for {silent:.0f} s"
    supervisord = f"supervisord says {seen.program}" if seen.program else "supervisord does not answer either"
    return "absent", f"no answer for {silent:.0f} s, and {supervisord}"


def _own_words(answer: Answer, program: str) -> tuple[TruthState, str]:
    if answer.state == "busy" and answer.limit_seconds and answer.since is not None:
        # The limit is the neighbour's own; past it something keeps it.
        return "busy", f"{answer.what}, limit {answer.limit_seconds:g} s"
    if answer.state == "ok" and program and program not in _RUNS | _COMES:
        # It outlived the supervisord that started it; the one that answers now cannot start another beside it.
        return "ok", f"runs, though supervisord says {program}"
    return answer.state, answer.what


def _not_ready(guest: ComponentTruth) -> Readiness:
    description = f"guestagent is {guest.state}: {guest.why}"
    return Readiness(
        ready=False, substatus="ProvisioningFailed" if not guest.version else "NotReady", description=description
    )
