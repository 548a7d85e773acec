"""What a person is told of a managed run: its state, exit status and first line, and never the JSON."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.runcommand.record import View
from guestagent.runcommand.status import for_people


def message(state: str = "Succeeded", **fields: object) -> str:
    view = msgspec.convert({"executionState": state, "executionMessage": "", **fields}, View)
    return msgspec.json.encode(view).decode()


@pytest.mark.parametrize(
    ("given_message", "told"),
    [
        (message(output="\none\ntwo\n", error="warned"), "Succeeded, exit status 0: one"),
        (message(), "Succeeded, exit status 0"),
        (message("Failed", exitCode=3, output="out", error="bad\nmore"), "Failed, exit status 3: bad"),
        (message("Failed", exitCode=-100, executionMessage="cannot be had"), "Failed, exit status -100: cannot be had"),
        (message("TimedOut", exitCode=-1), "TimedOut, exit status -1"),
        (message("Running", output="so far"), "Running"),
        ("Enable succeeded: \n[stdout]\nhi", "Enable succeeded: \n[stdout]\nhi"),
        ('{"executionState": 7}', '{"executionState": 7}'),
        ('{"other": "json"}', '{"other": "json"}'),
        ("{", "{"),
        ("", ""),
    ],
)
def test_a_line_for_people(given_message: str, told: str) -> None:
    assert for_people(given_message) == told


@given(st.text())
def test_any_output_is_one_line(output: str) -> None:
    told = for_people(message(output=output))
    assert told.startswith("Succeeded, exit status 0")
    assert "\n" not in told
    assert len(told) < 300


@given(st.text().map(lambda text: "{" + text) | st.text(st.characters(categories=["Cs"])))
def test_whatever_it_is_it_is_said(text: str) -> None:
    assert for_people(text) or not text
