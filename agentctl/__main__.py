"""The command `agentctl`: inside the VM, or beside a local host in a checkout."""

import asyncio
import contextlib
import sys

import click
import msgspec

from agentctl import __version__, group, render
from agentctl.bundle import bundle
from agentctl.deployment import Deployment
from agentctl.drill.cli import drill
from agentctl.errors import CommandError, WrongUse
from agentctl.ext import explain, ext
from agentctl.net import net
from agentctl.options import json_option, root_option
from agentctl.package import package
from agentctl.runs import run
from agentctl.update import update
from agentctl.view import gather, is_ready
from ipc.places import COMPONENTS


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
@click.option("--host/--no-host", default=True, show_default=True, help="Start a local host, or use the VM's own.")
def up(deployment: Deployment, detach: bool, sample: bool, host: bool) -> None:
    """Start a local host and the process group, and show what happens until Ready.

    Needs no root and no Azure account. All ports are free ones on loopback; all files lie under --root.

    --no-host is for a VM, or one of `azfabric lab`: only the process group is started, as root, and netagent brings the
    network if nobody else does.
    """
    # rich's live display is needed by no other command.
    from agentctl.up import up as bring_up

    bring_up(deployment, render.Terminal(), detach=detach, sample=sample and host, host=host)


@cli.command()
@root_option
@click.option("--keep-network", is_flag=True, help="Leave addresses and routes of netagent's in the kernel.")
def down(deployment: Deployment, keep_network: bool) -> None:
    """End what `agentctl up` started: processes and sockets; state and logs stay under the root.

    Where netagent configures the network (agentctl net show: mode own), that goes too.
    """
    if deployment.root is None:
        raise WrongUse("on a VM systemd runs the group: systemctl stop azvmagent")
    ended = group.end_all(deployment, keep_network=keep_network)
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
        render.Terminal().print(render.status(view))
    sys.exit(0 if is_ready(view) else 1)


@cli.command()
@click.argument("component", type=click.Choice(COMPONENTS))
@root_option
def restart(component: str, deployment: Deployment) -> None:
    """Stop and start one component; the others go on, and so do running extension commands."""
    from agentctl.records import views
    from agentctl.restart import restart as restart_component

    on_trial = any(one.trial for one in views(deployment) if one.component == component)
    back = restart_component(deployment, component)
    click.echo(f"{component} {back.version} runs as pid {back.pid}.")
    if on_trial:
        click.echo("It was on trial: one restart is forgiven, a second one sends that version back.", err=True)


cli.add_command(ext)
cli.add_command(explain)
cli.add_command(run)
cli.add_command(net)
cli.add_command(package)
cli.add_command(update)
cli.add_command(bundle)
cli.add_command(drill)


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
