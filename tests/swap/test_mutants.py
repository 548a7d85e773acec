"""What the contract forbids is noticed: changed releases talk to the last one, to this one and to a later one.

Two processes, each with the `ipc` of its own source tree, on real sockets.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.drill.variants import changed, replaced
from tests.swap.conftest import Trees, importing

SPEAKER = Path(__file__).with_name("speaker.py")

# What is changed in which file; who then serves, who asks, and what is said of it.
MUTANTS: dict[str, tuple[str, str, str, str, str, str]] = {
    "a new field of a request is required": (
        "ipc/contract/guestagent.py", r"^(class GetRun(?s:.*?)    name: str\n)", r"\1    reason: str\n",
        "mutant", "older", "Refused: guestagent.GetRun refused (bad-request)",
    ),
    "a new field of a reply is required": (
        "ipc/contract/every.py", r"^    state: HealthState$", "    state: HealthState\n    score: int",
        "older", "mutant", "FrameError: body: no HealthReport: Object missing required field `score`",
    ),
    "a field has another type": (
        "ipc/contract/telemetry.py", r"duration_ms: int \| None", "duration_ms: str | None",
        "older", "mutant", "FrameError: body: no Timeline: Expected `str | null`, got `int`",
    ),
    "a field has another name": (
        "ipc/contract/guestagent.py", r'^    output: str = ""$',
        '    said: str = ""\n    @property\n    def output(self) -> str:\n        return self.said',
        "older", "mutant", "the run is ",
    ),
    "a required field is said no more": (
        "ipc/frame.py", r"msgspec.to_builtins\((.*)\)\)$",
        r"{key: one for key, one in msgspec.to_builtins(\1).items() if key != 'started_at'})",
        "mutant", "older", "FrameError: body: no Description: Object missing required field `started_at`",
    ),
    "unknown keys are refused in requests": (
        "ipc/message.py", r"^class Message\(msgspec.Struct", "class Message(msgspec.Struct, forbid_unknown_fields=True",
        "mutant", "later", "Refused: every.Describe refused (bad-request)",
    ),
    "unknown keys are refused in replies": (
        "ipc/message.py", r"^class Message\(msgspec.Struct", "class Message(msgspec.Struct, forbid_unknown_fields=True",
        "later", "mutant", "FrameError: body: no Description: Object contains unknown field",
    ),
    "unknown keys are refused in headers": (
        "ipc/frame.py", r"^class Header\(msgspec.Struct", "class Header(msgspec.Struct, forbid_unknown_fields=True",
        "later", "mutant", "NoAnswer: guestagent did not answer every.Describe",
    ),
    "an enumeration is closed": (
        "ipc/contract/every.py", r"^HealthState = Annotated\[(.*), unknown_is\(.*$", r"HealthState = \1",
        "later", "mutant", "FrameError: body: no HealthReport: Invalid enum value",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("serves", "asks"), [("own", "own"), ("older", "own"), ("own", "older"), ("later", "own"), ("own", "later")]
)
def test_who_keeps_the_contract_is_understood(trees: Trees, root: Path, serves: str, asks: str) -> None:
    assert conversation(trees[serves], trees[asks], root) == "well"


@pytest.mark.parametrize("name", MUTANTS)
def test_who_breaks_the_contract_is_noticed(trees: Trees, root: Path, tmp_path: Path, name: str) -> None:
    file, pattern, by, serves, asks, said = MUTANTS[name]
    shutil.copytree(trees["own"] / "ipc", tmp_path / "ipc")
    everybody = {**trees, "mutant": changed(tmp_path, {file: replaced(pattern, by)})}
    found = conversation(everybody[serves], everybody[asks], root)
    assert found.startswith(said), found
    if "later" in {serves, asks}:
        # Those who are there today would not have noticed.
        today = {"mutant": everybody["mutant"], "later": trees["older"]}
        assert conversation(today[serves], today[asks], root) == "well"


def conversation(serves: Path, asks: Path, root: Path) -> str:
    """What the asking side makes of the serving one."""
    command = [sys.executable, "-P", str(SPEAKER)]
    server = subprocess.Popen(
        [*command, "serve", str(root)], env=importing(serves), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        asked = [*command, "ask", str(root)]
        done = subprocess.run(asked, env=importing(asks), capture_output=True, text=True, timeout=30)
        return done.stdout or done.stderr
    finally:
        server.kill()
        server.communicate()
