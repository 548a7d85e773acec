"""Who vouches for a package: ed25519 signatures over its manifest, n of the keys we know.

`cryptography` takes 40 ms and 9 MB, so it is imported when something is signed or checked.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from release.errors import BadSignatures, KeyFileError, Untrusted
from release.manifest import SIZE_LIMIT, digest

# A signature for this must never be valid for something else that is signed with the same key.
_PURPOSE = b"azvmagent package manifest 1\n"

_THERE = "is there already; a key is never written over, choose another name"
_KEY_BYTES = 4096
"""More than any key file has."""

Half = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Signature = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{128}\Z")]
S = TypeVar("S", bound=msgspec.Struct)


class PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `agentctl package keygen` writes beside the key."""

    ed25519_public: Half

    @property
    def name(self) -> str:
        """Short, and told by the key alone."""
        return digest(bytes.fromhex(self.ed25519_public))[:16]


class SecretKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ed25519_secret: Half

    def __repr__(self) -> str:
        return "SecretKey(...)"

    def public(self) -> PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.ed25519_secret))
        return PublicKey(key.public_key().public_bytes_raw().hex())


class Trust(msgspec.Struct, frozen=True):
    """Keys we know, and how many different ones of them must have signed."""

    keys: tuple[PublicKey, ...]
    threshold: int = 1


class Thresholds(msgspec.Struct, frozen=True):
    """How many keys must have signed a package; rdagent installs all others, so more may be asked for it."""

    threshold: int = 1
    rdagent_threshold: int = 1

    def of(self, component: str) -> int:
        return self.rdagent_threshold if component == "rdagent" else self.threshold


class Signatures(msgspec.Struct, frozen=True):
    """By name of key."""

    signatures: dict[str, Signature]


def new_key() -> SecretKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return SecretKey(Ed25519PrivateKey.generate().private_bytes_raw().hex())


def sign(manifest: bytes, keys: list[SecretKey]) -> bytes:
    """The `.signatures` of a package. The same keys give the same bytes, in any order."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = {}
    for key in keys:
        secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key.ed25519_secret))
        made[key.public().name] = secret.sign(_PURPOSE + manifest).hex()
    return msgspec.json.encode(Signatures(dict(sorted(made.items()))))


def signers(manifest: bytes, signatures: bytes, trust: Trust) -> list[str]:
    """Names of the known keys that signed, if they are enough. Raises Untrusted, BadSignatures."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if trust.threshold < 1:
        raise Untrusted(f"a threshold of {trust.threshold} would take anything; ask for 1 or more")
    found = _decode(signatures)
    good: set[str] = set()
    for key in trust.keys:
        if (signature := found.get(key.name)) is None:
            continue
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.ed25519_public))
            public.verify(bytes.fromhex(signature), _PURPOSE + manifest)
        except (InvalidSignature, ValueError):
            raise BadSignatures(
                f"the signature of key {key.name} is wrong: the manifest was changed after signing"
            ) from None
        good.add(key.name)
    if len(good) < trust.threshold:
        known = ", ".join(sorted(key.name for key in trust.keys)) or "none"
        kind = BadSignatures if len(found) < trust.threshold else Untrusted
        raise kind(
            f"signed by {len(good)} of the keys we know, {trust.threshold} are needed "
            f"(signed by: {', '.join(sorted(found)) or 'nobody'}; known: {known})"
        )
    return sorted(good)


def claimed(signatures: bytes) -> list[str]:
    """Names of the keys in a `.signatures`; none is checked. Raises BadSignatures."""
    return sorted(_decode(signatures))


def _decode(signatures: bytes) -> dict[str, str]:
    if len(signatures) > SIZE_LIMIT:
        raise BadSignatures(f"signatures of {len(signatures)} bytes, limit {SIZE_LIMIT}")
    try:
        return dict(msgspec.json.decode(signatures, type=Signatures).signatures)
    except (ValueError, RecursionError) as error:
        raise BadSignatures(f"the signatures cannot be read ({error})") from error


def write_key(path: Path, key: SecretKey) -> Path:
    """Write the key (0600) and, with `.pub` added, its public half. Never over another one. Raises KeyFileError."""
    public = path.with_name(path.name + ".pub")
    if public.exists() or public.is_symlink():  # before the secret lies there
        raise KeyFileError(public, _THERE)
    for file, content, mode in ((path, key, 0o600), (public, key.public(), 0o644)):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.encode(content) + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
        except FileExistsError:
            raise KeyFileError(file, _THERE) from None
        except OSError as error:
            raise KeyFileError(file, f"cannot be written: {error.strerror}") from error
    return public


def read_key(path: Path) -> SecretKey:
    """Raises KeyFileError, also when others could read it; what is no secret key, anybody may read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(
            path, f"cannot be read: {error.strerror}; make one: agentctl package keygen {path}"
        ) from error
    try:
        key = _read(path, SecretKey, "a key made by agentctl package keygen")
    except KeyFileError:
        if _is_public_key(path):
            secret = path.with_suffix("")
            raise KeyFileError(path, f"is the public half of a key; sign with the other one: {secret}") from None
        raise
    # Only of what is a secret: nobody is sent to change the rights of another file.
    if mode & 0o077:
        raise KeyFileError(path, f"could be read by others; if they have not: chmod 600 {path}")
    return key


def read_public_key(path: Path) -> PublicKey:
    """Raises KeyFileError."""
    return _read(path, PublicKey, "the .pub file that agentctl package keygen wrote beside the key")


def _is_public_key(path: Path) -> bool:
    try:
        read_public_key(path)
    except KeyFileError:
        return False
    return True


def trust_for(component: str, folder: Path, thresholds: Thresholds) -> Trust:
    """Trust in the keys whose `.pub` files lie in `folder`; other files there are not looked at.

    Raises KeyFileError for a folder or file that others could write to, for one that is no key, and without any key.
    """
    _check_ours(folder, stat.S_ISDIR, "folder")
    try:
        files = sorted(folder.glob("*.pub"))
    except OSError as error:
        raise KeyFileError(folder, f"cannot be read: {error.strerror}") from error
    for path in files:
        _check_ours(path, stat.S_ISREG, "file")
    if not files:
        raise KeyFileError(folder, "holds no .pub file, so no package can be trusted: agentctl package trust KEY.pub")
    return Trust(tuple(read_public_key(path) for path in files), thresholds.of(component))


def trust_digest(folder: Path) -> str:
    """Of all that `trust_for` looks at: another one may judge a package otherwise. Never raises."""
    seen = [_looked_at(folder)]
    try:
        seen += [f"{path.name} {_looked_at(path)}" for path in sorted(folder.glob("*.pub"))]
    except OSError as error:
        seen.append(f"{error.errno}")
    return digest("\n".join(seen).encode(errors="surrogateescape"))[:16]


def _looked_at(path: Path) -> str:
    """Owner, kind, rights, and a file's beginning."""
    try:
        status = path.lstat()
        content = b""
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = file.read(_KEY_BYTES)
        return f"{status.st_uid} {status.st_mode:o} {digest(content)}"
    except OSError as error:
        return f"{error.errno}"


def _check_ours(path: Path, kind: Callable[[int], bool], what: str) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise KeyFileError(path, f"cannot be read: {error.strerror}") from error
    if not kind(status.st_mode):
        raise KeyFileError(path, f"is no plain {what} but a link or something else; put the {what} itself there")
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise KeyFileError(
            path, f"could be written to by others, so its keys count for nothing: chmod go-w {path}, chown root {path}"
        )


def _read(path: Path, kind: type[S], what: str) -> S:
    try:
        with path.open("rb") as file:
            content = file.read(_KEY_BYTES + 1)
        if len(content) > _KEY_BYTES:
            raise KeyFileError(path, f"is not {what}: it has more than {_KEY_BYTES} bytes")
        return msgspec.json.decode(content, type=kind)
    except OSError as error:
        raise KeyFileError(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise KeyFileError(path, f"is not {what}: {error}") from error
