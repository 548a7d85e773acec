"""What the VM told, for people: whatever it was, it is shown, and steers nothing."""

import io
import json
import unicodedata
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fabric import render

WORDS = [
    "aggregateStatus",
    "handlerAggregateStatus",
    "handlerName",
    "runtimeSettingsStatus",
    "settingsStatus",
    "status",
    "formattedMessage",
    "message",
    "sequenceNumber",
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=25,
)
any_text = st.text() | st.text(st.sampled_from("[]/\\\x1b\x07\x9b\u202e\0\n\ta"))


def shown(told: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(render.told(told))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def steers(text: str) -> set[str]:
    return {one for one in text if unicodedata.category(one)[0] == "C" and one not in "\n\t"}


@settings(deadline=None)
@given(json_values)
def test_any_status_is_shown(status: Any) -> None:
    for one in (
        status,
        {"aggregateStatus": status},
        {"aggregateStatus": {"handlerAggregateStatus": status}},
        {"aggregateStatus": {"handlerAggregateStatus": [status, {"runtimeSettingsStatus": status}]}},
    ):
        assert "VM " in shown({"ready": None, "status": json.loads(json.dumps(one)), "events": []})


@settings(deadline=None)
@given(any_text)
def test_no_text_of_the_vms_steers_the_terminal_or_is_markup(text: str) -> None:
    inner = {"status": text, "formattedMessage": {"message": text}}
    runtime = {"sequenceNumber": text, "settingsStatus": {"status": inner}}
    one = {"handlerName": text, "handlerVersion": text, "status": text, "runtimeSettingsStatus": runtime}
    told = {
        "ready": False,
        "health": {"substatus": text, "description": text},
        "status": {"aggregateStatus": {"handlerAggregateStatus": [one]}},
        "observations": {text: {"Value": text, "Description": text}},
        "events": [],
    }
    assert not steers(shown(told))


@given(any_text)
def test_plain_keeps_everything_else(text: str) -> None:
    plain = render.plain(text)
    assert len(plain) == len(text)
    assert all(one == other or other == "\ufffd" for one, other in zip(text, plain, strict=True))
    assert not steers(plain)


def test_markup_is_text() -> None:
    handler = {"handlerName": "[red]a[/red]", "status": "[/] [link=x]"}
    text = shown({"status": {"aggregateStatus": {"handlerAggregateStatus": [handler]}}, "events": []})
    assert "[red]a[/red]" in text
    assert "[/] [link=x]" in text
