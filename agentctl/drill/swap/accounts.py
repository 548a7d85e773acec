"""What is made of many swaps: a case for each thing that has to hold meanwhile and afterwards, with its figures."""

import itertools
import json
import statistics
import urllib.request
from collections.abc import Sequence

import msgspec

from agentctl.drill.group.stage import Stage
from agentctl.drill.report import Case
from agentctl.drill.swap import leaks
from agentctl.drill.swap.leftovers import left_over
from agentctl.drill.swap.load import Load
from agentctl.drill.swap.operations import Run, what_is_wrong
from agentctl.view import read_endpoints

HEARTBEAT_LIMIT = 15.0
"""Seconds: what a VM's host is used to wait."""

_PATIENCE = 40.0
_LEFT_PATIENCE = 15.0


class Swap(msgspec.Struct, frozen=True):
    """One that was done. CLOCK_MONOTONIC."""

    whole: bool
    began: float
    ended: float
    overlapped: int = 0
    """Operations that ran when it began."""


class Done(msgspec.Struct):
    """What came of it so far."""

    swaps: list[Swap] = []
    counted: leaks.Census | None = None
    """Once pools are full and caches warm."""
    counted_at: int = 0
    """How many swaps there were before."""


class Figures(msgspec.Struct, frozen=True):
    """Of all swaps of one way."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    lost: int
    asked: int


def figures(load: Load, swaps: Sequence[Swap]) -> Figures:
    """From what the load heard."""
    silences = sorted(load.silence(one.began, one.ended) * 1000 for one in swaps)
    during = [one for one in load.questions if any(swap.began <= one.asked <= swap.ended for swap in swaps)]
    return Figures(
        count=len(swaps),
        p50_ms=round(statistics.median(silences), 1),
        p99_ms=round(silences[min(len(silences) - 1, int(len(silences) * 0.99))], 1),
        max_ms=round(silences[-1], 1),
        lost=sum(one.answered is None for one in during),
        asked=len(during),
    )


def _case(name: str, kind: str, problems: Sequence[str], measured: dict[str, float] | None = None) -> Case:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    problem = f"{problems[0]}{more}" if problems else ""
    return Case(
        name=name, kind=kind, ok=not problems, problem=problem, measured=measured or {}, evidence=list(problems[:20])
    )


def silence(load: Load, swaps: Sequence[Swap]) -> list[Case]:
    """Of each way of swapping that there was."""
    cases = []
    for whole, name in ((False, "silence of a plain swap"), (True, "silence of a swap through the updater")):
        if own := [one for one in swaps if one.whole == whole]:
            found = figures(load, own)
            problems = [f"silent for {found.max_ms / 1000:.1f} s"] if found.max_ms > HEARTBEAT_LIMIT * 1000 else []
            measured = {what: float(value) for what, value in msgspec.structs.asdict(found).items()}
            cases.append(_case(name, "silence", problems, measured))
    return cases


def others(before: dict[str, int], after: dict[str, int]) -> Case:
    changed = [f"{name} was restarted: pid {before[name]}, then {pid}" for name, pid in after.items()
               if before.get(name) != pid]  # fmt: skip
    return _case("the others keep their processes", "others", changed)


def heartbeats(stage: Stage, since: float, until: float) -> Case:
    """Gaps between the reports that reached the host, by its own clock. UTC, seconds since the epoch."""
    endpoints = read_endpoints(stage.deployment)
    url = f"{endpoints.portal if endpoints else ''}/api/transcript?limit=20000"
    with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310  # our own host
        lines = json.load(answer)
    at = sorted(line["at"] for line in lines if line["endpoint"] == "health" and line["at"] >= since)
    if not at:
        return _case("heartbeats at the host", "heartbeat", ["no heartbeat arrived"])
    # From the beginning, as far back as the transcript goes, to the end: the longest silence may follow the last one.
    since = max(since, min(line["at"] for line in lines))
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise([since, *at, until]))
    problems = [f"none arrived for {gaps[-1]:.1f} s"] if gaps[-1] > HEARTBEAT_LIMIT else []
    measured = {
        "count": float(len(at)),
        "p50_ms": round(statistics.median(gaps) * 1000, 1),
        "p99_ms": round(gaps[int(len(gaps) * 0.99)] * 1000, 1),
        "max_ms": round(gaps[-1] * 1000, 1),
    }
    return _case("heartbeats at the host", "heartbeat", problems, measured)


def load(of: Load, swaps: Sequence[Swap]) -> list[Case]:
    """Of what went on meanwhile."""
    lost = [f"the event {one} is not in the journal" for one in of.emitted if not of.recorded[one]]
    doubled = [f"the event {one} is in the journal {many} times" for one, many in of.recorded.items() if many > 1]
    count = {"count": float(len(of.emitted))}
    cases = [
        _case("every event once in the journal", "events", [*lost, *doubled], count),
        _operations("every run command once", of.operations.on_the_bus, swaps),
        _operations("every operation of the host once", of.operations.by_the_host, swaps),
    ]
    alone = [f"no operation ran when swap {number} began" for number, one in enumerate(swaps, 1) if not one.overlapped]
    overlapped = {"overlapped": float(len(swaps) - len(alone)), "of_swaps": float(len(swaps))}
    cases.append(_case("an operation runs across every swap", "operations", alone, overlapped))
    if of.trouble:
        cases.append(_case("the load", "load", of.trouble))
    return cases


def what_is_left(stage: Stage, done: Done) -> list[Case]:
    """Once no operation goes on any more."""
    left = left_over(stage, _LEFT_PATIENCE)
    problems = [f"left over: {one}" for one in left]
    cases = [_case("no process is left over", "leaks", problems, {"count": float(len(left))})]
    if (before := done.counted) is not None:
        after, swaps = leaks.census(stage), len(done.swaps) - done.counted_at
        cases.append(_case("nothing grows", "leaks", leaks.growth(before, after, swaps), leaks.largest(before, after)))
    return cases


def _operations(name: str, runs: Sequence[Run], swaps: Sequence[Swap]) -> Case:
    """`overlapped`: ran when a swap began; `asked_within`: asked for in the middle of one, or not yet taken then."""
    problems = [problem for one in runs if (problem := what_is_wrong(one))]
    within = [one for one in runs if any(one.asked_within(swap.began, swap.ended) for swap in swaps)]
    measured = {
        "count": float(len(runs)),
        "overlapped": float(sum(one.swaps > 0 for one in runs)),
        "asked_within": float(len(within)),
    }
    return _case(name, "operations", problems if runs else ["none was begun"], measured)
