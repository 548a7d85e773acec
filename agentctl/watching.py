"""What `agentctl update now` shows while an update goes on, and when nobody wants to watch it any more."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
from rich.live import Live

from agentctl import updateview
from agentctl.deployment import Deployment
from agentctl.following import Progress, follow
from agentctl.render import Terminal


@contextmanager
def impatience(deployment: Deployment) -> Iterator[None]:
    """Ctrl-C in the block says what it did not end, with exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        look, past = (deployment.command(f"agentctl update {word}") for word in ("status", "history"))
        click.echo(
            "\nOnly the watching has ended: what was asked for, and what is on trial, goes on.\n"
            f"Look: {look}\nWhat came of it: {past}",
            err=True,
        )
        sys.exit(130)


def watched(deployment: Deployment, names: Sequence[str], version: str, since: float, *, quiet: bool) -> list[Progress]:
    """A live picture on a terminal; else a line on standard error whenever a component gets further."""
    terminal = Terminal()
    if terminal.is_terminal and not quiet:
        with Live(console=terminal, refresh_per_second=8, transient=True) as live:
            return follow(
                deployment, names, version, since, lambda found: live.update(updateview.progress(found, deployment))
            )
    shown: dict[str, str] = {}

    def show(found: Sequence[Progress]) -> None:
        for one in found:
            if shown.get(one.component) != one.state and not quiet and not one.over:
                click.echo(updateview.progress_line(one, deployment).plain, err=True)
            shown[one.component] = one.state

    return follow(deployment, names, version, since, show)
