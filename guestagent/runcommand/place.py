"""Where everything of one run lies: the handler's folder, the data beside it, the logs.

<lib>/<Handler>-<Version>/      mrseq or <name>.mrseq, config/, status/, HandlerEnvironment.json
<lib>/run-command[-handler]/    download/[<name>/]<n>/ where the script runs; runs/[<name>.]<n>.json the records
<log>/runs/[<name>/]<n>/        stdout and stderr, whole
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from guestagent.layout import HandlerFolder, usable_extension_name

Shape = Literal["action", "managed"]

ACTION = "Microsoft.CPlat.Core.RunCommandLinux"
MANAGED = "Microsoft.CPlat.Core.RunCommandHandlerLinux"
LOCAL = "Azvmagent.LocalRun"
"""Runs that nobody but this VM's operator ordered: managed's shape, the script in a file beside the settings."""

_ENVIRONMENT_LIMIT = 1024 * 1024


class BadPlace(Exception):
    """We were not called as a handler is called."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence number of one name; the name is empty for v1."""

    handler: str
    folder: Path
    config: Path
    status: Path
    log: Path
    name: str
    sequence_number: int

    @property
    def shape(self) -> Shape:
        return shape_of(self.handler)

    @property
    def lib(self) -> Path:
        return self.folder.parent

    @property
    def data(self) -> Path:
        return self.lib / ("run-command" if self.shape == "action" else "run-command-handler")

    @property
    def settings_file(self) -> Path:
        return self.config / f"{self.stem}.settings"

    @property
    def script_file(self) -> Path:
        """LOCAL only: a script may be no text."""
        return self.config / f"{self.stem}.script"

    @property
    def token_file(self) -> Path:
        """LOCAL only: which request this number was given to."""
        return self.config / f"{self.stem}.token"

    @property
    def status_file(self) -> Path:
        return self.status / f"{self.stem}.status"

    @property
    def mrseq(self) -> Path:
        return self.folder / (f"{self.name}.mrseq" if self.name else "mrseq")

    @property
    def stem(self) -> str:
        return f"{self.name}.{self.sequence_number}" if self.name else str(self.sequence_number)

    @property
    def record(self) -> Path:
        return self.data / "runs" / f"{self.stem}.json"

    @property
    def lock(self) -> Path:
        return self.data / "runs" / f"{self.name or 'run'}.lock"

    @property
    def disabled(self) -> Path:
        """There since this name was disabled, until it is enabled again."""
        return self.data / "runs" / f"{self.name or 'run'}.disabled"

    @property
    def downloads(self) -> Path:
        """Of all sequence numbers of this name."""
        return self.data / "download" / self.name

    @property
    def work(self) -> Path:
        return self.downloads / str(self.sequence_number)

    @property
    def outputs(self) -> Path:
        """Of all sequence numbers of this name."""
        return self.log / "runs" / self.name

    @property
    def stdout(self) -> Path:
        return self.outputs / str(self.sequence_number) / "stdout"

    @property
    def stderr(self) -> Path:
        return self.outputs / str(self.sequence_number) / "stderr"

    @property
    def journal(self) -> Path:
        return self.log / "RunCommand.log"

    def at(self, sequence_number: int) -> "Place":
        """Another run of the same name."""
        return msgspec.structs.replace(self, sequence_number=sequence_number)

    def runs(self) -> list["Place"]:
        """Every run of this name that has a record, oldest first."""
        prefix = f"{self.name}." if self.name else ""
        numbers = [
            path.name.removeprefix(prefix).removesuffix(".json")
            for path in (self.data / "runs").glob("*.json")
            if path.name.startswith(prefix)
        ]
        return [self.at(number) for number in sorted(int(one) for one in numbers if one.isascii() and one.isdigit())]


def shape_of(handler: str) -> Shape:
    return "action" if handler.lower() == ACTION.lower() else "managed"


def place_of(folder: HandlerFolder, name: str, sequence_number: int) -> Place:
    """As guestagent sees it."""
    return Place(
        handler=folder.name,
        folder=folder.path,
        config=folder.config,
        status=folder.status,
        log=folder.log,
        name=name,
        sequence_number=sequence_number,
    )


class _Folders(msgspec.Struct, frozen=True, rename="camel"):
    log_folder: str
    config_folder: str
    status_folder: str


class _Environment(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    handler_environment: _Folders


def own_place(folder: Path, environment: Mapping[str, str]) -> Place:
    """As a handler's command sees it: by HandlerEnvironment.json and two variables. Raises BadPlace."""
    path = folder / "HandlerEnvironment.json"
    try:
        with path.open("rb") as file:
            items = msgspec.json.decode(file.read(_ENVIRONMENT_LIMIT), type=list[_Environment])
    except OSError as error:
        raise BadPlace(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadPlace(f"{path} is not what it should be: {error}") from error
    if len(items) != 1:
        raise BadPlace(f"{path} has {len(items)} items instead of one")
    name, number = environment.get("ConfigExtensionName", ""), environment.get("ConfigSequenceNumber", "0")
    if name and not usable_extension_name(name):
        raise BadPlace(f"ConfigExtensionName {name[:80]!r} cannot be part of a file's name")
    if not (number.isascii() and number.isdigit() and len(number) < 12):
        raise BadPlace(f"ConfigSequenceNumber {number[:80]!r} is not a number")
    folders = items[0].handler_environment
    return Place(
        handler=items[0].name,
        folder=folder,
        config=Path(folders.config_folder),
        status=Path(folders.status_folder),
        log=Path(folders.log_folder),
        name=name if shape_of(items[0].name) == "managed" else "",
        sequence_number=int(number),
    )
