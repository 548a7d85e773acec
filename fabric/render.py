"""What the VM told, on a terminal."""

import time
import unicodedata
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fabric.reports import dig, handlers


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
    if (agent := _agent(value.get("status"))) is not None:
        parts.append(agent)
    parts += [Text(), _handlers(value.get("status"))]
    if value.get("components"):
        parts += [Text(), components(value["components"])]
    if value.get("observations"):
        parts += [Text(), _observations(value["observations"])]
    parts += [Text(), Text(f"{len(value.get('events', []))} telemetry events (--json shows them)", style="dim")]
    return Group(*parts)


_STATES = {
    "asked": ("asked for, not yet running", "yellow"),
    "running": ("running", "green"),
    "refused": ("refused", "bold red"),
}


def components(rows: list[dict[str, Any]]) -> RenderableType:
    """Versions asked for, beside what the VM runs."""
    if not rows:
        return Text("No version is asked for.", style="dim")
    table = _table("COMPONENT", "ASKED", "STATE", "RUNS", "REASON")
    for one in rows:
        from_version = f" (from {one['from_version']})" if one["from_version"] else ""
        said = (Text(plain(one["reported"]) or "not told"), Text(plain(one["reason"])))
        table.add_row(Text(one["component"]), Text(one["version"] + from_version), Text(*_STATES[one["state"]]), *said)
    return table


def _agent(status: Any) -> Text | None:
    """Its version, and how its last update went."""
    agent = dig(status, "aggregateStatus", "guestAgentStatus")
    if dig(agent, "version") is None:
        return None
    text = Text(plain(f"Agent {dig(agent, 'version')}"))
    update = dig(agent, "updateStatus")
    if update is not None:
        message = dig(update, "formattedMessage", "message")
        text.append(plain(f"   update: {dig(update, 'status')}" + (f": {message}" if message else "")))
    return text


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
