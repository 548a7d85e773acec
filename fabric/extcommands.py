"""`azfabric ext` and `azfabric goal`: what the VM is to have."""

import io
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import click
from rich.console import Console

from fabric import render
from fabric.client import Client
from fabric.errors import FabricError
from fabric.options import (
    client_option,
    fast_track_option,
    json_object,
    json_option,
    rows,
    show,
    tell,
    warn_of_fast_track,
)
from fabric.packages import PACKAGE_LIMIT, identify, sample_package
from fabric.reports import dig, handlers

_TERMINAL = {"success", "error"}


@click.group()
def ext() -> None:
    """Extensions in the goal state."""


@ext.command("add")
@click.argument("package", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--sample", is_flag=True, help="The sample extension shipped with the host instead of PACKAGE.")
@click.option(
    "--settings", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Public settings, a JSON object."
)
@click.option(
    "--protected",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Protected settings, encrypted for the VM.",
)
@click.option("--name", default="", help="Publisher.Type, if the package does not say.")
@click.option("--version", default="", help="If the package does not say.")
@fast_track_option
@click.option(
    "--wait",
    type=click.FloatRange(0, 6000),
    default=0.0,
    help="Wait so many seconds for a final status; exit status 1 unless success.",
)
@client_option
@json_option
def ext_add(
    package: Path | None,
    sample: bool,
    settings: Path | None,
    protected: Path | None,
    name: str,
    version: str,
    fast_track: bool,
    wait: float,
    client: Client,
    as_json: bool,
) -> None:
    """Publish PACKAGE (a zip with HandlerManifest.json) and ask the VM for it."""
    if (package is None) == (not sample):
        raise click.UsageError("name a PACKAGE, or say --sample")
    called = {"file_name": package.name if package else "", "name": name, "version": version}
    with io.BytesIO(sample_package()) if package is None else _opened(package) as file:
        identify(file, **called)
        file.seek(0)
        found = client.put("/api/packages", file, called)
    order = {
        **found,
        "settings": json_object(settings) if settings else ({"who": "world"} if sample else None),
        "protected": json_object(protected) if protected else None,
        "fast_track": fast_track,
    }
    before = client.get("/api/told")["status_count"] if wait else 0
    added = client.post("/api/extensions", order)
    if not (wait and as_json):
        wanted = f"{added['name']} {added['version']} is wanted, sequence number {added['sequence_number']}."
        tell(added, as_json, wanted)
    warn_of_fast_track(client, used=fast_track)
    if wait:
        status, message = _final(client, added, before, wait)
        came = {**added, "status": status, "message": message}
        tell(came, as_json, render.plain(f"{added['name']}: {status}: {message}"))
        sys.exit(0 if status == "success" else 1)


@ext.command("remove")
@click.argument("name")
@click.option("--now", is_flag=True, help="Vanish from the goal state without asking for uninstall.")
@fast_track_option
@client_option
@json_option
def ext_remove(name: str, now: bool, fast_track: bool, client: Client, as_json: bool) -> None:
    """Ask the VM to uninstall an extension."""
    query = {"now": str(now).lower(), "fast_track": str(fast_track).lower()}
    found = client.delete(f"/api/extensions/{quote(name, safe='')}", query)
    tell(found, as_json, f"{name} is to be uninstalled." if not now else f"{name} vanished from the goal state.")
    warn_of_fast_track(client, used=fast_track)


@ext.command("list")
@client_option
@json_option
def ext_list(client: Client, as_json: bool) -> None:
    """List what the goal state asks for."""
    show(client.get("/api/extensions"), as_json, rows("name", "version", "state", "sequence_number"))


@click.group()
def goal() -> None:
    """The goal state as a whole."""


@goal.command("set")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@client_option
@json_option
def goal_set(file: Path, client: Client, as_json: bool) -> None:
    """Make FILE the goal state, to the letter. /docs of the portal says what it may hold.

    \b
      {"handlers": [{"name": "Contoso.Tools.Greeter", "version": "1.0.0", "settings": {"who": "world"}},
                    {"name": "Contoso.Tools.Runner", "version": "2.0.0",
                     "instances": [{"name": "a", "settings": {}},
                                   {"name": "b", "depends_on": ["Contoso.Tools.Runner/a"], "dependency_level": 1}]}]}
    """
    found = client.replace("/api/goal", json_object(file))
    tell(found, as_json, f"{found['handlers']} handlers are wanted.")


def _final(client: Client, added: dict[str, Any], before: int, seconds: float) -> tuple[str, str]:
    """The first final status in a blob that came after so many. Raises FabricError."""
    until = time.monotonic() + seconds
    with Console(stderr=True).status(f"waiting for {added['name']}"):
        while time.monotonic() < until:
            told = client.get("/api/told")
            status, message = _reported(told["status"], added)
            # What was said before the order may be of another that was like it.
            if status in _TERMINAL and told["status_count"] > before:
                return status, message
            time.sleep(0.2)
    raise FabricError(f"{added['name']} reported no final status within {seconds:g} s; see: azfabric told")


def _reported(status: Any, added: dict[str, Any]) -> tuple[str, str]:
    """What the last blob says of this very sequence number."""
    for one in handlers(status):
        if one.get("handlerName") != added["name"]:
            continue
        if one.get("handlerVersion") != added["version"]:
            # The version before is in force, and what is said of it may be why.
            why = str(dig(one, "formattedMessage", "message") or "")
            if one.get("code") and f"update to {added['version']} failed" in why:
                return "error", why
            continue
        runtime = one.get("runtimeSettingsStatus")
        if runtime is None:
            failed = one.get("status") == "NotReady"
            done = one.get("status") == "Ready" and not added["has_settings"]
            word = "error" if failed else "success" if done else ""
            return word, str(dig(one, "formattedMessage", "message") or "")
        if dig(runtime, "sequenceNumber") == added["sequence_number"]:
            inner = dig(runtime, "settingsStatus", "status")
            message = dig(inner, "formattedMessage", "message")
            return str(dig(inner, "status")), str(message or "")
    return "", ""


def _opened(path: Path) -> BinaryIO:
    if path.stat().st_size > PACKAGE_LIMIT:
        raise FabricError(f"{path} is larger than {PACKAGE_LIMIT} bytes")
    return path.open("rb")
