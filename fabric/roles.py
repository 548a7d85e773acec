"""Signed metadata of the component repository: The Update Framework's roles, kept whole on disk. Blocking.

FOLDER/keys/NAME.pem             private keys, one each; three of root, of which two sign
FOLDER/metadata/N.ROLE.json      every version there was; timestamp.json says which hold
FOLDER/before.json               the timestamp before the newest change: what an attacker would replay
FOLDER/root.json                 for agents: what they are to trust
"""

import datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from fabric.errors import FabricError
from fabric.files import write_whole

T = TypeVar("T", Root, Snapshot, Targets, Timestamp)

ROOT_KEYS = ("root-1", "root-2", "root-3")
_ROOT_THRESHOLD = 2
_LASTING = datetime.timedelta(days=3650)
TIMESTAMP_LASTS = datetime.timedelta(days=1)


def create(folder: Path) -> None:
    """A repository without targets. Raises Unwritable."""
    for name in ("keys", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "keys").chmod(0o700)
    root = Root(expires=_in(_LASTING), consistent_snapshot=True)
    for name in ROOT_KEYS:
        root.add_key(_signer(folder, name).public_key, "root")
    root.roles["root"].threshold = _ROOT_THRESHOLD
    for name in ("targets", "snapshot", "timestamp"):
        root.add_key(_signer(folder, name).public_key, name)
    written = _write(folder, "1.root.json", Metadata(root), *ROOT_KEYS)
    _write(folder, "1.targets.json", Metadata(Targets(expires=_in(_LASTING))), "targets")
    _write(folder, "1.snapshot.json", Metadata(Snapshot(expires=_in(_LASTING))), "snapshot")
    _write(folder, "timestamp.json", Metadata(Timestamp(expires=_in(TIMESTAMP_LASTS))), "timestamp")
    # Whoever reads this file has the rest already.
    write_whole(folder / "root.json", written)


class Roles:
    """As the timestamp in force names them. A change is there for agents once `save` has written the next timestamp."""

    def __init__(self, folder: Path) -> None:
        """Raises FabricError: the folder is damaged."""
        self._folder = folder
        self._changed: set[str] = set()
        timestamp = _load(folder, "timestamp.json", Timestamp)
        snapshot = _load(folder, f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
        self._timestamp, self._snapshot = timestamp, snapshot
        self._targets = {
            name.removesuffix(".json"): _load(folder, f"{meta.version}.{name}", Targets)
            for name, meta in snapshot.signed.meta.items()
        }

    def entries(self) -> dict[str, dict[str, TargetFile]]:
        """Targets by path, of each component."""
        return {name: dict(one.signed.targets) for name, one in self._targets.items() if name != "targets"}

    def put(self, component: str, target: TargetFile) -> None:
        """Into the component's role; a new one is delegated to."""
        self._delegated(component).signed.targets[target.path] = target
        self._changed.add(component)

    def remove(self, component: str, path: str) -> None:
        """Raises KeyError."""
        del self._targets[component].signed.targets[path]
        self._changed.add(component)

    def save(self) -> None:
        """What changed, each as its next version; the timestamp last. Raises Unwritable."""
        if not self._changed:
            return
        before = (self._folder / "metadata" / "timestamp.json").read_bytes()
        meta = self._snapshot.signed.meta
        for name in sorted(self._changed):
            one = self._targets[name]
            one.signed.version = meta[f"{name}.json"].version + 1 if f"{name}.json" in meta else 1
            one.signed.expires = _in(_LASTING)
            _write(self._folder, f"{one.signed.version}.{name}.json", one, name)
            meta[f"{name}.json"] = MetaFile(one.signed.version)
        self._snapshot.signed.version += 1
        self._snapshot.signed.expires = _in(_LASTING)
        _write(self._folder, f"{self._snapshot.signed.version}.snapshot.json", self._snapshot, "snapshot")
        self._timestamp.signed.snapshot_meta = MetaFile(self._snapshot.signed.version)
        write_whole(self._folder / "before.json", before)
        self._renew()
        self._changed.clear()

    def renew(self) -> None:
        """The same for another day. Raises Unwritable."""
        self._renew()

    def expired(self) -> bytes:
        """A timestamp that nobody has seen yet, and whose time is over."""
        signed = self._timestamp.signed
        signed.version += 1
        signed.expires = _in(-datetime.timedelta(hours=1))
        return _signed(self._folder, self._timestamp, "timestamp")

    def _renew(self) -> None:
        self._timestamp.signed.version += 1
        self._timestamp.signed.expires = _in(TIMESTAMP_LASTS)
        _write(self._folder, "timestamp.json", self._timestamp, "timestamp")

    def _delegated(self, component: str) -> Metadata[Targets]:
        if component in self._targets:
            return self._targets[component]
        top = self._targets["targets"].signed
        if top.delegations is None:
            top.delegations = Delegations(keys={}, roles={})
        # Layers are shared: whose role names one does not matter, its name is its digest.
        role = DelegatedRole(component, [], 1, terminating=False, paths=[f"packages/{component}/*", "layers/*"])
        if top.delegations.roles is None:
            raise FabricError(f"{self._folder}: targets delegates in a way that is not ours")
        top.delegations.roles[component] = role
        top.add_key(_signer(self._folder, component).public_key, component)
        self._targets[component] = Metadata(Targets(expires=_in(_LASTING)))
        self._changed |= {component, "targets"}
        return self._targets[component]


def _load(folder: Path, name: str, kind: type[T]) -> Metadata[T]:
    try:
        found: Metadata[T] = Metadata[T].from_bytes((folder / "metadata" / name).read_bytes())
    except (OSError, RepositoryError) as error:
        raise FabricError(f"{folder / 'metadata' / name} cannot be used: {error}. Move {folder} away") from error
    if not isinstance(found.signed, kind):
        raise FabricError(f"{folder / 'metadata' / name} is no {kind.__name__}. Move {folder} away")
    return found


def _write(folder: Path, name: str, metadata: Metadata[Any], *keys: str) -> bytes:
    data = _signed(folder, metadata, *keys)
    write_whole(folder / "metadata" / name, data)
    return data


def _signed(folder: Path, metadata: Metadata[Any], *keys: str) -> bytes:
    metadata.signatures.clear()
    for key in keys:
        metadata.sign(_signer(folder, key), append=True)
    return metadata.to_bytes()


def _signer(folder: Path, name: str) -> CryptoSigner:
    """With the key of that name; a new one if there is none yet. Raises Unwritable, FabricError."""
    path = folder / "keys" / f"{name}.pem"
    if not path.exists():
        write_whole(path, CryptoSigner.generate_ed25519().private_bytes, 0o600)
    try:
        key: Any = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise FabricError(f"{path} cannot be used: {error}. Move {folder} away") from error
    return CryptoSigner(key)


def _in(time: datetime.timedelta) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + time
