"""Words of `agentctl update` that are off: told before anybody is asked, and with the exit status of wrong use."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from agentctl.update import update


@pytest.mark.parametrize("command", ["now", "pin", "unblock"])
@pytest.mark.parametrize("word", ["", "1.x", "latest", "1.0.0-rc1", "7" * 500, "--", "\u0661.\u0662"])
def test_what_is_no_version(tmp_path: Path, command: str, word: str) -> None:
    """An empty one too: `unblock telemetry "$VERSION"` must not take everything off the list."""
    done = CliRunner().invoke(update, [command, "--root", str(tmp_path), "--", "telemetry", word])
    assert done.exit_code == 2
    assert f"{word[:64]!r} is no version: write two to four numbers, e.g. 0.2.0" in done.output
    assert len(done.output) < 400


@pytest.mark.parametrize("command", ["now", "unblock"])
def test_none_is_one_word_less(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(update, [command, "telemetry", "--root", str(tmp_path)])
    assert done.exit_code not in {0, 2}  # nobody is there to ask
    assert "is no version" not in done.output


def test_when_now_ends_with_1_is_told_as_it_is() -> None:
    """tests/agentctl/test_following.py has each case: a repository that is away is none where nobody needs it."""
    told = " ".join(CliRunner().invoke(update, ["now", "--help"]).output.split())
    assert "if the repository could not be asked, unless what runs is what you named, or what the host or you" in told
