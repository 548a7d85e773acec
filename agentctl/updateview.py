"""How versions look on a terminal."""

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl import moments
from agentctl.deployment import Deployment
from agentctl.following import Progress
from agentctl.render import duration
from ipc.contract.rdagent import RepositoryView, UpdateEvent, UpdatePlan, Updates, UpdateView
from release.manifest import same_version

_BASE = "base install"
_STYLES = {
    "settled": "green",
    "runs": "green",
    "waiting": "cyan",
    "looking": "cyan",
    "fetching": "cyan",
    "on trial": "cyan",
    "coming back": "yellow",
    "not now": "yellow",
    "in trouble": "yellow",
    "refused": "yellow",
    "rolled back": "bold red",
}
_DIGEST = 12


def wants_attention(view: UpdateView) -> bool:
    """Whether something is refused, came back, or is not as it should be. What the operator himself pinned or holds is
    as he wants it, unless the version in force is damaged.
    """
    if view.state == "refused" and not view.damage:
        return not (view.pinned or view.held)
    return view.state == "rolled back" or bool(view.damage) or is_in_trouble(view)


def is_in_trouble(view: UpdateView) -> bool:
    """Whether what is in force does not run, though nothing else is wanted or may begin."""
    return bool(view.why if view.state == "settled" else view.damage and view.state == "refused")


def status(found: Updates, deployment: Deployment, *, from_records: bool) -> RenderableType:
    """Every component in a line, then what there is to say of some."""
    lines: list[Text] = []
    if found.held:
        off = deployment.command("agentctl update hold --off")
        lines.append(Text(f"All updates are held{_lasts(found.held_until)}. End it: {off}"))
    for one in found.components:
        lines += _lines(one, deployment, apart=one.held and not (found.held and one.held_until == found.held_until))
    if not from_records:
        lines.append(_repository(found.repository))
    told = tuple(filter(None, (why for one in found.components for why in (one.why, one.damage))))
    lines += [Text(f"! {one}", style="yellow") for one in found.problems if not one.startswith(told)]
    return Group(_components(found.components, from_records=from_records), Text(), *lines)


def _components(components: Sequence[UpdateView], *, from_records: bool) -> Table:
    table = _table("COMPONENT", "STATE", "RUNNING", "CURRENT", "PREVIOUS", "WANTED", "BY")
    for one in components:
        previous = one.previous or (_BASE if one.current else "-")
        running = one.running or ("?" if from_records else "-")
        word = "in trouble" if is_in_trouble(one) else one.state
        state = Text("?" if from_records and word == "settled" else word, style=_STYLES[word])
        table.add_row(
            one.component, state, running, one.current or _BASE, previous, one.wanted or "-", one.wanted_by or "-"
        )
    return table


def _lines(one: UpdateView, deployment: Deployment, *, apart: bool) -> list[Text]:
    """`apart`: a hold of its own is in force, which lasts longer than that on all."""
    name, lines = one.component, []
    if one.trial:
        trial = one.trial
        well = f"well for {trial.well_seconds:.0f} s of {trial.needed_seconds:.0f} s, " if trial.needed_seconds else ""
        lines.append(Text(f"{name} {trial.version} is on trial: {well}{trial.tries_left} starts left", style="cyan"))
    if one.pinned:
        off = deployment.command(f"agentctl update pin {name} --off")
        lines.append(Text(f"{name} is pinned to {one.pinned}. End it: {off}"))
    if apart:
        off = deployment.command(f"agentctl update hold {name} --off")
        lines.append(Text(f"Updates of {name} are held{_lasts(one.held_until)}. End it: {off}"))
    if one.why:
        lines.append(cause(name, one.why, one.lift, deployment))
    if one.damage not in {"", one.why}:
        lines.append(cause(name, one.damage, one.mend, deployment))
    if others := [version for version in one.staged if version not in {one.current, one.previous}]:
        lines.append(Text(f"  on disk: {name} {', '.join(others)}", style="dim"))
    for bad in one.bad:
        ends = f"until {moments.shown(bad.expires)}" if bad.expires is not None else "for good"
        text = f"  bad list: {name} {bad.version} ({bad.digest[:_DIGEST]}) {ends}: {bad.reason}"
        lines.append(Text(text, style="dim"))
    return lines


def _lasts(until: float | None) -> str:
    return f" until {moments.shown(until)}" if until is not None else ""


def cause(name: str, why: str, lift: str, deployment: Deployment) -> Text:
    """One line: what stands in the way, and what would change that."""
    return Text(f"! {name}: {why}" + (f". Next: {deployment.command(lift)}" if lift else ""), style="yellow")


def after_unblock(view: UpdateView | None, component: str, version: str, deployment: Deployment) -> str:
    """One line: what happens now that `version` (empty: all) is off the bad list. `view`: None without rdagent."""
    if view is None:
        return "rdagent does not answer; once it runs again, it tries at once what is wanted then."
    if view.state == "fetching" or view.trial:
        busy = f"{view.trial.version} is on trial" if view.trial else f"{view.wanted} is fetched"
        return f"{component} {busy}; nothing else is begun before that has ended."
    if not view.wanted or same_version(view.wanted, view.running):
        now = deployment.command(f"agentctl update now {component} {version or 'VERSION'}")
        return f"Nobody wants another version of {component} now. To have it tried: {now}"
    wanted = f"{component} {view.wanted} is wanted by the {view.wanted_by}"
    if view.state == "waiting" and not view.why:
        return f"{wanted} and is tried at once: {deployment.command('agentctl update status')}"
    lift = f". Next: {deployment.command(view.lift)}" if view.lift else ""
    return f"{wanted} and {'waits' if view.state == 'waiting' else 'is not tried'}: {view.why}{lift}"


def _repository(one: RepositoryView) -> Text:
    text = Text("Repository ")
    if not one.url:
        return text.append("none is configured ([update] repository); the host may still ask for versions", style="dim")
    if one.problem:
        # Between two looks lies up to `check_period`: nobody knows when it went away.
        at = one.reached_at
        last = "not reached since rdagent started" if at is None else f"last reached {moments.shown(at)}"
        return text.append(f"unreachable, {last}: {one.problem}; what runs goes on running", style="yellow")
    if one.reached_at is None:
        return text.append(f"{one.url}, not looked at yet", style="dim")
    return text.append(f"{one.url}, reached {duration(max(0, round(time.time() - one.reached_at)))} ago")


def plan(found: UpdatePlan, deployment: Deployment) -> RenderableType:
    """In the order in which it would be done."""
    table = _table("COMPONENT", "FROM", "TO", "BY", "WHEN", "WHY NOT", "NEXT")
    for one in found.steps:
        when = "-" if not one.to_version else "not before something is done" if one.at is None else _when(one.at)
        if one.at is None and one.to_version and not one.lift:
            when = "after that"
        lift = deployment.command(one.lift) if one.lift else ""
        table.add_row(
            one.component, one.from_version or "-", one.to_version or "-", one.wanted_by or "-", when, one.blocked, lift
        )
    if not any(one.to_version for one in found.steps):
        return Group(table, Text("Nothing would change."))
    return table


def _when(at: float) -> str:
    return "now" if at <= time.time() + 1 else moments.shown(at)


def history(events: Sequence[UpdateEvent]) -> RenderableType:
    """Oldest first."""
    if not events:
        return Text("Nothing was tried yet.")
    table = _table("WHEN", "COMPONENT", "WHAT", "VERSION", "FROM", "BY", "WELL", "TOOK", "MESSAGE")
    for one in events:
        well = Text("yes", style="green") if one.ok else Text("no", style="bold red")
        took = "" if one.seconds is None else f"{one.seconds:.1f} s"
        table.add_row(
            moments.shown(one.at),
            one.component,
            one.phase,
            one.version,
            one.from_version or "-",
            one.wanted_by or "-",
            well,
            took,
            Text(" ".join(one.message.split())[:300]),
        )
    return table


def progress(found: Sequence[Progress], deployment: Deployment) -> RenderableType:
    """A line each."""
    return Group(*(progress_line(one, deployment) for one in found))


def progress_line(one: Progress, deployment: Deployment) -> Text:
    line = Text(f"{one.component:11}").append(f"{one.state:12}", style=_STYLES[one.state]).append(one.text)
    return line.append(f". Next: {deployment.command(one.lift)}") if one.lift else line


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
