"""Versions that must not stay: a good build with one thing wrong, and what has to become of each.

`SLOW_LIFE` and the limits of memory and CPU are scaled down: see updates.py.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from agentctl.drill.rollback.misbehaviour import (
    BURN,
    CORRUPT,
    DEAF,
    DIE,
    END_ONCE_COMMITTED,
    LEAK,
    MUTE,
    PRINT,
    SEGV,
    SICK,
    STALL,
    Spoil,
    at_start,
    meanwhile,
    other_file,
    syntax_error,
)
from agentctl.drill.variants import Change
from ipc.places import COMPONENTS
from release.signing import SecretKey, new_key

SLOW_LIFE = 6.0
"""Seconds between two ends of the slow crash loop. More than `startsecs` of supervisord, so it is never given up."""

End = Literal["trial", "watchdog", "package", "fetch"]
"""How it has to come out: on trial, after it was committed, before it ever runs, or before it is even here."""


class BadBuild(msgspec.Struct, frozen=True, kw_only=True):
    """One way to be bad."""

    name: str
    what: str
    """In one sentence."""
    end: End = "trial"
    reason: str = ""
    """A pattern: what has to be said of it, at least."""
    changes: Callable[[str], dict[str, Change]] = lambda _: {}
    """By component: of its sources."""
    spoil: Spoil | None = None
    """Of its package."""
    key: Callable[[SecretKey], SecretKey] = lambda key: key
    """What it is signed with, instead of the key that is trusted."""
    faults: tuple[tuple[str, str], ...] = ()
    """Endpoint and fault of the host, while it is fetched."""
    quick: tuple[str, ...] = ()
    """Of these components it is a part of the short drill."""
    of: tuple[str, ...] = ("telemetry",)
    """Of these components it is a part of the whole drill."""
    patience: float = 60.0
    """Seconds until it has to be found out."""


_USED_UP = r"tries are used up|crashes"
_ALL = ("telemetry", "guestagent", "netagent")
_FOUR = COMPONENTS
_T = ("telemetry",)

BUILDS: tuple[BadBuild, ...] = (
    BadBuild(
        name="syntax-error",
        what="its source has a syntax error",
        reason=_USED_UP,
        spoil=syntax_error,
        quick=_T,
    ),
    BadBuild(
        name="missing-import",
        what="imports a module that is not there",
        reason=_USED_UP,
        changes=at_start("import ipc.no_such_module"),
        quick=_T,
        of=_ALL,
    ),
    BadBuild(
        name="exits-at-once",
        what="ends before it does anything",
        reason=_USED_UP,
        changes=at_start("raise SystemExit(1)"),
        of=_FOUR,
    ),
    BadBuild(
        name="segv",
        what="is killed by SIGSEGV at its start",
        reason=_USED_UP,
        changes=at_start(SEGV),
    ),
    BadBuild(
        name="dies-in-the-gate",
        what="answers, and ends before the trial does",
        reason=_USED_UP,
        changes=meanwhile(DIE),
        quick=_T,
        of=_FOUR,
    ),
    BadBuild(
        name="dies-after-the-gate",
        what="passes the trial, then ends at once, after each start",
        end="watchdog",
        reason="again and again",
        changes=meanwhile(END_ONCE_COMMITTED.format(life=0.5)),
        of=("telemetry", "netagent"),
        patience=120.0,
    ),
    BadBuild(
        name="dies-every-151-s",
        what=f"passes the trial, then ends every 151 s for ever; here every {SLOW_LIFE:g} s",
        end="watchdog",
        reason="again and again",
        changes=meanwhile(END_ONCE_COMMITTED.format(life=SLOW_LIFE)),
        patience=120.0,
    ),
    BadBuild(
        name="hangs",
        what="hangs at its start and ignores SIGTERM",
        reason="hangs|no sign of life",
        changes=at_start(DEAF),
        of=("telemetry", "rdagent"),
        patience=90.0,
    ),
    BadBuild(
        name="never-binds",
        what="lives, but its socket never appears",
        reason="hangs|no sign of life",
        changes=at_start("import threading\nthreading.Event().wait()"),
        of=("rdagent",),
        patience=90.0,
    ),
    BadBuild(
        name="stops-answering",
        what="answers at first, then takes requests and never answers",
        reason="hangs",
        changes=meanwhile(MUTE),
        of=("telemetry", "guestagent"),
    ),
    BadBuild(
        name="stalls",
        what="its main loop stands still after a moment",
        reason="hangs|no sign of life",
        changes=meanwhile(STALL),
        of=("telemetry", "rdagent"),
        patience=90.0,
    ),
    BadBuild(
        name="lies-about-its-version",
        what="says that it is another version",
        reason="announces version 99.0.0",
        changes=meanwhile('component.version = "99.0.0"'),
        quick=_T,
        of=_ALL,
    ),
    BadBuild(
        name="degraded",
        what="says that it is not well, and nothing outside is to blame",
        reason="degraded for",
        changes=meanwhile(SICK),
        quick=_T,
        of=_ALL,
    ),
    BadBuild(
        name="leaks",
        what="holds more memory from moment to moment",
        reason="leaks",
        changes=meanwhile(LEAK),
        quick=_T,
    ),
    BadBuild(
        name="burns-cpu",
        what="answers, and never lets the processor rest",
        reason="burns CPU",
        changes=meanwhile(BURN),
        of=_FOUR,
        patience=90.0,
    ),
    BadBuild(
        name="prints-without-end",
        what="answers, and fills its log as fast as it can",
        reason="writes without end",
        changes=meanwhile(PRINT),
        of=("telemetry", "rdagent"),
        patience=90.0,
    ),
    BadBuild(
        name="corrupts-its-state",
        what="writes junk over every file of its state and ends; the version before has to live with that",
        reason=_USED_UP,
        changes=meanwhile(CORRUPT),
        quick=_T,
        of=_FOUR,
    ),
    BadBuild(
        name="truncated-package",
        what="the package never arrives whole",
        end="fetch",
        reason="cannot be had",
        faults=(("repositorytargets", "truncate"), ("agentpackage", "truncate"), ("agentartifact", "truncate")),
        quick=_T,
    ),
    BadBuild(
        name="wrong-digest",
        what="signed, but one file is not the one that was signed",
        end="package",
        reason="damaged",
        spoil=other_file,
        quick=_T,
        of=("telemetry", "rdagent"),
    ),
    BadBuild(
        name="wrong-key",
        what="signed with a key nobody knows here",
        end="package",
        reason="not for us",
        key=lambda _: new_key(),
        quick=_T,
        of=("telemetry", "rdagent"),
    ),
)
