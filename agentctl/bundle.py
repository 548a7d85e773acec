"""`agentctl bundle`: packages in one file, for machines without a network."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from agentctl.asking import ask_for_long
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, WrongUse
from agentctl.options import json_option, root_option, told_as_json
from ipc.contract.rdagent import ImportBundle
from ipc.places import COMPONENTS
from ipc.settings import SettingsError, read_tables
from release.bundle import Bundle, pack_bundle
from release.errors import BadPackage, ReleaseError
from release.manifest import Layer
from release.unpack import claimed_signers

_IMPORT_WITHIN = 600.0
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group()
def bundle() -> None:
    """Packages and all they need in one file, for machines without a network: export, import.

    \b
      agentctl bundle export --out all.zip                        the newest of each in the repository
      agentctl bundle export --out some.zip telemetry 0.9.0
      agentctl bundle export --out mine.zip --package dist/telemetry-0.9.0.zip
      agentctl bundle import all.zip                              on the other machine; nothing begins yet
      agentctl update now telemetry 0.9.0                         this does
    """


@bundle.command("export")
@click.argument("versions", nargs=-1, metavar="[COMPONENT VERSION]...")
@click.option("--out", type=_FILE, required=True, help="The bundle to write; never over another file.")
@click.option("--package", "packages", type=_FILE, multiple=True, help="Take this file instead of the repository's.")
@click.option("--layers", type=_FOLDER, help="Where the layers of --package are.  [default: layers/ beside it]")
@click.option("--repository", default="", metavar="URL", help="[default: the one of the configuration]")
@click.option("--trust-root", type=_FILE, help="root.json of the repository.  [default: trust/root.json]")
@click.option("--channel", default="stable", show_default=True, help="Where no version is named, the newest of this.")
@root_option
@json_option
def export(
    versions: tuple[str, ...],
    out: Path,
    packages: tuple[Path, ...],
    layers: Path | None,
    repository: str,
    trust_root: Path | None,
    channel: str,
    deployment: Deployment,
    as_json: bool,
) -> None:
    """Write a bundle of the named versions, of --package files, or of the newest of each component.

    It vouches for nothing: who imports it checks the signature of each package. What every machine would refuse, as it
    is not what its manifest says, or nobody signed it, gets a warning.
    """
    if len(versions) % 2 or (versions and packages):
        raise WrongUse("name COMPONENT and VERSION in turn, or --package FILE, not both")
    wanted = list(zip(versions[::2], versions[1::2], strict=True))
    for component, _ in wanted:
        if component not in COMPONENTS:
            raise WrongUse(f"{component[:64]!r} is none of {', '.join(COMPONENTS)}")
    if packages:
        found = _write(out, list(packages), layers)
    else:
        # The library is needed by no other command, and takes a while to load.
        from agentctl.bundlesource import Source, choose

        url = repository or _configured(deployment)
        with tempfile.TemporaryDirectory(prefix="azvmagent-bundle-") as folder:
            source = Source(url, trust_root or deployment.places.trust / "root.json", Path(folder))
            chosen = choose(source, wanted, COMPONENTS, channel)
            found = _write(out, [source.fetch(one) for one in chosen], None)
    names = [f"{one.component} {one.version}" for one in found.packages]
    answer = {"bundle": str(out), "bytes": out.stat().st_size, "packages": names, "files": len(found.files)}
    said = f"{out}: {', '.join(names)}; {len(found.files)} files, {answer['bytes']} bytes."
    _answer(as_json, answer, f"{said}\nThere: agentctl bundle import {out.name}")


@bundle.command("import")
@click.argument("file", type=_FILE)
@root_option
@json_option
def import_(file: Path, deployment: Deployment, as_json: bool) -> None:
    """Take the packages of a bundle: each that is signed by a key this machine trusts, and fit for it.

    They lie on the disk then, unpacked and checked; none begins before `agentctl update now COMPONENT VERSION`, and
    none below the floor of what runs. Exit status 1 if one is refused.
    """
    with told_as_json(as_json):
        taken = ask_for_long(deployment, ImportBundle(path=str(file.absolute())), within=_IMPORT_WITHIN)
    lines = [
        f"{one} lies on the disk. Begin: {deployment.command(f'agentctl update now {one}')}" for one in taken.versions
    ]
    _answer(as_json, msgspec.to_builtins(taken), "\n".join([*lines, *(f"! refused: {one}" for one in taken.refused)]))
    sys.exit(1 if taken.refused else 0)


def _write(out: Path, packages: list[Path], layers: Path | None) -> Bundle:
    """Raises CommandError."""

    def find(package: Path, layer: Layer) -> Path:
        folder = layers or package.parent / "layers"
        # `package build` gives a layer a name for people, with the beginning of its digest.
        found = sorted(folder.glob(f"*{layer.sha256[:16]}*.zip"))
        if not found:
            raise CommandError(f"the layer {layer.name} {layer.version} is not in {folder}. Say where: --layers DIR")
        return found[0]

    try:
        data, found = pack_bundle(packages, find)
        with out.open("xb") as file:
            file.write(data)
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    except FileExistsError as error:
        raise CommandError(f"{out} is there already; choose another name") from error
    except OSError as error:
        raise CommandError(f"{error.filename or out}: {error.strerror}") from error
    _warn(packages)
    return found


def _warn(packages: list[Path]) -> None:
    """Of what every machine would refuse."""
    for path in packages:
        try:
            why = "" if claimed_signers(path) else "nobody signed it"
        except BadPackage as error:
            why = error.reason
        except ReleaseError as error:
            why = str(error)
        if why:
            click.echo(f"Warning: no machine takes {path.name}: {why}", err=True)


def _configured(deployment: Deployment) -> str:
    """Raises CommandError."""
    try:
        url = read_tables(deployment.places).get("update", {}).get("repository", "")
    except SettingsError as error:
        raise CommandError(str(error)) from error
    if not isinstance(url, str) or not url:
        raise WrongUse("no repository is configured ([update] repository): say --repository URL, or --package FILE")
    return url


def _answer(as_json: bool, answer: Any, text: str) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode() if as_json else text)
