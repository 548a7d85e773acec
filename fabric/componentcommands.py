"""`azfabric family` and `azfabric want`: versions of the agent and its components."""

from pathlib import Path
from urllib.parse import quote

import click

from fabric import render
from fabric.client import Client
from fabric.errors import FabricError
from fabric.options import (
    client_option,
    fast_track_option,
    json_option,
    root_option,
    rows,
    show,
    tell,
    warn_of_fast_track,
)
from fabric.packages import PACKAGE_LIMIT, check_family, family_version


@click.group()
def family() -> None:
    """Agent families: packages of the agent and its components, by version."""


@family.command("publish")
@click.argument("name")
@click.argument("package", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--version", default="", help="If the file is not called NAME-VERSION.zip.")
@root_option
@json_option
def family_publish(name: str, package: Path, version: str, root: Path, as_json: bool) -> None:
    """Put PACKAGE (a zip) into the repository, as a version of the family NAME.

    \b
    waagent looks at Prod; a component is a family of its own:
      azfabric family publish Prod WALinuxAgent-9.9.9.9.zip
      azfabric family publish rdagent rdagent.zip --version 0.2.0
    """
    check_family(name)
    if package.stat().st_size > PACKAGE_LIMIT:
        raise FabricError(f"{package} is larger than {PACKAGE_LIMIT} bytes")
    called = {"file_name": package.name, "version": version}
    with package.open("rb") as file:
        family_version(file, **called)
        file.seek(0)
        found = Client(root).put(f"/api/families/{quote(name, safe='')}", file, called)
    ask = f"azfabric want {name} {found['version']}"
    tell(found, as_json, f"{found['family']} {found['version']} is published. Ask for it: {ask}")


@family.command("list")
@root_option
@json_option
def family_list(root: Path, as_json: bool) -> None:
    """List families and their versions."""
    show(Client(root).get("/api/families"), as_json, rows("name", "versions"))


@click.command()
@click.argument("component", default="")
@click.argument("version", default="")
@click.option("--from", "from_version", default="", metavar="VERSION", help="Only for who runs it: needed to go back.")
@click.option("--list", "listing", is_flag=True, help="What is asked for, and what the VM says of it.")
@click.option("--clear", is_flag=True, help="Ask for it no more; without COMPONENT, for nothing any more.")
@fast_track_option
@client_option
@json_option
def want(
    component: str,
    version: str,
    from_version: str,
    listing: bool,
    clear: bool,
    fast_track: bool,
    client: Client,
    as_json: bool,
) -> None:
    """Ask the VM for VERSION of COMPONENT, a published family (azfabric family publish).

    \b
      azfabric want Prod 9.9.9.9
      azfabric want rdagent 0.1.0 --from 0.2.0     go back, if it runs 0.2.0
      azfabric want --list
      azfabric want --clear rdagent
    """
    if fast_track and (listing or clear):
        raise click.UsageError("--fast-track goes with a COMPONENT and a VERSION")
    if listing and not (clear or component):
        show(client.get("/api/components"), as_json, render.components)
    elif clear and not (listing or version):
        found = client.delete("/api/components" + (f"/{quote(component, safe='')}" if component else ""))
        tell(found, as_json, f"No version of {component or 'anything'} is asked for any more.")
    elif component and version and not (listing or clear):
        order = {"component": component, "version": version, "from_version": from_version, "fast_track": fast_track}
        one = client.post("/api/components", order)
        said = {"running": "It runs already."}.get(one["state"], "It is not running yet: azfabric want --list")
        where = f"by FastTrack ({one['incarnation']})" if fast_track else f"in incarnation {one['incarnation']}"
        tell(one, as_json, render.plain(f"{component} {one['version']} is asked for, {where}. {said}"))
        warn_of_fast_track(client, used=fast_track)
    else:
        raise click.UsageError("name a COMPONENT and a VERSION, or say --list, or --clear [COMPONENT]")
