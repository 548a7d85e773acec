"""What can go wrong with a package, a version on disk, or the record.

ReleaseError
├── ManifestError   bytes that are no manifest of ours
├── BadPackage      the zip is damaged, or holds something other than its manifest says
├── Untrusted       too few signatures of keys we know: not for us
│   └── BadSignatures   wrong ones, unreadable, or too few whosever they are: no key mends that
├── Unfit           a sound package that this component or machine cannot take
├── RottenTree      a folder on disk is not what its manifest says
├── RecordError     the record changed meanwhile, or somebody else could write it
├── KeyFileError    a key file that cannot be used
└── DiskTrouble     the disk is full, read-only or failing; what was there before is untouched
"""

from pathlib import Path


class ReleaseError(Exception):
    """Anything this package raises on purpose."""


class ManifestError(ReleaseError):
    """The bytes are no manifest of ours."""


class BadPackage(ReleaseError):
    """The file is no package, or not the one its manifest describes."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Untrusted(ReleaseError):
    """Not signed by enough of the keys we know. Nothing was written."""


class BadSignatures(Untrusted):
    """Its signatures are not of this manifest, or too few whosever they are: trusting another key would not help."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; no key mends that: have it built and published anew")


class Unfit(ReleaseError):
    """Signed and whole, but not for this component, Python or machine."""


class RottenTree(ReleaseError):
    """A version or layer on disk is not what was signed."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder = folder
        self.reason = reason


class RecordError(ReleaseError):
    """The record cannot be written as asked."""


class KeyFileError(ReleaseError):
    """A key file is missing, damaged or readable by others."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class DiskTrouble(ReleaseError):
    """The world's fault: try again once there is room, or the disk is well."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {error.strerror or error}")
        self.errno = error.errno
