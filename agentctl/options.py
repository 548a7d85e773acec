"""Options that every command has."""

from pathlib import Path

import click

from agentctl.deployment import Deployment, choose


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
