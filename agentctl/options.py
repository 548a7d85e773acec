"""Options that every command has."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from agentctl.deployment import Deployment, choose
from agentctl.errors import CommandError
from release.manifest import is_version


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


def _version(_: click.Context, __: click.Parameter, word: str | None) -> str:
    """Empty only where it is left out; an empty word is junk like another: of a script whose variable is not set."""
    if word is not None and not is_version(word):
        raise click.BadParameter(f"{word[:64]!r} is no version: write two to four numbers, e.g. 0.2.0")
    return word or ""


version_argument = click.argument("version", required=False, callback=_version)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


@contextmanager
def told_as_json(as_json: bool) -> Iterator[None]:
    """A refusal as JSON on standard output, too: `ok` is false, `why` says why. Standard error has it as ever."""
    try:
        yield
    except CommandError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "why": str(error)}, indent=2))
        raise
