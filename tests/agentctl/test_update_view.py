"""What `agentctl update status` says of the repository and of damage is what rdagent knows."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from agentctl import updateview
from agentctl.deployment import Deployment
from ipc.contract.rdagent import RepositoryView, Updates, UpdateView
from ipc.places import Places

URL = "http://h/repository"


def shown(found: Updates, tmp_path: Path) -> str:
    console = Console(width=400, force_terminal=False)
    deployment = Deployment(root=tmp_path, places=Places.under(tmp_path))
    with console.capture() as captured:
        console.print(updateview.status(found, deployment, from_records=False))
    return captured.get()


def said(repository: RepositoryView, tmp_path: Path) -> str:
    return shown(Updates(components=[], repository=repository), tmp_path).strip().splitlines()[-1]


def test_of_one_that_is_away_the_last_answer_is_told(tmp_path: Path) -> None:
    """When the outage began nobody knows: between two looks lies up to an hour."""
    away = RepositoryView(url=URL, checked_at=4000.0, reached_at=400.0, problem="nobody answers")
    line = "Repository unreachable, last reached 1970-01-01 00:06:40Z: nobody answers; what runs goes on running"
    assert said(away, tmp_path) == line
    never = RepositoryView(url=URL, checked_at=4000.0, problem="nobody answers")
    line = "Repository unreachable, not reached since rdagent started: nobody answers; what runs goes on running"
    assert said(never, tmp_path) == line


@pytest.mark.parametrize("by", [{"pinned": "0.9"}, {"held": True}, {}], ids=["pinned", "held", "neither"])
def test_damage_of_the_version_in_force_is_told_whatever_else_is_wanted(tmp_path: Path, by: dict[str, Any]) -> None:
    damage, mend = "telemetry 0.9 is in force and 0.2.0 runs instead", "agentctl update now telemetry 0.9"
    view = UpdateView(
        component="telemetry",
        running="0.2.0",
        current="0.9",
        state="refused",
        wanted="0.9.1",
        wanted_by="host",
        why="in the way",
        lift="agentctl x",
        **by,
    )
    assert updateview.wants_attention(view) == (not by)
    view = msgspec.structs.replace(view, damage=damage, mend=mend)
    assert updateview.wants_attention(view)
    found = Updates(components=[view], repository=RepositoryView(), problems=[f"{damage}. Next: {mend}"])
    text = shown(found, tmp_path)
    assert text.count(damage) == 1
    assert f"! telemetry: {damage}. Next: {mend} --root {tmp_path}\n" in text
    assert "! telemetry: in the way. Next: agentctl x" in text
    assert "in trouble" in text
