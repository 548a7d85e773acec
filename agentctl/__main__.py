"""The command `agentctl`: inside the VM, or beside a local host in a checkout."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from agentctl import __version__, group, render
from agentctl.deployment import Deployment, choose
from agentctl.errors import CommandError, WrongUse
from agentctl.view import gather, is_ready
from ipc.contract.guestagent import RunStarted
from ipc.places import COMPONENTS


def _deployment(_: click.Context, __: click.Parameter, root: Path | None) -> Deployment:
    return choose(root)


root_option = click.option(
    "--root",
    "deployment",
    type=click.Path(path_type=Path, file_okay=False),
    callback=_deployment,
    show_default=".azvmagent of this checkout; the standard paths on a VM",
    help="Everything the agent keeps lies under this directory.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="agentctl")
def cli() -> None:
    """The VM agent: start it, look at it, restart its parts.

    \b
    A first minute:
      agentctl up          a local Azure host and the four processes; stays in front until Ctrl-C
      agentctl status      in another terminal
      agentctl run --command 'uname -a'
      agentctl down        nothing is left

    Exit status: 0 done, 1 the answer is no (not Ready), 2 wrong use, 3 nothing to talk to.
    """


@cli.command()
@root_option
@click.option("--detach", is_flag=True, help="Return once the host was told Ready; end it later with `agentctl down`.")
@click.option("--sample/--no-sample", default=True, show_default=True, help="Have the host ask for a sample extension.")
def up(deployment: Deployment, detach: bool, sample: bool) -> None:
    """Start a local host and the process group, and show what happens until Ready.

    Needs no root and no Azure account. All ports are free ones on loopback; all files lie under --root.
    """
    # rich's live display is needed by no other command.
    from agentctl.up import up as bring_up

    bring_up(deployment, Console(), detach=detach, sample=sample)


@cli.command()
@root_option
def down(deployment: Deployment) -> None:
    """End what `agentctl up` started: processes and sockets; state and logs stay under the root."""
    if deployment.root is None:
        raise WrongUse("on a VM systemd runs the group: systemctl stop azvmagent")
    ended = group.end_all(deployment)
    click.echo(f"{ended} processes ended." if ended else "Nothing was running.")


@cli.command()
@root_option
@json_option
def status(deployment: Deployment, as_json: bool) -> None:
    """Show components, host and extensions. Exit status 1 if not Ready, 3 if nothing runs."""
    view = asyncio.run(gather(deployment))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(view), indent=2).decode())
    else:
        Console().print(render.status(view))
    sys.exit(0 if is_ready(view) else 1)


@cli.command()
@click.argument("component", type=click.Choice(COMPONENTS))
@root_option
def restart(component: str, deployment: Deployment) -> None:
    """Stop and start one component; the others go on, and so do running extension commands."""
    from agentctl.restart import restart as restart_component

    back = restart_component(deployment, component)
    click.echo(f"{component} {back.version} runs as pid {back.pid}.")


@cli.command()
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


def main() -> None:
    """Entry point: turns our errors into a paragraph and an exit status."""
    try:
        with contextlib.suppress(click.Abort):
            cli(standalone_mode=True)
    except CommandError as error:
        click.echo(f"agentctl: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
