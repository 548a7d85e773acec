"""A look into the component repository, in a process of its own: an order on standard input, an answer on the output.

`python -P -m rdagent.update.tufchild`. The library, its cryptography and HTTP cost memory for half a second an hour.
"""

import fcntl
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import DelegatedRole, Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater

from ipc.errors import StateError
from ipc.statefile import read_state, sync_directory, write_state
from rdagent.update.fetcher import Fetcher
from rdagent.update.ratchet import Seen, why_older
from rdagent.update.source import OFFERS_LIMIT, Answer, Custom, Kind, Offered, Order, SourceError, target_of
from wire.deadline import Deadline
from wire.errors import HostError, TooLarge, Truncated, Unplain

_SIZE_LIMIT = 1 << 20
_GRACE = 5.0
"""Seconds. The parent ends it before that."""


def main() -> None:
    """Always answers; what nobody thought of ends it, and the parent says so."""
    order = msgspec.json.decode(sys.stdin.buffer.read(_SIZE_LIMIT), type=Order)
    # Without a parent, too, it ends.
    signal.setitimer(signal.ITIMER_REAL, order.seconds + _GRACE)
    try:
        answer = _done(order)
    except SourceError as error:
        answer = Answer(kind=error.kind, reason=error.reason)
    memory = _peak_memory()
    sys.stdout.buffer.write(msgspec.json.encode(msgspec.structs.replace(answer, memory=memory)))


def _peak_memory() -> int:
    """Bytes. Not getrusage's ru_maxrss: that of a child begins with its parent's (proc_pid_status(5): VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _done(order: Order) -> Answer:
    """Raises SourceError."""
    state = Path(order.state)
    trust = _trusted(Path(order.root))
    fetcher = Fetcher(Deadline.after(order.seconds))
    try:
        with _alone(state), _translated(order.url):
            updater = _updater(order, state, trust, fetcher)
            updater.refresh()
            for component in order.components:
                # Asking for any of its targets loads the component's role.
                updater.get_targetinfo(target_of(component, "0.0"))
            found = {target: updater.get_targetinfo(target) for target in order.wanted}
            _remember(state, trust)
            for target, info in found.items():
                if info is None:
                    raise SourceError("missing", f"the repository has no {target} (any more)")
                fetcher.path = Path(order.wanted[target])
                _fetch(updater, info, fetcher.path, order.limit)
            return _listed(state / "metadata", order.components)
    except OSError as error:
        raise SourceError("disk", f"{error.filename or state}: {error.strerror or error}") from error


# -- beginning ---------------------------------------------------------------------------------------------------------


def _trusted(path: Path) -> bytes:
    """Raises SourceError: a machine that was told nothing believes nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_LIMIT)
        metadata = Metadata[Root].from_bytes(data)
        if not isinstance(metadata.signed, Root):
            raise SourceError("no-root", f"{path} is no metadata of the role root")
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except FileNotFoundError as error:
        raise SourceError("no-root", f"{path} is not there: nobody is trusted to release anything") from error
    except (OSError, RepositoryError, ValueError) as error:
        raise SourceError("no-root", f"{path} cannot be used: {error}") from error
    return data


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Of two children, the second waits: one whose parent was killed may still be at it. Raises OSError."""
    (state / "metadata").mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _updater(order: Order, state: Path, trust: bytes, fetcher: Fetcher) -> Updater:
    return Updater(
        metadata_dir=str(state / "metadata"),
        metadata_base_url=f"{order.url}/metadata/",
        target_base_url=f"{order.url}/targets/",
        fetcher=fetcher,
        bootstrap=trust,
    )


# -- what was seen -----------------------------------------------------------------------------------------------------


def _remember(state: Path, trust: bytes) -> None:
    """Durably, before anybody acts on it. Raises SourceError, OSError."""
    file, folder = state / "seen.json", state / "metadata"
    try:
        before = read_state(file, Seen)
    except StateError:
        before = None  # it has to be torn as well as the library's own files before an older set is believed
    now = _seen(folder, trust)
    if reason := why_older(before, now):
        raise SourceError("untrusted", reason)
    if now != before:
        for one in (*folder.glob("*.json"), *folder.glob("root_history/*.json")):
            _sync(one)
        for one in (folder / "root_history", folder, state):
            sync_directory(one)
        write_state(file, now)


def _seen(folder: Path, trust: bytes) -> Seen:
    """Of the files the library has just checked."""
    root = Metadata[Root].from_bytes((folder / "root.json").read_bytes()).signed
    timestamp = Metadata[Timestamp].from_bytes((folder / "timestamp.json").read_bytes()).signed
    snapshot = Metadata[Snapshot].from_bytes((folder / "snapshot.json").read_bytes()).signed
    return Seen(
        trust=_named(Metadata[Root].from_bytes(trust).signed, "root"),
        root=root.version,
        keys=_named(root, "timestamp", "snapshot"),
        timestamp=timestamp.version,
        snapshot=snapshot.version,
        targets={name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()},
    )


def _named(root: Root, *roles: str) -> str:
    keys = [sorted(root.roles[role].keyids) for role in roles]
    return hashlib.sha256(msgspec.json.encode(keys)).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# -- what there is -----------------------------------------------------------------------------------------------------


def _listed(folder: Path, components: tuple[str, ...]) -> Answer:
    """Raises RepositoryError."""
    top = Metadata[Targets].from_bytes((folder / "targets.json").read_bytes()).signed
    roles = (top.delegations.roles if top.delegations else None) or {}
    offered: list[Offered] = []
    skipped: list[str] = []
    for component in components:
        if component not in roles:
            continue
        metadata = Metadata[Targets].from_bytes((folder / f"{component}.json").read_bytes())
        # The library looked at it if the role may speak of this component's packages; a left-over it did not.
        top.verify_delegate(component, metadata.signed_bytes, metadata.signatures)
        packages = [one for path, one in metadata.signed.targets.items() if path.startswith("packages/")]
        for target in packages[:OFFERS_LIMIT]:
            try:
                offered.append(_offered(target, roles[component]))
            except ValueError as error:
                skipped.append(f"{target.path[:100]}: {error}")
        if len(packages) > OFFERS_LIMIT:
            skipped.append(f"{component}: {len(packages) - OFFERS_LIMIT} further versions")
    return Answer(offered=tuple(offered), skipped=tuple(skipped[:20]))


def _offered(target: TargetFile, role: DelegatedRole) -> Offered:
    """Raises ValueError: it is none of ours."""
    if not role.is_delegated_path(target.path):
        raise ValueError(f"is not for the role {role.name} to say")
    custom = msgspec.convert(target.custom, Custom)
    # Who may release one component speaks of no other.
    if custom.component != role.name or target.path != target_of(role.name, custom.version):
        raise ValueError(f"is called {custom.component} {custom.version}")
    return msgspec.convert({**msgspec.structs.asdict(custom), "target": target.path, "size": target.length}, Offered)


def _fetch(updater: Updater, info: TargetFile, path: Path, limit: int) -> None:
    """To `path`, whole and checked or not at all. Raises SourceError, OSError, and what the library raises."""
    if info.length > limit:
        raise SourceError("damaged", f"{info.path} is said to have {info.length} bytes, limit {limit}")
    checked = path.with_name(f".{path.name}.checked")
    try:
        updater.download_target(info, str(checked))
        _sync(checked)
        checked.replace(path)
        sync_directory(path.parent)
    finally:
        checked.unlink(missing_ok=True)


# -- how it goes wrong -------------------------------------------------------------------------------------------------


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Each error of the library as one of ours."""
    try:
        yield
    except DownloadHTTPError as error:
        raise SourceError("unreachable", str(error)) from error
    except DownloadError as error:
        kind: Kind = "damaged" if isinstance(error.__cause__, Truncated | TooLarge | Unplain) else "unreachable"
        raise SourceError(kind, str(error) if isinstance(error.__cause__, HostError) else f"{url}: {error}") from error
    except ExpiredMetadataError as error:
        raise SourceError("expired", f"{url}: {error} (is this machine's clock right?)") from error
    except (UnsignedMetadataError, BadVersionNumberError) as error:
        raise SourceError("untrusted", f"{url}: {error}") from error
    except (DeserializationError, LengthOrHashMismatchError) as error:
        raise SourceError("damaged", f"{url}: {error}") from error
    except RepositoryError as error:
        raise SourceError("untrusted", f"{url}: {error}") from error


if __name__ == "__main__":
    main()
