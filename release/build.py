"""A component as a package: code, its own ipc and wire, compiled files, a signed manifest. Same input, same bytes."""

import ast
import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from release.archive import pack
from release.compiled import compiled
from release.disk import Disk
from release.errors import DiskTrouble, ReleaseError, Unfit
from release.layers import BuiltLayer, build_layer, distributions, imported, reachable
from release.manifest import (
    MANIFEST,
    SIGNATURES,
    File,
    Layer,
    Manifest,
    Protocol,
    canonical,
    decode_manifest,
    digest,
    is_version,
)
from release.signing import SecretKey, sign

T = TypeVar("T")
SHARED = ("ipc", "wire")
"""Copied into every package, so that each process has one of each and versions differ on the wire only."""
_ALSO = {"rdagent": ("release",)}
"""What one component alone takes along."""


class Built(msgspec.Struct, frozen=True):
    """What was written."""

    path: Path
    digest: str
    """Of the manifest: names the version."""
    manifest: Manifest
    layers: dict[str, Path]
    """By digest."""


def build(
    source: Path, component: str, out: Path, keys: list[SecretKey], *, floor: str = "0.0.0", version: str = ""
) -> Built:
    """Write `out/COMPONENT-VERSION.zip`, and the layers it needs to `out/layers/` if they are not there yet.

    `source` is a checkout; `version` takes the place of the component's own, in its code too. Raises ReleaseError.
    """
    if not keys:
        raise ReleaseError("a package without a signature is of no use; make a key: agentctl package keygen FILE")
    for number in (version or floor, floor):
        if not is_version(number):
            raise Unfit(f"{number[:64]!r} is no version: write two to four numbers, e.g. 0.2.0")
    contents = _sources(source, component)
    if version:
        contents[f"{component}/__init__.py"] = _called(contents[f"{component}/__init__.py"], version)
    own = {component, *_ALSO.get(component, ())}
    wanted = imported(reachable(contents, own)) - {*own, *SHARED}
    contents |= compiled(contents)
    layers = [build_layer(name) for name in distributions(wanted)]
    manifest = Manifest(
        component=component,
        version=_constant(contents, f"{component}/__init__.py", "__version__", str),
        min_python=_minimum_python(source),
        protocol=_protocol(contents),
        floor=floor,
        platform=sysconfig.get_platform() if any(one.listing.platform != "any" for one in layers) else "any",
        abi=str(sys.implementation.cache_tag) if any(one.listing.abi != "any" for one in layers) else "any",
        files={path: File(digest(data), len(data)) for path, data in contents.items()},
        layers=tuple(one.layer for one in layers),
    )
    written = canonical(manifest)
    # What we would refuse to read must not leave the house.
    decode_manifest(written)
    path = out / f"{component}-{manifest.version}.zip"
    try:
        (out / "layers").mkdir(parents=True, exist_ok=True)
        places = {one.layer.sha256: _write_layer(out / "layers", one) for one in layers}
        _write(path, pack({**contents, MANIFEST: written, SIGNATURES: sign(written, keys)}))
    except OSError as error:
        raise DiskTrouble(f"{error.filename or out} cannot be written", error) from error
    return Built(path, digest(written), manifest, places)


def layer_file(layers: Path, layer: Layer) -> Path:
    """Where the zip of a layer lies in a folder of them."""
    return layers / f"{layer.name}-{layer.version}-{layer.sha256[:16]}.zip"


def _write_layer(layers: Path, built: BuiltLayer) -> Path:
    path = layer_file(layers, built.layer)
    if not path.exists() or path.read_bytes() != built.zip:
        _write(path, built.zip)
    return path


def _write(path: Path, data: bytes) -> None:
    disk = Disk()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    disk.write(temporary, data)
    disk.replace(temporary, path)


def _sources(source: Path, component: str) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    for name in (component, *SHARED, *_ALSO.get(component, ())):
        if not (source / name / "__init__.py").is_file():
            raise Unfit(f"{source} has no {name}/__init__.py: give a checkout of the product with --source")
        for path in sorted((source / name).rglob("*")):
            if path.is_symlink():
                raise Unfit(f"{path} is a symbolic link; a package holds plain files only")
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
                contents[path.relative_to(source).as_posix()] = path.read_bytes()
    return contents


def _called(module: bytes, version: str) -> bytes:
    """The module with another `__version__`. Raises Unfit."""
    changed, count = re.subn(rb"(?m)^__version__ = .*$", f"__version__ = {version!r}".encode(), module)
    if count != 1:
        raise Unfit(f"__version__ stands in {count} lines of the component's __init__.py instead of in one")
    return changed


def _protocol(contents: dict[str, bytes]) -> Protocol:
    """Within a major version there are only additions, so it speaks all of them."""
    major, minor = _constant(contents, "ipc/contract/__init__.py", "PROTOCOL", tuple)
    return Protocol((major, 0), (major, minor))


def _constant(contents: dict[str, bytes], path: str, name: str, kind: type[T]) -> T:
    """`name = VALUE` of a module, without running it. Raises Unfit."""
    for node in ast.parse(contents.get(path, b"")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            value = ast.literal_eval(node.value)
            if isinstance(value, kind):
                return value
    raise Unfit(f"{path} has no line {name} = ...")


def _minimum_python(source: Path) -> str:
    try:
        project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
        return str(project["requires-python"]).removeprefix(">=").strip()
    except (OSError, KeyError, ValueError) as error:
        raise Unfit(f"{source / 'pyproject.toml'} says no requires-python: {error!r}") from error
