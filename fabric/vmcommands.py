"""`azfabric vm`, `certificate`, `hold`, `fast-track`, `require`, `probe`: orders about VMs themselves."""

from pathlib import Path
from urllib.parse import quote

import click

from fabric.client import Client
from fabric.options import client_option, json_option, root_option, rows, show, tell


@click.group()
def vm() -> None:
    """The VMs this host knows."""


@vm.command("list")
@client_option
@json_option
def vm_list(client: Client, as_json: bool) -> None:
    """List VMs."""
    shown = rows("name", "tenant", "address", "ready", "heartbeats", "incarnation", "extensions")
    show(client.get("/api/vms"), as_json, shown)


@vm.command("add")
@click.argument("name")
@click.option("--address", default="", help="Requests from there are this VM's (127.0.0.0/8 is all loopback).")
@click.option("--own-ports", is_flag=True, help="Give it servers of its own; whoever asks there is this VM.")
@click.option("--tenant", default="default", show_default=True, help="VMs of different tenants may share an address.")
@root_option
@json_option
def vm_add(name: str, address: str, own_ports: bool, tenant: str, root: Path, as_json: bool) -> None:
    """Have one more VM, called NAME."""
    order = {"name": name, "address": address, "own_ports": own_ports, "tenant": tenant}
    added = Client(root).post("/api/vms", order)
    if as_json:
        show(added, as_json, None)
        return
    click.echo(f"{name} finds its host at:")
    for server in ("wireserver", "hostgaplugin", "imds", "blob"):
        click.echo(f"  {server:13} {added[server]}")


@vm.command("remove")
@click.argument("name")
@root_option
@json_option
def vm_remove(name: str, root: Path, as_json: bool) -> None:
    """Forget the VM called NAME, and all it told."""
    client = Client(root)
    had_the_rest = any(one["name"] == name and one["catch_all"] for one in client.get("/api/vms"))
    found = client.delete(f"/api/vms/{quote(name, safe='')}")
    tell(found, as_json, f"{name} is gone.")
    if had_the_rest:
        click.echo(
            f"Warning: {name} had every address that is nobody else's. Who asks from there is refused now, until "
            "another VM takes them: azfabric vm add NAME",
            err=True,
        )


@vm.command("move")
@client_option
@json_option
def vm_move(client: Client, as_json: bool) -> None:
    """Move the VM to another container; the incarnation stays."""
    found = client.post("/api/move", {})
    tell(found, as_json, f"Container {found['container_id']} from now on.")


@click.group()
def certificate() -> None:
    """The certificates the VM is given."""


elliptic_option = click.option("--ec", is_flag=True, help="Elliptic curve instead of RSA.")


@certificate.command("rotate")
@elliptic_option
@client_option
@json_option
def certificate_rotate(ec: bool, client: Client, as_json: bool) -> None:
    """Replace the tenant certificate; the incarnation stays."""
    found = client.post("/api/certificates/rotate", {"ec": ec})
    tell(found, as_json, f"{found['thumbprint']} is the tenant certificate from now on.")


@certificate.command("add")
@elliptic_option
@client_option
@json_option
def certificate_add(ec: bool, client: Client, as_json: bool) -> None:
    """Give the VM one more certificate with its key."""
    found = client.post("/api/certificates", {"ec": ec})
    tell(found, as_json, f"{found['thumbprint']} is given to the VM.")


switch_argument = click.argument("switch", type=click.Choice(["on", "off"]))


@click.command()
@switch_argument
@client_option
@json_option
def hold(switch: str, client: Client, as_json: bool) -> None:
    """Hold extension processing back, from the next incarnation on."""
    tell(
        client.post("/api/hold", {"on": switch == "on"}),
        as_json,
        f"Hold is {switch}; the VM reads it with the next change.",
    )


@click.command("fast-track")
@switch_argument
@client_option
@json_option
def fast_track(switch: str, client: Client, as_json: bool) -> None:
    """Support vmSettings, or not."""
    tell(client.post("/api/fast-track", {"on": switch == "on"}), as_json, f"FastTrack is {switch}.")


@click.command()
@click.argument("features", nargs=-1)
@client_option
@json_option
def require(features: tuple[str, ...], client: Client, as_json: bool) -> None:
    """Require FEATURES of the VM; without any, none."""
    tell(
        client.post("/api/required-features", {"names": features}),
        as_json,
        f"Required: {', '.join(features) or 'nothing'}.",
    )


@click.command()
@click.argument("ports", type=click.IntRange(1, 65535), nargs=-1)
@client_option
@json_option
def probe(ports: tuple[int, ...], client: Client, as_json: bool) -> None:
    """Have the load balancer probe these PORTS; without any, none."""
    tell(
        client.post("/api/probe-ports", {"ports": ports}),
        as_json,
        f"Probed: {', '.join(map(str, ports)) or 'nothing'}.",
    )
