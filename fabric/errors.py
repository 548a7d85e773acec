"""What the host's operator or a caller of its API can do wrong, and how the command ends."""


class FabricError(Exception):
    """Shown as it stands; `status` is the HTTP answer, `exit_status` the command's."""

    status = 400
    exit_status = 1


class BadPackage(FabricError):
    """The file is no extension package."""


class Unknown(FabricError):
    """There is no such thing."""

    status = 404


class TooLarge(FabricError):
    """More than is taken here."""

    status = 413


class Unwritable(FabricError):
    """The disk does not take it."""

    status = 507


class Busy(FabricError):
    """Somebody else is at it, and has been for too long."""

    status = 503


class Unfit(Unwritable):
    """The database will never take it: the text or the number is none of its own."""


class Refused(FabricError):
    """With the status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class StorageRefused(Refused):
    """By the blob store, with the code Azure's documentation gives it."""

    def __init__(self, status: int, code: str, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, reason)
        self.code = code
        self.headers = headers or {}


class NoHost(FabricError):
    """No local host runs here."""

    exit_status = 3
