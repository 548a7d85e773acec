"""What `agentctl update status` says of the repository is what rdagent knows."""

from pathlib import Path

from rich.console import Console

from agentctl import updateview
from agentctl.deployment import Deployment
from ipc.contract.rdagent import RepositoryView, Updates
from ipc.places import Places

URL = "http://h/repository"


def said(repository: RepositoryView, tmp_path: Path) -> str:
    console = Console(width=200, force_terminal=False)
    deployment = Deployment(root=tmp_path, places=Places.under(tmp_path))
    with console.capture() as captured:
        console.print(updateview.status(Updates(components=[], repository=repository), deployment, from_records=False))
    return captured.get().strip().splitlines()[-1]


def test_of_one_that_is_away_the_last_answer_is_told(tmp_path: Path) -> None:
    """When the outage began nobody knows: between two looks lies up to an hour."""
    away = RepositoryView(url=URL, checked_at=4000.0, reached_at=400.0, problem="nobody answers")
    line = "Repository unreachable, last reached 1970-01-01 00:06:40Z: nobody answers; what runs goes on running"
    assert said(away, tmp_path) == line
    never = RepositoryView(url=URL, checked_at=4000.0, problem="nobody answers")
    line = "Repository unreachable, not reached since rdagent started: nobody answers; what runs goes on running"
    assert said(never, tmp_path) == line
