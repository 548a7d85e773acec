"""`agentctl net`: the network as netagent sees it, what it would change, and its switch."""

import sys

import click
import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl import render
from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.options import json_option, root_option
from ipc.contract.netagent import (
    ChangeView,
    GetNetwork,
    Network,
    NetworkPlan,
    PlanNetwork,
    RepairNetwork,
    SwitchNetwork,
)

_ACT_WITHIN = 15.0
_OURS = 168


@click.group()
def net() -> None:
    """The network: what it is, what netagent would change, and why.

    \b
      agentctl net show      NICs, leases, routes to the host, name servers, firewall, probes
      agentctl net plan      what would be changed now; nothing is
      agentctl net repair    change it now, also what is held back
      agentctl net off, on   take back everything of ours, and begin again
    """


@net.command()
@root_option
@json_option
def show(deployment: Deployment, as_json: bool) -> None:
    """Show the network. Exit status 1 if netagent has something to complain about."""
    found = ask(deployment, GetNetwork())
    if as_json:
        _print_json(found)
    else:
        render.Terminal().print(_picture(found))
    sys.exit(1 if found.problems or found.held else 0)


@net.command()
@root_option
@json_option
def plan(deployment: Deployment, as_json: bool) -> None:
    """Show what would be changed, and why; in mode observe, what repair would. Changes nothing."""
    found = ask(deployment, PlanNetwork())
    if as_json:
        _print_json(found)
        return
    terminal = render.Terminal()
    terminal.print(_mode(found.mode, found.why))
    if found.mode in {"observe", "off"} and found.changes:
        terminal.print(Text("Nothing of this is done in this mode; once, with: agentctl net repair", style="yellow"))
    terminal.print(_changes(found) if found.changes else Text("Nothing to change."))
    terminal.print(_problems(found.problems))


@net.command()
@root_option
@json_option
def repair(deployment: Deployment, as_json: bool) -> None:
    """Make the changes `plan` shows, now. Exit status 1 if something could not be done."""
    _act(deployment, RepairNetwork(), "Nothing to repair.", as_json=as_json)


@net.command()
@root_option
@json_option
def off(deployment: Deployment, as_json: bool) -> None:
    """Take back addresses, routes, rules, name servers and firewall of netagent's, until `on`.

    In mode own this takes the VM off the network.
    """
    _act(deployment, SwitchNetwork(on=False), "Nothing of netagent's was there.", as_json=as_json)


@net.command()
@root_option
@json_option
def on(deployment: Deployment, as_json: bool) -> None:
    """Have netagent do what is configured, after `off`."""
    _act(deployment, SwitchNetwork(on=True), "netagent does what is configured.", as_json=as_json)


def _act(deployment: Deployment, request: RepairNetwork | SwitchNetwork, nothing: str, *, as_json: bool) -> None:
    found = ask(deployment, request, within=_ACT_WITHIN)
    if as_json:
        _print_json(found)
    else:
        terminal = render.Terminal()
        terminal.print(_changes(found) if found.changes else Text(nothing))
        terminal.print(_problems(found.problems))
    sys.exit(1 if found.problems else 0)


def _print_json(found: Network | NetworkPlan) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


def _picture(found: Network) -> RenderableType:
    parts: list[RenderableType] = [_mode(found.mode, found.why), _host(found), Text(), _nics(found)]
    if found.leases:
        parts += [Text(), _leases(found)]
    parts += [Text(), _routes(found), Text(), _names(found)]
    if found.firewall is not None:
        counts = ", ".join(f"{name} {count}" for name, count in found.firewall.packets.items())
        parts.append(Text(f"Firewall     {found.firewall.state}{': ' + counts if counts else ''}"))
    for probe in found.probes:
        told = f"{probe.probes} probes, the last from {probe.last_source}" if probe.probes else "no probe yet"
        parts.append(Text(f"Probe port   {probe.port}: {probe.problem or told}"))
    if found.held:
        parts += [Text(), *(Text(f"! {one.what}: {one.held}", style="yellow") for one in found.held)]
    parts.append(_problems(found.problems))
    return Group(*parts)


def _mode(mode: str, why: str) -> Text:
    return Text.assemble("Mode         ", (mode, "bold"), f"   {why}")


def _host(found: Network) -> Text:
    answers = {True: ("answers", "green"), False: ("does not answer", "bold red"), None: ("was not asked", "dim")}
    where = f"   by {found.wireserver.found_in}, {found.wireserver.detail}"
    return Text.assemble("WireServer   ", found.wireserver.url, where, "   ", answers[found.reachable])


def _nics(found: Network) -> Table:
    table = _table("NIC", "STATE", "ADDRESSES", "MAC", "MTU", "CONFIGURED BY")
    for link in found.links:
        if link.mac in {"", "00:00:00:00:00:00"}:
            continue
        addresses = [one.address + ("*" if one.protocol == _OURS else "") for one in found.addresses]
        addresses = [text for text, one in zip(addresses, found.addresses, strict=True) if one.link == link.name]
        state = "down" if not link.up else "up" if link.carrier else "no cable"
        name = f"{link.name} (primary)" if link.name == found.primary else link.name
        table.add_row(
            name, state, " ".join(addresses) or "-", link.mac, str(link.mtu), found.managers.get(link.name, "-")
        )
    return table


def _leases(found: Network) -> Table:
    table = _table("LEASE OF", "ADDRESS", "WIRESERVER", "STATE", "LEFT", "FROM")
    for one in found.leases:
        left = "-" if one.seconds_left is None else f"{one.seconds_left} s"
        if one.state and one.seconds is None:
            left = "for ever"
        table.add_row(
            one.link or "-", one.address or "-", one.wireserver or "-", one.state or "-", left, one.server or one.source
        )
    return table


def _routes(found: Network) -> Table:
    table = _table("ROUTE TO", "VIA", "NIC", "METRIC", "WRITTEN BY")
    writers = {2: "kernel", 3: "boot", 4: "static", 16: "dhcp", 9: "ra", _OURS: "netagent"}
    shown = [one for one in found.routes if one.destination in {"default", "168.63.129.16/32", "169.254.169.254/32"}]
    shown += [one for one in found.routes if one not in shown and one.protocol == _OURS]
    for one in shown:
        writer = writers.get(one.protocol, str(one.protocol))
        table.add_row(one.destination, one.gateway or "the link", one.link, str(one.metric), writer)
    if not shown:
        table.add_row("-", "-", "-", "-", "no default route and none to the host")
    return table


def _names(found: Network) -> Text:
    servers = " ".join(found.resolver.nameservers) or "none"
    search = f"   search {' '.join(found.resolver.search)}" if found.resolver.search else ""
    return Text(f"Name servers {servers}   by {found.resolver.manager}{search}")


def _changes(found: NetworkPlan) -> Table:
    table = _table("CHANGE", "WHY")
    for one in found.changes:
        table.add_row(Text(one.what), Text(_reason(one)))
    return table


def _reason(one: ChangeView) -> str:
    return f"{one.why}; held back: {one.held}" if one.held else one.why


def _problems(problems: list[str]) -> Group:
    return Group(*(Text(f"! {line}", style="yellow") for line in problems))


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
