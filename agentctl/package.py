"""`agentctl package`: a component as a signed package, made and checked on any machine with a checkout."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from agentctl.deployment import Deployment
from agentctl.errors import CommandError, WrongUse
from agentctl.options import json_option, root_option
from ipc.places import COMPONENTS
from release.errors import ReleaseError

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def package() -> None:
    """Component packages: keygen, build, verify, show, trust.

    \b
      agentctl package keygen release.key
      agentctl package build telemetry --key release.key
      agentctl package verify dist/telemetry-0.2.0.zip --trust release.key.pub
    """


@package.command()
@click.argument("file", type=_FILE)
@json_option
def keygen(file: Path, as_json: bool) -> None:
    """Make a signing key FILE (readable by you alone), and FILE.pub for those who check."""
    from release.signing import new_key, write_key

    with _refusals():
        key = new_key()
        public = write_key(file, key)
    answer = {"key": str(file), "public": str(public), "name": key.public().name}
    _answer(as_json, answer, f"{file} is the key {answer['name']}: keep it secret. Who checks packages needs {public}.")


@package.command()
@click.argument("component")
@click.option(
    "--key", "keys", type=_FILE, multiple=True, required=True, help="Sign with this key; several sign together."
)
@click.option(
    "--source",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="here",
    help="A checkout.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("dist"), show_default=True)
@click.option("--floor", default="0.0.0", show_default=True, help="No version below this may follow this one.")
@click.option("--as-version", default="", metavar="VERSION", help="Instead of the version in its code, to try updates.")
@json_option
def build(
    component: str, keys: tuple[Path, ...], source: Path, out: Path, floor: str, as_version: str, as_json: bool
) -> None:
    """Make the package of COMPONENT, and the layers it needs in OUT/layers. The same input gives the same bytes."""
    from release.build import build as build_package
    from release.signing import read_key

    if component not in COMPONENTS:
        raise WrongUse(f"{component[:64]!r} is none of {', '.join(COMPONENTS)}")
    with _refusals():
        signing = [read_key(key) for key in keys]
        built = build_package(source, component, out, signing, floor=floor, version=as_version)
    manifest = built.manifest
    answer = {
        "package": str(built.path),
        "component": component,
        "version": manifest.version,
        "digest": built.digest,
        "bytes": built.path.stat().st_size,
        "files": len(manifest.files),
        "layers": {digest: str(path) for digest, path in built.layers.items()},
    }
    _answer(
        as_json,
        answer,
        f"{built.path}: {component} {manifest.version}, {len(manifest.files)} files, {answer['bytes']} bytes, "
        f"{len(built.layers)} layers in {out / 'layers'}\ndigest {built.digest}",
    )


@package.command()
@click.argument("file", type=_FILE)
@click.option(
    "--trust", "keys", type=_FILE, multiple=True, required=True, help="A .pub file; give several for several keys."
)
@click.option(
    "--threshold", type=click.IntRange(min=1), default=1, show_default=True, help="How many of them must have signed."
)
@json_option
def verify(file: Path, keys: tuple[Path, ...], threshold: int, as_json: bool) -> None:
    """Check the signatures and every file of a package. Writes nothing. Exit status 1 if anything is wrong."""
    from release.signing import Trust, read_public_key
    from release.unpack import verify_package

    try:
        with _refusals():
            found = verify_package(file, Trust(tuple(read_public_key(key) for key in keys), threshold))
    except CommandError as error:
        if not as_json:
            raise
        _answer(True, {"good": False, "why": str(error)}, "")
        sys.exit(error.exit_status)
    manifest = found.manifest
    answer = {
        "good": True,
        "component": manifest.component,
        "version": manifest.version,
        "digest": found.digest,
        "signers": found.signers,
    }
    by = ", ".join(found.signers)
    _answer(
        as_json, answer, f"good: {manifest.component} {manifest.version}, {len(manifest.files)} files, signed by {by}"
    )


@package.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="KEY.pub...")
@root_option
@json_option
def trust(files: tuple[Path, ...], deployment: Deployment, as_json: bool) -> None:
    """Have this machine's updater trust packages signed by KEY.pub.

    They are copied to the folder `trust` beside the configuration, where whoever owns the machine may also put them.
    """
    from ipc.errors import UnsafeDirectory
    from ipc.lock import make_private_directory
    from ipc.statefile import write_atomically
    from release.signing import read_public_key

    folder = deployment.places.trust
    with _refusals():
        keys = {file: read_public_key(file) for file in files}
    try:
        make_private_directory(folder)
        for key in keys.values():
            write_atomically(folder / f"{key.name}.pub", msgspec.json.encode(key) + b"\n", 0o644)
    except UnsafeDirectory as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error.strerror}") from error
    names = [key.name for key in keys.values()]
    _answer(as_json, {"trusted": names, "folder": str(folder)}, f"trusted: {', '.join(names)}, in {folder}")


@package.command()
@click.argument("file", type=_FILE)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Print what a package says of itself. Nothing is checked: see verify."""
    from release.unpack import read_manifest

    with _refusals():
        manifest = read_manifest(file)
    low, high = manifest.protocol.min, manifest.protocol.max
    lines = [
        f"{manifest.component} {manifest.version} (not checked: agentctl package verify {file} --trust KEY.pub)",
        f"  python    {manifest.min_python} or newer; layers for {manifest.platform}, {manifest.abi}",
        f"  protocol  {low[0]}.{low[1]} to {high[0]}.{high[1]}",
        f"  floor     {manifest.floor}",
        f"  files     {len(manifest.files)}, {sum(one.size for one in manifest.files.values())} bytes",
        *(f"  layer     {layer.name} {layer.version}  {layer.sha256}" for layer in manifest.layers),
    ]
    _answer(as_json, msgspec.to_builtins(manifest), "\n".join(lines))


@contextmanager
def _refusals() -> Iterator[None]:
    """What release/ refuses, as an operator's paragraph."""
    try:
        yield
    except ReleaseError as error:
        raise CommandError(str(error)) from error


def _answer(as_json: bool, answer: Any, text: str) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() if as_json else text)
