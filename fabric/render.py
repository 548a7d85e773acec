"""What the VM told, on a terminal."""

import time
import unicodedata
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def dig(value: Any, *names: str) -> Any:
    """What a document of the VM's holds at that path; None if it is of another shape."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def handlers(status: Any) -> list[dict[str, Any]]:
    """The handlers of a status blob, whatever else it is."""
    found = dig(status, "aggregateStatus", "handlerAggregateStatus")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def plain(value: Any) -> str:
    """Text without what would steer a terminal."""
    return "".join(
        one if one in "\n\t" or unicodedata.category(one)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for one in str(value)
    )


def told(value: dict[str, Any]) -> RenderableType:
    """Tables; text that came from the VM is never read as markup."""
    ready = {True: ("Ready", "bold green"), False: ("Not Ready", "bold red"), None: ("has told nothing", "yellow")}
    line = Text("VM ")
    line.append(*ready[value.get("ready")])
    line.append(f"   {value.get('heartbeats', 0)} heartbeats")
    health = value.get("health") or {}
    if health.get("description"):
        line.append(plain(f"   {health.get('substatus', '')}: {health['description']}"), style="yellow")
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
    for one in handlers(status):
        runtime = one.get("runtimeSettingsStatus")
        inner = dig(runtime, "settingsStatus", "status")
        own, handlers_own = dig(inner, "formattedMessage", "message"), dig(one, "formattedMessage", "message")
        # With a code the handler has something to say beside its extension, e.g. of an update that failed.
        message = (handlers_own if one.get("code") else None) or own or handlers_own
        cells = (one.get("handlerName"), one.get("handlerVersion"), dig(runtime, "sequenceNumber"))
        shown = (*cells, one.get("status"), dig(inner, "status"), message)
        table.add_row(*(Text("-" if cell is None else plain(cell)) for cell in shown))
    return table


def _observations(observations: dict[str, Any]) -> Table:
    table = _table("OBSERVATION", "HEALTHY", "VALUE", "DESCRIPTION")
    for name, one in sorted(observations.items()):
        healthy = Text("yes", style="green") if one.get("IsHealthy") else Text("no", style="bold red")
        texts = (Text(plain(one.get(key) or "")) for key in ("Value", "Description"))
        table.add_row(Text(plain(name)), healthy, *texts)
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
