"""What was seen of the repository never goes back. Pure.

The library compares with its own files. When these are lost or torn it would believe a replayed older set, so the
highest versions are kept a second time. A rotation of the keys of timestamp or snapshot forgets them, by the rule of
The Update Framework (specification, 5.3.11): else whoever held such a key once could lock everybody out for ever.
"""

import msgspec


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The highest versions, under one trust."""

    trust: str
    """Names the keys this machine was given to begin with."""
    root: int
    keys: str
    """Names the keys of timestamp and snapshot."""
    timestamp: int
    snapshot: int
    targets: dict[str, int]
    """Of `targets` and of each role it delegates to."""


def why_older(before: Seen | None, now: Seen) -> str:
    """Why `now` is not to be believed; empty if it may be."""
    if before is None or before.trust != now.trust:
        return ""
    if now.root < before.root:
        return _sentence("root", now.root, before.root)
    if before.keys != now.keys:
        return ""
    for name in ("timestamp", "snapshot"):
        if getattr(now, name) < getattr(before, name):
            return _sentence(name, getattr(now, name), getattr(before, name))
    for name, version in before.targets.items():
        if now.targets.get(name, 0) < version:
            return _sentence(name, now.targets.get(name, 0), version)
    return ""


def _sentence(role: str, now: int, before: int) -> str:
    return f"{role} is version {now}, and version {before} was seen before: an old state is played back"
