"""The commands `agentctl drill ...`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agentctl import render
from agentctl.drill.report import Report, text, write_html, write_junit
from ipc.places import COMPONENTS

if TYPE_CHECKING:
    from agentctl.drill.progress import Steps
    from agentctl.drill.stage import Stage

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.group()
def drill() -> None:
    """Try beforehand what updates may do to a VM: each drill has a root, a host and a process group of its own.

    Needs a checkout, no root and no network. Nothing of another root is touched, and nothing stays behind.
    """


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the report goes, and whether the stage is kept: the same for every drill."""
    for option in (
        click.option("--keep", is_flag=True, help="Leave the drill's folder with all logs, and say where it is."),
        click.option("--html", type=_FILE, help="Write the report as one page."),
        click.option("--junit", type=_FILE, help="Write the report as JUnit XML."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; progress goes to stderr."),
    ):
        command = option(command)
    return command


def conclude(report: Report, *, as_json: bool, junit: Path | None, html: Path | None) -> None:
    """Print and write the report, and exit with 1 if anything was not as it has to be. Raises CommandError."""
    # First to where it cannot fail: a drill takes minutes.
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        render.Terminal().print(text(report))
    if junit:
        write_junit(report, junit)
    if html:
        write_html(report, html)
    sys.exit(1 if report.failed else 0)


@drill.command()
@report_options
def skew(as_json: bool, junit: Path | None, html: Path | None, keep: bool) -> None:
    """Swap versions of the four, and run the contract suite in every combination.

    This checkout (N) and the last release (N-1) in all sixteen combinations, each of the four as a synthetic later
    release (N+1: unknown keys, events, requests and words) beside both, and one that speaks another protocol, which has
    to be refused with the reason. Takes about a minute. Exit status 1 if one combination fails.
    """
    from agentctl.drill import skew as this
    from agentctl.drill.progress import steps
    from agentctl.drill.stage import Stage

    console = render.Terminal(stderr=as_json)
    with Stage(this.CONFIGURATION, keep=keep) as stage:
        if keep:
            console.print(f"The drill's folder: {stage.root}", highlight=False)
        releases = this.build(stage)
        cells = this.plan(releases)
        with steps(console, len(cells)) as progress:
            report = this.run(stage, releases, cells, progress)
    conclude(report, as_json=as_json, junit=junit, html=html)


@drill.command()
@click.argument("component", type=click.Choice(COMPONENTS), required=False)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this bad build, of COMPONENT (telemetry); repeatable."
)
@click.option("--all", "everything", is_flag=True, help="Every bad build of telemetry, a handful of each other one.")
@click.option("--list", "listing", is_flag=True, help="The bad builds there are.")
@report_options
def rollback(
    component: str | None,
    only: tuple[str, ...],
    everything: bool,
    listing: bool,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
    keep: bool,
) -> None:
    """Publish bad builds, have them tried, and see each found out and taken back without a hand.

    Each is built, signed, published and asked for by the local host. Then the version before has to answer again, the
    bad one to be on the bad list with a reason, the operator and the host to be told, no other component to be
    restarted, and the bad one not to be tried when it is offered again. Without an option the quick ones of telemetry,
    in two or three minutes; COMPONENT alone: all of that one; --all takes about 12 minutes. Exit status 1 if one stays.

    \b
      agentctl drill rollback
      agentctl drill rollback rdagent --only hangs
      agentctl drill rollback --all --junit rollback.xml
    """
    from agentctl.drill import rollback as this
    from agentctl.drill.badbuilds import BUILDS
    from agentctl.drill.updates import CONFIGURATION

    if listing:
        for one in BUILDS:
            click.echo(f"{one.name:24}{one.what} ({', '.join(one.of)})")
        return
    choices = this.choose(component or "", only, everything=everything)
    _play(CONFIGURATION, len(choices), lambda stage, steps: this.run(stage, choices, steps), as_json, junit, html, keep)


@drill.command()
@click.option("--component", type=click.Choice(COMPONENTS), required=True, help="The one that is swapped.")
@click.option("--times", type=click.IntRange(1, 10000), default=100, show_default=True, help="How often.")
@click.option(
    "--load/--no-load", default=True, show_default=True, help="Events, run commands and operations meanwhile."
)
@report_options
def swap(
    component: str, times: int, load: bool, as_json: bool, junit: Path | None, html: Path | None, keep: bool
) -> None:
    """Swap two good builds of a component back and forth, and count what is lost, doubled, late or left behind.

    Every event has to be in the journal once, every run command and operation to be done once, the others to keep
    their processes, and nothing to grow. Every tenth swap goes through the whole updater (all of rdagent's).
    """
    from agentctl.drill import swap as this

    def play(stage: "Stage", steps: "Steps") -> Report:
        return this.run(stage, component, times, steps, full=load)

    _play(this.CONFIGURATION, times, play, as_json, junit, html, keep)


@drill.command()
@click.option("--only", multiple=True, metavar="NAME", help="Only this outage; repeatable.")
@click.option("--list", "listing", is_flag=True, help="The outages there are.")
@report_options
def blackout(
    only: tuple[str, ...], listing: bool, as_json: bool, junit: Path | None, html: Path | None, keep: bool
) -> None:
    """Have the repository and the host's manifests away or lying, across restarts; then have them return.

    Nothing may change but what the status says of the repository; the version before has to come back from the disk;
    and after the return the version that is wanted has to arrive by itself. Exit status 1 if that is not so.
    """
    from agentctl.drill import blackout as this
    from agentctl.drill.outages import OUTAGES
    from agentctl.drill.updates import CONFIGURATION

    if listing:
        for one in OUTAGES:
            click.echo(f"{one.name:20}{one.what}")
        return
    outages = this.choose(only)
    _play(CONFIGURATION, len(outages), lambda stage, steps: this.run(stage, outages, steps), as_json, junit, html, keep)


def _play(
    configuration: str,
    total: int,
    run: "Callable[[Stage, Steps], Report]",
    as_json: bool,
    junit: Path | None,
    html: Path | None,
    keep: bool,
) -> None:
    """On a stage of its own, with progress. Raises CommandError."""
    from agentctl.drill.progress import steps
    from agentctl.drill.stage import Stage

    console = render.Terminal(stderr=as_json)
    with Stage(configuration, keep=keep) as stage:
        if keep:
            console.print(f"The drill's folder: {stage.root}", highlight=False)
        console.print(f"The drill's settings: {' '.join(configuration.split())}", highlight=False, markup=False)
        with steps(console, total) as progress:
            report = run(stage, progress)
    conclude(report, as_json=as_json, junit=junit, html=html)
