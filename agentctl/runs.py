"""The command `agentctl run`: its words; what they do is in run.py."""

import os
import sys
from pathlib import Path

import click
import msgspec

from agentctl.deployment import Deployment
from agentctl.errors import WrongUse
from agentctl.options import json_option, root_option
from ipc.contract.guestagent import RunStarted


@click.command()
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1)
@click.option("--command", "text", default="", help="Run TEXT instead of a SCRIPT file.")
@click.option("--name", default="", help="What to call the run; one that runs under this name is ended first.")
@click.option("--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A variable for the script.")
@click.option("--timeout", type=click.IntRange(1, 2**31 - 1), default=None, help="Seconds after which all of it ends.")
@click.option("--as", "run_as", default="", metavar="USER", help="Run as this user of the VM.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Show the output as it comes.")
@click.option("--attach", default="", metavar="NAME", help="Follow a run that was begun before.")
@click.option("--cancel", default="", metavar="NAME", help="End a run and everything it started.")
@json_option
@root_option
def run(
    script: str | None,
    arguments: tuple[str, ...],
    text: str,
    name: str,
    parameters: tuple[str, ...],
    timeout: int | None,
    run_as: str,
    follow: bool,
    attach: str,
    cancel: str,
    as_json: bool,
    deployment: Deployment,
) -> None:
    """Run SCRIPT (a file, or - for standard input) on this VM and show its output as it comes.

    \b
      agentctl run backup.sh -p TARGET=/mnt --timeout 600
      agentctl run --command 'df -h; uptime'
      agentctl run --attach backup       look at it again, from anywhere

    The script runs detached: Ctrl-C, a lost connection or a restart of the agent leave it running.
    Exit status: the script's; 124 if its time was up, 143 if it was canceled.
    """
    from agentctl import run as running

    if sum(map(bool, (script and not text, text, attach, cancel))) != 1:
        raise WrongUse("say one of: a SCRIPT, --command TEXT, --attach NAME, --cancel NAME")
    if cancel:
        view = running.cancel(deployment, cancel)
        click.echo(_pretty(view) if as_json else f"{cancel}: {view.state}. {view.message}")
        sys.exit(0)
    if attach:
        seen = running.look(deployment, attach)
        begun = RunStarted(name=seen.name, sequence_number=seen.sequence_number, stdout=seen.stdout, stderr=seen.stderr)
    else:
        words = (script, *arguments) if text and script else arguments
        wanted = running.Wanted(
            script="" if text else script or "",
            command=text,
            name=name or running.made_up_name("" if text else script or ""),
            arguments=tuple(words),
            parameters=parameters,
            timeout=timeout or 0,
            run_as=run_as,
        )
        try:
            begun = running.begin(deployment, wanted)
        except KeyboardInterrupt:
            click.echo(
                f"\n{wanted.name} may have been begun.\n{running.how_to_go_on(deployment, wanted.name)}", err=True
            )
            sys.exit(130)
    if not follow:
        shown = _pretty(running.look(deployment, begun.name) if attach else begun)
        click.echo(shown if as_json else f"{begun.name} runs.\n{running.how_to_go_on(deployment, begun.name)}")
        return
    sys.exit(_follow_run(deployment, begun, as_json=as_json))


def _follow_run(deployment: Deployment, begun: RunStarted, *, as_json: bool) -> int:
    """Until it has ended, or somebody has seen enough."""
    from agentctl import run as running

    with Path(os.devnull).open("wb") as nowhere:
        out = nowhere if as_json else sys.stdout.buffer
        follower = running.Follower(begun.stdout, begun.stderr, out, nowhere if as_json else sys.stderr.buffer)
        try:
            view = running.follow(deployment, begun.name, begun.sequence_number, follower)
        except KeyboardInterrupt:
            click.echo(f"\n{begun.name} goes on.\n{running.how_to_go_on(deployment, begun.name)}", err=True)
            return 130
        except BrokenPipeError:
            # Whoever read our output has seen enough; nothing more can be written there, not even at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
    if as_json:
        click.echo(_pretty(view))
    elif view.state != "Succeeded":
        click.echo(f"agentctl: {begun.name}: {view.state}: {view.message}", err=True)
    return running.exit_status(view)


def _pretty(value: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
