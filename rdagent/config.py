"""Intent: the tables `[rdagent]` and `[update]`, read once."""

import msgspec

from rdagent.update import window


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All times in seconds."""

    heartbeat_period: float = 15.0
    """Between two reports to the host."""
    look_period: float = 5.0
    """Between two looks at the neighbours."""
    observe_period: float = 60.0
    """Observations are sent on change, and at least so often."""


class UpdateSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[update]`. All times in seconds."""

    repository: str = ""
    """Base URL of the component repository (TUF); empty: only what the host asks for is looked at."""
    check_period: float = 3600.0
    """Between two looks into the repository."""
    channel: str = "stable"
    """Of the versions in the repository, those of this channel are taken without being asked for."""
    ring: int = 1
    """Versions released for this ring or a later one are taken; 0 is the first to get any."""
    jitter: float = 14400.0
    """A version from the channel waits up to so long, each machine its own time. What the host asks for waits not."""
    window: str = ""
    """When versions from the channel may be tried, UTC, e.g. `Sat,Sun 22:00-04:00`; empty: at any time."""
    trial_seconds: float = 20.0
    """A version on trial has to be well for so long."""
    trial_answers: int = 5
    """And to answer at least so often, from one process."""
    trial_limit: float = 120.0
    """A version that is not well for `trial_seconds` by then has failed."""
    trial_memory: float = 300.0
    """MiB. A version on trial that holds more has failed."""
    trial_cpu: float = 0.25
    """Of one CPU, on average over `trial_seconds` in which it is not busy. Who uses more has not been well."""
    trial_written: float = 2.0
    """MiB a second handed to write(2), be it to a file or to its log; the same."""
    threshold: int = 1
    """So many of the known keys must have signed a package."""
    rdagent_threshold: int = 1
    """The same for packages of rdagent, which installs all others."""
    bad_expires: float = 30 * 86400.0
    """A version that failed is not tried again for so long; 0: until it is taken off the list by hand."""

    def __post_init__(self) -> None:
        window.parse(self.window)
        if self.trial_answers < 1:
            raise ValueError("trial_answers must be at least 1")
        if not 0 <= self.trial_seconds < self.trial_limit:
            raise ValueError("trial_seconds must be shorter than trial_limit, or nothing ever passes")
        if not (self.trial_cpu > 0 and self.trial_written > 0):
            raise ValueError("trial_cpu and trial_written must be more than 0, or nothing ever passes")
        if self.trial_limit > 500:
            raise ValueError("trial_limit must be at most 500: after 600 s watchdog.py ends a trial of rdagent")
