"""The gate: what passes, what fails and why, and what must count neither way."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from rdagent.config import UpdateSettings
from rdagent.update.gate import Baseline, Gate, Observation, Verdict
from rdagent.update.usage import Usage
from release.record import Chosen

DIGEST = "ab" * 32
OTHER = "cd" * 32
BEFORE, LAST = Chosen("0.1.9", "ef" * 32), Chosen("0.2.1", "12" * 32)
OTHERS = (LAST, BEFORE)
"""In force, and before that."""
SETTINGS = UpdateSettings(trial_seconds=20.0, trial_answers=5, trial_limit=120.0, trial_memory=300.0)


class Trial:
    """A gate, and a clock that begins at the swap."""

    def __init__(
        self, baseline: Baseline | None = None, settings: UpdateSettings = SETTINGS, others: tuple[Chosen, ...] = OTHERS
    ) -> None:
        self.began = 5000.0
        self.now = 0.0
        self.gate = Gate(Chosen("0.2.0", DIGEST), baseline or Baseline(), settings, began=self.began, others=others)

    def see(self, seconds: float, *, step: float = 1.0, **fields: Any) -> Verdict:
        """Look each `step` for so long. Without fields: well."""
        fields = {"answered": True, "version": "0.2.0", "digest": DIGEST, "pid": 7, **fields}
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(self.now + step, end)
            self.gate.observe(Observation(now=self.began + self.now, **fields))
        return self.gate.verdict

    def mute(self, seconds: float, **fields: Any) -> Verdict:
        return self.see(seconds, answered=False, version="", digest="", **fields)


def failed(verdict: Verdict) -> str:
    assert verdict.state == "failed", verdict
    return verdict.reason


def test_it_passes_after_enough_answers_over_enough_time() -> None:
    trial = Trial()
    trial.mute(2)
    assert trial.see(20).state == "undecided"
    assert trial.gate.verdict.well_seconds == 19
    verdict = trial.see(1)
    assert (verdict.state, verdict.reason, verdict.well_seconds, verdict.answers) == ("passed", "", 20, 21)


def test_time_alone_is_not_enough() -> None:
    trial = Trial(settings=UpdateSettings(trial_answers=30))
    assert trial.see(29).state == "undecided"
    assert trial.see(1).state == "passed"


def test_answers_alone_are_not_enough() -> None:
    trial = Trial()
    assert trial.see(19.9, step=0.1).state == "undecided"
    assert trial.gate.verdict.answers == 199


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "busy", "what": "a long operation"},
        {"state": "degraded", "outside": True, "what": "the host does not answer"},
    ],
)
def test_busy_and_an_outage_are_well(fields: dict[str, Any]) -> None:
    assert Trial().see(21, **fields).state == "passed"


def test_drill_70_outage_during_the_gate_does_not_roll_back() -> None:
    trial = Trial()
    trial.see(5)
    trial.see(10, state="degraded", outside=True, what="the host does not answer")
    assert trial.see(6).state == "passed"


@pytest.mark.parametrize("version", ["0.1.0", "0.3.0", "", "0.2.0.0"])
def test_drill_37_announces_another_version(version: str) -> None:
    trial = Trial()
    trial.see(5)
    assert failed(trial.see(1, version=version)) == f"announces version {version}, not 0.2.0"


def test_another_build_and_the_base_install_are_not_the_version_on_trial() -> None:
    assert failed(Trial().see(1, digest=OTHER)) == f"announces version 0.2.0 as another build ({OTHER[:12]})"
    assert failed(Trial().see(1, digest="")) == "announces version 0.2.0 as the base install"


@pytest.mark.parametrize(
    "fields",
    [
        {"version": LAST.version, "digest": LAST.digest},
        {"version": BEFORE.version, "digest": BEFORE.digest},
        {"version": BEFORE.version, "digest": ""},
        {"version": "0.1.0", "digest": "", "is_base": True},
        {"version": "0.2.0", "digest": "", "is_base": True},
    ],
    ids=["in force", "the one before, for that is rotten", "older than digests", "the base install", "of that number"],
)
def test_another_version_instead_of_it_says_nothing_of_it(fields: dict[str, Any]) -> None:
    """launch.py started that, for a try could not be counted."""
    trial = Trial()
    trial.see(5)
    verdict = trial.see(1, pid=8, **fields)
    assert (verdict.state, verdict.reason) == ("not started", "its try could not be counted")
    assert trial.see(60).state == "not started"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": BEFORE.version}, "announces version 0.1.9, not 0.2.0"),
        ({"version": BEFORE.version, "digest": OTHER}, "announces version 0.1.9, not 0.2.0"),
        ({"version": LAST.version, "digest": ""}, "announces version 0.2.1, not 0.2.0"),
        ({"digest": ""}, "announces version 0.2.0 as the base install"),
    ],
)
@pytest.mark.parametrize("others", [OTHERS, ()])
def test_who_says_that_it_is_another_and_is_not_lies(
    fields: dict[str, Any], said: str, others: tuple[Chosen, ...]
) -> None:
    assert failed(Trial(others=others).see(1, **fields)) == said


def test_whoever_ended_while_nobody_starts_anybody_is_not_to_blame() -> None:
    why = "nobody could start it: supervisord: no answer"
    trial = Trial()
    trial.see(5)
    assert trial.mute(10, pid=None, unknown=why).state == "undecided"
    verdict = trial.mute(1, pid=None, unknown=why)
    assert (verdict.state, verdict.reason) == ("not started", why)
    well = Trial()
    assert well.see(21, unknown=why).state == "passed"


def test_drill_65_speaks_another_protocol() -> None:
    trial = Trial()
    foreign = "telemetry 0.0.1 speaks protocol 0.0, which does not go with our 1.3"
    assert failed(trial.mute(1, foreign=foreign)) == f"cannot be understood: {foreign}"


def test_the_answers_of_another_process_are_none() -> None:
    """A process of before, or a forked child. The one on trial is given the time to take over."""
    stranger = "process 9 answers, supervisord runs 7: not the version on trial"
    forks = Trial()
    assert forks.mute(20, stranger=stranger).state == "undecided"
    assert failed(forks.mute(1, stranger=stranger)) == stranger
    innocent = Trial()
    innocent.mute(19, stranger=stranger)
    assert innocent.see(21).state == "passed"


def test_drill_36_stops_answering() -> None:
    trial = Trial()
    trial.see(5)
    assert trial.mute(10).state == "undecided"
    assert failed(trial.mute(1)) == "hangs: process 7 runs and has not answered any more, for 11 s"


def test_drill_35_hangs_from_the_start() -> None:
    trial = Trial()
    assert trial.mute(20).state == "undecided"
    assert failed(trial.mute(1)) == "hangs: process 7 runs and has not answered since the swap, for 21 s"


def test_drill_32_never_a_process() -> None:
    trial = Trial()
    assert failed(trial.mute(21, pid=None)) == "crashes: no process, and no answer for 21 s"


def test_drill_33_crashes_inside_the_gate() -> None:
    trial = Trial()
    trial.see(5)
    trial.mute(1, pid=None)
    trial.see(4, pid=8)
    trial.mute(1, pid=None)
    assert failed(trial.mute(1, pid=9)) == "crashes: 3 processes in 12 s"


def test_one_restart_is_forgiven_and_the_count_begins_anew() -> None:
    trial = Trial()
    trial.see(19)
    assert trial.see(20, pid=8).state == "undecided"
    assert trial.see(1, pid=8).state == "passed"


def test_answers_of_nobody_in_particular_do_not_count() -> None:
    trial = Trial()
    assert trial.see(60, pid=None).state == "undecided"
    assert trial.see(21).state == "passed"


def test_a_short_silence_is_forgiven() -> None:
    trial = Trial()
    trial.see(5)
    trial.mute(9)
    assert trial.see(8).state == "passed"


def test_drill_38_announces_degraded_health() -> None:
    trial = Trial()
    trial.see(3)
    assert trial.see(6, state="degraded", what="cannot write").state == "undecided"
    assert failed(trial.see(1, state="degraded", what="cannot write")) == "degraded for 6 s: cannot write"


def test_a_reason_is_one_line_whatever_the_component_says() -> None:
    assert failed(Trial().see(7, state="degraded", what="a\nb")) == "degraded for 6 s: a b"
    assert failed(Trial().see(1, version="1\n" * 90)).count("\n") == 0


def test_a_short_degradation_begins_the_count_anew_and_flapping_never_passes() -> None:
    trial = Trial()
    trial.see(19)
    trial.see(4, state="degraded", what="a hiccup")
    assert trial.gate.verdict.answers == 0
    for _ in range(5):
        trial.see(14)
        assert trial.see(4, state="degraded", what="a hiccup").state == "undecided"
    assert failed(trial.see(20)) == "was not well for 20 s on end within 120 s"
    assert trial.now > 120


def test_silence_does_not_end_a_degradation() -> None:
    trial = Trial()
    trial.see(3, state="degraded", what="cannot write")
    trial.mute(4)
    assert failed(trial.see(1, state="degraded", what="cannot write")).startswith("degraded for 7 s")


def test_another_process_is_given_its_own_time_to_get_well() -> None:
    trial = Trial()
    trial.see(5, state="degraded", what="starts")
    assert trial.see(6, pid=8, state="degraded", what="starts").state == "undecided"
    assert failed(trial.see(1, pid=8, state="degraded", what="starts"))


def test_what_degraded_the_version_before_already_is_not_held_against_this_one() -> None:
    before = Baseline(degraded=True, what="no link on eth0 for 63 s")
    assert Trial(before).see(21, state="degraded", what="no link on eth0 for 7 s").state == "passed"
    assert failed(Trial(before).see(10, state="degraded", what="cannot read its state"))
    same = Baseline(degraded=False, what="no link on eth0 for 63 s")
    assert failed(Trial(same).see(10, state="degraded", what="no link on eth0 for 7 s"))


def test_leaks() -> None:
    trial = Trial()
    assert trial.see(5, rss_bytes=300.0 * (1 << 20)).state == "undecided"
    assert failed(trial.see(1, rss_bytes=301.0 * (1 << 20))) == "leaks: it holds 301 MiB, limit 300 MiB"
    assert failed(Trial().mute(1, rss_bytes=1e12)).startswith("leaks")


class Working(Trial):
    """One whose process uses so much a second; it began long ago."""

    cpu, written = 300.0, 1 << 40

    def work(self, seconds: float, *, cpu: float = 0.0, mib: float = 0.0, **fields: Any) -> Verdict:
        for _ in range(round(seconds)):
            self.cpu += cpu
            self.written += int(mib * (1 << 20))
            self.see(1, usage=Usage(cpu_seconds=self.cpu, written={7: self.written}), **fields)
        return self.gate.verdict


def test_one_that_works_passes() -> None:
    """20 events a second and one operation after the other take 0.05 of a CPU and 0.4 MiB a second."""
    assert Working().work(21, cpu=0.24, mib=1.9).state == "passed"


def test_burns_cpu() -> None:
    trial = Working()
    assert trial.work(120, cpu=1.0).state == "undecided"
    assert failed(trial.work(1, cpu=1.0)) == "burns CPU: 1.00 of one, on end, limit 0.25, for 121 s"


def test_writes_without_end() -> None:
    trial = Working()
    assert trial.work(120, mib=3.0).state == "undecided"
    assert failed(trial.work(1, mib=3.0)) == "writes without end: 3.0 MiB a second, limit 2 MiB, for 121 s"


def test_a_flood_is_not_waited_for() -> None:
    """At the speed of a pipe two minutes would be 80 GiB."""
    trial = Working()
    assert trial.work(2, mib=900.0).state == "undecided"
    assert failed(trial.work(1, mib=900.0)) == "writes without end: 1800 MiB so far, limit 960 MiB"
    mute = Working()
    assert mute.work(1, mib=900.0, answered=False).state == "undecided"
    assert failed(mute.work(2, mib=900.0, answered=False)).startswith("writes without end")


def test_a_backlog_has_an_end() -> None:
    """telemetry with a hundred thousand entries to store, on a slow disk."""
    trial = Working()
    trial.mute(3)
    assert trial.work(70, cpu=0.9, mib=10.0).state == "undecided"
    assert trial.work(36, cpu=0.01).state == "passed"


def test_a_start_of_python_is_not_counted() -> None:
    trial = Working()
    for _ in range(15):
        trial.cpu += 1.0
        trial.mute(1, usage=Usage(cpu_seconds=trial.cpu, written={7: trial.written}))
    assert trial.work(21).state == "passed"


def test_what_it_does_while_it_is_busy_is_not_counted() -> None:
    """guestagent unpacks one extension after the other, and says so."""
    trial = Working()
    trial.work(5)
    trial.work(5, cpu=1.0, mib=200.0, state="busy", what="Installing")
    # It has no time to answer, and then is done.
    trial.work(5, cpu=1.0, mib=200.0, answered=False)
    trial.work(1, cpu=1.0, mib=200.0)
    assert trial.work(5).state == "passed"
    silent = Working()
    silent.work(1)
    assert failed(silent.work(6, mib=200.0, answered=False)).startswith("writes without end")


def test_another_process_has_counters_of_its_own() -> None:
    trial = Working()
    trial.work(5)
    trial.cpu, trial.written = 500.0, 1 << 50
    assert trial.work(20, pid=8).state == "undecided"
    assert trial.work(1, pid=8).state == "passed"


def test_what_another_process_wrote_is_not_part_of_a_flood() -> None:
    trial = Working()
    trial.work(2, mib=900.0)
    assert trial.work(2, mib=900.0, pid=8).state == "undecided"
    assert failed(trial.work(1, mib=900.0, pid=8)) == "writes without end: 1800 MiB so far, limit 960 MiB"


def test_each_write_in_a_thread_of_its_own() -> None:
    """Seen in the counter of the process; where a child was waited for in between, that counter says nothing."""
    mib = 1 << 20

    def look(second: int, children: int) -> Usage:
        in_all = (40 * second + 1000 * children) * mib
        return Usage(cpu_seconds=1.0, written={7: 0}, in_all=in_all, waited_for=(children,))

    trial = Trial()
    for second in range(121):
        trial.see(1, usage=look(second, second // 5))  # one child each five seconds
    assert failed(trial.see(1, usage=look(121, 25))).startswith("writes without end: ")
    parent = Trial()
    for second in range(30):
        parent.see(1, usage=look(0, second))
    assert parent.gate.verdict.state == "passed"


def test_threads_end_and_their_numbers_come_again() -> None:
    def look(*written: int) -> Usage:
        return Usage(cpu_seconds=1.0, written=dict(enumerate(written)))

    mib = 1 << 20
    quiet = Trial()
    for number in range(21):  # one of many threads each second
        quiet.see(1, usage=look(1 << 40, *[mib] * (number % 3)))
    assert quiet.gate.verdict.state == "passed"
    loud = Trial()
    for number in range(121):
        loud.see(1, usage=look(1 << 40, 6 * mib * (number % 2)))
    assert failed(loud.gate.verdict) == "writes without end: 3.0 MiB a second, limit 2 MiB, for 121 s"


def test_who_was_too_loud_and_then_ill_is_called_ill() -> None:
    trial = Working()
    trial.work(21, cpu=1.0)
    for _ in range(6):
        trial.work(14)
        trial.work(4, state="degraded", what="a hiccup")
    assert failed(trial.see(20)) == "was not well for 20 s on end within 120 s"


def test_a_verdict_is_final() -> None:
    passed = Trial()
    passed.see(21)
    assert passed.see(5, version="0.1.0").state == "passed"
    lost = Trial()
    lost.see(1, version="0.1.0")
    assert failed(lost.see(60)) == "announces version 0.1.0, not 0.2.0"


def test_whoever_was_suspended_begins_his_patience_anew() -> None:
    """Nobody looked for an hour: that says nothing of the version."""
    trial = Trial()
    trial.see(10)
    trial.now += 3600
    assert trial.mute(9).state == "undecided"
    assert trial.see(20).state == "undecided"
    assert trial.see(1).state == "passed"
    waiting = Trial()
    waiting.mute(15)
    waiting.now += 3600
    assert waiting.mute(20).state == "undecided"
    assert failed(waiting.mute(2)).startswith("hangs")
    sick = Trial()
    sick.see(4, state="degraded", what="cannot write")
    sick.now += 3600
    assert sick.see(6, state="degraded", what="cannot write").state == "undecided"
    assert failed(sick.see(1, state="degraded", what="cannot write"))


def test_what_a_version_wrote_while_nobody_looked_is_not_held_against_it() -> None:
    trial = Working()
    trial.work(10)
    trial.now += 3600
    assert trial.work(1, mib=3600.0).state == "undecided"
    assert trial.work(20).state == "passed"


@pytest.mark.parametrize("frozen", [5.0, 11.0, 13.0, 15.0, 25.0, 29.0])
@pytest.mark.parametrize("answered", [True, False], ids=["after answers", "at the start"])
def test_a_machine_that_stood_still_is_not_the_versions_silence(frozen: float, answered: bool) -> None:
    """The look under way runs out on both of them, and the next one may come before it is awake again."""
    trial = Trial()
    if answered:
        trial.see(10)
    trial.now += frozen
    trial.mute(0.1)
    trial.mute(2.5, step=2.5)
    assert trial.see(20).state != "failed"
    assert trial.see(1).state == "passed"


@pytest.mark.parametrize("look", [2.5, 6.0, 11.5])
def test_who_answers_no_look_hangs_however_long_a_look_takes(look: float) -> None:
    """It is not the observer who is away, as long as looks end when they have to."""
    trial = Trial()
    trial.see(10)
    assert failed(trial.mute(60, step=look)).startswith("hangs")
    assert failed(Trial().mute(100, step=look)).startswith("hangs")


@pytest.mark.parametrize("look", [2.5, 6.0, 11.5])
def test_who_answers_slowly_is_well(look: float) -> None:
    assert Trial().see(60, step=look).state == "passed"


def test_a_trial_has_an_end_however_often_the_machine_stands_still() -> None:
    trial = Trial()
    for _ in range(60):
        trial.see(3, state="degraded", what="a hiccup", step=11.9)
        trial.see(11.9, step=11.9)
    assert trial.gate.verdict.state != "undecided"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"trial_seconds": 120.0}, "trial_seconds must be shorter than trial_limit"),
        ({"trial_seconds": -1.0}, "trial_seconds must be shorter than trial_limit"),
        ({"trial_answers": 0}, "trial_answers must be at least 1"),
        ({"trial_cpu": 0.0}, "trial_cpu and trial_written must be more than 0"),
        ({"trial_written": -1.0}, "trial_cpu and trial_written must be more than 0"),
        ({"window": "sometimes"}, "window: 'sometimes' is not days"),
    ],
)
def test_settings_under_which_nothing_or_everything_passes_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        UpdateSettings(**fields)


# -- for every input ----------------------------------------------------------------------------------------------

looks = st.fixed_dictionaries(
    {
        "after": st.sampled_from([0.0, 0.5, 1.0, 1.0, 4.0, 12.0, 45.0]),
        "answered": st.sampled_from([True, True, True, False]),
        "version": st.sampled_from(["0.2.0"] * 9 + ["0.1.0"]),
        "digest": st.sampled_from([DIGEST] * 9 + [OTHER]),
        "pid": st.sampled_from([7, 7, 7, 7, 8, None]),
        "state": st.sampled_from(["ok", "ok", "busy", "degraded"]),
        "outside": st.booleans(),
        "rss_bytes": st.sampled_from([None, 1e7, 1e7, 1e7, 4e8]),
        "usage": st.sampled_from([None, *(Usage(cpu_seconds=at, written={7: at << 20}) for at in (0, 1, 1, 50, 90))]),
    }
)
small = UpdateSettings(trial_seconds=5.0, trial_answers=3, trial_limit=20.0)


@given(st.lists(looks, max_size=40), st.sampled_from([0.0, 1e9]))
@effort(max_examples=500)
def test_it_never_passes_without_the_answers_of_one_process_of_the_target(
    found: list[dict[str, Any]], began: float
) -> None:
    gate = Gate(Chosen("0.2.0", DIGEST), Baseline(), small, began=began)
    now, before, seen = began, Verdict(), []
    for look in found:
        fields = dict(look)
        now += fields.pop("after")
        verdict = gate.observe(Observation(now=now, **fields))
        if before.state != "undecided":
            assert verdict == before
            continue
        seen.append((now, look))
        assert bool(verdict.reason) == (verdict.state in {"failed", "not started"})
        if verdict.state == "passed":
            last = look["pid"]
            own = []
            for at, one in reversed(seen):
                if one["pid"] not in {last, None} or (one["state"], one["outside"], one["answered"]) == (
                    "degraded",
                    False,
                    True,
                ):
                    break
                own += [at] if one["answered"] and one["pid"] else []
            assert len(own) >= small.trial_answers
            assert own[0] - own[-1] >= small.trial_seconds
            assert all((one["version"], one["digest"]) == ("0.2.0", DIGEST) for _, one in seen if one["answered"])
            assert all((one["rss_bytes"] or 0) <= 300 << 20 for _, one in seen)
            assert look["answered"]
        before = verdict


@given(st.lists(looks, min_size=1, max_size=40), st.floats(0.1, 2.0))
def test_it_is_never_undecided_for_longer_than_its_limit(found: list[dict[str, Any]], step: float) -> None:
    gate = Gate(Chosen("0.2.0", DIGEST), Baseline(), small, began=0.0)
    for number in range(math.ceil(small.trial_limit / step) + 2):
        fields = {**found[number % len(found)]}
        fields.pop("after")
        gate.observe(Observation(now=number * step, **fields))
    assert gate.verdict.state != "undecided"


@given(st.lists(looks, max_size=30), st.floats(-1e6, 1e6))
def test_only_differences_of_time_count(found: list[dict[str, Any]], shift: float) -> None:
    shift = float(round(shift))
    gates = [Gate(Chosen("0.2.0", DIGEST), Baseline(), small, began=at) for at in (0.0, shift)]
    now = 0.0
    for look in found:
        fields = dict(look)
        now += fields.pop("after")
        first, second = (
            gate.observe(Observation(now=at + now, **fields)) for gate, at in zip(gates, (0.0, shift), strict=True)
        )
        assert first == second


@given(st.lists(looks, max_size=40))
def test_a_well_version_passes_whatever_came_before_as_long_as_nothing_failed(found: list[dict[str, Any]]) -> None:
    gate = Gate(Chosen("0.2.0", DIGEST), Baseline(), UpdateSettings(trial_seconds=5.0, trial_answers=3), began=0.0)
    now = 0.0
    for look in found[:6]:
        fields = dict(look)
        now += fields.pop("after")
        gate.observe(Observation(now=now, **fields))
    if gate.verdict.state == "failed":
        return
    last = next((look["pid"] for look in reversed(found[:6]) if look["pid"]), 7)
    for _ in range(14):  # of two spans the second holds nothing of before
        now += 1
        usage = Usage(cpu_seconds=60.0 + now / 8, written={7: (60 << 20) + int(now * (1 << 20))})
        gate.observe(Observation(now=now, answered=True, version="0.2.0", digest=DIGEST, pid=last, usage=usage))
    assert gate.verdict.state == "passed"
