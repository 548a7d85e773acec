"""What is asked of the host, by its operator or by a scenario."""

from typing import Annotated, Any

import msgspec


class ExtensionOrder(msgspec.Struct, forbid_unknown_fields=True):
    """An extension to be put into the goal state; its package must be in the repository."""

    name: Annotated[str, msgspec.Meta(max_length=200, examples=["Contoso.Tools.Greeter"])]
    version: Annotated[str, msgspec.Meta(max_length=80, examples=["1.0.0"])]
    settings: dict[str, Any] | None = None
    protected: dict[str, Any] | None = None
    fast_track: bool = False


class ComponentOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A version of the agent, or of one of its components; its package must be in the repository."""

    component: Annotated[str, msgspec.Meta(max_length=63, examples=["Prod"])]
    """An agent family."""
    version: Annotated[str, msgspec.Meta(max_length=80, examples=["9.9.9.9"])]
    from_version: Annotated[str, msgspec.Meta(max_length=80)] = ""
    """Only for who runs this one: an older version is taken on this condition only."""
    fast_track: bool = False
    """Ask by vmSettings instead of a new incarnation."""


class Removed(msgspec.Struct, frozen=True):
    """What is wanted no more."""

    removed: str
