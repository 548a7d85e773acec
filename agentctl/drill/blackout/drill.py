"""`agentctl drill blackout`: the sources of versions are away or lie, across restarts; then they return.

Meanwhile another version is wanted. Nothing may change but what the status says of the repository and of that wish; the
version before has to come back from the disk when it is asked for; and after the return the wanted one has to arrive
without a hand. What a week would bring is many looks that fail: some are done one after the other in each life of
rdagent, before it is killed and after that, and in neither may it or anybody else end.
"""

import signal
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from agentctl import group
from agentctl.asking import ask
from agentctl.drill.blackout.looks import LOOK_SECONDS, MANIFEST_SECONDS, SHORT, Looks
from agentctl.drill.blackout.outages import OUTAGES, Outage
from agentctl.drill.blackout.unchanged import Sight, sights, what_changed
from agentctl.drill.findings import Findings
from agentctl.drill.group.contract import Broken
from agentctl.drill.group.hostwords import Host
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import SCALED, Versions, until
from agentctl.drill.group.watch import Watch
from agentctl.drill.progress import Steps
from agentctl.drill.report import Case
from agentctl.drill.variants import Change, changed, checkout, package
from agentctl.errors import CommandError, WrongUse
from agentctl.processes import end, process, wait_until
from ipc.contract.rdagent import RollBack
from ipc.errors import IpcError
from ipc.places import COMPONENTS
from release.build import Built
from release.record import Chosen

COMPONENT = "telemetry"
CHECK_SECONDS = 1.0
"""The longest pause between two looks into the repository; a VM has an hour."""
LOOKS = 3
"""That fail in each life of rdagent, at least."""

_PATIENCE, _READY_PATIENCE = 60.0, 150.0
"""guestagent asks a host that was away after pauses of up to a minute."""
_STATUS_PATIENCE = 5.0
"""A source that does not answer is waited for longer."""
_ENDS = 3
"""So many times a version of rdagent may end: with the fourth the watchdog takes it back, see watchdog.py."""
_LIVES = 2
"""Of rdagent in one case."""
_ONE_LINE = "the component repository:"


def choose(only: Iterable[str]) -> list[Outage]:
    """Raises WrongUse for a name there is not."""
    names = tuple(only)
    if unknown := set(names) - {one.name for one in OUTAGES}:
        raise WrongUse(f"there is no outage {min(unknown)!r}; see: agentctl drill blackout --list")
    return [one for one in OUTAGES if not names or one.name in names]


def run(
    stage: Stage,
    outages: Sequence[Outage],
    steps: Steps,
    findings: Findings,
    changes: Mapping[str, Change] | None = None,
) -> None:
    """The whole drill; `changes` are made in rdagent. Raises CommandError if it cannot be done at all."""
    facts = findings.facts
    scaled = f"a look into the repository each {CHECK_SECONDS:g} s (1 h), of {LOOK_SECONDS} s at most (30 s)"
    facts["scaled down"] = f"{SCALED}; {scaled}, a manifest {MANIFEST_SECONDS} s (20 s); brackets: a VM"
    blackout, looks = Blackout(stage, changes or {}), 0.0
    for number, outage in enumerate(outages, 1):
        steps.begin(f"{outage.name}: {outage.what}")
        case = blackout.case(outage, f"1.1.{number}")
        findings.cases.append(case)
        looks += case.measured.get("looks", 0.0)
        facts["a week"] = f"is not waited for: it is 200 looks that fail on a VM, here {looks:g}; no clock was moved"
        figures = ", ".join(f"{name} {value:g}" for name, value in case.measured.items())
        steps.end(f"{case.name}: {case.problem or figures}", style="" if case.ok else "red")


class Blackout:
    """One stage, with one version in force and one to go back to, case after case."""

    def __init__(self, stage: Stage, changes: Mapping[str, Change]) -> None:
        """Brings all up. Raises CommandError."""
        self._stage = stage
        self._versions = Versions(stage)
        self._host = Host(stage)
        self._source = checkout(stage.root / "sources")
        drop_in = stage.places.config.with_name(stage.places.config.name + ".d") / "20-drill.toml"
        drop_in.parent.mkdir()
        drop_in.write_text(f"[update]\ncheck_period = {CHECK_SECONDS}\n")
        self._first = tuple(map(self._build, ("1.0.0", "1.0.1")))
        self._previous, self._current = map(stage.install, self._first)
        hasty = changed(checkout(stage.root / "hasty", SHORT), changes)
        self._rdagent = package(hasty, "rdagent", "1.0.1", stage.root / "packages", stage.key)
        self._bring_up()
        self._looks = Looks(self._versions, fail=True)

    def case(self, outage: Outage, version: str) -> Case:
        """One outage from its begin to its end; afterwards `version` is in force."""
        if self._ended == _ENDS:
            self._begin_anew()
        began, measured, evidence, problem = time.monotonic(), dict[str, float](), list[str](), ""
        self._looks, faults = Looks(self._versions, fail=outage.kind in {"away", "host gone"}), list[int]()
        watch = Watch(self._stage)
        try:
            built = self._build(version)
            measured = self._play(outage, built, faults, watch)
        except (Broken, CommandError, IpcError) as error:
            problem, evidence = str(error), watch.evidence()
            self._begin_anew()
        return Case(
            name=outage.name,
            kind=outage.kind,
            ok=not problem,
            problem=problem,
            seconds=time.monotonic() - began,
            measured=measured,
            evidence=evidence,
        )

    def _play(self, outage: Outage, built: Built, faults: list[int], watch: Watch) -> dict[str, float]:
        """`faults`: filled with those in force. Raises Broken, CommandError."""
        self._stage.until_ready(_READY_PATIENCE)
        before = sights(self._stage, self._versions, _PATIENCE)
        target = Chosen(built.manifest.version, built.digest)
        self._begin(outage, built, faults)
        if outage.kind == "one way left":
            arrived = self._arrives(target)
            self._heal(faults)
            return arrived
        self._one_life(outage, before)
        pids = self._kill(outage)
        until(lambda: self._who_is_not_back(outage), _PATIENCE)
        until(lambda: "" if self._versions.view(COMPONENT) else "update status knows of no versions", _STATUS_PATIENCE)
        reborn = COMPONENTS if outage.everything else ("rdagent",)
        after = {name: msgspec.structs.replace(before[name], pid=pids[name]) for name in reborn}
        self._one_life(outage, {**before, **after})
        back = self._goes_back()
        if (lines := watch.said("rdagent").count(_ONE_LINE)) > _LIVES:
            raise Broken(f"the log tells of the repository {lines} times, in {_LIVES} lives of rdagent")
        self._returns(outage, built, faults)
        return {"back_s": back, **self._arrives(target), "looks": float(len(self._looks))}

    def _begin(self, outage: Outage, built: Built, faults: list[int]) -> None:
        """The version is published and asked for when the sources are away already."""
        if outage.kind == "host gone":
            if found := group.host_process(self._stage.deployment):
                end([found], 0.0)
            return
        for number, together in enumerate(outage.rounds):
            # The next before the last is lifted: a moment without any would be a return.
            before = list(faults)
            faults += [self._host.spoil(*one) for one in together]
            for one in before:
                self._host.lift(one)
                faults.remove(one)
            if number == 0:
                self._host.publish(built.path)
                self._host.want(COMPONENT, built.manifest.version)
            if len(outage.rounds) > 1:
                self._looks.until_more(2, outage.patience)
        if outage.kind == "withdrawn":
            until(lambda: self._what_is_not_wanted(built.manifest.version), outage.patience)
            self._host.withdraw(COMPONENT, built.manifest.version)

    def _what_is_not_wanted(self, version: str) -> str:
        view = self._versions.view(COMPONENT)
        return "" if view and view.wanted == version else f"rdagent does not know that {version} is wanted"

    def _returns(self, outage: Outage, built: Built, faults: list[int]) -> None:
        """The sources are as they should be."""
        self._heal(faults)
        if outage.kind == "host gone":
            self._host.publish(built.path)
            self._host.want(COMPONENT, built.manifest.version)
        elif outage.kind == "withdrawn":
            self._host.publish(built.path)

    def _heal(self, faults: list[int]) -> None:
        """The host is there, without faults. Raises CommandError."""
        if group.host_process(self._stage.deployment) is None:
            group.start_host(self._stage.deployment)
        while faults:
            self._host.lift(faults.pop())

    def _begin_anew(self) -> None:
        """With a fresh group, so that the next one is judged by itself. Raises CommandError."""
        self._stage.clear()
        self._previous, self._current = map(self._stage.install, self._first)
        self._bring_up()

    def _bring_up(self) -> None:
        self._ended = 0  # rdagent, as the watchdog counts
        self._stage.choose("rdagent", self._stage.install(self._rdagent))
        self._stage.choose(COMPONENT, self._current, previous=self._previous)
        self._stage.up()

    # -- meanwhile -----------------------------------------------------------------------------------------------------

    def _what_is_not_noticed(self, outage: Outage) -> str:
        updates = self._looks.see()
        if updates is None or not updates.components:
            return "rdagent does not tell of updates"
        if outage.kind in {"away", "host gone"} and not updates.repository.problem:
            return "update status says nothing of the repository"
        view = next(one for one in updates.components if one.component == COMPONENT)
        if outage.kind in {"package away", "withdrawn"} and not view.why:
            return f"update status does not say why {view.wanted} is not there, it is {view.state}"
        return ""

    def _one_life(self, outage: Outage, before: Mapping[str, Sight]) -> None:
        """Several looks fail, and nothing changes. Raises Broken, CommandError."""
        until(lambda: self._what_is_not_noticed(outage), outage.patience)
        self._looks.until_more(LOOKS, outage.patience)
        self._nothing_changed(outage, before)

    def _nothing_changed(self, outage: Outage, before: Mapping[str, Sight]) -> None:
        """Raises Broken."""
        after = sights(self._stage, self._versions, _PATIENCE)
        if changes := [told for name in COMPONENTS if (told := what_changed(name, before[name], after[name]))]:
            raise Broken("; ".join(changes))
        if outage.kind != "host gone":
            self._stage.until_ready()

    def _who_is_not_back(self, outage: Outage) -> str:
        truth = self._stage.truth()
        if truth is None or len(truth.components) < len(COMPONENTS):
            return "rdagent does not answer"
        for one in truth.components:
            away = outage.kind == "host gone" and one.state == "degraded"
            if one.state not in {"ok", "busy"} and not away:
                return f"{one.name} is {one.state}: {one.why}"
        return ""

    def _kill(self, outage: Outage) -> dict[str, int]:
        """SIGKILL, of rdagent or of everything; all of it is started again, as these processes.

        Raises Broken, CommandError.
        """
        pids = self._versions.pids()
        if outage.everything:
            pids["supervisord"] = self._stage.supervisord.pid()
        doomed = [
            found for name, pid in pids.items() if (found := process(pid)) and (outage.everything or name == "rdagent")
        ]
        for one in sorted(doomed, key=lambda one: one.pid != pids.get("supervisord")):
            one.signal(signal.SIGKILL)
        if not wait_until(lambda: not any(one.alive() for one in doomed), _PATIENCE):
            raise Broken("a process outlives SIGKILL")
        # The watchdog goes with supervisord, and knows of nothing afterwards.
        self._ended = 0 if outage.everything else self._ended + 1
        if outage.everything:
            group.start_supervisord(self._stage.deployment)
        gone = {one.pid for one in doomed}

        def anew() -> dict[str, int] | None:
            now = self._versions.pids()
            return now if all(now.get(name) and now[name] not in gone for name in COMPONENTS) else None

        # supervisord tells of a process that has ended until it has heard of its end.
        return self._stage.until(anew, "supervisord to start everybody again", _PATIENCE)

    def _goes_back(self) -> float:
        """From the disk, by the operator's word. Raises Broken, CommandError."""
        began = time.monotonic()
        ask(self._stage.deployment, RollBack(component=COMPONENT, reason="drill blackout"), within=_PATIENCE)
        self._is_in_force(self._previous)
        return round(time.monotonic() - began, 2)

    def _arrives(self, target: Chosen) -> dict[str, float]:
        """Without a hand. Raises Broken, CommandError."""
        began, before = time.monotonic(), self._versions.record(COMPONENT).current
        self._is_in_force(target)
        arrived = time.monotonic() - began
        self._previous, self._current = before or self._previous, target
        self._stage.until_ready(_READY_PATIENCE)
        until(self._what_is_not_settled, _PATIENCE)
        return {"arrives_s": round(arrived, 2)}

    def _what_is_not_settled(self) -> str:
        view = self._versions.view(COMPONENT)
        return "" if view and view.state == "settled" else f"afterwards it is {view}"

    def _is_in_force(self, target: Chosen) -> None:
        def missing() -> str:
            record, said = self._versions.record(COMPONENT), self._versions.describe(COMPONENT)
            if record.current != target or record.trial:
                view = self._versions.view(COMPONENT)
                return f"{target.version} is not in force: {view.why if view else 'rdagent does not say why'}"
            return "" if said and said.digest == target.digest else f"{target.version} does not answer"

        until(missing, _PATIENCE)

    def _build(self, version: str) -> Built:
        return package(self._source, COMPONENT, version, self._stage.root / "packages", self._stage.key)
