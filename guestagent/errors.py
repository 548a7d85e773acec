"""What can go wrong with an extension; each error knows the code the host is told, and whose fault it is.

GuestAgentError
├── ConfigurationError  what is asked for cannot be done             -1
├── RefusedByPolicy     the extension policy does not allow it       1009, 1010
├── PackageError        the zip, or what is in it, cannot be used    -1, 1002, 1003
├── DownloadError       no mirror brought it                         -1, 1001
│   └── VersionMissing  no manifest names the version                -1
├── SignatureError      the package is not the one that was signed   -1
├── PolicyError         the extension policy cannot be obeyed        -1
├── PlatformError       this machine could not do its part           that of the command, 1000
├── CommandFailed       a command of the handler failed              1000, 1007-1010
├── CommandTimedOut                                                  1011
├── Interrupted         the machine went down while it ran           that of the command
└── StatusFileError     the status file is not what it should be     1012
"""

from typing import ClassVar, Literal

FailureKind = Literal[
    "transient", "package", "configuration", "refused", "extension", "platform", "unsupported", "interrupted"
]
"""Whose fault it was; `retry` knows what follows from it."""

# What extensions end with when the machine is none they can run on (extension facts, section 4).
_UNSUPPORTED_EXITS = frozenset({51, 52})
# A shell's word for a file that may not be executed: the folder lies on a file system mounted noexec.
_NOT_EXECUTABLE = 126

SignatureProblem = Literal[
    "unsigned", "malformed", "weak", "mismatch", "untrusted", "purpose", "time", "identity", "unverifiable"
]
"""What is wrong with a package's signature; `unverifiable` is our own fault: no root, no openssl."""


class GuestAgentError(Exception):
    """Has a code for the status blob (protocol: codes)."""

    kind: ClassVar[FailureKind] = "platform"

    def __init__(self, reason: str, code: int = -1) -> None:
        super().__init__(reason)
        self.code = code


class ConfigurationError(GuestAgentError):
    """Nobody but the one who asked can mend it."""

    kind = "configuration"


class RefusedByPolicy(GuestAgentError):
    """Whoever wrote the policy of this machine can mend it; it is then tried again."""

    kind = "refused"


class PackageError(GuestAgentError):
    """What was downloaded is no package we would unpack."""

    kind = "package"


class DownloadError(GuestAgentError):
    """Every mirror failed; the text names each with its reason, and so does `mirrors`, one by one."""

    kind = "transient"

    def __init__(self, reason: str, code: int = -1, mirrors: tuple[str, ...] = ()) -> None:
        super().__init__(reason, code)
        self.mirrors = mirrors


class VersionMissing(DownloadError):
    """Manifests came without the version: withdrawn, not there yet, or not to be seen for the moment."""


class PlatformError(GuestAgentError):
    """A full disk, no process to be had, a folder on a file system mounted noexec."""

    kind = "platform"


class SignatureError(GuestAgentError):
    """The text begins with the `problem`."""

    kind = "package"

    def __init__(self, problem: SignatureProblem, text: str) -> None:
        super().__init__(f"{problem}: {text}")
        self.problem = problem


class PolicyError(GuestAgentError):
    """The text names the attribute."""

    kind = "configuration"


class CommandFailed(GuestAgentError):
    """Exit status, command line and output are in the text."""

    kind = "extension"

    def __init__(self, reason: str, code: int, exit_status: int) -> None:
        super().__init__(reason, code)
        self.exit_status = exit_status


class CommandTimedOut(GuestAgentError):
    """The whole process group was killed."""

    kind = "extension"


class Interrupted(GuestAgentError):
    """It was running when the machine, or its runner, was killed: it will not be run again by itself."""

    kind = "interrupted"


class StatusFileError(GuestAgentError):
    """Code 1012."""

    kind = "extension"

    def __init__(self, reason: str) -> None:
        super().__init__(reason, 1012)


def failure_kind(error: Exception) -> FailureKind:
    """Whose fault this was. A disk's OSError is the platform's."""
    match error:
        case CommandFailed(exit_status=status) if status in _UNSUPPORTED_EXITS:
            return "unsupported"
        case CommandFailed(exit_status=status) if status == _NOT_EXECUTABLE:
            return "platform"
        case GuestAgentError():
            return error.kind
    return "platform"
