"""What the commands share: which host, which VM, how it is shown."""

import codecs
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabric.client import Client
from fabric.errors import FabricError

_CHECKOUT = Path(__file__).resolve().parent.parent

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: _CHECKOUT / ".azvmagent" if (_CHECKOUT / "pyproject.toml").is_file() else Path(".azvmagent"),
    show_default=".azvmagent of this checkout, else of this directory",
    help="Where the host keeps its state; the same as agentctl's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


def client_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--root and --vm; the command is given a `client` that knows both."""

    @root_option
    @click.option("--vm", default="", metavar="NAME", help="Which VM; may be left out if there is one.")
    @functools.wraps(command)
    def with_client(*arguments: Any, root: Path, vm: str, **options: Any) -> Any:
        return command(*arguments, client=Client(root, vm), **options)

    return with_client


fast_track_option = click.option(
    "--fast-track", is_flag=True, help="Deliver by vmSettings instead of a new incarnation."
)


def warn_of_fast_track(client: Client, *, used: bool) -> None:
    """Say it if an order went by FastTrack to a VM that never looked there."""
    if used and not client.get("/api/told?events=0")["requests"].get("vmsettings"):
        click.echo(
            "Warning: this VM has never asked for vmSettings, so its agent seems to have no FastTrack. It learns of "
            "this with the next goal state of the fabric (any order without --fast-track); without one, never.",
            err=True,
        )


def json_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FabricError(f"{path} is no JSON object: {error}") from error


def show(value: Any, as_json: bool, rendered: Any) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        Console().print(rendered(value))


def tell(value: Any, as_json: bool, sentence: str) -> None:
    """What came of an order: a sentence for people."""
    if as_json:
        show(value, as_json, None)
    else:
        click.echo(sentence)


def rows(*names: str) -> Any:
    def table(rows: list[dict[str, Any]]) -> Table:
        found = Table(box=None, pad_edge=False, header_style="dim")
        for name in names:
            found.add_column(name.replace("_", " ").upper(), overflow="fold")
        for row in rows:
            cells = (", ".join(cell) if isinstance(cell := row.get(name), list) else str(cell) for name in names)
            found.add_row(*(Text("-" if cell == "None" else cell) for cell in cells))
        return found

    return table
