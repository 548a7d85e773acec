"""Intent: the `[telemetry]` table, read once."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record is always kept and read here; `upload` says whether the host gets it."""

    upload: bool = True
    upload_period: float = 15.0
    """Seconds between uploads, when there is something: the host takes about one call a second."""
    journal_rows: int = 100_000
    journal_bytes: int = 64 * 1024 * 1024
    extension_events_period: float = 60.0
    """Seconds between looks at what extensions dropped into their events folders; 0 leaves them alone."""
