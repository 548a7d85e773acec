"""What the VM told, on a terminal."""

import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def told(value: dict[str, Any]) -> RenderableType:
    """Tables; text that came from the VM is never read as markup."""
    ready = {True: ("Ready", "bold green"), False: ("Not Ready", "bold red"), None: ("has told nothing", "yellow")}
    line = Text("VM ")
    line.append(*ready[value.get("ready")])
    line.append(f"   {value.get('heartbeats', 0)} heartbeats")
    health = value.get("health") or {}
    if health.get("description"):
        line.append(f"   {health.get('substatus', '')}: {health['description']}", style="yellow")
    parts: list[RenderableType] = [line]
    if value.get("status_at"):
        age = max(0, int(time.time() - value["status_at"]))
        text = f"Status blob {age} s old, by {value.get('status_by')}, {value.get('status_count')} so far"
        parts.append(Text(text, style="dim"))
    parts += [Text(), _handlers(value.get("status"))]
    if value.get("observations"):
        parts += [Text(), _observations(value["observations"])]
    parts += [Text(), Text(f"{len(value.get('events', []))} telemetry events (--json shows them)", style="dim")]
    return Group(*parts)


def _handlers(status: Any) -> Table:
    table = _table("HANDLER", "VERSION", "SEQ", "STATUS", "EXTENSION", "MESSAGE")
    aggregate = status.get("aggregateStatus") if isinstance(status, dict) else None
    handlers = aggregate.get("handlerAggregateStatus") if isinstance(aggregate, dict) else None
    for one in handlers if isinstance(handlers, list) else []:
        runtime = one.get("runtimeSettingsStatus") or {}
        inner = (runtime.get("settingsStatus") or {}).get("status") or {}
        message = (inner.get("formattedMessage") or one.get("formattedMessage") or {}).get("message")
        cells = (one.get("handlerName"), one.get("handlerVersion"), runtime.get("sequenceNumber", "-"))
        table.add_row(
            *(Text(str(cell)) for cell in (*cells, one.get("status"), inner.get("status", "-"), message or ""))
        )
    return table


def _observations(observations: dict[str, Any]) -> Table:
    table = _table("OBSERVATION", "HEALTHY", "VALUE", "DESCRIPTION")
    for name, one in sorted(observations.items()):
        healthy = Text("yes", style="green") if one.get("IsHealthy") else Text("no", style="bold red")
        table.add_row(Text(name), healthy, Text(str(one.get("Value", ""))), Text(str(one.get("Description", ""))))
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
