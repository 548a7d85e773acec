"""Everything before the script starts: settings, downloads, user, blobs. Nothing here runs what was ordered."""

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from guestagent.runcommand import script, users
from guestagent.runcommand.errors import ArtifactFailed, BadSettings, BlobFailed, DownloadFailed, NotSaved, RunError
from guestagent.runcommand.order import BlobTarget, Order, Source
from guestagent.runcommand.outside import Outside
from guestagent.runcommand.place import LOCAL, Place
from guestagent.runcommand.processes import MARK
from guestagent.runcommand.secrets import open_protected
from guestagent.runcommand.settings import parse_action, parse_managed, parse_protected, read_handler_settings

if TYPE_CHECKING:
    from guestagent.runcommand.blobs import AppendBlob


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """What is about to be run."""

    command: tuple[str, ...]
    """Never read by a shell on the way, but v1's own line."""
    folder: Path
    environment: dict[str, str]
    account: users.Account | None
    temporary: bool

    def __repr__(self) -> str:
        return "Ready(...)"


def read_order(place: Place) -> Order:
    """Raises BadSettings."""
    try:
        data = place.settings_file.read_bytes()
    except OSError as error:
        raise BadSettings(f"{place.settings_file}: {error.strerror}") from error
    found = read_handler_settings(data)
    protected = parse_protected(open_protected(place.lib, found.thumbprint, found.protected)) if found.protected else {}
    if place.shape == "action":
        return parse_action(found.public, protected)
    order = parse_managed(found.public, protected)
    if place.handler != LOCAL:
        return order
    try:
        return msgspec.structs.replace(order, script=place.script_file.read_bytes())
    except OSError as error:
        raise BadSettings(f"{place.script_file}: {error.strerror}") from error


def prepare(place: Place, order: Order, outside: Outside, mark: str) -> Ready:
    """Put everything in place. Raises RunError."""
    account = users.find(order.run_as) if order.run_as else None
    script.fresh_folder(place.work)
    path = _fetch(place, order, outside)
    folder, temporary = place.work, False
    if account is not None and not account.is_us:
        folder, temporary = _copy(account, place)
        path = folder / path.name if path else None
    inherited = account.environment() if account is not None else dict(os.environ)
    return Ready(
        command=("/bin/sh", "-c", order.command or shlex.quote(str(path)))
        if place.shape == "action"
        else (str(path), *order.arguments),
        folder=folder,
        environment={**inherited, **order.environment, MARK: mark},
        account=account,
        temporary=temporary,
    )


def make_blobs(place: Place, order: Order, outside: Outside) -> "list[AppendBlob]":
    """The blobs of the order, empty. Raises BlobFailed."""
    wanted: list[tuple[BlobTarget | None, Path]] = [(order.output_blob, place.stdout), (order.error_blob, place.stderr)]
    if order.output_blob is None and order.error_blob is None:
        return []
    from guestagent.runcommand.blobs import AppendBlob
    from guestagent.runcommand.identity import NoToken
    from wire.errors import HostError

    blobs = [
        AppendBlob(outside.client, outside.imds, target, source) for target, source in wanted if target is not None
    ]
    for blob in blobs:
        try:
            blob.create()
        except (HostError, NoToken) as error:
            raise BlobFailed(str(error)) from error
    return blobs


def forget_older(place: Place) -> None:
    """Scripts and settings of earlier runs of this name hold secrets: they go, their outputs and records stay."""
    for folder in place.downloads.glob("*"):
        if folder.name.isascii() and folder.name.isdigit() and int(folder.name) != place.sequence_number:
            shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{place.name}." if place.name else ""
    for path in [*place.config.glob("*.settings"), *place.config.glob("*.script")]:
        number = path.name.removeprefix(prefix).removesuffix(path.suffix)
        older = number.isascii() and number.isdigit() and int(number) < place.sequence_number
        if path.name.startswith(prefix) and older:
            with contextlib.suppress(OSError):
                os.truncate(path, 0)


def _fetch(place: Place, order: Order, outside: Outside) -> Path | None:
    """The script's path; None if a command line is run instead."""
    path: Path | None = None
    if order.script_from is not None:
        path = _download(place, order, outside, order.script_from, DownloadFailed)
    for source in order.files:
        _download(place, order, outside, source, DownloadFailed)
    for source in order.artifacts:
        _download(place, order, outside, source, ArtifactFailed)
    if order.script is not None:
        path = script.save(place.work, order.script, convert=order.convert_text)
    return path


def _download(place: Place, order: Order, outside: Outside, source: Source, failed: Callable[[str], RunError]) -> Path:
    from guestagent.runcommand import download

    return download.fetch(outside.client, outside.imds, source, place.work, convert=order.convert_text, failed=failed)


def _copy(account: users.Account, place: Place) -> tuple[Path, bool]:
    try:
        return users.copy_for(account, place.work, place.name, place.sequence_number)
    except OSError as error:
        raise NotSaved(f"no copy for user {account.name}: {error}") from error
