"""How things look on a terminal."""

import os
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl.view import StatusView
from ipc.contract.guestagent import ExtensionView

_PIPE_WIDTH = 240

_COLOURS = {
    "ok": "green",
    "success": "green",
    "Ready": "green",
    "busy": "cyan",
    "transitioning": "cyan",
    "Installing": "cyan",
    "restarting": "yellow",
    "warning": "yellow",
    "degraded": "yellow",
    "unknown": "yellow",
    "hung": "bold red",
    "absent": "bold red",
    "error": "bold red",
    "NotReady": "bold red",
    "Unresponsive": "bold red",
}


def status(view: StatusView) -> RenderableType:
    """The status as tables. Text from extensions is never read as markup."""
    parts: list[RenderableType] = [_host(view), Text(), _components(view)]
    if view.extensions:
        parts += [Text(), extensions_table(view.extensions)]
    if view.problems:
        parts += [Text(), *(Text(f"! {line}", style="yellow") for line in view.problems)]
    if view.updates:
        see = Text("See: agentctl update status", style="dim")
        parts += [Text(), *(Text(line, style="cyan") for line in view.updates), see]
    return Group(*parts)


def _host(view: StatusView) -> Text:
    untold = "not known" if view.host.heartbeats is None else "not told yet"
    ready = {True: ("Ready", "bold green"), False: ("Not Ready", "bold red"), None: (untold, "yellow")}
    text = Text("Host ")
    text.append(*(("gone", "bold red") if view.host.runs is False else ready[view.host.ready]))
    text.append(f"   {view.host.wireserver or 'unknown'}")
    if view.host.heartbeats is not None:
        text.append(f"   {view.host.heartbeats} heartbeats")
    if view.goal_state:
        text.append(f"   goal state {view.goal_state}")
    if view.host.portal:
        text.append(f"\nPortal {view.host.portal}", style="dim")
    return text


def _components(view: StatusView) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("COMPONENT", "STATE", "SINCE", "VERSION", "PID"):
        table.add_column(name)
    for one in view.components:
        table.add_row(one.name, shade(one.state), _age(one.since), one.version or "-", str(one.pid) if one.pid else "-")
    return table


def extensions_table(extensions: Sequence[ExtensionView]) -> Table:
    """One line each."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("EXTENSION", "VERSION", "SEQ", "HANDLER", "STATUS", "MESSAGE"):
        table.add_column(name, overflow="fold")
    for one in extensions:
        name = f"{one.name}.{one.extension}" if one.extension else one.name
        table.add_row(
            Text(name),
            Text(one.version),
            "-" if one.sequence_number is None else str(one.sequence_number),
            shade(one.handler_status),
            shade(one.step or one.status),
            Text(_message(one)),
        )
    return table


def _message(one: ExtensionView) -> str:
    """Its words, and when it is tried again."""
    text = " ".join(one.message.split())[:200]
    if one.wanted and one.wanted != one.version:
        what = "cannot be had yet" if one.failure == "transient" else "failed"
        text = f"{one.wanted} is wanted and {what}; {one.version} goes on: {text}"
    if one.retry_at is not None:
        return f"{text} (tried again in {duration(max(0, round(one.retry_at - time.time())))})"
    return text


def shade(word: str) -> Text:
    """A word in the colour of what it means."""
    return Text(word or "-", style=_COLOURS.get(word, ""))


def _age(since: float) -> str:
    return duration(max(0, int(time.time() - since))) if since else "-"


def duration(seconds: int) -> str:
    """In the largest unit that fits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


class Terminal(Console):
    """Where the commands print. What reads a pipe gets whole lines, and may go away: that ends nothing."""

    def __init__(self, *, stderr: bool = False) -> None:
        """`stderr`: print there, because a program reads the other."""
        width = None if (sys.stderr if stderr else sys.stdout).isatty() else _PIPE_WIDTH
        # Text is never ours to decorate: `:cd:` in a MAC is no picture.
        super().__init__(width=width, stderr=stderr, emoji=False, markup=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # The interpreter would complain about what it cannot flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
