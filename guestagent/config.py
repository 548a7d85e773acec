"""Intent: the `[guestagent]` table, read once."""

import msgspec

from guestagent.signature import Mode


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All times in seconds."""

    goal_state_period: float = 6.0
    """Between looks at a host that answers at once."""
    long_poll: float = 25.0
    """What a host may take to answer when it honours `Prefer: wait`; 0 never asks for it."""
    status_period: float = 60.0
    """A status blob at least so often, and on every change."""
    concurrent_handlers: int = 16
    """Handlers worked on at once."""
    concurrent_downloads: int = 4
    """Packages fetched and unpacked at once."""
    cache_bytes: int = 1024 * 1024 * 1024
    """Copies of packages for a time without the repository; those of what is installed stay in any case."""
    cache_entries: int = 256
    """How many of them, manifests included."""
    roll_back: bool = True
    """Whether a failed update brings the version before back, unless the new version's manifest forbids it."""
    built_in_run_command: bool = True
    """Run Command's two handlers come with the product; off, their packages are fetched like any other."""
    policy_file: str = "/etc/waagent_policy.json"
    """Which extensions are allowed; no file, no policy."""
    signature_check: Mode = "report"
    """What a package's signature is for: `off`, `report` a bad one, `require` a good one."""
    signature_root: str = ""
    """PEM file a signature has to lead to; empty: Microsoft's, which is placed in the library directory."""
    enforce_limits: bool = True
    """Whether commands are held to their manifest's resourceLimits."""
