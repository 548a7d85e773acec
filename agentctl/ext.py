"""`agentctl ext` and `agentctl explain`: single extensions, on this machine, whether the host is there or not."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.errors import CommandError
from agentctl.options import json_option, root_option
from agentctl.render import Terminal, extensions_table, shade
from ipc.contract.guestagent import (
    ExplainExtension,
    Explanation,
    ExtensionDetail,
    GetExtension,
    GetStatus,
    OperationView,
    RetryExtension,
)
from ipc.contract.telemetry import Entry, GetTimeline

_FOLLOW_SECONDS = 0.2
_PAGE = 200
_TAIL_BYTES = 64 * 1024
_MARKS = {True: ("✓", "green"), False: ("✗", "bold red"), None: ("…", "cyan")}


@click.group()
def ext() -> None:
    """Extensions on this machine: list, show, logs, retry, history.

    NAME is the handler's, in any case, with or without its publisher.
    """


@ext.command("list")
@root_option
@json_option
def ext_list(deployment: Deployment, as_json: bool) -> None:
    """List extensions. Exit status 1 if one of them failed."""
    status = ask(deployment, GetStatus())
    if as_json:
        _print_json(status.extensions)
    else:
        Terminal().print(extensions_table(status.extensions))
    sys.exit(1 if any(one.failure or one.status == "error" for one in status.extensions) else 0)


@ext.command("show")
@click.argument("name")
@root_option
@json_option
def ext_show(name: str, deployment: Deployment, as_json: bool) -> None:
    """Show all that is known of one: versions on disk, settings, commands, files."""
    detail = ask(deployment, GetExtension(name=name))
    if as_json:
        _print_json(detail)
    else:
        Terminal().print(_detail(detail))


@ext.command("logs")
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, and as further commands begin.")
@click.option("--kind", type=click.Choice(["install", "enable", "disable", "update", "uninstall"]), help="Only these.")
@click.option("--all", "whole", is_flag=True, help="Everything of every command; without it the end of the last one.")
@root_option
def ext_logs(name: str, follow: bool, kind: str | None, whole: bool, deployment: Deployment) -> None:
    """Print what its commands wrote, whole as it was written."""
    printer = _Printer()

    def operations() -> list[OperationView]:
        found = ask(deployment, GetExtension(name=name)).operations
        return [one for one in found if kind in (None, one.kind)]

    found = operations()
    if not found:
        if not follow:
            raise CommandError(f"no command of {name} is remembered")
        click.echo(f"no command of {name} has begun yet", err=True)
    older = set() if whole else {one.id for one in found[:-1]}
    for one in found if whole else found[-1:]:
        printer.print(one, tail=not whole)
    try:
        while follow:
            time.sleep(_FOLLOW_SECONDS)
            for one in operations():
                if one.id not in older:
                    printer.print(one, tail=False)
    except KeyboardInterrupt:
        return


@ext.command("retry")
@click.argument("name")
@click.option("--extension", default="", help="One of several, by its name.")
@root_option
def ext_retry(name: str, extension: str, deployment: Deployment) -> None:
    """Try again at once what failed. Exit status 1 if nothing had."""
    begun = ask(deployment, RetryExtension(name=name, extension=extension)).extensions
    if not begun:
        raise CommandError(f"nothing of {name} has failed; see: agentctl explain {name}")
    click.echo(f"{', '.join(begun)}: tried again. Watch: agentctl ext logs -f {name}")


@ext.command("history")
@click.argument("name")
@root_option
@json_option
def ext_history(name: str, deployment: Deployment, as_json: bool) -> None:
    """List what was done to it, from telemetry's journal, oldest first."""
    full = ask(deployment, GetExtension(name=name)).name
    entries = list(_entries(deployment, full))
    if as_json:
        _print_json(entries)
    else:
        Terminal().print(_history(entries))


@click.command()
@click.argument("name")
@click.option("--extension", default="", help="One of several, by its name.")
@root_option
@json_option
def explain(name: str, extension: str, deployment: Deployment, as_json: bool) -> None:
    """Say why an extension is as it is: the chain from the goal state to the report, whose fault, what next.

    Exit status 0 if it is well, 1 if not.
    """
    explanation = ask(deployment, ExplainExtension(name=name, extension=extension))
    if as_json:
        _print_json(explanation)
    else:
        Terminal().print(_explanation(explanation))
    sys.exit(0 if explanation.verdict == "well" else 1)


# -- how it looks ------------------------------------------------------------------------------------------------------


def _explanation(one: Explanation) -> RenderableType:
    lines: list[RenderableType] = [Text(one.name, style="bold")]
    for link in one.chain:
        mark, style = _MARKS[link.ok]
        line = Text(f"  {mark} ", style=style)
        line.append(f"{link.stage:12}", style="dim").append(link.text, style="default")
        if link.at:
            line.append(f"  {_clock(link.at)}", style="dim")
        lines.append(line)
        lines += [Text(f"      │ {words}", style="dim") for words in link.evidence.splitlines()[-12:]]
    fault = {"well": "all is well", "waiting": "it is not finished"}.get(one.verdict, f"fault of the {one.verdict}")
    style = {"well": "bold green", "waiting": "bold cyan"}.get(one.verdict, "bold red")
    lines.append(Text(f"Verdict  {fault}: ", style=style).append(one.summary, style="default"))
    lines.append(Text("Next     ", style="bold").append(one.next_step, style="default"))
    return Group(*lines)


def _detail(one: ExtensionDetail) -> RenderableType:
    wanted = f"{one.wanted_version}, {one.wanted_state}" if one.wanted_version else "no longer asked for"
    parts: list[RenderableType] = [Text(one.name, style="bold").append(f"   wanted: {wanted}", style="default"), Text()]
    parts += [extensions_table(one.extensions), Text()]
    folders = _table("VERSION", "STATE", "FOLDER")
    for folder in one.folders:
        folders.add_row(Text(folder.version), Text(folder.state), Text(folder.path))
    commands = _table("COMMAND", "VERSION", "BEGAN", "TOOK", "EXIT", "OUTPUT")
    for operation in one.operations:
        commands.add_row(
            Text(f"{operation.kind} {operation.extension}".strip()),
            Text(operation.version),
            Text(_clock(operation.began)),
            Text(_took(operation)),
            shade(_ending(operation)),
            Text(str(Path(operation.stdout).parent)),
        )
    return Group(*parts, folders, Text(), commands, Text(), Text("\n".join(one.files), style="dim"))


def _history(entries: list[Entry]) -> Table:
    table = _table("WHEN", "WHAT", "VERSION", "WELL", "TOOK", "MESSAGE")
    for entry in entries:
        took = "" if entry.duration_ms is None else f"{entry.duration_ms / 1000:.2f} s"
        message = " ".join(entry.message.split())[:160]
        well = Text("yes", style="green") if entry.ok else Text("no", style="bold red")
        table.add_row(
            Text(_clock(entry.at)), Text(entry.operation), Text(entry.subject_version), well, Text(took), Text(message)
        )
    return table


def _ending(operation: OperationView) -> str:
    if operation.state != "ended":
        return operation.state
    if operation.timed_out:
        return "timed out"
    return operation.error or str(operation.exit_status)


def _took(operation: OperationView) -> str:
    if operation.began is None or operation.ended is None:
        return "-"
    return f"{operation.ended - operation.began:.2f} s"


def _clock(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def _print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


# -- reading -----------------------------------------------------------------------------------------------------------


class _Printer:
    """What commands wrote, piece by piece as it comes, under a heading whenever it is another one's."""

    def __init__(self) -> None:
        self._printed: dict[str, int] = {}
        """By file, how far."""
        self._seen: set[str] = set()
        self._last = ""
        """Whose words were printed last, by id."""

    def print(self, operation: OperationView, *, tail: bool) -> None:
        """What is new of it. `tail`: of what is there already, only the end."""
        if operation.id not in self._seen:
            self._seen.add(operation.id)
            self._head(operation)
        for path, stream in ((operation.stdout, sys.stdout), (operation.stderr, sys.stderr)):
            try:
                with Path(path).open("rb") as file:
                    self._copy(operation, path, file, stream.buffer, tail=tail)
            except PermissionError as error:
                raise CommandError(f"{path} may be read by root only") from error
            except OSError:
                continue  # not there yet, or not any more
            stream.flush()

    def _copy(self, operation: OperationView, path: str, file: BinaryIO, stream: BinaryIO, *, tail: bool) -> None:
        size = file.seek(0, 2)
        file.seek(self._printed.get(path, max(0, size - _TAIL_BYTES) if tail else 0))
        while chunk := file.read(_TAIL_BYTES):
            if self._last != operation.id:
                self._head(operation)
            stream.write(chunk)
        self._printed[path] = file.tell()

    def _head(self, operation: OperationView) -> None:
        self._last = operation.id
        sys.stdout.flush()
        click.echo(f"==> {operation.kind} {operation.version} {operation.extension}".rstrip(), err=True)


def _entries(deployment: Deployment, name: str) -> Iterator[Entry]:
    """All of the journal about one handler."""
    after = 0
    while True:
        page = ask(deployment, GetTimeline(after=after, limit=_PAGE, subject=name))
        yield from page.entries
        if not page.entries:
            return
        after = page.cursor
