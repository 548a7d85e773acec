"""The component repository: packages and layers as signed targets, and the same packages in agent families.

The Update Framework's files lie in one folder (`roles`), targets below it: `targets/packages/COMPONENT/DIGEST.NAME` and
`targets/layers/DIGEST.NAME`. Made when it is first asked for: until then it costs nothing.

The workers of a host share the folder and remember nothing of it. Changes are made one at a time; who reads waits for
nobody: metadata that a timestamp names stays as it is.
"""

import contextlib
import datetime
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fabric import blobreads
from fabric.componentpackage import ComponentPackage
from fabric.errors import FabricError, Refused, Unknown
from fabric.faults import Fault
from fabric.files import Unfinished, forget_unfinished, writable
from fabric.locking import locked
from fabric.packages import same_version, spelling

if TYPE_CHECKING:
    from fabric.roles import Roles

PREFIX = "/repository/"
_RESERVED = {"root", "targets", "snapshot", "timestamp"}
_METADATA = re.compile(r"metadata/(?P<file>([0-9]{1,9}\.)?[a-z][a-z0-9_]{0,62}\.json)")
_TARGET = re.compile(r"targets/(packages/[a-z][a-z0-9_]{0,62}|layers)/[0-9a-f]{64}\.[a-z0-9_.-]{1,150}\.zip")
_RENEW_WITHIN = datetime.timedelta(hours=12)
_PATIENCE = 60.0
"""Seconds that a change waits for the others."""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """One version in the repository."""

    component: str
    version: str
    channel: str
    ring: int
    """Machines of the rings 0 to this one take it; 0 is the first."""
    digest: str
    """SHA-256 of the package's manifest."""
    floor: str
    """The lowest version that may follow this one."""
    layers: list[str]
    """SHA-256 of each."""
    target: str
    """Path below the repository's targets."""
    size: Annotated[int, msgspec.Meta(ge=0)]
    """Bytes of the package."""


class Repository:
    """Blocking; may be used from several threads, and of one folder by several workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Around every change: nobody else makes one meanwhile. Raises Unwritable, Busy."""
        with locked(self._folder / "lock", _PATIENCE):
            yield

    def root(self) -> bytes:
        """What agents are to trust; the repository is made if there is none. Raises Unwritable, Busy, FabricError."""
        self._make()
        return (self._folder / "root.json").read_bytes()

    def listed(self) -> list[Released]:
        """Every version, oldest first. Raises FabricError."""
        if not self._is_there():
            return []
        found = [
            _released(path, target)
            for targets in self._roles().entries().values()
            for path, target in targets.items()
            if path.startswith("packages/")
        ]
        return sorted(found, key=lambda one: (one.component, [int(part) for part in one.version.split(".")]))

    def missing(self, layers: list[str]) -> list[str]:
        """Which of these layers are not here yet."""
        return [one for one in layers if self._layer(one) is None]

    def take_layer(self, digest: str, unfinished: Unfinished) -> Path:
        """Keep a layer, `changing`: a target once a package needs it. The file. Raises Unwritable, FabricError."""
        self._create()
        # Packed another way it would be another file for the same content: the first stays.
        return self._layer(digest) or self._keep(unfinished, f"layers/{digest}.zip")

    def publish(self, package: ComponentPackage, unfinished: Unfinished, channel: str, ring: int) -> Released:
        """One version, or its new channel and ring, `changing`; its layers must be here.

        Raises Unwritable, FabricError; Refused: there is another package of that number already.
        """
        path = _package(package.component, package.version)
        if package.component in _RESERVED:
            raise FabricError(f"no component may be called {package.component}")
        from tuf.api.metadata import TargetFile

        self._create()
        roles = self._roles()
        sha256 = unfinished.sha256()
        for other, there in roles.entries().get(package.component, {}).items():
            if other.startswith("packages/"):
                _check_same(_released(other, there), there.hashes["sha256"] == sha256, package)
        layers = [one.sha256 for one in package.layers]
        if missing := self.missing(layers):
            raise Refused(409, f"{len(missing)} of its layers are not here, such as {missing[0]}: say --layers DIR")
        known = {path for targets in roles.entries().values() for path in targets}
        for one in layers:
            if (name := f"layers/{one}.zip") not in known:
                roles.put(package.component, TargetFile.from_file(name, str(self._layer(one)), ["sha256"]))
        target = TargetFile.from_file(path, str(self._keep(unfinished, path)), ["sha256"])
        target.unrecognized_fields["custom"] = {
            "component": package.component,
            "version": package.version,
            "channel": channel,
            "ring": ring,
            "digest": package.digest,
            "layers": layers,
            "floor": package.floor,
        }
        roles.put(package.component, target)
        roles.save()
        return _released(path, target)

    def released(self, component: str, version: str) -> Released:
        """One version; 1.2 and 1.2.0 are the same. Raises Unknown, FabricError."""
        there = {one.version: one for one in self.listed() if one.component == component}
        if (spelled := spelling(there, version)) is None:
            raise Unknown(f"there is no {component} {version} in the repository: azfabric publish --list")
        return there[spelled]

    def withdraw(self, component: str, version: str) -> None:
        """Take a version away that is `released`, `changing`; its file too. Raises Unwritable, FabricError."""
        path, roles = _package(component, version), self._roles()
        digest = roles.entries()[component][path].hashes["sha256"]
        roles.remove(component, path)
        roles.save()
        self._place(path, digest).unlink(missing_ok=True)

    def answer(self, request: Request, fault: Fault | None) -> Response:
        """GET and HEAD below /repository/. Blocking. Raises FabricError."""
        path = request.scope["path"].removeprefix(PREFIX)
        if request.method not in {"GET", "HEAD"}:
            raise Refused(405, "the repository is only read here")
        if match := _METADATA.fullmatch(path):
            return Response(self._metadata(match["file"], fault), media_type="application/json")
        file = self._folder / path
        if not _TARGET.fullmatch(path) or not file.is_file():
            raise Unknown("the repository has no such file")
        return blobreads.read(file, dict(request.headers), only_head=request.method == "HEAD")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _metadata(self, name: str, fault: Fault | None) -> bytes:
        self._make()
        if name == "timestamp.json":
            match fault:
                case Fault(fault="replayed") if (self._folder / "before.json").exists():
                    return (self._folder / "before.json").read_bytes()
                case Fault(fault="expired-metadata"):
                    return self._roles().expired()
            self._renew()
        try:
            return (self._folder / "metadata" / name).read_bytes()
        except FileNotFoundError as error:
            raise Unknown(f"there is no metadata {name}") from error

    def _renew(self) -> None:
        """A timestamp is good for a day: whoever asks gets one that is good for half of that at least."""
        if self._ends_soon():
            with self.changing():
                # Of several who ask, one signs.
                if self._ends_soon():
                    self._roles().renew()

    def _ends_soon(self) -> bool:
        file = self._folder / "metadata" / "timestamp.json"
        try:
            expires = datetime.datetime.fromisoformat(msgspec.json.decode(file.read_bytes())["signed"]["expires"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FabricError(f"{file} cannot be used: {error}. Move {self._folder} away") from error
        return expires - datetime.datetime.now(datetime.UTC) < _RENEW_WITHIN

    def _is_there(self) -> bool:
        return (self._folder / "root.json").exists()

    def _make(self) -> None:
        if not self._is_there():
            with self.changing():
                self._create()

    def _create(self) -> None:
        """While `changing`, unless it is there."""
        if not self._is_there():
            from fabric.roles import create

            create(self._folder)

    def _roles(self) -> "Roles":
        from fabric.roles import Roles

        return Roles(self._folder)

    def _place(self, path: str, digest: str) -> Path:
        folder, _, name = path.rpartition("/")
        return self._folder / "targets" / folder / f"{digest}.{name}"

    def _layer(self, digest: str) -> Path | None:
        found = sorted((self._folder / "targets" / "layers").glob(f"*.{digest}.zip"))
        return found[0] if found else None

    def _keep(self, unfinished: Unfinished, path: str) -> Path:
        """A copy that nobody else writes to, under the name agents ask for."""
        unfinished.file.flush()
        file = self._place(path, unfinished.sha256())
        with writable(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            forget_unfinished(file.parent)
        with Unfinished(file.parent) as copy, writable(file):
            unfinished.file.seek(0)
            shutil.copyfileobj(unfinished.file, copy.file)
            copy.place(file)
        return file


def _package(component: str, version: str) -> str:
    """The target's path."""
    return f"packages/{component}/{component}-{version}.zip"


def _check_same(there: Released, same_file: bool, package: ComponentPackage) -> None:
    """One number has one content, whatever its spelling and whoever signed it. Raises Refused."""
    if not same_version(there.version, package.version) or (there.digest == package.digest and same_file):
        return
    name, how = f"{package.component} {package.version}", "with another content"
    if there.digest == package.digest:
        how = "as another file: the manifest is the same, a file or the signatures are not"
    elif there.version != package.version:
        how = f"as {there.version} with another content"
    withdraw = f"azfabric publish --withdraw {package.component} {there.version}"
    reason = f"is published {how}. One number has one content. Withdraw it first ({withdraw})"
    raise Refused(409, f"{name} {reason}, or build a higher version")


def _released(path: str, target: Any) -> Released:
    """Of a target of ours. Raises FabricError."""
    try:
        custom = {**target.custom, "target": path, "size": target.length}
        return msgspec.convert(custom, Released)
    except (TypeError, msgspec.ValidationError) as error:
        raise FabricError(f"the repository's target {path} is not as it was written: {error}") from error
