"""Version strings of handlers and agents: syntax and order (protocol: version syntax and ordering)."""

import functools
import re
from collections.abc import Iterable

_SYNTAX = re.compile(r"(\d{1,9}(?:\.\d{1,9}){0,15})(?:[.-]?(alpha|beta|rc)(\d{0,9}))?", re.ASCII)
_STAGES = {"alpha": 0, "beta": 1, "rc": 2, None: 3}


class BadVersion(ValueError):
    """Not a version."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text[:80]!r} is not a version")


@functools.total_ordering
class Version:
    """`1.4.2`, `2.0.0-rc1`: numeric parts, missing ones are 0, a pre-release sorts before its release."""

    def __init__(self, text: str) -> None:
        """Raises BadVersion."""
        match = _SYNTAX.fullmatch(text)
        if match is None:
            raise BadVersion(text)
        self.text = text
        self.parts = tuple(int(part) for part in match[1].split("."))
        significant = self.parts
        while significant and significant[-1] == 0:
            significant = significant[:-1]
        self._key = (significant, _STAGES[match[2]], int(match[3] or 0))

    def starts_with(self, other: "Version") -> bool:
        """Whether the listed numeric parts of `other` lead ours: `1` leads `1.4.2`, `1.0.0` does not lead `1.0`."""
        return self.parts[: len(other.parts)] == other.parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key == other._key

    def __lt__(self, other: "Version") -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Version({self.text!r})"


def best(requested: Version, available: Iterable[Version]) -> Version | None:
    """The highest of those that start with the requested parts (protocol: which extension version is used)."""
    return max((version for version in available if version.starts_with(requested)), default=None)
