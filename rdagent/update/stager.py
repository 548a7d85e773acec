"""Checking and unpacking a package, in a process of its own: an order on standard input, an answer on standard output.

Signatures need a library of 9 MB, unpacking and its hundreds of fsyncs half a second: neither is for a process that has
to beat. Killed at any moment it leaves the version whole or absent (release/unpack.py).
"""

import sys
from pathlib import Path
from typing import Literal

import msgspec

from release.collect import Keep, make_room
from release.errors import (
    BadPackage,
    BadSignatures,
    DiskTrouble,
    KeyFileError,
    ReleaseError,
    RottenTree,
    Unfit,
    Untrusted,
)
from release.manifest import Layer, Manifest, same_version
from release.signing import Thresholds, trust_for
from release.tree import check_layer
from release.unpack import Package, read_listing, this_machine, unpack, unpack_layer, verify_package

Problem = Literal["untrusted", "badly signed", "unfit", "damaged", "disk", "failed", "trust"]
"""
untrusted     not signed by enough of the keys we know: not for us
badly signed  changed after signing, or by too few, whosever the keys are: no key mends that
unfit         signed, but not what was asked for, or not for this machine
damaged       no package, or another than its manifest says
disk          full, read-only or failing
failed        the child ended without an answer
trust         the folder of keys, or a file there, cannot be used: nothing is said about the package
"""

_ORDER_LIMIT = 1 << 20


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to look at, and to unpack if `layers` says where the layers are."""

    component: str
    version: str
    digest: str = ""
    """Of the manifest that is expected; empty: any."""
    package: str
    root: str
    trust: str
    """Folder of `*.pub` files."""
    thresholds: Thresholds = Thresholds()
    layers: dict[str, str] | None = None
    """Files by SHA-256. None: only say which are missing."""
    keep: list[str] = []
    """Versions that must stay should room have to be made."""
    in_use: list[str] = []
    """Paths that processes run from."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    version: str = ""
    """As the package spells it."""
    digest: str = ""
    floor: str = "0.0.0"
    missing: list[Layer] = []
    problem: Problem | None = None
    reason: str = ""


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(_ORDER_LIMIT), type=Order)
    try:
        answer = _done(order)
    except ReleaseError as error:
        answer = Answer(problem=_problem(error), reason=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


def _done(order: Order) -> Answer:
    """Raises ReleaseError."""
    trust = trust_for(order.component, Path(order.trust), order.thresholds)
    package = verify_package(Path(order.package), trust)
    _check_asked(order, package)
    root, manifest = Path(order.root), package.manifest
    missing = [layer for layer in manifest.layers if not _is_there(root, layer)]
    if order.layers is not None:
        files = {layer: _file_of(layer, order.layers) for layer in missing}
        _make_room(order, order.layers, root, manifest, list(files.values()))
        for layer, file in files.items():
            unpack_layer(file, root, layer)
        unpack(Path(order.package), root, order.component, trust, this_machine())
    return Answer(version=manifest.version, digest=package.digest, floor=manifest.floor, missing=missing)


def _check_asked(order: Order, package: Package) -> None:
    manifest = package.manifest
    if manifest.component != order.component or not same_version(manifest.version, order.version):
        raise Unfit(
            f"this is {manifest.component} {manifest.version}, asked for was {order.component} {order.version}: "
            "it was published under a wrong name, and has to be published anew"
        )
    if order.digest not in {"", package.digest}:
        raise Unfit(
            f"{manifest.component} {manifest.version} is another build ({package.digest[:12]}) than the one that is "
            f"wanted ({order.digest[:12]})"
        )


def _file_of(layer: Layer, layers: dict[str, str]) -> Path:
    if (file := layers.get(layer.sha256)) is None:
        raise Unfit(f"the layer {layer.name} {layer.version} ({layer.sha256}) is missing")
    return Path(file)


def _make_room(order: Order, layers: dict[str, str], root: Path, manifest: Manifest, missing: list[Path]) -> None:
    """For the version and its layers together; what was fetched for them stays."""
    keep = Keep(
        versions=frozenset([manifest.version, *order.keep]),
        layers=frozenset(layer.sha256 for layer in manifest.layers),
        in_use=frozenset(map(Path, [order.package, *layers.values(), *order.in_use])),
    )
    files = dict(manifest.files)
    for file in missing:
        files |= {f"{file.name}/{path}": one for path, one in read_listing(file).files.items()}
    make_room(root, order.component, files, keep)


def _is_there(root: Path, layer: Layer) -> bool:
    try:
        check_layer(root / "deps" / layer.sha256, layer)
    except RottenTree:
        return False
    return True


def _problem(error: ReleaseError) -> Problem:
    match error:
        case BadSignatures():
            return "badly signed"
        case Untrusted():
            return "untrusted"
        case KeyFileError():
            return "trust"
        case BadPackage():
            return "damaged"
        case DiskTrouble() | RottenTree():
            return "disk"
        case Unfit():
            return "unfit"
    return "disk"


if __name__ == "__main__":
    main()
