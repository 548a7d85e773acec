"""Versions that must not stay: a good build with one thing wrong, as a change of its sources or of its package.

What begins before the component does stands at the top of its `__main__`; what begins later is one more loop of it,
put into the package's own copy of `ipc`. `SLOW_LIFE` and the memory limit are scaled down: see rollback.py.
"""

import re
import zipfile
from collections.abc import Callable
from typing import Literal

import msgspec

from agentctl.drill.variants import Change, appended, begun_with
from ipc.places import COMPONENTS
from release.archive import pack
from release.build import Built
from release.manifest import MANIFEST, SIGNATURES, File, canonical, decode_manifest, digest
from release.signing import SecretKey, new_key, sign

SLOW_LIFE = 6.0
"""Seconds between two ends of the slow crash loop. More than `startsecs` of supervisord, so it is never given up."""

End = Literal["trial", "watchdog", "package", "fetch"]
"""How it has to come out: on trial, after it was committed, before it ever runs, or before it is even here."""

Spoil = Callable[[Built, SecretKey], str]
"""Spoils a package in place, and gives its digest; the key is that of the stage."""


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


def at_start(lines: str) -> Callable[[str], dict[str, Change]]:
    """Before all else of the process."""
    return lambda component: {f"{component}/__main__.py": begun_with(lines)}


def meanwhile(lines: str) -> Callable[[str], dict[str, Change]]:
    """One more loop of the component; `component` is the Component, `state` its folder."""
    body = "\n".join(f"    {line}" for line in lines.strip().splitlines())
    code = _LOOP.replace("    BODY", body)
    return lambda _: {"ipc/component.py": appended(code)}


_LOOP = '''import json
from pathlib import Path


def _is_committed(name):
    """By the newest slot of the record, see release/record.py."""
    folder = Path(os.environ["AZVMAGENT_INSTALLED"], "components", name)
    slots = [json.loads(path.read_bytes().partition(b"\\n")[2]) for path in folder.glob("state.[01]")]
    newest = max(slots, key=lambda slot: slot["serial"])
    current = newest["current"] or {}
    return newest["trial"] is None and current.get("digest") == os.environ["AZVMAGENT_DIGEST"]


async def _misbehave(component):
    state = Places.from_environment(os.environ).state_of(component.name)
    BODY


_run = Component.run


async def _run_badly(self, *loops):
    await _run(self, *loops, _misbehave(self))


Component.run = _run_badly'''

_CORRUPT = """
await asyncio.sleep(0.7)
for path in list(state.rglob("*")):
    if path.is_file():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + b"\\xff{junk" * 100)
(state / "nobody-knows-this.json").write_bytes(b"\\x00" * 5000)
os._exit(1)
"""
_END_ONCE_COMMITTED = """
while not _is_committed(component.name):
    await asyncio.sleep(0.1)
await asyncio.sleep({life})
os._exit(1)
"""
_LEAK = """
hoard = []
while True:
    hoard.append(b"x" * (4 << 20))
    await asyncio.sleep(0.05)
"""
_SICK = """
while True:
    component.judge(HealthReport(state="degraded", what="half of it does not work"))
    await asyncio.sleep(0.05)
"""
_MUTE = """
await asyncio.sleep(0.7)
component._dispatch = lambda *_: asyncio.Event().wait()
"""
_STALL = "await asyncio.sleep(0.7)\nimport time\ntime.sleep(86400)"
_DIE = "await asyncio.sleep(0.7)\nos._exit(1)"
_DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(86400)"
_SEGV = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


def _with_other_contents(built: Built, changes: dict[str, bytes | None]) -> dict[str, bytes]:
    with zipfile.ZipFile(built.path) as archive:
        contents: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    return {name: data for name, data in {**contents, **changes}.items() if data is not None}


def _syntax_error(built: Built, key: SecretKey) -> str:
    """Compiled files are for one minor version of Python, and our builder refuses this mistake: so without one."""
    component = built.manifest.component
    main = f"{component}/__main__.py"
    with zipfile.ZipFile(built.path) as archive:
        stale = {name: None for name in archive.namelist() if re.match(rf"{component}/__pycache__/__main__\.", name)}
    contents = _with_other_contents(built, {main: b"def main(:\n", **stale, MANIFEST: None, SIGNATURES: None})
    files = {path: File(digest(data), len(data)) for path, data in contents.items()}
    written = canonical(msgspec.structs.replace(built.manifest, files=files))
    decode_manifest(written)
    built.path.write_bytes(pack({**contents, MANIFEST: written, SIGNATURES: sign(written, [key])}))
    return digest(written)


def _other_file(built: Built, _: SecretKey) -> str:
    """Signed, but a file is not the one that was signed."""
    main = f"{built.manifest.component}/__main__.py"
    built.path.write_bytes(pack(_with_other_contents(built, {main: b"import os\nos.abort()\n"})))
    return built.digest


_USED_UP = r"tries are used up|crashes"
_ALL = ("telemetry", "guestagent", "netagent")
_FOUR = COMPONENTS
_T = ("telemetry",)

BUILDS: tuple[BadBuild, ...] = (
    BadBuild(
        name="syntax-error",
        what="its source has a syntax error",
        reason=_USED_UP,
        spoil=_syntax_error,
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
        changes=at_start(_SEGV),
    ),
    BadBuild(
        name="dies-in-the-gate",
        what="answers, and ends before the trial does",
        reason=_USED_UP,
        changes=meanwhile(_DIE),
        quick=_T,
        of=_FOUR,
    ),
    BadBuild(
        name="dies-after-the-gate",
        what="passes the trial, then ends at once, after each start",
        end="watchdog",
        reason="again and again",
        changes=meanwhile(_END_ONCE_COMMITTED.format(life=0.5)),
        of=("telemetry", "netagent"),
        patience=120.0,
    ),
    BadBuild(
        name="dies-every-151-s",
        what=f"passes the trial, then ends every 151 s for ever; here every {SLOW_LIFE:g} s",
        end="watchdog",
        reason="again and again",
        changes=meanwhile(_END_ONCE_COMMITTED.format(life=SLOW_LIFE)),
        patience=120.0,
    ),
    BadBuild(
        name="hangs",
        what="hangs at its start and ignores SIGTERM",
        reason="hangs|no sign of life",
        changes=at_start(_DEAF),
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
        changes=meanwhile(_MUTE),
        of=("telemetry", "guestagent"),
    ),
    BadBuild(
        name="stalls",
        what="its main loop stands still after a moment",
        reason="hangs|no sign of life",
        changes=meanwhile(_STALL),
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
        changes=meanwhile(_SICK),
        quick=_T,
        of=_ALL,
    ),
    BadBuild(
        name="leaks",
        what="holds more memory from moment to moment",
        reason="leaks",
        changes=meanwhile(_LEAK),
        quick=_T,
    ),
    BadBuild(
        name="corrupts-its-state",
        what="writes junk over every file of its state and ends; the version before has to live with that",
        reason=_USED_UP,
        changes=meanwhile(_CORRUPT),
        quick=_T,
        of=_FOUR,
    ),
    BadBuild(
        name="truncated-package",
        what="half of the package arrives",
        end="fetch",
        reason="package",
        faults=(("repositorytargets", "truncate"), ("agentpackage", "truncate"), ("agentartifact", "truncate")),
        quick=_T,
    ),
    BadBuild(
        name="wrong-digest",
        what="signed, but one file is not the one that was signed",
        end="package",
        reason="damaged",
        spoil=_other_file,
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
