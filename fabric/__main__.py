"""The command `azfabric`: the host's side of the wire."""

import codecs
import io
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabric import __version__, render
from fabric.client import Client
from fabric.errors import FabricError
from fabric.faults import ENDPOINTS, FAULTS
from fabric.labcommands import lab
from fabric.packages import PACKAGE_LIMIT, identify, sample_package
from fabric.runview import seen

_CHECKOUT = Path(__file__).resolve().parent.parent
_TERMINAL = {"success", "error"}
_PORT = click.IntRange(0, 65535)
_CHOICES = "\n".join(
    [
        "\b\nFaults:",
        *(f"  {name:18} {meaning}" for name, meaning in FAULTS.items()),
        "\n\b\nEndpoints:",
        *(f"  {line}" for line in textwrap.wrap(", ".join(ENDPOINTS), 76)),
    ]
)
"""What `fault add` may be told."""

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: _CHECKOUT / ".azvmagent" if (_CHECKOUT / "pyproject.toml").is_file() else Path(".azvmagent"),
    show_default=".azvmagent of this checkout, else of this directory",
    help="Where the host keeps its state; the same as agentctl's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


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
def serve(root: Path, **listen: Any) -> None:
    """Serve until Ctrl-C; the addresses stand in ROOT/fabric/endpoints.json."""
    # The server's libraries are needed by no other command.
    from fabric.serve import Listen
    from fabric.serve import serve as serve_host

    serve_host(root.absolute(), msgspec.convert(listen, Listen))


@cli.command()
@root_option
@json_option
def told(root: Path, as_json: bool) -> None:
    """Show what the VM told the host: Ready, heartbeats, status blob, observations, events."""
    value = Client(root).get("/api/told")
    _show(value, as_json, render.told)


@cli.group()
def vm() -> None:
    """The VMs this host knows."""


@vm.command("list")
@root_option
@json_option
def vm_list(root: Path, as_json: bool) -> None:
    """List VMs."""
    _show(Client(root).get("/api/vms"), as_json, _rows("name", "ready", "heartbeats", "incarnation", "extensions"))


@vm.command("move")
@root_option
def vm_move(root: Path) -> None:
    """Move the VM to another container; the incarnation stays."""
    click.echo(f"Container {Client(root).post('/api/move', {})['container_id']} from now on.")


@cli.group()
def certificate() -> None:
    """The certificates the VM is given."""


elliptic_option = click.option("--ec", is_flag=True, help="Elliptic curve instead of RSA.")


@certificate.command("rotate")
@elliptic_option
@root_option
def certificate_rotate(ec: bool, root: Path) -> None:
    """Replace the tenant certificate; the incarnation stays."""
    found = Client(root).post("/api/certificates/rotate", {"ec": ec})
    click.echo(f"{found['thumbprint']} is the tenant certificate from now on.")


@certificate.command("add")
@elliptic_option
@root_option
def certificate_add(ec: bool, root: Path) -> None:
    """Give the VM one more certificate with its key."""
    click.echo(f"{Client(root).post('/api/certificates', {'ec': ec})['thumbprint']} is given to the VM.")


switch_argument = click.argument("switch", type=click.Choice(["on", "off"]))


@cli.command()
@switch_argument
@root_option
def hold(switch: str, root: Path) -> None:
    """Hold extension processing back, from the next incarnation on."""
    Client(root).post("/api/hold", {"on": switch == "on"})
    click.echo(f"Hold is {switch}; the VM reads it with the next change.")


@cli.command("fast-track")
@switch_argument
@root_option
def fast_track(switch: str, root: Path) -> None:
    """Support vmSettings, or not."""
    Client(root).post("/api/fast-track", {"on": switch == "on"})
    click.echo(f"FastTrack is {switch}.")


@cli.command()
@click.argument("features", nargs=-1)
@root_option
def require(features: tuple[str, ...], root: Path) -> None:
    """Require FEATURES of the VM; without any, none."""
    Client(root).post("/api/required-features", {"names": features})
    click.echo(f"Required: {', '.join(features) or 'nothing'}.")


@cli.group()
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
@click.option("--fast-track", is_flag=True, help="Deliver by vmSettings instead of a new incarnation.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 6000),
    default=0.0,
    help="Wait so many seconds for a final status; exit status 1 unless success.",
)
@root_option
def ext_add(
    package: Path | None,
    sample: bool,
    settings: Path | None,
    protected: Path | None,
    name: str,
    version: str,
    fast_track: bool,
    wait: float,
    root: Path,
) -> None:
    """Publish PACKAGE (a zip with HandlerManifest.json) and ask the VM for it."""
    if (package is None) == (not sample):
        raise click.UsageError("name a PACKAGE, or say --sample")
    called = {"file_name": package.name if package else "", "name": name, "version": version}
    with io.BytesIO(sample_package()) if package is None else _opened(package) as file:
        identify(file, **called)
        client = Client(root)
        file.seek(0)
        found = client.put("/api/packages", file, called)
    order = {
        **found,
        "settings": _object(settings) if settings else ({"who": "world"} if sample else None),
        "protected": _object(protected) if protected else None,
        "fast_track": fast_track,
    }
    before = client.get("/api/told")["status_count"] if wait else 0
    added = client.post("/api/extensions", order)
    click.echo(f"{added['name']} {added['version']} is wanted, sequence number {added['sequence_number']}.")
    if wait:
        _wait(client, added, before, wait)


@ext.command("remove")
@click.argument("name")
@click.option("--now", is_flag=True, help="Vanish from the goal state without asking for uninstall.")
@click.option("--fast-track", is_flag=True, help="Deliver by vmSettings instead of a new incarnation.")
@root_option
def ext_remove(name: str, now: bool, fast_track: bool, root: Path) -> None:
    """Ask the VM to uninstall an extension."""
    query = {"now": str(now).lower(), "fast_track": str(fast_track).lower()}
    Client(root).delete(f"/api/extensions/{quote(name, safe='')}", query)
    click.echo(f"{name} is to be uninstalled." if not now else f"{name} vanished from the goal state.")


@ext.command("list")
@root_option
@json_option
def ext_list(root: Path, as_json: bool) -> None:
    """List what the goal state asks for."""
    _show(Client(root).get("/api/extensions"), as_json, _rows("name", "version", "state", "sequence_number"))


@cli.command()
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
@click.option("--fast-track", is_flag=True, help="Deliver by vmSettings instead of a new incarnation.")
@click.option("--remove", default="", metavar="NAME", help="Have the VM end this run and forget it.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 6000),
    default=0.0,
    help="Wait so many seconds for the end and show it; exit status 1 unless it succeeded.",
)
@root_option
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
    root: Path,
) -> None:
    """Ask the VM to run SCRIPT (managed run command; with --v1 the action kind)."""
    client = Client(root)
    if (script is None) == (not remove):
        raise click.UsageError("name a SCRIPT, or say --remove NAME")
    if script is None:
        client.delete(f"/api/runs/{remove}", {"fast_track": str(fast_track).lower()})
        click.echo(f"{remove} is to be ended and forgotten.")
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
    click.echo(f"{ordered['name'] or ordered['handler']} is wanted, sequence number {ordered['sequence_number']}.")
    for url in (ordered["output_blob"], ordered["error_blob"]):
        if url:
            click.echo(url)
    if wait:
        _wait_for_run(client, ordered, wait)


def _parameter(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    return {"name": name, "value": value} if equals and name else {"value": text}


def _wait_for_run(client: Client, ordered: dict[str, Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    with Console(stderr=True).status(f"waiting for {ordered['name'] or ordered['handler']}"):
        while time.monotonic() < until:
            status = client.get("/api/told").get("status")
            found = seen(status, ordered["handler"], ordered["name"], ordered["sequence_number"])
            if found is not None:
                click.echo(f"{found.state}: {found.message}")
                click.echo(found.output, nl=False)
                click.echo(found.error, nl=False, err=True)
                sys.exit(0 if found.ok else 1)
            time.sleep(0.2)
    raise FabricError(f"the run did not end within {seconds:g} s; see: azfabric told")


@cli.group()
def goal() -> None:
    """The goal state as a whole."""


@goal.command("set")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@root_option
def goal_set(file: Path, root: Path) -> None:
    """Make FILE the goal state, to the letter. /docs of the portal says what it may hold.

    \b
      {"handlers": [{"name": "Contoso.Tools.Greeter", "version": "1.0.0", "settings": {"who": "world"}},
                    {"name": "Contoso.Tools.Runner", "version": "2.0.0",
                     "instances": [{"name": "a", "settings": {}},
                                   {"name": "b", "depends_on": ["Contoso.Tools.Runner/a"], "dependency_level": 1}]}]}
    """
    count = Client(root).put("/api/goal", msgspec.json.encode(_object(file)), {})["handlers"]
    click.echo(f"{count} handlers are wanted.")


@cli.group()
def fault() -> None:
    """Faults, by endpoint and name."""


@fault.command("add", epilog=_CHOICES)
@click.argument("endpoint", type=click.Choice(ENDPOINTS), metavar="ENDPOINT")
@click.argument("name", type=click.Choice(list(FAULTS)), metavar="FAULT")
@click.option("--value", type=float, help="What the fault needs: a status, seconds, bytes a second.")
@click.option("--count", type=int, help="How many answers to spoil; without it, until lifted or the host ends.")
@root_option
def fault_add(endpoint: str, name: str, value: float | None, count: int | None, root: Path) -> None:
    """Spoil the answers of an endpoint."""
    order = {"endpoint": endpoint, "fault": name, "value": value, "count": count}
    rule = Client(root).post("/api/faults", order)
    click.echo(f"Fault {rule['id']}: {endpoint} will {FAULTS[name]}.")


@fault.command("list")
@root_option
@json_option
def fault_list(root: Path, as_json: bool) -> None:
    """List the faults in force."""
    _show(Client(root).get("/api/faults"), as_json, _rows("id", "endpoint", "fault", "value", "count"))


@fault.command("clear")
@root_option
def fault_clear(root: Path) -> None:
    """Lift all faults."""
    click.echo(f"{Client(root).delete('/api/faults')['lifted']} faults lifted.")


def _wait(client: Client, added: dict[str, Any], before: int, seconds: float) -> None:
    """Ends the process with the first final status in a blob that came after so many."""
    until = time.monotonic() + seconds
    with Console(stderr=True).status(f"waiting for {added['name']}"):
        while time.monotonic() < until:
            told = client.get("/api/told")
            status, message = _reported(told["status"], added)
            # What was said before the order may be of another that was like it.
            if status in _TERMINAL and told["status_count"] > before:
                click.echo(render.plain(f"{added['name']}: {status}: {message}"))
                sys.exit(0 if status == "success" else 1)
            time.sleep(0.2)
    raise FabricError(f"{added['name']} reported no final status within {seconds:g} s; see: azfabric told")


def _reported(status: Any, added: dict[str, Any]) -> tuple[str, str]:
    """What the last blob says of this very sequence number."""
    for one in render.handlers(status):
        if one.get("handlerName") != added["name"]:
            continue
        if one.get("handlerVersion") != added["version"]:
            # The version before is in force, and what is said of it may be why.
            why = str(render.dig(one, "formattedMessage", "message") or "")
            if one.get("code") and f"update to {added['version']} failed" in why:
                return "error", why
            continue
        runtime = one.get("runtimeSettingsStatus")
        if runtime is None:
            failed = one.get("status") == "NotReady"
            done = one.get("status") == "Ready" and not added["has_settings"]
            word = "error" if failed else "success" if done else ""
            return word, str(render.dig(one, "formattedMessage", "message") or "")
        if render.dig(runtime, "sequenceNumber") == added["sequence_number"]:
            inner = render.dig(runtime, "settingsStatus", "status")
            message = render.dig(inner, "formattedMessage", "message")
            return str(render.dig(inner, "status")), str(message or "")
    return "", ""


def _object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FabricError(f"{path} is no JSON object: {error}") from error


def _opened(path: Path) -> BinaryIO:
    if path.stat().st_size > PACKAGE_LIMIT:
        raise FabricError(f"{path} is larger than {PACKAGE_LIMIT} bytes")
    return path.open("rb")


def _show(value: Any, as_json: bool, rendered: Any) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        Console().print(rendered(value))


def _rows(*names: str) -> Any:
    def table(rows: list[dict[str, Any]]) -> Table:
        found = Table(box=None, pad_edge=False, header_style="dim")
        for name in names:
            found.add_column(name.replace("_", " ").upper(), overflow="fold")
        for row in rows:
            cells = (", ".join(cell) if isinstance(cell := row.get(name), list) else str(cell) for name in names)
            found.add_row(*(Text("-" if cell == "None" else cell) for cell in cells))
        return found

    return table


cli.add_command(lab)


def main() -> None:
    """Entry point: turns our errors into a paragraph and an exit status."""
    try:
        cli(prog_name="azfabric")
    except FabricError as error:
        click.echo(f"azfabric: {error}", err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
