"""How things look on a terminal."""

import time

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl.view import StatusView

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
        parts += [Text(), _extensions(view)]
    if view.problems:
        parts += [Text(), *(Text(f"! {line}", style="yellow") for line in view.problems)]
    return Group(*parts)


def _host(view: StatusView) -> Text:
    ready = {True: ("Ready", "bold green"), False: ("Not Ready", "bold red"), None: ("not told yet", "yellow")}
    text = Text("Host ")
    text.append(*ready[view.host.ready])
    text.append(f"   {view.host.wireserver or 'unknown'}   {view.host.heartbeats} heartbeats")
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
        table.add_row(one.name, _word(one.state), _age(one.since), one.version or "-", str(one.pid) if one.pid else "-")
    return table


def _extensions(view: StatusView) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("EXTENSION", "VERSION", "SEQ", "HANDLER", "STATUS", "MESSAGE"):
        table.add_column(name, overflow="fold")
    for one in view.extensions:
        name = f"{one.name}.{one.extension}" if one.extension else one.name
        table.add_row(
            Text(name),
            Text(one.version),
            "-" if one.sequence_number is None else str(one.sequence_number),
            _word(one.handler_status),
            _word(one.step or one.status),
            Text(one.message[:200]),
        )
    return table


def _word(word: str) -> Text:
    return Text(word or "-", style=_COLOURS.get(word, ""))


def _age(since: float) -> str:
    seconds = max(0, int(time.time() - since)) if since else 0
    if not since:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
