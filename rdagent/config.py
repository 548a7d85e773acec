"""Intent: the `[rdagent]` table, read once."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All times in seconds."""

    heartbeat_period: float = 15.0
    """Between two reports to the host."""
    look_period: float = 5.0
    """Between two looks at the neighbours."""
    observe_period: float = 60.0
    """Observations are sent on change, and at least so often."""
