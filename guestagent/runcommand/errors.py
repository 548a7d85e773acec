"""What keeps a script from being run; each error knows the exit code the host is told.

RunError
├── BadSettings      the settings cannot be used                          -202
├── DownloadFailed   the script, or a file beside it, did not arrive      -100
├── ArtifactFailed   an artifact did not arrive                           -215
├── BlobFailed       an output blob could not be made                     -101
├── NoSuchUser       runAsUser is unknown, or we may not become it        -102
├── NotSaved         the script could not be written to disk              -203
├── NoOutput         the files for the output cannot be opened            -205
└── NotStarted       the script could not be started                      126, 127

EarlyCancel is no error: somebody does not want the run any more, and it has not begun.
"""


class RunError(Exception):
    """The text is shown to whoever ordered the run."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class BadSettings(RunError):
    """Missing, not JSON, contradictory, of the wrong type, or not to be decrypted."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"failed to get configuration: {reason}", -202)


class DownloadFailed(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"processing file downloads failed: {reason}", -100)


class ArtifactFailed(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"artifact downloads failed: {reason}", -215)


class BlobFailed(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"error creating AppendBlob: {reason}", -101)


class NoSuchUser(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(reason, -102)


class NotSaved(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"failed to save script to file: {reason}", -203)


class NoOutput(RunError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"failed to open stdout file: {reason}", -205)


class NotStarted(RunError):
    """As a shell would say it: 127 what is to be run is missing, 126 it cannot be executed."""


class EarlyCancel(BaseException):
    """Raised by a signal's handler wherever the preparation stands; no library below may swallow it."""
