"""`azfabric fault`: what goes wrong, by name."""

import textwrap

import click

from fabric.client import Client
from fabric.faults import ENDPOINTS, FAULTS, GROUPS
from fabric.options import client_option, json_option, rows, show, tell

_CHOICES = "\n".join(
    [
        "\b\nFaults:",
        *(f"  {name:18} {meaning}" for name, meaning in FAULTS.items()),
        "\n\b\nEndpoints:",
        *(f"  {line}" for line in textwrap.wrap(", ".join(ENDPOINTS), 76)),
        "\n\b\nGroups of them:",
        *(f"  {line}" for line in textwrap.wrap(", ".join(GROUPS), 76)),
    ]
)
"""What `fault add` may be told."""


@click.group()
def fault() -> None:
    """Faults, by endpoint and name."""


@fault.command("add", epilog=_CHOICES)
@click.argument("endpoint", type=click.Choice([*GROUPS, *ENDPOINTS]), metavar="ENDPOINT")
@click.argument("name", type=click.Choice(list(FAULTS)), metavar="FAULT")
@click.option("--value", type=float, help="What the fault needs: a status, seconds, bytes a second.")
@click.option("--count", type=int, help="How many answers to spoil; without it, until lifted or the host ends.")
@click.option("--skip", type=click.IntRange(0), default=0, help="Leave so many requests alone first.")
@click.option("--after", "wait", type=click.FloatRange(0), default=0.0, help="Begin after so many seconds.")
@click.option("--for", "last", type=click.FloatRange(0, min_open=True), help="End so many seconds later.")
@click.option(
    "--probability", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Of each request; drawn by --seed."
)
@click.option("--seed", type=int, default=0, help="The same seed spoils the same requests.")
@client_option
@json_option
def fault_add(endpoint: str, name: str, client: Client, as_json: bool, **order: int | float | None) -> None:
    """Spoil the answers of an endpoint, or of a group of them; for all VMs, or one (--vm).

    \b
    A blackout of every artifact, for a minute:
      azfabric fault add artifacts status --value 403 --for 60
    """
    rule = client.post("/api/faults", {"endpoint": endpoint, "fault": name, "vm": client.vm, **order})
    meaning = FAULTS[name].replace("VALUE", f"{rule['value']:g}" if rule["value"] is not None else "")
    tell(rule, as_json, f"Fault {rule['id']}: {endpoint} will {meaning}.")


@fault.command("list")
@client_option
@json_option
def fault_list(client: Client, as_json: bool) -> None:
    """List the faults in force."""
    shown = rows("id", "vm", "endpoint", "fault", "value", "left", "probability")
    show(client.get("/api/faults"), as_json, shown)


@fault.command("lift")
@click.argument("number", type=int)
@client_option
@json_option
def fault_lift(number: int, client: Client, as_json: bool) -> None:
    """Lift the fault of that NUMBER."""
    tell(client.delete(f"/api/faults/{number}"), as_json, f"Fault {number} is lifted.")


@fault.command("clear")
@client_option
@json_option
def fault_clear(client: Client, as_json: bool) -> None:
    """Lift all faults."""
    found = client.delete("/api/faults")
    tell(found, as_json, f"{found['lifted']} faults lifted.")
