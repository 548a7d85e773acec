"""The commands `agentctl drill ...`."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agentctl import render
from agentctl.drill.report import Report, text, write_html, write_junit
from agentctl.errors import CommandError
from ipc.places import COMPONENTS

if TYPE_CHECKING:
    from agentctl.drill.findings import Findings
    from agentctl.drill.group.stage import Stage
    from agentctl.drill.progress import Steps

_FILE = click.Path(path_type=Path, dir_okay=False, writable=True)


@click.group()
def drill() -> None:
    """Try beforehand what updates may do to a VM: each drill has a root, a host and a process group of its own.

    Needs a checkout, no root and no network. Nothing of another root is touched, and nothing stays behind. Interrupted,
    a drill reports what it has found until then.
    """


class Reporting(msgspec.Struct, frozen=True, kw_only=True):
    """Where the report goes, and whether the stage is kept: the same for every drill."""

    as_json: bool
    junit: Path | None
    html: Path | None
    keep: bool


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that takes them as its last argument, `to`: a Reporting."""

    @functools.wraps(command)
    def with_reporting(*, as_json: bool, junit: Path | None, html: Path | None, keep: bool, **others: Any) -> None:
        command(**others, to=Reporting(as_json=as_json, junit=junit, html=html, keep=keep))

    wrapped: Callable[..., Any] = with_reporting
    for option in (
        click.option("--keep", is_flag=True, help="Leave the drill's folder with all logs, and say where it is."),
        click.option("--html", type=_FILE, help="Write the report as one page."),
        click.option("--junit", type=_FILE, help="Write the report as JUnit XML."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; progress goes to stderr."),
    ):
        wrapped = option(wrapped)
    return wrapped


def check(to: Reporting) -> None:
    """Whether the report can go there: a drill takes minutes. Raises CommandError."""
    for path in (to.junit, to.html):
        if path and not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
            why = "nothing can be written into" if path.parent.is_dir() else "there is no folder"
            raise CommandError(f"the report {path} could not be written: {why} {path.parent}")
    if to.junit and to.html and to.junit.resolve() == to.html.resolve():
        raise CommandError(f"--junit and --html both name {to.html}: give each report a file of its own")


def conclude(report: Report, to: Reporting) -> None:
    """Print and write the report, each form of it, whatever becomes of the others. Raises CommandError."""
    problems = []
    acts = [functools.partial(_print, report, to)]
    acts += [functools.partial(write_junit, report, to.junit)] if to.junit else []
    acts += [functools.partial(write_html, report, to.html)] if to.html else []
    for act in acts:
        try:
            act()
        except OSError as error:
            problems.append(f"the report cannot be printed: {error.strerror}")
        except CommandError as error:
            problems.append(str(error))
    if problems:
        raise CommandError("; ".join(problems))


def _print(report: Report, to: Reporting) -> None:
    if to.as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        render.Terminal().print(text(report))


@drill.command()
@report_options
def skew(to: Reporting) -> None:
    """Swap versions of the four, and run the contract suite in every combination.

    This checkout (N) and the last release (N-1) in all sixteen combinations, each of the four as a synthetic later
    release (N+1: unknown keys, events, requests and words) beside both, and one that speaks another protocol, which has
    to be refused with the reason. Takes about two minutes. Exit status 1 if one combination fails.
    """
    from agentctl.drill.skew import drill as this

    def play(stage: "Stage", steps: "Steps", findings: "Findings") -> None:
        releases = this.build(stage)
        this.run(stage, releases, this.plan(releases), steps, findings)

    _play("skew", this.CONFIGURATION, this.CELLS, play, to)


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
    to: Reporting,
) -> None:
    """Publish bad builds, have them tried, and see each found out and taken back without a hand.

    Each is built, signed, published and asked for by the local host. Then the version before has to answer again, the
    bad one to be on the bad list with a reason, the operator and the host to be told, no other component to be
    restarted, and the bad one not to be tried when it is offered again. Without an option the quick ones of telemetry,
    in two or three minutes; COMPONENT alone: all of that one; --all takes about 15 minutes. Exit status 1 if one stays.

    \b
      agentctl drill rollback
      agentctl drill rollback rdagent --only hangs
      agentctl drill rollback --all --junit rollback.xml
    """
    from agentctl.drill.group.updates import CONFIGURATION
    from agentctl.drill.rollback import drill as this
    from agentctl.drill.rollback.badbuilds import BUILDS

    if listing:
        for one in BUILDS:
            click.echo(f"{one.name:24}{one.what} ({', '.join(one.of)})")
        return
    choices = this.choose(component or "", only, everything=everything)

    def play(stage: "Stage", steps: "Steps", findings: "Findings") -> None:
        this.run(stage, choices, steps, findings)

    _play("rollback", CONFIGURATION, len(choices), play, to)


@drill.command()
@click.option("--component", type=click.Choice(COMPONENTS), required=True, help="The one that is swapped.")
@click.option("--times", type=click.IntRange(1, 10000), default=100, show_default=True, help="How often.")
@click.option(
    "--load/--no-load", default=True, show_default=True, help="Events, run commands and operations meanwhile."
)
@report_options
def swap(component: str, times: int, load: bool, to: Reporting) -> None:
    """Swap two good builds of a component back and forth, and count what is lost, doubled, late or left behind.

    Every event has to be in the journal once, every run command and operation to be done once and whole, the others to
    keep their processes, nothing to grow and no process to be left over. An operation runs across each swap. Every
    tenth swap goes through the whole updater (all of rdagent's).
    """
    from agentctl.drill.swap import drill as this

    def play(stage: "Stage", steps: "Steps", findings: "Findings") -> None:
        built = this.build(stage, component)
        this.run(stage, component, built, times, steps, findings, full=load)

    _play("swap", this.CONFIGURATION, times, play, to)


@drill.command()
@click.option("--only", multiple=True, metavar="NAME", help="Only this outage; repeatable.")
@click.option("--list", "listing", is_flag=True, help="The outages there are.")
@report_options
def blackout(only: tuple[str, ...], listing: bool, to: Reporting) -> None:
    """Have the repository and the host's manifests away or lying, across restarts; then have them return.

    Nothing may change but what the status says of the repository; the version before has to come back from the disk;
    and after the return the version that is wanted has to arrive by itself. Exit status 1 if that is not so.
    """
    from agentctl.drill.blackout import drill as this
    from agentctl.drill.blackout.outages import OUTAGES
    from agentctl.drill.group.updates import CONFIGURATION

    if listing:
        for one in OUTAGES:
            click.echo(f"{one.name:20}{one.what}")
        return
    outages = this.choose(only)

    def play(stage: "Stage", steps: "Steps", findings: "Findings") -> None:
        this.run(stage, outages, steps, findings)

    _play("blackout", CONFIGURATION, len(outages), play, to)


def _play(
    name: str, configuration: str, total: int, run: "Callable[[Stage, Steps, Findings], None]", to: Reporting
) -> None:
    """On a stage of its own, with progress; then the report, of what there is, whatever ended it.

    Exits with 1 if something was not as it has to be, or was interrupted. Raises CommandError.
    """
    from agentctl.drill.findings import Findings
    from agentctl.drill.group.stage import Stage
    from agentctl.drill.progress import steps

    check(to)
    console, findings = render.Terminal(stderr=to.as_json), Findings(name)
    try:
        with Stage(configuration, keep=to.keep) as stage, steps(console, total) as progress, findings.through(progress):
            if to.keep:
                console.print(f"The drill's folder: {stage.root}", highlight=False)
            console.print(f"The drill's settings: {' '.join(configuration.split())}", highlight=False, markup=False)
            run(stage, progress, findings)
    except KeyboardInterrupt:
        if not findings.begun:
            raise
    finally:
        # Whatever ends it, minutes of findings are not thrown away.
        if findings.begun:
            conclude(findings.report(), to)
    sys.exit(0 if findings.report().well else 1)
