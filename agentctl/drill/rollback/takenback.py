"""One bad build, from its publication to its refusal when it is offered again: what has to hold on the way."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from agentctl.drill.group.contract import Broken
from agentctl.drill.group.hostwords import Host
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import Versions, until
from agentctl.drill.rollback.badbuilds import BadBuild
from agentctl.processes import wait_until
from ipc.contract.rdagent import UpdateView
from release.record import Bad, Chosen, Record

_START_PATIENCE = 30.0
"""Seconds from the host's word to the trial."""
_RESTORE_PATIENCE = 30.0
_TELL_PATIENCE = 30.0


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What is tried."""

    component: str
    build: BadBuild
    bad: Chosen
    good: Mapping[str, Chosen]
    """By component: in force before, and afterwards."""


class TakenBack:
    """All raise Broken or CommandError, and then leave everything as it is at that moment."""

    def __init__(self, stage: Stage, versions: Versions, host: Host, expected: Expected) -> None:
        self._stage = stage
        self._versions = versions
        self._host = host
        self._component = expected.component
        self._build = expected.build
        self._bad = expected.bad
        self._good = expected.good[expected.component]

    def run(self, package: Path) -> dict[str, float]:
        """Figures in seconds: until it was found out, and from then until the good version answered again."""
        # Until then supervisord goes on with the pauses of the starts before.
        until(self._what_is_not_settled, _START_PATIENCE)
        others = self._versions.pids(but=self._component)
        own = self._versions.pids().get(self._component)
        self._host.publish(package)
        faults = [self._host.spoil(endpoint, fault) for endpoint, fault in self._build.faults]
        self._host.want(self._component, self._bad.version)
        if self._build.end in {"package", "fetch"}:
            measured = self._is_refused(own)
        else:
            measured = self._is_tried_and_found_out()
            self._is_told()
        # Without a word of the host's, its family's newest version counts as the channel's.
        self._host.want(self._component, self._good.version)
        for number in faults:
            self._host.lift(number)
        self._good_one_is_in_force()
        if (now := self._versions.pids(but=self._component)) != others:
            raise Broken(f"others were restarted: pids were {others}, are {now}")
        self._stage.until_ready()
        if self._build.end != "fetch":
            self._is_not_tried_again()
        return measured

    def _what_is_not_settled(self) -> str:
        state = self._stage.program(self._component).statename
        return "" if state == "RUNNING" else f"supervisord calls {self._component} {state}"

    # -- tried ---------------------------------------------------------------------------------------------------------

    def _is_tried_and_found_out(self) -> dict[str, float]:
        self._wait(self._began, "its trial did not begin", _START_PATIENCE)
        began = time.monotonic()
        self._wait(self._found_out, "it was not found out", self._build.patience)
        found_out = time.monotonic()
        self._wait(self._good_one_answers, f"{self._good.version} does not answer again", _RESTORE_PATIENCE)
        restored = time.monotonic()
        reason = self._entry(self._versions.record(self._component)).reason
        if not re.search(self._build.reason, reason):
            raise Broken(f"the bad list says {reason!r}, without {self._build.reason!r}")
        return {"detect_s": round(found_out - began, 2), "restore_s": round(restored - found_out, 2)}

    def _began(self) -> bool:
        record = self._versions.record(self._component)
        on_trial = record.trial is not None and record.trial.target == self._bad
        return on_trial or self._bad.key in record.bad or record.current == self._bad

    def _found_out(self) -> bool:
        record = self._versions.record(self._component)
        if record.current == self._bad and self._build.end != "watchdog":
            raise Broken("it passed its trial, and is in force")
        return self._bad.key in record.bad and record.trial is None

    def _good_one_answers(self) -> bool:
        said = self._versions.describe(self._component)
        return said is not None and (said.version, said.digest) == (self._good.version, self._good.digest)

    def _entry(self, record: Record) -> Bad:
        if (found := record.bad.get(self._bad.key)) is None:
            raise Broken("it is no longer on the bad list")
        return found

    def _is_told(self) -> None:
        """To the operator, in the history, and to the host."""
        until(lambda: self._what_is_not_told(self._versions.view(self._component)), _TELL_PATIENCE)
        self._history_tells("roll back")
        self._host_was_told()

    def _what_is_not_told(self, view: UpdateView | None) -> str:
        if view is None:
            return "rdagent does not answer what became of it"
        bad = [one for one in view.bad if (one.version, one.digest) == (self._bad.version, self._bad.digest)]
        if not bad:
            return f"update status does not have it on the bad list, but {[one.version for one in view.bad]}"
        if view.state != "rolled back" or bad[0].reason[:20] not in view.why:
            return f"update status calls it {view.state!r}: {view.why!r}"
        return "" if view.lift else "update status does not say what would change that"

    def _history_tells(self, phase: str) -> None:
        lines = [one for one in self._versions.history(self._component) if one.version == self._bad.version]
        if not any(one.phase == phase and not one.ok and one.message for one in lines):
            raise Broken(f"the history does not tell of {phase!r}: {[(one.phase, one.message) for one in lines]}")

    def _host_was_told(self) -> None:
        """By what the host itself has heard."""

        def missing() -> str:
            asked = self._host.wanted(self._component)
            if (asked.get("version"), asked.get("state")) != (self._bad.version, "refused"):
                return f"the host has heard {asked}"
            known = re.search(self._build.reason, asked["reason"])
            return "" if known else f"the host has heard {asked['reason']!r}, without {self._build.reason!r}"

        until(missing, _TELL_PATIENCE)

    # -- refused -------------------------------------------------------------------------------------------------------

    def _is_refused(self, own: int | None) -> dict[str, float]:
        """Never run: the good one is the same process as before."""
        began = time.monotonic()
        states = {"package": "refused", "fetch": "waiting"}
        until(lambda: self._what_is_not_refused(states[self._build.end]), self._build.patience)
        refused = time.monotonic()
        record = self._versions.record(self._component)
        if record.trial or self._bad.key in record.bad:
            raise Broken("it was tried")
        if (pid := self._versions.pids().get(self._component)) != own:
            raise Broken(f"{self._component} was restarted: its pid was {own}, is {pid}")
        self._history_tells("refuse" if self._build.end == "package" else "fetch")
        if self._build.end == "package":
            self._host_was_told()
        return {"detect_s": round(refused - began, 2)}

    def _what_is_not_refused(self, state: str) -> str:
        view = self._versions.view(self._component)
        if view is None or view.wanted != self._bad.version:
            return "rdagent does not know of it"
        if view.state != state or (state == "waiting" and not view.lift):
            return f"update status calls it {view.state!r}: {view.why!r}"
        return "" if re.search(self._build.reason, view.why) else f"the reason given is {view.why!r}"

    # -- afterwards ----------------------------------------------------------------------------------------------------

    def _good_one_is_in_force(self) -> None:
        record = self._versions.record(self._component)
        if record.current != self._good or record.trial:
            current = record.current.version if record.current else "the base install"
            raise Broken(f"{current} is in force instead of {self._good.version}")
        if not self._good_one_answers():
            raise Broken(f"{self._good.version} answered, and no longer does")

    def _is_not_tried_again(self) -> None:
        """Offered once more, in a goal state of its own."""
        until(lambda: self._what_is_still_wanted(self._good.version), _TELL_PATIENCE)
        pid = self._versions.pids().get(self._component)
        self._host.want(self._component, self._bad.version)
        until(lambda: self._what_is_still_wanted(self._bad.version), _TELL_PATIENCE)
        record, trials = self._versions.record(self._component), self._trials()
        self._host.want(self._component, self._good.version)
        if record.trial or trials > (self._build.end != "package"):
            raise Broken(f"offered again it was tried again: {trials} trials")
        if (now := self._versions.pids().get(self._component)) != pid:
            raise Broken(f"offered again {self._component} was restarted: its pid was {pid}, is {now}")

    def _what_is_still_wanted(self, version: str) -> str:
        view = self._versions.view(self._component)
        if view is None or view.wanted != version:
            return f"wanted is {view.wanted if view else 'unknown'!r} instead of {version!r}"
        well = version == self._good.version or view.state in {"rolled back", "refused"}
        return "" if well else f"offered again it is {view.state}"

    def _trials(self) -> int:
        lines = self._versions.history(self._component)
        return sum(one.phase == "trial" and one.version == self._bad.version for one in lines)

    def _wait(self, look: Callable[[], bool], problem: str, patience: float) -> None:
        if not wait_until(look, patience):
            raise Broken(f"{problem} within {patience:g} s")
