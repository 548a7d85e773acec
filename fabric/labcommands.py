"""`azfabric lab`: networks of VMs in namespaces."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fabric.lab import orders, plan
from fabric.lab.control import Lab, names
from fabric.lab.probe import Probe
from fabric.options import json_option, root_option, show, tell

name_option = click.option("--name", default="lab", show_default=True, help="Which lab, if there are several.")
vm_argument = click.argument("vm")


class _Converted(click.ParamType[Any]):
    """A word of ours, such as 25ms or 20%."""

    def __init__(self, name: str, convert: Any) -> None:
        self.name = name
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except plan.BadLab as error:
            self.fail(str(error), param, ctx)


_TIME = _Converted("time", plan.seconds)
_SHARE = _Converted("share", plan.share)


@click.group()
def lab() -> None:
    """VMs in namespaces, each tenant with a network of its own: DHCP, DNS, probes, broken cables.

    \b
      azfabric lab up --vm vm1 --vm vm2 --static
      azfabric lab exec vm1 -- curl -s http://168.63.129.16/?comp=versions
      azfabric lab fault vm1 --delay 25ms --loss 20%
      azfabric lab down

    Root is not needed: other users get a lab in a user namespace.
    """


@lab.command()
@root_option
@name_option
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="A network of its own. [default: contoso]")
@click.option(
    "--vm",
    "vms",
    multiple=True,
    metavar="NAME[@TENANT][=ADDRESS]",
    help="Of the first tenant unless it says; the next free address of 10.0.0.0/24. [default: one for each tenant]",
)
@click.option("--static", is_flag=True, help="VMs have their address at once; without it, run a DHCP client.")
@click.option("--no-host", is_flag=True, help="The network only, with no azfabric serve in it.")
@click.option("--rootless", is_flag=True, help="In a user namespace, also as root.")
@json_option
def up(
    root: Path,
    name: str,
    tenants: tuple[str, ...],
    vms: tuple[str, ...],
    static: bool,
    no_host: bool,
    rootless: bool,
    as_json: bool,
) -> None:
    """Build a lab; it stays until `lab down`."""
    wanted = plan.make_plan(name, tenants, vms, static=static, host=not no_host)
    one = Lab(root, name)
    console = Console(stderr=True)
    with console.status("keeper") as status:
        one.up(wanted, rootless=rootless or os.geteuid() != 0, said=status.update)
    show(one.ask(orders.Show()), as_json, _shown)
    if as_json:
        return
    which = "" if name == "lab" else f" --name {name}"
    click.echo(f"\nazfabric lab exec {wanted.vms[0].name}{which} -- COMMAND     runs a command in a VM")
    if wanted.host:
        click.echo(f"azfabric vm list --root {shlex.quote(str(one.folder))}     this lab's host")


@lab.command("show")
@root_option
@name_option
@json_option
def show_lab(root: Path, name: str, as_json: bool) -> None:
    """Show VMs, faults, probes and what runs for them."""
    show(Lab(root, name).ask(orders.Show()), as_json, _shown)


@lab.command()
@root_option
@name_option
@json_option
def restart(root: Path, name: str, as_json: bool) -> None:
    """Start the lab's host anew, also if it has ended; it keeps its state and its addresses."""
    one = Lab(root, name)
    one.ask(orders.Restart())
    tell(one.ask(orders.Show()), as_json, f"The host of lab {name} runs.")


@lab.command("list")
@root_option
@json_option
def list_labs(root: Path, as_json: bool) -> None:
    """List the labs of this root."""
    found = names(root)
    if found or as_json:
        tell(found, as_json, "\n".join(found))


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@vm_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@root_option
@name_option
def execute(vm: str, command: tuple[str, ...], root: Path, name: str) -> None:
    """Run COMMAND in a VM, or with `host@TENANT` beside that tenant's host."""
    words, environment = Lab(root, name).command(vm, command)
    sys.stdout.flush()
    os.execvpe(words[0], words, environment)  # noqa: S606  # so that terminal, signals and exit status are the command's


@lab.command()
@vm_argument
@click.option("--delay", type=_TIME, default=0.0, help="How late each packet is, each way.")
@click.option("--jitter", type=_TIME, default=0.0, help="How much more or less than that, so that packets overtake.")
@click.option("--loss", type=_SHARE, default=0.0, help="So many never arrive.")
@click.option("--duplicate", type=_SHARE, default=0.0, help="So many arrive twice.")
@click.option(
    "--direction",
    type=click.Choice(get_args(plan.Direction)),
    default="both",
    show_default=True,
    help="`in` is towards the VM.",
)
@click.option("--seed", type=int, default=0, help="The same packets fare the same with the same seed.")
@click.option("--lift", is_flag=True, help="The cable is whole again.")
@root_option
@name_option
@json_option
def fault(vm: str, lift: bool, root: Path, name: str, as_json: bool, **what: Any) -> None:
    """Spoil a VM's packets; replaces what was ordered before."""
    wanted = msgspec.convert(what, plan.Fault)
    spoils = wanted.delay or wanted.jitter or wanted.loss or wanted.duplicate
    if bool(spoils) == lift:
        raise click.UsageError("say what to do with packets (--delay, --jitter, --loss, --duplicate), or --lift")
    came = _came(Lab(root, name), orders.SetFault(vm, None if lift else wanted))
    tell(came, as_json, f"The cable of {vm} is whole again." if lift else f"The cable of {vm} is spoilt.")


@lab.command()
@vm_argument
@click.argument("state", type=click.Choice(["up", "down"]))
@root_option
@name_option
@json_option
def link(vm: str, state: str, root: Path, name: str, as_json: bool) -> None:
    """Plug a VM's cable in or out."""
    came = _came(Lab(root, name), orders.SetLink(vm, state == "up"))
    tell(came, as_json, f"The cable of {vm} is plugged {'in' if state == 'up' else 'out'}.")


@lab.command()
@vm_argument
@click.argument("port", type=click.IntRange(1, 65535))
@click.option("--http", default="", metavar="PATH", help="GET this, which must answer 200; else a TCP handshake.")
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=15.0, show_default=True, help="Seconds.")
@click.option("--threshold", type=click.IntRange(1, 100), default=1, show_default=True, help="Equal results in a row.")
@click.option("--remove", is_flag=True, help="Stop probing this port.")
@root_option
@name_option
@json_option
def probe(vm: str, port: int, remove: bool, root: Path, name: str, as_json: bool, **how: Any) -> None:
    """Probe a VM's port as a load balancer does, from 168.63.129.16; `lab show` tells what came of it."""
    http = how["http"]
    if http and not (http.startswith("/") and http.isascii() and http.isprintable() and " " not in http):
        raise click.UsageError(f"{http!r} is no path: it starts with / and has no blanks")
    wanted = Probe(port=port, **how)
    came = _came(Lab(root, name), orders.SetProbe(vm, wanted, remove))
    tell(came, as_json, f"Port {port} of {vm} is {'no longer ' if remove else ''}probed.")


@lab.command()
@root_option
@name_option
@click.option("--all", "every", is_flag=True, help="Every lab of this root.")
@json_option
def down(root: Path, name: str, every: bool, as_json: bool) -> None:
    """End a lab, or what is left of one."""
    came = []
    for one in names(root) if every else [name]:
        was_there = Lab(root, one).down()
        came.append({"name": one, "was_there": was_there})
        if not as_json:
            click.echo(f"Lab {one} is gone." if was_there else f"There was no lab {one}.")
    if as_json:
        show(came, as_json, None)


def _came(one: Lab, order: orders.SetFault | orders.SetLink | orders.SetProbe) -> dict[str, Any]:
    """The VM after the order. Raises FabricError, NoLab."""
    one.ask(order)
    found: dict[str, Any] = next(vm for vm in one.ask(orders.Show())["vms"] if vm["name"] == order.vm)
    return found


def _shown(found: dict[str, Any]) -> Group:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("VM", "TENANT", "ADDRESS", "STATE", "LINK", "FAULT", "PROBES"):
        table.add_column(title, overflow="fold")
    for vm in found["vms"]:
        probes = ", ".join(f"{one['port']} {one['state']}" for one in vm["probes"])
        cells = [vm["name"], vm["tenant"], vm["address"], vm["state"], vm["link"], _fault(vm), probes or "-"]
        table.add_row(*map(Text, cells))
    tenants = [Text(f"{one['name']}: DHCP and DNS {one['dhcp_and_dns']}") for one in found["tenants"]]
    host = Text(f"azfabric serve {found['host'] or 'not wanted'}")
    if found["host"] not in {None, "running"}:
        root, name = Path(found["folder"]).parent.parent, found["name"]
        host.append(f"\nStart it again with: azfabric lab restart --root {shlex.quote(str(root))} --name {name}")
    return Group(table, Text(), *tenants, host)


def _fault(vm: dict[str, Any]) -> str:
    found = vm["fault"]
    if not found:
        return "-"
    times = [f"{word} {found[word] * 1000:g}ms" for word in ("delay", "jitter") if found[word]]
    shares = [f"{word} {found[word] * 100:g}%" for word in ("loss", "duplicate") if found[word]]
    broken = [] if vm["relay"] == "running" else [f"relay {vm['relay']}"]
    return ", ".join([*times, *shares, found["direction"], *broken])
