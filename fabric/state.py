"""What the host wants of a VM, what it was told, and how both survive a restart of the host."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from fabric.errors import FabricError
from fabric.files import write_whole

TRANSCRIPT_LIMIT = 500
EVENTS_LIMIT = 2000
_EVENTS_BYTES = 4 * 1024 * 1024

HandlerState = Literal["enabled", "disabled", "uninstall"]


class WantedInstance(msgspec.Struct, kw_only=True):
    """One settings instance of a multi-config handler."""

    name: str
    sequence_number: int = 0
    state: Literal["enabled", "disabled"] = "enabled"
    public: Any = None
    protected: str | None = None
    """Base64 CMS for the tenant certificate."""
    thumbprint: str = ""
    """Empty: that of the VM's first certificate."""
    dependency_level: int = 0
    depends_on: list[str] = []
    """`handler`, or `handler/extension`."""


class WantedHandler(msgspec.Struct, kw_only=True):
    """One extension handler in the goal state."""

    name: str
    version: str
    state: HandlerState = "enabled"
    sequence_number: int = 0
    public: Any = None
    protected: str | None = None
    """Base64 CMS for the tenant certificate."""
    thumbprint: str = ""
    """Of the certificate it was encrypted for."""
    has_settings: bool = True
    dependency_level: int = 0
    depends_on: list[str] = []
    """`handler`, or `handler/extension`."""
    instances: list[WantedInstance] = []
    """Multi-config: these instead of `sequence_number`, `public` and `protected`."""


class GoalStateVersion(msgspec.Struct, kw_only=True):
    """What one channel delivers: a tag the VM compares, a creation time, and the handlers as they were then."""

    number: int
    ticks: int
    handlers: list[WantedHandler] = []


class KeyPair(msgspec.Struct, kw_only=True):
    """Both PEM."""

    key_pem: str
    certificate_pem: str


class Identity(msgspec.Struct, kw_only=True):
    """Who the VM is to the host."""

    vm: str
    container_id: str
    deployment_id: str
    tenant_key_pem: str
    tenant_certificate_pem: str
    more_certificates: list[KeyPair] = []
    """Delivered beside the tenant certificate, as those of a key vault are."""

    @property
    def instance_id(self) -> str:
        return f"{self.deployment_id}._{self.vm}"

    @property
    def config_name(self) -> str:
        return f"{self.deployment_id}.0.{self.deployment_id}.0._{self.vm}.1.xml"


class Health(msgspec.Struct, kw_only=True):
    """The last health report."""

    state: str
    substatus: str = ""
    description: str = ""
    incarnation: str = ""
    at: float = 0.0


class Told(msgspec.Struct, kw_only=True):
    """What the VM told the host."""

    heartbeats: int = 0
    health: Health | None = None
    status: Any = None
    """The last status blob, parsed; as sent otherwise."""
    status_at: float | None = None
    status_count: int = 0
    status_by: str = ""
    """`hostgaplugin` or `direct`."""
    events: list[dict[str, Any]] = []
    observations: dict[str, dict[str, Any]] = {}
    """The last one of each name."""
    agent_logs: int = 0
    requests: dict[str, int] = {}
    """Count per endpoint."""

    @property
    def ready(self) -> bool | None:
        return None if self.health is None else self.health.state == "Ready"

    def keep(self, events: list[dict[str, Any]]) -> None:
        """The newest so many events, of so many bytes: all is written down with each save."""
        self.events = [*self.events, *events][-EVENTS_LIMIT:]
        left = _EVENTS_BYTES
        for number in range(len(self.events) - 1, -1, -1):
            left -= len(msgspec.json.encode(self.events[number]))
            if left < 0:
                self.events = self.events[number + 1 :]
                return


class VmState(msgspec.Struct, kw_only=True):
    """One VM, whole."""

    identity: Identity
    fabric: GoalStateVersion
    fast_track: GoalStateVersion | None = None
    """None until a change was delivered by FastTrack."""
    fast_track_supported: bool = True
    on_hold: bool | None = None
    """None until the host was asked to hold extensions: then there is an artifacts profile."""
    required_features: list[str] = []
    probe_ports: list[int] = []
    told: Told = msgspec.field(default_factory=Told)

    @property
    def handlers(self) -> list[WantedHandler]:
        """Of whichever channel spoke last."""
        if self.fast_track is not None and self.fast_track.ticks > self.fabric.ticks:
            return self.fast_track.handlers
        return self.fabric.handlers


class HostState(msgspec.Struct, kw_only=True):
    """Everything that survives a restart, but the blobs themselves."""

    signing_secret: str
    vms: dict[str, VmState]
    addresses: dict[str, str] = {}
    """Base URLs of the last run."""


def load(path: Path) -> HostState | None:
    """The state of an earlier run; None if there is none. Raises FabricError."""
    try:
        loaded = msgspec.json.decode(path.read_bytes(), type=HostState)
        if not loaded.vms:
            raise FabricError(f"{path} is damaged: it has no VM. Move it away to begin anew")
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise FabricError(f"{path} is damaged: {error}. Move it away to begin anew") from error
    return loaded


def save(path: Path, state: HostState) -> None:
    """Raises Unwritable."""
    write_whole(path, msgspec.json.encode(state), 0o600)
