"""`azfabric run`: a script on the VM."""

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import msgspec
from rich.console import Console

from fabric.client import Client
from fabric.errors import FabricError
from fabric.options import client_option, fast_track_option, json_option, tell, warn_of_fast_track
from fabric.runview import Seen, seen


@click.command()
@click.argument("script", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--name", default="run", show_default=True, help="A new run of the same name replaces the one before.")
@click.option("--v1", is_flag=True, help="The old kind (action run command): no name, no parameters.")
@click.option("--parameter", "parameters", multiple=True, metavar="[NAME=]VALUE", help="Variable, or argument.")
@click.option(
    "--protected-parameter", "protected", multiple=True, metavar="[NAME=]VALUE", help="The same, encrypted for the VM."
)
@click.option("--user", default="", help="Run as this user of the VM.")
@click.option("--timeout", type=click.IntRange(0), default=0, help="Seconds; 0 is none.")
@click.option("--async", "asynchronous", is_flag=True, help="The host is told success at once, the outcome later.")
@click.option("--output-blob", is_flag=True, help="Keep both streams in append blobs of this host.")
@fast_track_option
@click.option("--remove", default="", metavar="NAME", help="Have the VM end this run and forget it.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 6000),
    default=0.0,
    help="Wait so many seconds for the end and show it; exit status 1 unless it succeeded.",
)
@client_option
@json_option
def run(
    script: Path | None,
    name: str,
    v1: bool,
    parameters: tuple[str, ...],
    protected: tuple[str, ...],
    user: str,
    timeout: int,
    asynchronous: bool,
    output_blob: bool,
    fast_track: bool,
    remove: str,
    wait: float,
    client: Client,
    as_json: bool,
) -> None:
    """Ask the VM to run SCRIPT (managed run command; with --v1 the action kind)."""
    if (script is None) == (not remove):
        raise click.UsageError("name a SCRIPT, or say --remove NAME")
    if script is None:
        found = client.delete(f"/api/runs/{quote(remove, safe='')}", {"fast_track": str(fast_track).lower()})
        tell(found, as_json, f"{remove} is to be ended and forgotten.")
        warn_of_fast_track(client, used=fast_track)
        return
    order = {
        "script": script.read_text(encoding="utf-8", errors="replace"),
        "name": name,
        "action": v1,
        "parameters": [_parameter(one) for one in parameters],
        "protected_parameters": [_parameter(one) for one in protected],
        "user": user,
        "timeout": timeout,
        "asynchronous": asynchronous,
        "output_blobs": output_blob,
        "fast_track": fast_track,
    }
    ordered = client.post("/api/runs", order)
    if not (wait and as_json):
        urls = [url for url in (ordered["output_blob"], ordered["error_blob"]) if url]
        wanted = f"{ordered['name'] or ordered['handler']} is wanted, sequence number {ordered['sequence_number']}."
        tell(ordered, as_json, "\n".join([wanted, *urls]))
    warn_of_fast_track(client, used=fast_track)
    if wait:
        found = _ended(client, ordered, wait)
        if as_json:
            tell({**ordered, **msgspec.structs.asdict(found)}, as_json, "")
        else:
            click.echo(f"{found.state}: {found.message}")
            click.echo(found.output, nl=False)
            click.echo(found.error, nl=False, err=True)
        sys.exit(0 if found.ok else 1)


def _parameter(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    return {"name": name, "value": value} if equals and name else {"value": text}


def _ended(client: Client, ordered: dict[str, Any], seconds: float) -> Seen:
    """Raises FabricError."""
    until = time.monotonic() + seconds
    with Console(stderr=True).status(f"waiting for {ordered['name'] or ordered['handler']}"):
        while time.monotonic() < until:
            status = client.get("/api/told").get("status")
            found = seen(status, ordered["handler"], ordered["name"], ordered["sequence_number"])
            if found is not None:
                return found
            time.sleep(0.2)
    raise FabricError(f"the run did not end within {seconds:g} s; see: azfabric told")
