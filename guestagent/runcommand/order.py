"""What is to be run: what both shapes of settings come down to. Holds secrets, so it never shows itself."""

import msgspec


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which managed identity to use; both empty is the machine's own."""

    client_id: str = ""
    object_id: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A file to be fetched."""

    url: str
    """With its signature, if there is one."""
    file_name: str
    identity: Identity | None = None
    """Whose token to try where there is no signature."""

    def __repr__(self) -> str:
        return f"Source({self.file_name!r})"


class BlobTarget(msgspec.Struct, frozen=True, kw_only=True):
    """An append blob that takes one stream of the output."""

    url: str
    """With its signature, if there is one."""
    signed: bool
    identity: Identity | None = None

    def __repr__(self) -> str:
        return "BlobTarget(...)"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of `script`, `script_from` and `command` says what to run."""

    script: bytes | None = None
    script_from: Source | None = None
    command: str = ""
    """A line for /bin/sh (v1)."""
    files: tuple[Source, ...] = ()
    """v1: downloaded beside it."""
    artifacts: tuple[Source, ...] = ()
    """v2: downloaded beside it."""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    run_as: str = ""
    timeout_seconds: float | None = None
    asynchronous: bool = False
    failure_is_error: bool = False
    """treatFailureAsDeploymentFailure."""
    output_blob: BlobTarget | None = None
    error_blob: BlobTarget | None = None
    convert_text: bool = True
    """Take byte order marks and carriage returns out of scripts."""

    def __repr__(self) -> str:
        return "Order(...)"
