"""`azfabric scenario`, `transcript` and `replay`: the same thing again."""

import sys
import tempfile
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

from fabric.client import Client
from fabric.errors import FabricError
from fabric.options import client_option, json_option, rows, show, tell
from fabric.packages import PACKAGE_LIMIT
from fabric.scenario import read


@click.group()
def scenario() -> None:
    """Scenarios: what changes at the host when.

    \b
    A file (TOML):
      name = "the repository goes and comes back"
      seed = 7
      packages = ["greeter.zip"]              # beside this file
      [[step]]
      want = {name = "Contoso.Tools.Greeter", version = "1.0.0", settings = {who = "world"}}
      [[step]]
      after = {endpoint = "package", count = 1}
      fault = {endpoint = "artifacts", fault = "status", value = 403, probability = 0.5}
      [[step]]
      at = 60
      lift = true

    A step is taken at the start, `after` so many requests or `at` so many seconds, and does one thing: fault, lift,
    want, remove, hold, fast_track, require, rotate, move.
    """


@scenario.command("run")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--wait", type=click.FloatRange(0), default=0.0, help="Wait so many seconds for the last step.")
@client_option
@json_option
def scenario_run(file: Path, wait: float, client: Client, as_json: bool) -> None:
    """Publish FILE's packages and play its steps, instead of the scenario that is played."""
    found = read(file)
    for name in found.packages:
        package = file.parent / name
        if Path(name).name != name:
            raise FabricError(f"{file}: packages stand beside it, {name!r} does not")
        if not package.is_file() or package.stat().st_size > PACKAGE_LIMIT:
            raise FabricError(f"{package} is no package (packages stand beside {file})")
        with package.open("rb") as opened:
            client.put("/api/packages", opened, {"file_name": package.name})
    played = client.replace("/api/scenario", msgspec.structs.replace(found, packages=[]))
    until = time.monotonic() + wait
    with Console(stderr=True).status(f"playing {found.name or file.name}"):
        while played["left"] and time.monotonic() < until:
            time.sleep(0.2)
            played = client.get("/api/scenario")
    if wait and played["left"]:
        raise FabricError(f"{played['left']} steps were not taken within {wait:g} s: azfabric scenario show")
    show(played["steps"], as_json, rows("step", "act", "at", "problem"))
    sys.exit(1 if any(one["problem"] for one in played["steps"]) else 0)


@scenario.command("show")
@client_option
@json_option
def scenario_show(client: Client, as_json: bool) -> None:
    """Show which steps were taken."""
    played = client.get("/api/scenario")
    show(played if as_json else played["steps"], as_json, rows("step", "act", "at", "problem"))


@scenario.command("stop")
@client_option
@json_option
def scenario_stop(client: Client, as_json: bool) -> None:
    """Take no more steps; what they did stays."""
    tell(client.delete("/api/scenario"), as_json, "No scenario is played.")


@click.command()
@click.option("--limit", type=click.IntRange(1, 20_000), default=50, show_default=True, help="The newest so many.")
@client_option
@json_option
def transcript(limit: int, client: Client, as_json: bool) -> None:
    """Show the newest requests of all VMs, and what spoiled them."""
    lines = client.get(f"/api/transcript?limit={limit}")
    show(lines, as_json, rows("vm", "endpoint", "method", "path", "status", "fault"))


@click.command()
@click.argument("recording", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
def replay(recording: Path, as_json: bool) -> None:
    """Have RECORDING (of azfabric serve --record) again at a fresh host, and compare the answers.

    Exit status 0 if every request was answered as it was then, 1 if not.
    """
    # The host's libraries are needed by no other command.
    from fabric.replay import replay as replay_recording

    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("replaying")
        result = replay_recording(
            recording, Path(folder) / "root", lambda done, of: shown.update(task, completed=done, total=of)
        )
    if as_json:
        show(msgspec.to_builtins(result), as_json, None)
    else:
        left = f", {result.passed_over} too long to be had again" if result.passed_over else ""
        click.echo(f"{result.requests} requests and {result.orders} orders{left}.")
        if result.differences:
            show(
                msgspec.to_builtins(result.differences),
                False,
                rows("number", "vm", "endpoint", "target", "recorded", "replayed"),
            )
        else:
            click.echo("Answered as they were then, every one.")
    sys.exit(1 if result.differences else 0)
