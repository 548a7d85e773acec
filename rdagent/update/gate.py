"""Whether a version on trial may stay: what was seen of it in, a verdict out. Pure, and by the monotonic clock alone.

It passes by enough answers over enough time from one process that is the very version on trial. `busy` is well, and so
is `degraded` by what lies outside, or by what degraded the version before already: another version would not mend it.
Who uses too much of the machine over that time is given more of it, for the backlog of a start has an end. A verdict is
final.
"""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from rdagent.config import UpdateSettings
from rdagent.update.usage import Tally, Usage
from rdagent.update.words import one_line
from release.manifest import is_version, version_key
from release.record import Chosen

START_LIMIT = 20.0
"""Seconds after the swap by which it has answered."""
SILENCE_LIMIT = 10.0
"""Seconds without an answer, once it has answered."""
DEGRADED_LIMIT = 5.0
"""Seconds it may be degraded."""
LOOK_LIMIT = 4.0
"""Seconds that one look can count of silence. What is more, a look that ran out on both of us frozen, was not seen."""
GAP_LIMIT = 12.0
"""Seconds, more than any look takes, after which it is not the version that was away, but whoever observes."""

_DIGESTS_SINCE = (0, 2)
_MIB = 1 << 20


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """How the version before was, last."""

    degraded: bool = False
    what: str = ""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the component on trial, after the swap."""

    now: float
    """CLOCK_MONOTONIC."""
    answered: bool
    """To this very look. If not, only `foreign`, `stranger`, `pid`, `unknown`, `rss_bytes` and `usage` count."""
    foreign: str = ""
    """Why it cannot be understood: it speaks another version of the protocol."""
    stranger: str = ""
    """Why it is another process that answered. The one on trial may take over from it, so it is given time."""
    version: str = ""
    digest: str = ""
    """Empty: it says that it is the base install."""
    pid: int | None = None
    """Its own word; if it did not answer, supervisord's."""
    state: Literal["ok", "busy", "degraded"] = "ok"
    outside: bool = False
    what: str = ""
    """Why it is degraded."""
    rss_bytes: float | None = None
    """Resident memory; None: not known."""
    usage: Usage | None = None
    """None: not known."""
    is_base: bool = False
    """By its command line it is the base install, which no version on trial is started as."""
    unknown: str = ""
    """Why supervisord does not say what it runs; empty: it does."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of it."""

    state: Literal["undecided", "passed", "failed", "not started"] = "undecided"
    """not started: another version was, for launch.py could not count a try; or nobody starts any. It says nothing of
    this one."""
    reason: str = ""
    """failed, not started: one line."""
    well_seconds: float = 0.0
    """How long it has been well so far."""
    answers: int = 0
    """How many of them in a row, from one process."""


class Gate:
    """One version on trial."""

    def __init__(
        self,
        target: Chosen,
        baseline: Baseline,
        settings: UpdateSettings,
        *,
        began: float,
        others: Sequence[Chosen] = (),
    ) -> None:
        """`began`: CLOCK_MONOTONIC of the swap; `others`: what launch.py may start instead, beside the base install."""
        self._version = target.version
        self._digest = target.digest
        self._others = others
        self._baseline = baseline
        self._settings = settings
        self._looked_at = began
        # Seconds on a clock that goes on by each look, by `LOOK_LIMIT` at most; so are all the times below.
        self._seen = 0.0
        self._began = 0.0
        self._answered_at: float | None = None
        self._pid: int | None = None
        self._changes = 0
        self._degraded_at: float | None = None
        # CLOCK_MONOTONIC: who answers slowly is well for that long.
        self._well_since: float | None = None
        self._tally = Tally()
        self._busy = False
        self._too_much = ""
        self._verdict = Verdict()

    @property
    def verdict(self) -> Verdict:
        return self._verdict

    def observe(self, seen: Observation) -> Verdict:
        """The verdict after this look. Looks come in the order of their times."""
        if self._verdict.state != "undecided":
            return self._verdict
        gap = max(seen.now - self._looked_at, 0.0)
        self._looked_at += gap
        self._seen += min(gap, LOOK_LIMIT)
        if gap > GAP_LIMIT:
            self._begin_anew()
        if self._is_another(seen):
            self._verdict = Verdict(state="not started", reason="its try could not be counted")
            return self._verdict
        self._note_process(seen)
        self._note_usage(seen)
        reason = self._why_failed(seen)
        if not reason and seen.answered:
            self._note_answer(seen)
        if reason and seen.unknown and not seen.answered:
            # Whoever ended is not started again, and the version before could not be, either.
            self._verdict = Verdict(state="not started", reason=seen.unknown)
        elif reason:
            self._verdict = Verdict(state="failed", reason=reason)
        elif self._seen - self._began > self._settings.trial_limit:
            self._verdict = Verdict(state="failed", reason=self._too_late())
        elif self._is_enough():
            self._verdict = msgspec.structs.replace(self._verdict, state="passed")
        return self._verdict

    def _is_another(self, seen: Observation) -> bool:
        """By the digest launch.py gave it. One older than digests knows its number only."""
        if not seen.answered or seen.digest == self._digest:
            return False
        is_old = seen.digest == "" and is_version(seen.version) and version_key(seen.version) < _DIGESTS_SINCE
        digests = [one.digest for one in self._others if one.version == seen.version]
        return seen.is_base or seen.digest in digests or bool(is_old and digests)

    def _begin_anew(self) -> None:
        """Whoever observes was stopped or suspended; what it did not see counts neither for nor against."""
        self._began = self._seen
        if self._answered_at is not None:
            self._answered_at = self._seen
        self._tally.forget()
        self._interrupt()
        self._degraded_at = None

    def _interrupt(self) -> None:
        self._well_since = None
        self._too_much = ""
        self._verdict = Verdict()

    def _note_process(self, seen: Observation) -> None:
        if seen.pid is None or seen.pid == self._pid:
            return
        self._changes += self._pid is not None
        self._pid = seen.pid
        self._tally.forget()
        self._interrupt()
        self._degraded_at = None

    def _note_usage(self, seen: Observation) -> None:
        """Who is busy says with what, and until when: that is not counted, nor what it may still have been doing."""
        was, self._busy = self._busy, seen.state == "busy" if seen.answered else self._busy
        if seen.usage is not None:
            self._tally.note(seen.usage, counts=not (was or self._busy))

    def _why_failed(self, seen: Observation) -> str:
        limit = self._settings.trial_memory
        if self._changes > 1:
            return f"crashes: {self._changes + 1} processes in {self._seen - self._began:.0f} s"
        if seen.rss_bytes is not None and seen.rss_bytes > limit * _MIB:
            return f"leaks: it holds {seen.rss_bytes / _MIB:.0f} MiB, limit {limit:g} MiB"
        if flooded := self._tally.why_flooded(self._settings):
            return flooded
        if seen.foreign:
            return f"cannot be understood: {one_line(seen.foreign)}"
        if not seen.answered:
            return self._why_mute(seen)
        if seen.version != self._version:
            return f"announces version {one_line(seen.version, 64)}, not {self._version}"
        if seen.digest != self._digest:
            what = f"another build ({one_line(seen.digest[:12])})" if seen.digest else "the base install"
            return f"announces version {self._version} as {what}"
        return self._why_sick(seen)

    def _why_mute(self, seen: Observation) -> str:
        now = self._seen
        if self._answered_at is None:
            silent, limit, when = now - self._began, START_LIMIT, "since the swap"
        else:
            silent, limit, when = now - self._answered_at, SILENCE_LIMIT, "any more"
        if silent <= limit:
            return ""
        if seen.stranger:
            return one_line(seen.stranger)
        if seen.pid is None:
            return f"crashes: no process, and no answer for {silent:.0f} s"
        return f"hangs: process {seen.pid} runs and has not answered {when}, for {silent:.0f} s"

    def _why_sick(self, seen: Observation) -> str:
        if not self._is_sick(seen):
            self._degraded_at = None
            return ""
        self._interrupt()
        if self._degraded_at is None:
            self._degraded_at = self._seen
        lasted = self._seen - self._degraded_at
        return f"degraded for {lasted:.0f} s: {one_line(seen.what)}" if lasted > DEGRADED_LIMIT else ""

    def _is_sick(self, seen: Observation) -> bool:
        if seen.state != "degraded" or seen.outside:
            return False
        return not (self._baseline.degraded and _gist(seen.what) == _gist(self._baseline.what))

    def _note_answer(self, seen: Observation) -> None:
        self._answered_at = self._seen
        if self._is_sick(seen) or seen.pid is None:
            return  # who does not say which process it is may be two
        if self._well_since is None:
            self._well_since = self._looked_at
            self._tally.begin()
        well = self._looked_at - self._well_since
        self._verdict = Verdict(well_seconds=well, answers=self._verdict.answers + 1)

    def _is_enough(self) -> bool:
        verdict, settings = self._verdict, self._settings
        if verdict.answers < settings.trial_answers or verdict.well_seconds < settings.trial_seconds:
            return False
        if too_much := self._tally.why_too_much(verdict.well_seconds, settings):
            self._interrupt()
            self._too_much = too_much
        return not too_much

    def _too_late(self) -> str:
        if self._too_much:
            return f"{self._too_much}, for {self._seen - self._began:.0f} s"
        needed, limit = self._settings.trial_seconds, self._settings.trial_limit
        return f"was not well for {needed:g} s on end within {limit:g} s"


def _gist(what: str) -> str:
    """A reason without its figures: `no answer for 5 s` and `no answer for 6 s` are the same."""
    return re.sub(r"\d+", "0", what)
