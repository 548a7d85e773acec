"""What the host wanted and was told, for the person who looks later (protocol: history).

`<lib>/history/<UTC>__<incarnation>[-<etag>]/` holds the documents of one goal state, secrets taken out; all but the
newest are zipped, and the oldest go. Nothing here ever raises for a disk that is full: a goal state is worth more.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import threading
import time
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wire import xml
from wire.errors import DocumentError
from wire.json import parse
from wire.redact import redact

MARK = "***REDACTED***"
ITEMS_LIMIT = 50
BYTES_LIMIT = 32 * 1024 * 1024
_FILE_LIMIT = 8 * 1024 * 1024
_ITEM = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d__[A-Za-z0-9._-]*", re.ASCII)
_UNUSABLE = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)
_SECRETS = {"protectedsettings", "encryptedsettings", "password", "secret", "accountkey", "storageaccountkey"}

logger = logging.getLogger("guestagent")


class History:
    """Blocking; any thread may call it."""

    def __init__(self, lib: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = lib / "history"
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = False

    def store(self, incarnation: str, etag: str, documents: Mapping[str, bytes]) -> None:
        """A folder of its own for a goal state that has just come, by file name; the older ones are zipped."""
        with self._tolerant(), self._lock:
            stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime(self._clock()))
            tag = "-".join(_usable(one.strip('"')) for one in (incarnation, etag) if one)
            folder = self._folder / f"{stamp}__{tag}"
            self._make(folder)
            try:
                for name, content in documents.items():
                    _write(folder / name, content)
            finally:
                self._keep_house(folder)

    def manifest(self, handler: str, content: bytes) -> None:
        """A handler's manifest, beside the goal state it was read for."""
        self._add(f"{_usable(handler)}.manifest.xml", content)

    def agent_manifest(self, family: str, content: bytes) -> None:
        self._add(f"waagent.{_usable(family)}.manifest.xml", content)

    def certificates(self, content: bytes) -> None:
        """What the host listed: thumbprints, and whether a key came with each."""
        self._add("Certificates.json", content)

    def status(self, content: bytes) -> None:
        """The last status blob."""
        self._add("waagent_status.json", content)

    def unreadable(self, name: str, content: bytes) -> None:
        """A document we could not use."""
        self._add(f"unreadable.{name}", content)

    def _add(self, name: str, content: bytes) -> None:
        with self._tolerant(), self._lock:
            folders = [one for one in self._items() if one.is_dir()]
            folder = folders[-1] if folders else self._folder
            self._make(folder)
            _write(folder / name, content)

    def _make(self, folder: Path) -> None:
        for one in (self._folder, folder):
            one.mkdir(mode=0o700, exist_ok=True)

    def _keep_house(self, newest: Path) -> None:
        """The newest stays, however large; the clock may have gone back since the others."""
        older = [one for one in self._items() if one != newest]
        for one in older:
            if one.is_dir():
                with contextlib.suppress(OSError):
                    _zip(one)
        older = [one for one in self._items() if one != newest]
        sizes = [_size(one) for one in older]
        left = BYTES_LIMIT - _size(newest)
        for number, one in enumerate(older):
            if len(older) - number < ITEMS_LIMIT and sum(sizes[number:]) <= left:
                break
            _remove(one)

    def _items(self) -> list[Path]:
        """Folders and archives, oldest first; what else lies here is somebody's own."""
        found = [
            one
            for one in self._folder.glob("*__*")
            if not one.is_symlink() and _ITEM.fullmatch(one.name.removesuffix(".zip"))
        ]
        return sorted(found, key=lambda one: one.name)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failed:
                logger.warning("history is not written for now: %s", error)
            self._failed = True
        else:
            self._failed = False


def redacted(name: str, content: bytes) -> bytes:
    """A document without its secrets; what cannot be read as what its name says is taken for plain text."""
    with contextlib.suppress(DocumentError, RecursionError):
        if name.endswith(".xml"):
            root = xml.parse(name, content)
            for element in root.iter():
                element.text, element.tail = _text(element.text), _text(element.tail)
                element.attrib.update({key: _clean(value) for key, value in element.attrib.items()})
            text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
            return text
        if name.endswith(".json"):
            return json.dumps(_value(parse(name, content)), indent=1).encode()
    return _clean(content.decode("utf-8", "replace").replace("&quot;", '"')).encode()


def _value(value: Any) -> Any:
    match value:
        case dict():
            return {key: MARK if key.lower() in _SECRETS and inner else _value(inner) for key, inner in value.items()}
        case list():
            return [_value(inner) for inner in value]
        case str():
            return _clean(value)
    return value


def _text(text: str | None) -> str | None:
    """Settings are JSON inside XML."""
    if not text or not text.strip():
        return text
    if text.lstrip().startswith("{"):
        with contextlib.suppress(DocumentError, RecursionError):
            return json.dumps(_value(parse("settings", text.encode())))
    return _clean(text)


def _clean(text: str) -> str:
    return redact(text, MARK)


def _usable(text: str) -> str:
    """As part of a file's name."""
    return _UNUSABLE.sub("_", text)[:100].strip(".") or "_"


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(redacted(path.name, content[:_FILE_LIMIT]))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _zip(folder: Path) -> None:
    """The folder's files in an archive of its name; the folder goes once that is whole."""
    archive = folder.with_name(f"{folder.name}.zip")
    part = folder.with_name(f".{folder.name}.part")
    if archive.exists():
        # We ended between the two; what is left of the folder is less than what is in there.
        shutil.rmtree(folder)
        return
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
            for one in sorted(folder.iterdir()):
                if one.is_file() and not one.is_symlink():
                    target.write(one, one.name)
        part.replace(archive)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    shutil.rmtree(folder)


def _size(item: Path) -> int:
    files = item.iterdir() if item.is_dir() else (item,)
    return sum(one.lstat().st_size for one in files)


def _remove(item: Path) -> None:
    if item.is_dir():
        shutil.rmtree(item)
    else:
        item.unlink()
