"""`agentctl update`: which versions run, what is wanted and what is in the way; and the operator's word on it."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from agentctl import firstlook, moments, records, updateview
from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.errors import Declined, NothingThere, WrongUse
from agentctl.firstlook import LOOK_WITHIN
from agentctl.following import Progress, described, follow, is_older, pin_command
from agentctl.goingback import gone_back
from agentctl.options import json_option, root_option, told_as_json, version_argument
from agentctl.render import Terminal
from agentctl.watching import impatience, watched
from ipc.contract.rdagent import (
    GetUpdateHistory,
    HoldUpdates,
    PinVersion,
    RepositoryView,
    UnblockVersion,
    UpdateNow,
    UpdatePlan,
    Updates,
)
from ipc.places import COMPONENTS

_COMPONENT = click.Choice(COMPONENTS)


@click.group()
def update() -> None:
    """Versions of the components: what runs, what is wanted, what is in the way.

    \b
      agentctl update status                     what runs, and why it is not what is wanted
      agentctl update now                        look, and begin at once; --no-wait does not watch
      agentctl update now telemetry 0.9.0        this very version, also an older one
      agentctl update hold --for 2h              begin nothing for two hours
      agentctl update rollback telemetry         the version before, from the disk

    A new version is on trial first: it has to be well for a while (trial_seconds), else the one before comes back by
    itself and the new one goes on the bad list. status, rollback and unblock work without rdagent, too.
    """


@update.command()
@root_option
@json_option
def status(deployment: Deployment, as_json: bool) -> None:
    """Show each component's versions, and why what is wanted does not run.

    Exit status for scripts: 0 all is as it is wanted, or on its way, waits for its ring, or is pinned or held by you;
    1 a version came back or is refused, or what is in force does not run (in trouble); 3 rdagent does not answer, or
    has just started and not looked yet: shown is what the records on disk say. A repository that is away is no reason
    for 1: what runs goes on running.
    """
    try:
        found, absent = firstlook.seen(deployment), ""
    except NothingThere as error:
        if not deployment.places.state.is_dir():
            raise
        found, absent = Updates(components=records.views(deployment), repository=RepositoryView()), str(error)
    if as_json:
        shape = {"source": "records" if absent else "rdagent", **msgspec.structs.asdict(found)}
        _print_json(shape)
    else:
        Terminal().print(updateview.status(found, deployment, from_records=bool(absent)))
    if absent:
        raise NothingThere(f"{absent}\nShown is what the records on disk say: what starts next.")
    sys.exit(1 if any(updateview.wants_attention(one) for one in found.components) else 0)


@update.command()
@root_option
@json_option
def plan(deployment: Deployment, as_json: bool) -> None:
    """Show what would change, when, and what blocks it. Changes nothing.

    Exit status 3: rdagent does not answer, or has just started and not looked yet.
    """
    found = firstlook.planned(deployment)
    if as_json:
        _print_json(found)
    else:
        Terminal().print(updateview.plan(found, deployment))


@update.command()
@click.argument("component", type=_COMPONENT, required=False)
@version_argument
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Until it runs or has come back; else only until it is known whether it begins.",
)
@root_option
@json_option
def now(component: str | None, version: str, wait: bool, deployment: Deployment, as_json: bool) -> None:
    """Look what is there and begin at once: no window, no jitter, no ring.

    Without COMPONENT: whatever is wanted of all four. With VERSION: this one, be it older, down to the floor of what
    runs; an older one stays only if it is pinned as well, before or after: agentctl update pin. Exit status 1 if it
    came back, is refused or cannot begin now; also if the repository could not be asked, unless what runs is what
    you named, or what the host or you want. What cannot begin for want of room, of its package or of a lock is tried
    again by itself, see `status`. Ctrl-C ends the watching only.
    """
    since = time.time()
    names = [component] if component else list(COMPONENTS)
    with impatience(deployment):
        begun = ask(deployment, UpdateNow(component=component or "", version=version), within=10.0)
        if wait:
            found = watched(deployment, names, version, since, quiet=as_json)
        else:
            found = follow(deployment, names, version, since, lambda _: None, to_the_end=False)
    well = {one.component: one.ok or not (wait or one.over) for one in found}
    if as_json:
        _print_json([{**msgspec.structs.asdict(one), "ok": well[one.component]} for one in found])
    else:
        Terminal().print(updateview.progress(found, deployment))
        if not wait:
            _leave(begun, [one for one in found if not one.over], version, deployment)
    sys.exit(0 if all(well.values()) else 1)


@update.command()
@click.argument("component", type=_COMPONENT)
@version_argument
@click.option("--off", is_flag=True, help="No longer.")
@root_option
@json_option
def pin(component: str, version: str, off: bool, deployment: Deployment, as_json: bool) -> None:
    """Let COMPONENT be updated to VERSION only, whoever wants another."""
    if bool(version) == off:
        raise WrongUse("name a VERSION, or say --off")
    found = ask(deployment, PinVersion(component=component, version=version))
    said = f"{component} is pinned to {version}." if version else f"{component} is pinned no longer."
    _acknowledge(found, said, deployment, as_json=as_json)


@update.command()
@click.argument("component", type=_COMPONENT, required=False)
@click.option("--until", "until", default="", metavar="TIME", help="UTC, e.g. '2026-11-30 22:00'.")
@click.option("--for", "span", default="", metavar="LENGTH", help="E.g. 30m, 2h, 1d12h.")
@click.option("--off", is_flag=True, help="No longer.")
@root_option
@json_option
def hold(component: str | None, until: str, span: str, off: bool, deployment: Deployment, as_json: bool) -> None:
    """Begin no update, of COMPONENT or of any. What is on trial goes on.

    Without --until or --for it lasts until --off. The hold on all and those on single components are apart: each is
    ended by its own name.
    """
    if [bool(until), bool(span), off].count(True) > 1:
        raise WrongUse("--until, --for and --off exclude each other")
    try:
        end = moments.moment(until) if until else time.time() + moments.span(span) if span else None
    except ValueError as error:
        raise WrongUse(str(error)) from error
    found = ask(deployment, HoldUpdates(component=component or "", on=not off, until=end))
    what = f"Updates of {component}" if component else "All updates"
    lasts = f"until {moments.shown(end)}" if end is not None else "until you say --off"
    said = f"{what} are held no longer." if off else f"{what} are held {lasts}."
    _acknowledge(found, said, deployment, as_json=as_json)


@update.command()
@click.argument("component", type=_COMPONENT)
@version_argument
@root_option
@json_option
def unblock(component: str, version: str, deployment: Deployment, as_json: bool) -> None:
    """Take VERSION, or all, off the bad list of COMPONENT, and say what happens next: what the channel, the host or you
    still want is tried at once, if nothing else is in the way. Works without rdagent, too.
    """
    with told_as_json(as_json):
        try:
            found = ask(deployment, UnblockVersion(component=component, version=version), within=LOOK_WITHIN)
            view = next((one for one in found.components if one.component == component), None)
        except NothingThere:
            records.unblock(deployment, component, version)
            found, view = Updates(components=records.views(deployment), repository=RepositoryView()), None
        except Declined as error:
            raise Declined(f"{error}. See: {deployment.command('agentctl update status')}") from error
    after = updateview.after_unblock(view, component, version, deployment)
    if as_json:
        _print_json({**msgspec.structs.asdict(found), "next": after})
    else:
        click.echo(f"{f'{component} {version}'.strip()} is off the bad list.\n{after}")


@update.command()
@click.argument("component", type=_COMPONENT)
@click.option("--reason", default="asked by the operator", show_default=True, help="For the bad list and the history.")
@root_option
@json_option
def rollback(component: str, reason: str, deployment: Deployment, as_json: bool) -> None:
    """Go back to the version before, from the disk, and wait until it answers. The current one goes on the bad list.
    Refused below the floor of the current one: what that wrote, an older one cannot read; and where somebody else has
    gone back meanwhile.

    It needs neither the repository nor the host. Where rdagent does not answer, the record is changed and supervisord
    starts COMPONENT anew; where supervisord does not either, the record says what starts next. Exit status 1 if another
    version runs then than the record says, because that is damaged on the disk.
    """
    with told_as_json(as_json):
        # Read first: whoever gives it up meanwhile is not to have us give up the next one.
        given_up = records.to_give_up(deployment, component)
        before = described(deployment, component)
        version = gone_back(deployment, component, given_up, before, reason)
    was = before.version if before else given_up
    why = records.why_another_runs(deployment, component, version) if version else ""
    if as_json:
        told = {"component": component, "from_version": was, "version": version, "running": bool(version), "why": why}
        _print_json(told)
    elif why:
        click.echo(f"{component} {version} runs" + (f", instead of {was}: {why}." if was else f": {why}."))
    elif version:
        click.echo(f"{component} {version} runs again" + (f", instead of {was}." if was else "."))
    else:
        click.echo(f"{component}: the version before starts with the group: {deployment.up_command}")
    sys.exit(1 if why else 0)


@update.command()
@click.argument("component", type=_COMPONENT, required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="So many lines, the newest.")
@root_option
@json_option
def history(component: str | None, limit: int, deployment: Deployment, as_json: bool) -> None:
    """List what was tried and how it ended, oldest first."""
    events = ask(deployment, GetUpdateHistory(component=component or "", limit=limit)).events
    if as_json:
        _print_json(events)
    else:
        Terminal().print(updateview.history(events))


def _leave(begun: UpdatePlan, going_on: Sequence[Progress], version: str, deployment: Deployment) -> None:
    """What there is to say of updates that are not watched; `begun`: what was known of them before."""
    ran = {one.component: one.from_version for one in begun.steps}
    for one in going_on:
        if is_older(version, ran.get(one.component, "")):
            pinning = deployment.command(pin_command(one.component, version))
            click.echo(f"{version} is older than what runs; a newer one is taken again, unless: {pinning}")
    if going_on:
        click.echo(f"See: {deployment.command('agentctl update status')}")


def _acknowledge(found: Updates, said: str, deployment: Deployment, *, as_json: bool) -> None:
    if as_json:
        _print_json(found)
        return
    click.echo(said)
    for one in found.components:
        if one.state == "refused" and one.why:
            Terminal().print(updateview.cause(one.component, one.why, one.lift, deployment))


def _print_json(found: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
