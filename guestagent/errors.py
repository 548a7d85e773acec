"""What can go wrong with an extension; each error knows the code the host is told.

GuestAgentError
├── PackageError    the zip, or what is in it, cannot be used        -1, 1002, 1003
├── DownloadError   no mirror brought the package                    1001
├── SignatureError  the package is not the one that was signed       -1
├── PolicyError     the extension policy cannot be obeyed            -1
├── CommandFailed   a command of the handler failed                  1000, 1007-1010
├── CommandTimedOut                                                  1011
├── Interrupted     the machine went down while it ran               that of the command
└── StatusFileError the status file is not what it should be         1012
"""

from typing import Literal

SignatureProblem = Literal[
    "unsigned", "malformed", "weak", "mismatch", "untrusted", "purpose", "time", "identity", "unverifiable"
]
"""What is wrong with a package's signature; `unverifiable` is our own fault: no root, no openssl."""


class GuestAgentError(Exception):
    """Has a code for the status blob (protocol: codes)."""

    def __init__(self, reason: str, code: int = -1) -> None:
        super().__init__(reason)
        self.code = code


class PackageError(GuestAgentError):
    """What was downloaded is no package we would unpack."""


class DownloadError(GuestAgentError):
    """Every mirror failed; the text names each with its reason."""


class SignatureError(GuestAgentError):
    """The text begins with the `problem`."""

    def __init__(self, problem: SignatureProblem, text: str) -> None:
        super().__init__(f"{problem}: {text}")
        self.problem = problem


class PolicyError(GuestAgentError):
    """The text names the attribute."""


class CommandFailed(GuestAgentError):
    """Exit status, command line and output are in the text."""


class CommandTimedOut(GuestAgentError):
    """The whole process group was killed."""


class Interrupted(GuestAgentError):
    """It was running when the machine, or its runner, was killed: it will not be run again by itself."""


class StatusFileError(GuestAgentError):
    """Code 1012."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, 1012)
