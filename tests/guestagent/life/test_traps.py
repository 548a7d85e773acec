"""Where other agents fell, as far as it takes a host and an agent to show it."""

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., bytes]


@pytest.mark.parametrize(
    ("fault", "value", "reported_by"),
    [("status", 410, "hostgaplugin"), ("invalid-container", None, "direct"), ("status", 500, "direct")],
)
def test_a_status_is_stored_directly_when_the_plugin_refuses_it_but_not_when_our_ids_are_stale(
    life: Any, make_package: Make, fault: str, value: float | None, reported_by: str
) -> None:
    life.want(make_package())
    life.ready()
    direct = life.told()["requests"].get("statusblob", 0)
    life.fault("status", fault, value, count=1)
    life.want(None, settings={"again": 1})
    life.ready(sequence=1)
    # The one that was refused: stored directly, or told once more through the plugin.
    assert (life.told()["requests"].get("statusblob", 0) > direct) == (reported_by == "direct")


@pytest.mark.parametrize("command", ["sub/tool.sh one  two", "/sub/tool.sh one two"])
def test_the_first_word_of_a_command_lies_in_the_folder_and_a_shell_reads_the_rest(
    life: Any, make_package: Make, command: str
) -> None:
    said = 'status success "$# words, $1 and $2, in ${PWD##*/}"; kind=enable; say end'
    zipped = make_package(files={"sub/tool.sh": said}, enableCommand=f"{command} && true | cat")
    life.want(zipped)
    life.says("success", f"2 words, one and two, in {life.name}-1.0.0")
