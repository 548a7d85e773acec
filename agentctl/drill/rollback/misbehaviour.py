"""What makes a build bad: changes of a component's sources, and of a package that was built.

What begins before the component does stands at the top of its `__main__`; what begins later is one more loop of it,
put into the package's own copy of `ipc`.
"""

import re
import zipfile
from collections.abc import Callable

import msgspec

from agentctl.drill.variants import Change, appended, begun_with
from release.archive import pack
from release.build import Built
from release.manifest import MANIFEST, SIGNATURES, File, canonical, decode_manifest, digest
from release.signing import SecretKey, sign

Spoil = Callable[[Built, SecretKey], str]
"""Spoils a package in place, and gives its digest; the key is that of the stage."""


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

CORRUPT = """
await asyncio.sleep(0.7)
for path in list(state.rglob("*")):
    if path.is_file():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + b"\\xff{junk" * 100)
(state / "nobody-knows-this.json").write_bytes(b"\\x00" * 5000)
os._exit(1)
"""
END_ONCE_COMMITTED = """
while not _is_committed(component.name):
    await asyncio.sleep(0.1)
await asyncio.sleep({life})
os._exit(1)
"""
LEAK = """
hoard = []
while True:
    hoard.append(b"x" * (4 << 20))
    await asyncio.sleep(0.05)
"""
BURN = """
while True:
    await asyncio.sleep(0)
"""
PRINT = """
while True:
    print("still here, " * 5000, flush=True)
    await asyncio.sleep(0)
"""
SICK = """
while True:
    component.judge(HealthReport(state="degraded", what="half of it does not work"))
    await asyncio.sleep(0.05)
"""
MUTE = """
await asyncio.sleep(0.7)
component._dispatch = lambda *_: asyncio.Event().wait()
"""
STALL = "await asyncio.sleep(0.7)\nimport time\ntime.sleep(86400)"
DIE = "await asyncio.sleep(0.7)\nos._exit(1)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(86400)"
SEGV = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"


def _with_other_contents(built: Built, changes: dict[str, bytes | None]) -> dict[str, bytes]:
    with zipfile.ZipFile(built.path) as archive:
        contents: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    return {name: data for name, data in {**contents, **changes}.items() if data is not None}


def syntax_error(built: Built, key: SecretKey) -> str:
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


def other_file(built: Built, _: SecretKey) -> str:
    """Signed, but a file is not the one that was signed."""
    main = f"{built.manifest.component}/__main__.py"
    built.path.write_bytes(pack(_with_other_contents(built, {main: b"import os\nos.abort()\n"})))
    return built.digest
