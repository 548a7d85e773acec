"""Versions made for a drill: a checkout, a released one, or one with its source changed; each as signed packages."""

import io
import lzma
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from agentctl.errors import CommandError, WrongUse
from ipc.places import COMPONENTS
from release.build import Built, build
from release.errors import ReleaseError
from release.manifest import version_key
from release.signing import SecretKey

CHECKOUT = Path(__file__).resolve().parents[2]
_RELEASED = CHECKOUT / "packaging" / "released"
_PARTS = ("ipc", "wire", "release", *COMPONENTS, "pyproject.toml")
_ARCHIVE = re.compile(r"azvmagent-(\d[\d.]*)\.tar\.xz")

Change = Callable[[str], str]
"""A file's text to its new text; a file that is not there yet is empty."""


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One release of all four, under the name a report gives it."""

    name: str
    version: str
    source: Path
    packages: dict[str, Built]
    """By component."""


def checkout(folder: Path, changes: Mapping[str, Change] | None = None) -> Path:
    """A copy of this checkout's sources in `folder`, some of them changed. Raises WrongUse, CommandError."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise WrongUse(f"a drill builds versions from a checkout, and {CHECKOUT} is none")
    for part in _PARTS:
        place = CHECKOUT / part
        if place.is_dir():
            shutil.copytree(place, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, folder / part)
    return changed(folder, changes or {})


def released(folder: Path) -> tuple[str, Path]:
    """The newest release before this one: its version, and its sources unpacked into `folder`. Raises CommandError."""
    found = {match[1]: path for path in sorted(_RELEASED.glob("*")) if (match := _ARCHIVE.fullmatch(path.name))}
    if not found:
        raise CommandError(f"{_RELEASED} holds no released sources: see its README")
    version = max(found, key=version_key)
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(found[version].read_bytes()))) as opened:
            for entry in opened:
                if entry.isfile() and (content := opened.extractfile(entry)):
                    path = folder / entry.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
    except (OSError, lzma.LZMAError, tarfile.TarError) as error:
        raise CommandError(f"{found[version]} cannot be unpacked: {error}") from error
    return version, folder


def changed(folder: Path, changes: Mapping[str, Change]) -> Path:
    """Change some files of a source tree in place. Raises CommandError for a change that changes nothing."""
    for name, change in changes.items():
        path = folder / name
        before = path.read_text() if path.is_file() else ""
        after = change(before)
        if after == before:
            raise CommandError(f"{name} is no longer as the drill expects it: the change meant for it changes nothing")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(after)
    return folder


def replaced(pattern: str, by: str) -> Change:
    """The change that replaces each match of a pattern (multi-line; `by` may refer to its groups)."""
    return lambda text: re.sub(pattern, by, text, flags=re.MULTILINE)


def appended(lines: str) -> Change:
    """The change that adds lines at the end of a module: after all it defines."""
    return lambda text: f"{text}\n\n{lines}\n"


def begun_with(lines: str) -> Change:
    """The change that puts lines before all else of a module, its docstring included."""
    return lambda text: f"{lines}\n{text}"


def package(source: Path, component: str, version: str, out: Path, key: SecretKey, *, floor: str = "0.0.0") -> Built:
    """A signed package of one component. Raises CommandError."""
    try:
        return build(source, component, out, [key], floor=floor, version=version)
    except ReleaseError as error:
        raise CommandError(f"{component} {version} cannot be built: {error}") from error


def variant(
    name: str, source: Path, version: str, out: Path, key: SecretKey, components: Iterable[str] = COMPONENTS
) -> Variant:
    """Packages of a source tree under one version, in `out`. Raises CommandError."""
    packages = {component: package(source, component, version, out, key) for component in components}
    return Variant(name=name, version=version, source=source, packages=packages)
