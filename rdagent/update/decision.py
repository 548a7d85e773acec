"""What is known of a component's versions, and what may be decided about them."""

import msgspec

from rdagent.update.offers import Offer
from release.record import Record


class OnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A version that lies there whole, by its manifest."""

    version: str
    digest: str
    floor: str = "0.0.0"
    min_python: str = "0.0"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a component's versions on this machine."""

    running: str
    """What the process says of itself, or of the base install if that is in force; empty: not known."""
    running_digest: str = ""
    """SHA-256 of its manifest; empty: the base install."""
    record: Record
    restart_due: bool = False
    """Whether its process has yet to be started anew: what runs may be what was given up."""
    whole: tuple[OnDisk, ...] = ()
    others_on_trial: str = ""
    """The other component that has a version on trial; empty: none."""
    python: str = ""
    """Version of the interpreter that would run it, e.g. `3.11.7`."""
    environment: str = ""
    """Of this machine, see `release.environment`."""


class Unasked(msgspec.Struct, frozen=True, kw_only=True):
    """Who may know where a version is to be had, and could not be asked."""

    repository: str = ""
    """Why the component repository could not; empty: it could, or there is none."""
    manifests: dict[str, str] = {}
    """By component: why the host's manifest of it could not be had."""
    again_at: float | None = None
    """UTC, seconds since the epoch, of the next look; None: not known."""

    def why(self, component: str) -> str:
        """One line; empty: everybody was asked."""
        repository = f"the repository: {self.repository}" if self.repository else ""
        return "; ".join(filter(None, (repository, self.manifests.get(component, ""))))


class Settled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Nothing to do: nobody wants anything, or what is wanted runs."""

    component: str
    offer: Offer | None = None
    """What is wanted and runs."""


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Fetch what is missing of it, and try it."""

    offer: Offer

    @property
    def component(self) -> str:
        return self.offer.component


class Wait(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Not yet; it will come by itself."""

    offer: Offer
    until: float | None
    """UTC, seconds since the epoch; None: when something else has ended, which `why` names."""
    why: str
    lift: str = ""

    @property
    def component(self) -> str:
        return self.offer.component


class Refuse(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Not before somebody does something."""

    offer: Offer
    why: str
    lift: str
    came_back: bool = False
    """It was tried here and failed."""

    @property
    def component(self) -> str:
        return self.offer.component


Decision = Settled | Begin | Wait | Refuse


def is_same(one: Decision | None, other: Decision) -> bool:
    """Whether nothing has changed but the fraction of a second by which the wall clock runs with the monotonic one."""
    if isinstance(one, Wait) and isinstance(other, Wait) and one.until is not None and other.until is not None:
        return abs(one.until - other.until) < 1.0 and msgspec.structs.replace(one, until=other.until) == other
    return one == other
