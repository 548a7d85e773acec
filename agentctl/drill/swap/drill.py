"""`agentctl drill swap`: two good builds of a component, swapped back and forth while everything goes on.

Most swaps are the swap alone: the record names the other version, and supervisord stops and starts the component, as
the updater has it do. Every so many-th goes through the whole updater, from the operator's word over the trial to its
commit. rdagent becomes another version by exec, which nobody but its updater has it do: there every swap is whole.
"""

import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence

from agentctl.asking import ask
from agentctl.drill.findings import Findings
from agentctl.drill.group.contract import Broken
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import Versions, until
from agentctl.drill.group.watch import Watch
from agentctl.drill.progress import Steps
from agentctl.drill.report import Case
from agentctl.drill.swap import accounts, leaks
from agentctl.drill.swap.accounts import Done, Swap
from agentctl.drill.swap.load import LOST_AFTER, QUESTION_SECONDS, Load
from agentctl.drill.variants import Change, checkout, package
from agentctl.errors import CommandError
from agentctl.holding import held
from agentctl.processes import wait_until
from ipc.contract.rdagent import UpdateNow
from ipc.errors import IpcError
from release.build import Built
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

_VERSIONS = ("1.0.1", "1.0.2")
_PATIENCE = 40.0
_STAND_PATIENCE = 20.0
_COMES = {"STARTING", "RUNNING"}
_WARM_UP = 4
"""Swaps before the first count: pools fill, caches warm."""


def run(
    stage: Stage, component: str, built: Sequence[Built], times: int, steps: Steps, findings: Findings, *, full: bool
) -> None:
    """The whole drill. Raises CommandError if it cannot be done at all.

    Interrupted, or with a swap that fails, it finds out about those that were done.
    """
    findings.facts = {
        "component": component,
        "load": "events, run commands on the bus and by the host, questions" if full else "questions alone",
        "questions": f"each {QUESTION_SECONDS * 1000:g} ms, lost after {LOST_AFTER:g} s",
        "scaled down": f"{SCALED}; in brackets what a VM has",
    }
    steps.begin(f"bring up the group with {component} {built[-1].manifest.version}")
    versions = prepare(stage, component, built)
    before, watch = Versions(stage).pids(but=component), Watch(stage)
    load, done, problem, interrupt = Load(stage, component, full=full), Done(), "", None
    with load:
        try:
            for number, target in zip(range(times), itertools.cycle(versions), strict=False):
                steps.begin(f"swap {number + 1}: {component} becomes {target.version}")
                if number == min(_WARM_UP, times // 2):
                    done.counted_at, done.counted = number, leaks.census(stage)
                with held():
                    whole = component == "rdagent" or is_whole(number)
                    one = swap(stage, load, component, target, whole=whole)
                    done.swaps.append(one)
                    steps.end(f"{target.version} after {one.ended - one.began:.2f} s")
            stage.until_ready()
        except (Broken, CommandError, IpcError) as error:
            problem = str(error)
        except KeyboardInterrupt as error:
            interrupt = error
        finally:
            findings.cases.append(_swaps_case(component, done.swaps, times, problem, watch))
        with held():
            if problem or interrupt:
                _stand_again(stage, component, versions[(len(done.swaps) - 1) % 2])
            load.finish()
            if done.swaps or problem:
                _account(stage, component, load, done, before, findings, full=full)
    if interrupt is not None:
        raise interrupt


def _account(
    stage: Stage, component: str, load: Load, done: Done, before: dict[str, int], findings: Findings, *, full: bool
) -> None:
    """Of what went on until then, also when a swap failed. Raises IpcError."""
    if done.swaps:
        findings.cases += accounts.silence(load, done.swaps)
    findings.cases += accounts.load(load, done.swaps) if full else []
    findings.cases += [accounts.others(before, Versions(stage).pids(but=component))]
    findings.cases += [accounts.heartbeats(stage, findings.began, time.time())]
    findings.cases += accounts.what_is_left(stage, done)


def _stand_again(stage: Stage, component: str, last: Chosen) -> None:
    """After a swap that did not come to its end: what goes on needs somebody to end it.

    `last`: the version that ran before. If that does not help, the account says so.
    """
    versions = Versions(stage)

    def stands() -> bool:
        record = versions.record(component)
        chosen = record.current
        return chosen is not None and not record.trial and not _what_is_missing(versions, component, chosen)

    with contextlib.suppress(CommandError, IpcError):
        # The updater may be at it still.
        wait_until(lambda: stands() or stage.program(component).statename not in _COMES, _STAND_PATIENCE)
        if not stands():
            stage.stop(component)
            stage.choose(component, last)
            stage.supervisord.start(component)
            wait_until(stands, _STAND_PATIENCE)


def is_whole(number: int) -> bool:
    """Whether this one goes through the updater."""
    return number % WHOLE_EVERY == WHOLE_EVERY - 1


def build(stage: Stage, component: str, changes: Mapping[str, Change] | None = None) -> list[Built]:
    """Two versions of this checkout, `changes` made in both. Raises CommandError."""
    source = checkout(stage.root / "sources", changes)
    return [package(source, component, version, stage.root / "packages", stage.key) for version in _VERSIONS]


def prepare(stage: Stage, component: str, built: Sequence[Built]) -> tuple[Chosen, Chosen]:
    """Both on the disk, the second in force: the first swap is to the first. Raises CommandError."""
    first, second = (stage.install(one) for one in built)
    stage.choose(component, second)
    stage.up()
    return first, second


def swap(stage: Stage, load: Load, component: str, target: Chosen, *, whole: bool) -> Swap:
    """Returns when the target answers, also those who knew the one before. Raises Broken, CommandError."""
    versions = Versions(stage)
    running = load.until_an_operation_runs(_PATIENCE)
    began = time.monotonic()
    if whole:
        ask(stage.deployment, UpdateNow(component=component, version=target.version), within=_PATIENCE)
    else:
        stage.stop(component)
        stage.choose(component, target)
        stage.supervisord.start(component)
    until(lambda: _what_is_missing(versions, component, target), _PATIENCE)
    there = time.monotonic()
    until(lambda: "" if load.hears(there) else f"{component} is not heard by who asked it before", _PATIENCE)
    for one in running:
        one.swaps += 1
    return Swap(whole, began, time.monotonic(), len(running))


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


def _swaps_case(component: str, swaps: Sequence[Swap], times: int, problem: str, watch: Watch) -> Case:
    seconds = sum(one.ended - one.began for one in swaps)
    evidence = watch.evidence() if problem else []
    name = f"{len(swaps)} of {times} swaps of {component}"
    return Case(name=name, kind="swap", ok=not problem, problem=problem, seconds=seconds, evidence=evidence)
