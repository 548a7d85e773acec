"""The command `azfabric`: the host's side of the wire."""

import sys
from pathlib import Path
from typing import Any

import click

from fabric import __version__, render
from fabric.client import Client
from fabric.componentcommands import family, want
from fabric.errors import FabricError
from fabric.extcommands import ext, goal
from fabric.faultcommands import fault
from fabric.labcommands import lab
from fabric.options import client_option, json_option, root_option, show
from fabric.publishcommand import publish
from fabric.runcommands import run
from fabric.scenariocommands import replay, scenario, transcript
from fabric.vmcommands import certificate, fast_track, hold, probe, require, vm

_PORT = click.IntRange(0, 65535)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="azfabric")
def cli() -> None:
    """A local Azure host: WireServer, HostGAPlugin, IMDS, blob store and a portal page on loopback.

    \b
    Beside `agentctl up`, which starts one:
      azfabric ext add PACKAGE.zip --settings FILE --wait 60
      azfabric run SCRIPT --wait 60
      azfabric told               what the VM told the host
      azfabric fault add package status --value 403

    Exit status: 0 done, 1 the answer is no, 2 wrong use, 3 no host runs.
    """


@cli.command()
@root_option
@click.option("--address", default="127.0.0.1", show_default=True, help="WireServer, HostGAPlugin, IMDS and blobs.")
@click.option("--imds-address", default="", help="Another address for IMDS (Azure's is 169.254.169.254).")
@click.option("--wireserver-port", type=_PORT, default=0, help="0 is a free one; Azure's is 80.")
@click.option("--hostgaplugin-port", type=_PORT, default=0, help="0 is a free one; Azure's is 32526.")
@click.option("--imds-port", type=_PORT, default=0, help="0 is a free one; Azure's is 80.")
@click.option("--blob-port", type=_PORT, default=0, help="0 is a free one.")
@click.option("--portal-port", type=_PORT, default=0, help="0 is a free one; always on 127.0.0.1.")
@click.option(
    "--in", "namespaces", multiple=True, metavar="TENANT=PATH", help="Listen at Azure's addresses in a namespace too."
)
@click.option(
    "--database",
    default="",
    metavar="URL",
    help="postgresql://USER@HOST/NAME: several workers with the same addresses and --blobs share it.",
)
@click.option("--blobs", type=click.Path(path_type=Path, file_okay=False), help="Where blobs are; ROOT/fabric/blobs.")
@click.option(
    "--record", type=click.Path(path_type=Path, dir_okay=False), help="Write down all that happens, to be replayed."
)
@click.option("--restore", type=click.Path(path_type=Path, exists=True), hidden=True, help="For azfabric replay.")
def serve(
    root: Path,
    namespaces: tuple[str, ...],
    database: str,
    blobs: Path | None,
    record: Path | None,
    restore: Path | None,
    **listen: Any,
) -> None:
    """Serve until Ctrl-C; the addresses stand in ROOT/fabric/endpoints.json."""
    # The server's libraries are needed by no other command.
    from fabric.doors import Listen
    from fabric.serve import Extras
    from fabric.serve import serve as serve_host

    tenants = dict(one.partition("=")[::2] for one in namespaces)
    if not all(tenants.values()):
        raise click.UsageError("--in takes TENANT=PATH, a path as /run/netns/NAME")
    listen["namespaces"] = {tenant: Path(path) for tenant, path in tenants.items()}
    serve_host(
        root.absolute(), Listen(**listen), Extras(database=database, blobs=blobs, record=record, restore=restore)
    )


@cli.command()
@client_option
@json_option
def told(client: Client, as_json: bool) -> None:
    """Show what the VM told the host: Ready, heartbeats, status blob, observations, events."""
    value = client.get("/api/told")
    show(value, as_json, render.told)


for _command in (
    vm,
    certificate,
    hold,
    fast_track,
    require,
    probe,
    ext,
    goal,
    family,
    want,
    publish,
    run,
    fault,
    scenario,
    transcript,
    replay,
    lab,
):
    cli.add_command(_command)


def main() -> None:
    """Turns our errors into a paragraph and an exit status."""
    try:
        cli(prog_name="azfabric")
    except FabricError as error:
        click.echo(f"azfabric: {error}", err=True)
        sys.exit(error.exit_status)
