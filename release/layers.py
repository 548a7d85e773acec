"""Third-party packages as layers: what of them a component needs, taken from this Python's own installation."""

import ast
import functools
import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.archive import pack
from release.compiled import compiled
from release.errors import ReleaseError
from release.manifest import LISTING, File, Layer, Listing, canonical, decode_listing, digest

# Written by the installer, and different with each.
_INSTALLERS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "uv_cache.json"}
_NATIVE = re.compile(r"\.so(\.[0-9]+)*\Z")


class BuiltLayer(msgspec.Struct, frozen=True):
    """A layer, and the zip it travels in."""

    layer: Layer
    listing: Listing
    zip: bytes


def imported(sources: Mapping[str, bytes]) -> set[str]:
    """Top-level names these modules import, at the top or later, without the standard library's."""
    names = {name.split(".")[0] for path, data in sources.items() for name in _imports(path, data)}
    return names - sys.stdlib_module_names


def reachable(sources: Mapping[str, bytes], packages: Iterable[str]) -> dict[str, bytes]:
    """All modules of these packages, and those of the others that they import, at the top or later, however far away.

    Raises ReleaseError.
    """
    packages = set(packages)
    waiting = [path for path in sources if path.split("/")[0] in packages]
    found: dict[str, bytes] = {}
    while waiting:
        if (path := waiting.pop()) not in found:
            found[path] = sources[path]
            waiting += [one for name in _imports(path, sources[path]) for one in _files(name) if one in sources]
    return found


def _imports(path: str, data: bytes) -> set[str]:
    """Dotted names a module imports; of `from a import b` both `a` and `a.b`. Raises ReleaseError."""
    if not path.endswith(".py"):
        return set()
    try:
        tree = ast.parse(data, path)
    except (SyntaxError, ValueError) as error:
        raise ReleaseError(f"{path} cannot be read: {error}") from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _files(name: str) -> list[str]:
    """Where a module may lie, with the packages around it."""
    parts = name.split(".")
    packages = ["/".join((*parts[:count], "__init__.py")) for count in range(1, len(parts) + 1)]
    return [*packages, "/".join(parts) + ".py"]


def distributions(names: Iterable[str]) -> list[str]:
    """The installed packages that provide these modules, and all they require. Raises ReleaseError."""
    providers = importlib.metadata.packages_distributions()
    waiting: list[str] = []
    for name in sorted(names):
        if name not in providers:
            raise ReleaseError(
                f"{name} is imported, but no installed package provides it: install it, then build again"
            )
        waiting += providers[name]
    found: dict[str, None] = {}
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = None
            waiting += _required(name)
    return sorted(found)


def _required(name: str) -> list[str]:
    """What it cannot do without, here."""
    needed = []
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            raise ReleaseError(
                f"{name} requires {requirement.name}, which is not installed: install it, then build again"
            ) from None
        needed.append(requirement.name)
    return needed


@functools.cache  # what is installed stays the same while we run
def build_layer(name: str) -> BuiltLayer:
    """One installed package as a layer. Raises ReleaseError."""
    distribution = importlib.metadata.distribution(name)
    contents = _contents(distribution)
    if not contents:
        raise ReleaseError(f"{name} was not installed from a wheel, its files are not known: pip install {name}")
    contents |= compiled(contents)
    native = {path for path in contents if _NATIVE.search(path)}
    of_one_python = any("cpython-" in path or ".abi3." not in path for path in native if not _is_library(path))
    listing = Listing(
        name=canonicalize_name(name),
        version=distribution.version,
        platform=sysconfig.get_platform() if native else "any",
        abi=str(sys.implementation.cache_tag) if of_one_python else "any",
        files={path: File(digest(data), len(data)) for path, data in contents.items()},
    )
    written = canonical(listing)
    decode_listing(written)
    layer = Layer(listing.name, listing.version, digest(written))
    return BuiltLayer(layer, listing, pack({**contents, LISTING: written}))


def _is_library(path: str) -> bool:
    """A shared library that came along (auditwheel puts it into `name.libs/`), not a module."""
    return PurePosixPath(path).parts[0].endswith(".libs")


def _contents(distribution: importlib.metadata.Distribution) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for path in distribution.files or ():
        parts = PurePosixPath(path).parts
        ours = parts[0] != ".." and not {"__pycache__", "tests"} & set(parts)
        installers = parts[0].endswith(".dist-info") and parts[-1] in _INSTALLERS
        if ours and not installers and path.suffix not in {".pth", ".pyc"}:
            contents[str(PurePosixPath(path))] = path.read_binary()
    return contents
