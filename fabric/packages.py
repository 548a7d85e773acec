"""Extension packages as they are handed in: what they are called, and whether they are packages at all."""

import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from fabric.errors import BadPackage, FabricError

PACKAGE_LIMIT = 512 * 1024 * 1024
_MANIFEST_LIMIT = 1024 * 1024
_READ_LIMIT = 8 * 1024 * 1024
_NAME_LIMIT = 120
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){1,6}")
FAMILY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}")
"""What an agent family may be called."""
_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,4}([.-]?(alpha|beta|rc)[0-9]{0,9})?")
_FILE_NAME = re.compile(r"(?P<name>.+?)(?:-|__)(?P<version>\d[\w.]*)\.zip")

NO_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""What the zip library raises."""

SAMPLE = Path(__file__).parent / "sample"


def check_family(name: str) -> None:
    """Raises FabricError."""
    if not FAMILY.fullmatch(name):
        raise FabricError(f"a family is called by up to 63 letters, digits, dots and dashes, not {name!r}")


class PackageName(msgspec.Struct, frozen=True, kw_only=True):
    """`Publisher.Type` and a version."""

    name: str
    version: str


_NOT_CALLED = PackageName(name="", version="")


def identify(file: BinaryIO, *, file_name: str = "", name: str = "", version: str = "") -> PackageName:
    """What was said wins, then signingInfo, manifest.xml, the file's name. Raises BadPackage."""
    manifest, image = _read(file)
    signing = manifest.get("signingInfo")
    signing = signing if isinstance(signing, dict) else {}
    if not name and signing.get("publisher") and signing.get("type"):
        name = f"{signing['publisher']}.{signing['type']}"
    if not version and signing.get("version"):
        version = str(signing["version"])
    name, version = name or image.name, version or image.version
    if match := _FILE_NAME.fullmatch(file_name):
        name, version = name or match["name"], version or match["version"]
    if len(name) > _NAME_LIMIT or not _NAME.fullmatch(name):
        raise BadPackage(f"the handler's name is {name[:_NAME_LIMIT]!r}; say --name Publisher.Type")
    if not is_version(version):
        raise BadPackage(f"the version is {version[:80]!r}; say --version 1.0.0")
    return PackageName(name=name, version=version)


def family_version(file: BinaryIO, *, file_name: str = "", version: str = "") -> str:
    """Of a package of an agent family: what was said wins, then the file's name. Raises BadPackage.

    What is in it is the agent's business.
    """
    careful: Any = Careful(file)
    try:
        with zipfile.ZipFile(careful) as archive:
            if not archive.infolist():
                raise BadPackage("the zip is empty")
    except NO_ZIP as error:
        raise BadPackage(f"this is no usable zip: {error}") from error
    if not version and (match := _FILE_NAME.fullmatch(file_name)):
        version = match["version"]
    if not is_version(version):
        raise BadPackage(f"the version is {version[:80]!r}; say --version 1.0.0")
    return version


def is_version(text: str) -> bool:
    """Digits in dots, perhaps a pre-release (protocol: version syntax)."""
    return _VERSION.fullmatch(text) is not None


def same_version(one: str, other: str) -> bool:
    """1.2 and 1.2.0 are the same; a pre-release is the same as itself."""
    if not (_NUMBERS.fullmatch(one) and _NUMBERS.fullmatch(other)):
        return one == other
    return _numbers(one) == _numbers(other)


def spelling(known: Iterable[str], version: str) -> str | None:
    """How that version is written in `known`: so itself, or the first that is the same."""
    same = [one for one in known if same_version(one, version)]
    return version if version in same else next(iter(same), None)


def _numbers(version: str) -> list[int]:
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


class Careful:
    """The package as the zip library sees it.

    The library reads a zip's directory whole and makes an object of each entry, before anybody can ask how many.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _READ_LIMIT + 1) if size >= 0 else _READ_LIMIT + 1)
        if len(data) > _READ_LIMIT:
            raise BadPackage(f"the zip's directory is larger than {_READ_LIMIT} bytes")
        return data


def _read(file: BinaryIO) -> tuple[dict[str, Any], PackageName]:
    """The manifest, and what manifest.xml beside it says the package is called. Raises BadPackage."""
    careful: Any = Careful(file)
    try:
        with zipfile.ZipFile(careful) as archive:
            entries = archive.infolist()
            found = [one for one in entries if one.filename.rpartition("/")[2] == "HandlerManifest.json"]
            if not found:
                raise BadPackage("the zip holds no HandlerManifest.json")
            manifest = min(found, key=lambda one: one.filename.count("/"))
            text = small(archive, manifest).decode("utf-8-sig")
            beside = manifest.filename.removesuffix("HandlerManifest.json") + "manifest.xml"
            images = [small(archive, one) for one in entries if one.filename == beside][-1:]
    except NO_ZIP as error:
        raise BadPackage(f"this is no usable zip: {error}") from error
    image = _called_in(images[0]) if images else _NOT_CALLED
    return _first(text), image


def small(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """An entry that is no larger than a manifest. Raises BadPackage, NO_ZIP."""
    if entry.file_size > _MANIFEST_LIMIT:
        raise BadPackage(f"{entry.filename[:80]} is larger than {_MANIFEST_LIMIT} bytes")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # The others' decoders have no limit on what a few bytes become.
        raise BadPackage(f"{entry.filename[:80]} is neither stored nor deflated")
    return archive.read(entry)


def _called_in(image: bytes) -> PackageName:
    """What the file publishers hand in says. It is theirs, not the agent's: an unreadable one says nothing."""
    try:
        root = fromstring(image, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException, ValueError, LookupError):
        return _NOT_CALLED
    publisher, kind, version = (
        (root.findtext(f"{{*}}{tag}") or "").strip() for tag in ("ProviderNameSpace", "Type", "Version")
    )
    return PackageName(name=f"{publisher}.{kind}" if publisher and kind else "", version=version)


def _first(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPackage(f"HandlerManifest.json is not JSON: {error}") from error
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict) or not isinstance(first.get("handlerManifest"), dict):
        raise BadPackage("HandlerManifest.json has no handlerManifest object")
    return first


def sample_package() -> bytes:
    """The extension shipped with the host, zipped."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(SAMPLE.rglob("*")):
            if path.is_file():
                # Fixed times make the same package each time.
                archive.writestr(
                    zipfile.ZipInfo(str(path.relative_to(SAMPLE)), (2026, 1, 1, 0, 0, 0)), path.read_bytes()
                )
    return buffer.getvalue()
