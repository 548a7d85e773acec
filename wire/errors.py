"""What can go wrong with the host.

WireError
├── DocumentError       what it sent is not what it should be (document, reason)
│   └── NoRoleInstance  a goal state that is not finished yet: ask again
└── HostError           what we asked for did not arrive (url without its secrets, reason)
    ├── Unreachable     no connection, or it broke
    ├── TimedOut        the total deadline is spent
    │   └── TooSlow     a download that would take too long
    ├── Truncated       fewer bytes than announced
    ├── TooLarge        more bytes than we take
    ├── Unplain         compressed, though nobody asked for that
    └── Refused         an answer that is no success (status)
        ├── Gone               410: our container id or config name is stale
        └── InvalidContainer   400 InvalidContainerConfiguration
"""

from wire.redact import redact


class WireError(Exception):
    """Anything this package raises on purpose."""


class DocumentError(WireError):
    """A document of the host that cannot be used."""

    content = b""
    """The document, where whoever fetched it put it here."""

    def __init__(self, document: str, reason: str) -> None:
        super().__init__(f"{document}: {redact(reason)}")
        self.document = document
        self.reason = reason


class NoRoleInstance(DocumentError):
    """The goal state names no role instance yet (protocol: goal state fetch)."""

    def __init__(self) -> None:
        super().__init__("GoalState", "has no RoleInstance")


class HostError(WireError):
    """A request that brought no usable answer."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{redact(url)}: {redact(reason)}")
        self.url = redact(url)
        self.reason = redact(reason)


class Unreachable(HostError):
    """Refused, reset, no route, no such name."""


class TimedOut(HostError):
    """The deadline passed, whatever part of the conversation it met."""


class TooSlow(TimedOut):
    """Bytes came, too few of them."""


class Truncated(HostError):
    """The body ended early."""


class TooLarge(HostError):
    """The body is larger than the limit for this kind of document."""


class Unplain(HostError):
    """The body has a content coding: unpacked it could be any size, and it is not the file that was asked for."""


class Refused(HostError):
    """The host's answer is no."""

    def __init__(self, url: str, status: int, excerpt: str = "", location: str = "") -> None:
        super().__init__(url, f"HTTP {status}{': ' + excerpt if excerpt else ''}")
        self.status = status
        self.location = location
        """Where a redirect leads; empty for every other refusal. May hold a signature."""


class Gone(Refused):
    """410: fetch the goal state anew for current ids."""


class InvalidContainer(Refused):
    """400 with InvalidContainerConfiguration."""
