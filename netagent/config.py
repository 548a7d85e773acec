"""Intent: the `[netagent]` table, read once."""

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What netagent may do."""

    mode: Literal["observe"] = "observe"
    """`observe` writes nothing to the kernel."""
    full_look_period: float = 60.0
    """Seconds after which everything is read anew, whatever was announced."""
