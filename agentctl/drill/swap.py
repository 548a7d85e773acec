"""`agentctl drill swap`: two good builds of a component, swapped back and forth while everything goes on.

Most swaps are the swap alone: the record names the other version, and supervisord stops and starts the component, as
the updater has it do. Every so many-th goes through the whole updater, from the operator's word over the trial to its
commit. rdagent becomes another version by exec, which nobody but its updater has it do: there every swap is whole.
"""

import itertools
import json
import statistics
import time
import urllib.request
from collections.abc import Sequence

import msgspec

from agentctl.asking import ask
from agentctl.drill import leaks
from agentctl.drill.contract import Broken
from agentctl.drill.load import LOST_AFTER, QUESTION_SECONDS, Load, Run
from agentctl.drill.progress import Steps
from agentctl.drill.report import Case, Report
from agentctl.drill.stage import Stage
from agentctl.drill.updates import Versions, until
from agentctl.drill.variants import checkout, package
from agentctl.drill.watch import Watch
from agentctl.errors import CommandError
from agentctl.view import read_endpoints
from ipc.contract.rdagent import UpdateNow
from ipc.errors import IpcError
from release.record import Chosen

CONFIGURATION = """[rdagent]
heartbeat_period = 1.0
look_period = 1.0

[update]
trial_seconds = 0.5
trial_answers = 2
trial_limit = 20.0
"""
SCALED = "heartbeat each second (15 s), trial 0.5 s (20 s)"
WHOLE_EVERY = 10
HEARTBEAT_LIMIT = 15.0
"""Seconds: what a VM's host is used to wait."""

_VERSIONS = ("1.0.1", "1.0.2")
_PATIENCE = 40.0
_WARM_UP = 4
"""Swaps before the first count: pools fill, caches warm."""


class Swap(msgspec.Struct, frozen=True):
    """One that was done. CLOCK_MONOTONIC."""

    whole: bool
    began: float
    ended: float


class Done(msgspec.Struct):
    """What came of it so far."""

    swaps: list[Swap] = []
    counted: list[leaks.Census] = []


class Figures(msgspec.Struct, frozen=True):
    """Of all swaps of one way."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    lost: int
    asked: int


def run(stage: Stage, component: str, times: int, steps: Steps, *, full: bool) -> Report:
    """The whole drill. Raises CommandError if it cannot be done at all."""
    wall, began = time.time(), time.monotonic()
    versions = prepare(stage, component)
    before, watch = Versions(stage).pids(but=component), Watch(stage)
    load, done = Load(stage, component, full=full), Done()
    problem = ""
    with load:
        try:
            for number, target in zip(range(times), itertools.cycle(versions), strict=False):
                steps.begin(f"swap {number + 1}: {component} becomes {target.version}")
                if number == min(_WARM_UP, times // 2):
                    done.counted.append(leaks.census(stage))
                one = swap(stage, load, component, target, whole=component == "rdagent" or is_whole(number))
                done.swaps.append(one)
                steps.end(f"{target.version} after {one.ended - one.began:.2f} s")
            stage.until_ready()
            done.counted.append(leaks.census(stage))
        except (Broken, CommandError, IpcError) as error:
            problem = str(error)
    cases = [_swaps_case(component, done.swaps, times, problem, watch)]
    if not problem:
        cases += _silence_cases(load, done.swaps)
        cases += [_others_case(before, Versions(stage).pids(but=component)), _heartbeat_case(stage, wall, time.time())]
        cases.append(_leaks_case(done.counted[0], done.counted[-1]))
        cases += _load_cases(load) if full else []
    facts = {
        "component": component,
        "load": "events, run commands on the bus and by the host, questions" if full else "questions alone",
        "questions": f"each {QUESTION_SECONDS * 1000:g} ms, lost after {LOST_AFTER:g} s",
        "scaled down": f"{SCALED}; in brackets what a VM has",
    }
    return Report(drill="swap", began=wall, seconds=time.monotonic() - began, cases=cases, facts=facts)


def is_whole(number: int) -> bool:
    """Whether this one goes through the updater."""
    return number % WHOLE_EVERY == WHOLE_EVERY - 1


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


def prepare(stage: Stage, component: str) -> tuple[Chosen, Chosen]:
    """Both on the disk, the second in force: the first swap is to the first. Raises CommandError."""
    source = checkout(stage.root / "sources")
    built = [package(source, component, version, stage.root / "packages", stage.key) for version in _VERSIONS]
    first, second = (stage.install(one) for one in built)
    stage.choose(component, second)
    stage.up()
    return first, second


def swap(stage: Stage, load: Load, component: str, target: Chosen, *, whole: bool) -> Swap:
    """Returns when the target answers, also those who knew the one before. Raises Broken, CommandError."""
    versions, began = Versions(stage), time.monotonic()
    if whole:
        ask(stage.deployment, UpdateNow(component=component, version=target.version), within=_PATIENCE)
    else:
        stage.stop(component)
        stage.choose(component, target)
        stage.supervisord.start(component)
    until(lambda: _what_is_missing(versions, component, target), _PATIENCE)
    there = time.monotonic()
    until(lambda: "" if load.hears(there) else f"{component} is not heard by who asked it before", _PATIENCE)
    return Swap(whole, began, time.monotonic())


def _what_is_missing(versions: Versions, component: str, target: Chosen) -> str:
    record = versions.record(component)
    if target.key in record.bad:
        return f"{target.version} came back: {record.bad[target.key].reason}"
    if record.current != target or record.trial:
        return f"{target.version} is not in force"
    said = versions.describe(component)
    if said is None:
        return f"{component} does not answer"
    return "" if said.digest == target.digest else f"{component} is {said.version} instead of {target.version}"


# -- what is made of it ------------------------------------------------------------------------------------------------


def _case(name: str, kind: str, problems: Sequence[str], measured: dict[str, float] | None = None) -> Case:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    problem = f"{problems[0]}{more}" if problems else ""
    return Case(
        name=name, kind=kind, ok=not problems, problem=problem, measured=measured or {}, evidence=list(problems[:20])
    )


def _swaps_case(component: str, swaps: Sequence[Swap], times: int, problem: str, watch: Watch) -> Case:
    seconds = sum(one.ended - one.began for one in swaps)
    evidence = watch.evidence() if problem else []
    name = f"{len(swaps)} of {times} swaps of {component}"
    return Case(name=name, kind="swap", ok=not problem, problem=problem, seconds=seconds, evidence=evidence)


def _silence_cases(load: Load, swaps: Sequence[Swap]) -> list[Case]:
    """Of each way of swapping that there was."""
    cases = []
    for whole, name in ((False, "silence of a plain swap"), (True, "silence of a swap through the updater")):
        if own := [one for one in swaps if one.whole == whole]:
            found = figures(load, own)
            problems = [f"silent for {found.max_ms / 1000:.1f} s"] if found.max_ms > HEARTBEAT_LIMIT * 1000 else []
            measured = {what: float(value) for what, value in msgspec.structs.asdict(found).items()}
            cases.append(_case(name, "silence", problems, measured))
    return cases


def _others_case(before: dict[str, int], after: dict[str, int]) -> Case:
    changed = [f"{name} was restarted: pid {before[name]}, then {pid}" for name, pid in after.items()
               if before.get(name) != pid]  # fmt: skip
    return _case("the others keep their processes", "others", changed)


def _heartbeat_case(stage: Stage, since: float, until: float) -> Case:
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


def _leaks_case(before: leaks.Census, after: leaks.Census) -> Case:
    return _case("nothing grows", "leaks", leaks.growth(before, after), leaks.largest(before, after))


def _load_cases(load: Load) -> list[Case]:
    lost = [f"the event {one} is not in the journal" for one in load.emitted if not load.recorded[one]]
    doubled = [f"the event {one} is in the journal {many} times" for one, many in load.recorded.items() if many > 1]
    count = {"count": float(len(load.emitted))}
    cases = [_case("every event once in the journal", "events", [*lost, *doubled], count)]
    for name, runs in (("every run command once", load.runs), ("every operation of the host once", load.operations)):
        problems = [problem for one in runs if (problem := what_is_wrong(one))]
        measured = {"count": float(len(runs)), "not_taken": float(sum(not one.acknowledged for one in runs))}
        cases.append(_case(name, "operations", problems if runs else ["none was begun"], measured))
    if load.trouble:
        cases.append(_case("the load", "load", load.trouble))
    return cases


def what_is_wrong(run: Run) -> str:
    """One that was taken ran once and said so; one that nobody took ran at most once."""
    if run.times > 1:
        return f"{run.name} ran {run.times} times"
    if not run.acknowledged:
        return ""
    if run.times == 0:
        return f"{run.name} was taken and did not run: {run.outcome}"
    if run.name.startswith("run-") and (run.outcome, run.output) != ("Succeeded", f"said {run.name}\n"):
        return f"{run.name} is told of as {run.outcome!r} with output {run.output[:80]!r}"
    return ""
