"""What can go wrong between two of our processes.

IpcError
├── FrameError        bytes that are no message of ours
├── Refused           the neighbour answered, and the answer is no (code, reason)
├── NoAnswer          nobody answered before the deadline: absent, hung or restarting
├── AlreadyRunning    another instance of this component holds the lock
├── UnsafeDirectory   the run directory could be written to by somebody else
└── StateError        a state file cannot be read back
"""

from pathlib import Path
from typing import Annotated, Literal

from ipc.enumeration import unknown_is

RefusalCode = Annotated[Literal["unsupported", "bad-request", "busy", "not-now", "failed"], unknown_is("failed")]
"""Unknown is `failed`: it may be asked again. After `bad-request` what was to be handed over is given up."""


class IpcError(Exception):
    """Anything this package raises on purpose."""


class FrameError(IpcError):
    """The bytes are no message of ours; `kind` is a short stable word, so that a flood is logged once per kind."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


class Refused(IpcError):
    """The neighbour understood that it was asked, and declined."""

    def __init__(self, name: str, code: RefusalCode, reason: str) -> None:
        super().__init__(f"{name} refused ({code}): {reason}")
        self.name = name
        self.code: RefusalCode = code
        self.reason = reason


class NoAnswer(IpcError):
    """The deadline passed without an answer. Says nothing about whether the request was carried out."""

    def __init__(self, component: str, name: str, reason: str) -> None:
        super().__init__(f"{component} did not answer {name}: {reason}")
        self.component = component


class AlreadyRunning(IpcError):
    """Somebody else holds the lock of this component (or of the whole root)."""

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what} is already running ({holder}); stop it first")
        self.holder = holder


class UnsafeDirectory(IpcError):
    """A directory that must be ours alone is not."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class StateError(IpcError):
    """A state file exists but does not hold what it should."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
