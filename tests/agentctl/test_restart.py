"""Two restarts of one component: the second waits for the first, and not for ever."""

import threading
from pathlib import Path

import pytest

from agentctl.errors import CommandError
from agentctl.restart import _noted
from ipc.lock import Lock


def test_one_that_does_not_end_is_named(tmp_path: Path) -> None:
    note = tmp_path / "telemetry.restarting"
    with (
        _noted(note, "telemetry"),
        pytest.raises(CommandError, match=r"another restart of telemetry, process \d+, has not ended within 0.2 s"),
        _noted(note, "telemetry", patience=0.2),
    ):
        pass
    assert note.read_bytes() == b""


def test_one_that_ends_is_waited_for(tmp_path: Path) -> None:
    note, order = tmp_path / "telemetry.restarting", list[str]()
    other = Lock(note, "a restart")

    def second() -> None:
        with _noted(note, "telemetry"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    order.append("first")
    other.release()
    thread.join()
    assert order == ["first", "second"]
