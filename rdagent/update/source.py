"""What the updater and the child that reads the repository say to each other, and how it can go wrong."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from release.manifest import BYTES_LIMIT, Digest, Name, Version

Kind = Literal["unreachable", "expired", "untrusted", "damaged", "missing", "no-root", "disk", "failed"]
"""
unreachable  no answer, or not in time, or one that says no
expired      what it says is too old to authorise anything (or this machine's clock is wrong)
untrusted    not signed as it should be, or older than what was seen before
damaged      what arrives is not what was announced, or no metadata, or no package
missing      the repository has no such file (any more)
no-root      this machine does not know whom to trust
disk         this machine cannot keep what it got
failed       the child ended without an answer
"""

OFFERS_LIMIT = 1000
"""Versions of one component that are looked at."""


class SourceError(Exception):
    """There is nothing new to be had now; what runs goes on running."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason
        """One line."""


class Custom(msgspec.Struct, frozen=True, kw_only=True):
    """What the repository says of a package beside its length and digest. Unknown fields are ignored."""

    component: Name
    version: Version
    channel: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_-]{0,29}\Z")]
    ring: Annotated[int, msgspec.Meta(ge=0, le=100)]
    digest: Digest
    """Of the package's manifest."""
    layers: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=500)] = ()
    floor: Version = "0.0.0"


class Offered(Custom, frozen=True, kw_only=True):
    """One package that the repository vouches for."""

    target: str
    """Its path there, for `fetch`."""
    size: Annotated[int, msgspec.Meta(ge=1, le=BYTES_LIMIT)]
    """Bytes."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is to do."""

    url: str
    """Base of the repository, without a slash at the end."""
    root: str
    """File with the root of trust."""
    state: str
    """Folder of what it remembers."""
    seconds: float
    """For all of it."""
    components: tuple[str, ...] = ()
    """Look for packages of these."""
    wanted: dict[str, str] = {}
    """Or fetch these targets, each to its path."""
    limit: int = BYTES_LIMIT
    """Bytes of each."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: `kind` and `reason` if it went wrong."""

    offered: tuple[Offered, ...] = ()
    skipped: tuple[str, ...] = ()
    """Targets that are none of ours, each with the reason."""
    kind: Kind | None = None
    reason: str = ""
    memory: int = 0
    """The most bytes the child had resident."""


def target_of(component: str, version: str) -> str:
    """Where the repository has a package."""
    return f"packages/{component}/{component}-{version}.zip"


def layer_target(sha256: str) -> str:
    """Where the repository has a layer."""
    return f"layers/{sha256}.zip"


def forget(path: Path) -> None:
    """A file of an earlier try must not be taken for what is asked for now. Raises SourceError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError("disk", f"{path}: {error.strerror}") from error
