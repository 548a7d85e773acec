"""`azfabric publish`: the component repository, filled and emptied."""

from pathlib import Path
from typing import Any

import click

from fabric.client import Client
from fabric.componentpackage import Layer, component_package, layer_digest
from fabric.errors import FabricError
from fabric.options import json_option, root_option, rows, show, tell
from fabric.packagecheck import shortcomings
from fabric.packages import PACKAGE_LIMIT


@click.command()
@click.argument("package", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--channel", default="stable", show_default=True, help="Machines that follow this channel take it.")
@click.option(
    "--ring",
    type=click.IntRange(0, 100),
    default=1,
    show_default=True,
    help="Machines of the rings 0 to this one take it: 0 gets it first, a higher number is for more of them.",
)
@click.option(
    "--layers",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the package's layers are.  [default: layers/ beside it]",
)
@click.option("--list", "listing", is_flag=True, help="What the repository has.")
@click.option("--withdraw", nargs=2, metavar="COMPONENT VERSION", help="Recall a version.")
@root_option
@json_option
def publish(
    package: Path | None,
    channel: str,
    ring: int,
    layers: Path | None,
    listing: bool,
    withdraw: tuple[str, str] | None,
    root: Path,
    as_json: bool,
) -> None:
    """Publish PACKAGE, a component's zip by `agentctl package build`, with its layers.

    It is a target of the signed repository (endpoints.json says where), and a version of the agent family called like
    the component. Publish the same file again to give it another channel or ring. Whether agents would take it is no
    condition, but told: a file that is not as its manifest says, or that nobody signed, gets a warning.

    \b
      azfabric publish dist/telemetry-0.2.0.zip --ring 0     only machines of ring 0
      azfabric publish dist/telemetry-0.2.0.zip              the same file: those of ring 1, too
      azfabric publish --list
      azfabric publish --withdraw telemetry 0.2.0
    """
    if [package is not None, listing, withdraw is not None].count(True) != 1:
        raise click.UsageError("name a PACKAGE, or say --list, or --withdraw COMPONENT VERSION")
    client = Client(root)
    if listing:
        shown = rows("component", "version", "channel", "ring", "floor", "size", "digest")
        show(client.get("/api/repository"), as_json, shown)
    elif withdraw is not None:
        component, version = withdraw
        found = client.delete(f"/api/repository/packages/{component}/{version}")
        tell(found, as_json, f"{component} {version} is withdrawn. Who has it already keeps it.")
    elif package is not None:
        found = _publish(client, package, layers or package.parent / "layers", {"channel": channel, "ring": str(ring)})
        name = f"{found['component']} {found['version']}"
        tell(found, as_json, f"{name} is published, channel {found['channel']}, ring {found['ring']}.")
        _warn(package, name)


def _publish(client: Client, package: Path, layers: Path, where: dict[str, str]) -> Any:
    """Layers first: a package without them is refused. Raises FabricError."""
    if package.stat().st_size > PACKAGE_LIMIT:
        raise FabricError(f"{package} is larger than {PACKAGE_LIMIT} bytes")
    with package.open("rb") as file:
        named = component_package(file).layers
        here = {digest for one in client.get("/api/repository") for digest in one["layers"]}
        for layer in named:
            if layer.sha256 not in here:
                _hand_in(client, _found(layers, layer), layer.sha256)
        file.seek(0)
        return client.put("/api/repository/packages", file, where)


def _warn(package: Path, name: str) -> None:
    with package.open("rb") as file:
        if found := shortcomings(file):
            click.echo(f"Warning: no agent takes {name}: {'; '.join(found)}.", err=True)


def _found(layers: Path, layer: Layer) -> Path:
    """The zip of that layer: its name holds the beginning of its digest. Raises FabricError."""
    for path in sorted(layers.glob(f"*{layer.sha256[:16]}*.zip")):
        with path.open("rb") as file:
            if layer_digest(file) == layer.sha256:
                return path
    raise FabricError(
        f"the layer {layer.name} {layer.version} ({layer.sha256[:16]}) is not in {layers}. Say where: --layers DIR"
    )


def _hand_in(client: Client, path: Path, digest: str) -> None:
    with path.open("rb") as file:
        client.put(f"/api/repository/layers/{digest}", file, {})
