"""What the host wants of a VM, and what it was told."""

from typing import Any, Literal

import msgspec

EPOCH_TICKS = 621_355_968_000_000_000
"""1970-01-01 in 100 ns since 0001-01-01."""

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
    signature: str = ""
    """Of the package: base64 of a detached CMS signature; empty if nobody signed it."""


class WantedComponent(msgspec.Struct, kw_only=True):
    """A version of an agent family that is asked for."""

    name: str
    version: str
    from_version: str = ""
    """Only for who runs this one; an agent goes back for nobody else."""
    incarnation: int = 0
    """The goal state that said it first."""
    fast_track: bool = False
    """By vmSettings: `incarnation` counts those."""
    asked_at: float = 0.0
    """UTC, seconds."""


class GoalStateVersion(msgspec.Struct, kw_only=True):
    """What one channel delivers: a tag the VM compares, a creation time, and what was wanted then."""

    number: int
    ticks: int
    handlers: list[WantedHandler] = []
    components: list[WantedComponent] | None = None
    """None until it is a VM's: release 0.1.0 did not keep them."""


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


class VmState(msgspec.Struct, kw_only=True):
    """What is wanted of one VM, and how it is known."""

    identity: Identity
    tenant: str = "default"
    address: str = ""
    """Requests from there, within the tenant, are this VM's. Empty: all from nobody else's address."""
    mac: str = ""
    """As its network has it, in colons; IMDS tells it. Empty: nobody said."""
    doors: dict[str, str] = {}
    """Base URLs of its own, by server; whoever asks there is this VM. Empty: those of its tenant."""
    fabric: GoalStateVersion
    previous: GoalStateVersion | None = None
    """The incarnation before: what a host that is not of one mind still gives out."""
    fast_track: GoalStateVersion | None = None
    """None until a change was delivered by FastTrack."""
    fast_track_supported: bool = True
    on_hold: bool | None = None
    """None until the host was asked to hold extensions: then there is an artifacts profile."""
    required_features: list[str] = []
    components: list[WantedComponent] = []
    """Versions asked for, by agent family."""
    probe_ports: list[int] = []

    def __post_init__(self) -> None:
        for version in (self.fabric, self.previous, self.fast_track):
            if version is not None and version.components is None:
                version.components = list(self.components)

    @property
    def handlers(self) -> list[WantedHandler]:
        """Of whichever channel spoke last."""
        if self.fast_track is not None and self.fast_track.ticks > self.fabric.ticks:
            return self.fast_track.handlers
        return self.fabric.handlers
