"""What netagent answers and announces: the kernel's networking as found, and where the host is."""

from typing import Annotated, ClassVar, Literal

import msgspec

from ipc.enumeration import unknown_is
from ipc.message import Event, Reply, Request

FoundIn = Annotated[Literal["configuration", "lease", "route", "default"], unknown_is("default")]
"""Unknown is `default`, the weakest: the address holds, nothing is concluded from where it came from."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    carrier: bool
    kind: str = ""
    """As the kernel calls it: `veth`, `bridge`...; empty for hardware."""
    master: int = 0
    """Index of the link it is a part of: an accelerated NIC (VF) has one."""
    mtu_limit: int = 0
    """The largest MTU it can have; 0: the kernel does not say."""
    carrier_changes: int = 0
    """How often its cable came or went since it was made."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    link: str
    address: str
    """With prefix length: `10.0.0.4/24`."""
    protocol: int = 0
    """Who gave it, where the kernel keeps that (Linux 5.18); 168 is netagent."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    """`default` or with prefix length."""
    gateway: str
    """Empty for a connected route."""
    link: str
    metric: int
    protocol: int
    """Who wrote it (rtnetlink(7) route protocol number); 168 is netagent."""
    table: int = 254
    """254 is the main table."""
    source: str = ""
    """The address it prefers to speak from; empty: any."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A policy routing rule: who speaks from `source` is looked up in `table`."""

    source: str
    """With prefix length; empty: anybody."""
    table: int
    priority: int
    protocol: int = 0
    """168 is netagent."""


class Resolver(msgspec.Struct, frozen=True, kw_only=True):
    manager: str
    """Who owns resolv.conf: `systemd-resolved`, `NetworkManager`, `resolvconf`, `file`, `none`."""
    nameservers: list[str]
    search: list[str]


class WireServerFound(Event, frozen=True, kw_only=True):
    """The WireServer's address is known, or is another than before. Also kept in the state file."""

    speaker: ClassVar[str] = "netagent"
    url: str
    """Base URL, no trailing slash."""
    found_in: FoundIn
    detail: str = ""
    """The lease file or the route it was read from."""


class WireServerState(msgspec.Struct, frozen=True, kw_only=True):
    """`<state>/netagent/wireserver.json`: so that the others find the host while netagent is stopped."""

    url: str
    found_in: FoundIn
    detail: str = ""


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A DHCP lease, ours or of another client."""

    link: str
    source: str
    """The file it was read from, or `netagent`."""
    address: str
    """With prefix length; empty if the file does not say."""
    wireserver: str = ""
    """Option 245; empty: not sent."""
    state: str = ""
    """RFC 2131 state of our own client: `BOUND`, `RENEWING`...; empty for another's."""
    server: str = ""
    seconds: int | None = None
    """Its length; None: for ever, or not known."""
    seconds_left: int | None = None
    """At the time of the answer."""


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """One change to the kernel's networking."""

    what: str
    """As one would type it: `add route 168.63.129.16/32 via 10.0.0.1 dev eth0`."""
    why: str
    held: str = ""
    """Why it is not made now; empty: it is, or was."""


class FirewallView(msgspec.Struct, frozen=True, kw_only=True):
    """Our table."""

    state: str
    """`on`, `off`, or why it cannot be."""
    packets: dict[str, int] = {}
    """Counted by rule."""


class ProbeView(msgspec.Struct, frozen=True, kw_only=True):
    """One port the load balancer probes."""

    port: int
    answers: bool
    """False: netagent could not open it, see `problem`."""
    probes: int = 0
    last_source: str = ""
    last_at: float | None = None
    """UTC, seconds since the epoch."""
    problem: str = ""


class Network(Reply, frozen=True, kw_only=True):
    """All that netagent observes, and how it stands to it."""

    mode: str
    """In force: `observe`, `repair`, `delegate`, `own`, `off`."""
    links: list[Link]
    addresses: list[Address]
    routes: list[Route]
    resolver: Resolver
    wireserver: WireServerState
    observed_at: float
    why: str = ""
    """Why this mode."""
    primary: str = ""
    """The NIC that leads to the host; empty: none does."""
    managers: dict[str, str] = {}
    """Who configures a NIC, by NIC."""
    rules: list[Rule] = []
    leases: list[LeaseView] = []
    held: list[ChangeView] = []
    """What is left alone, and why."""
    reachable: bool | None = None
    """Whether the WireServer took a connection when last tried; None: not tried."""
    firewall: FirewallView | None = None
    probes: list[ProbeView] = []
    problems: list[str] = []
    """What a person should know, one line each."""


class GetNetwork(Request[Network], frozen=True, kw_only=True):
    """What does the network look like?"""

    speaker: ClassVar[str] = "netagent"
    reply: ClassVar[type[Reply]] = Network


class NetworkPlan(Reply, frozen=True, kw_only=True):
    """Changes, made or to be made."""

    mode: str
    why: str
    changes: list[ChangeView]
    problems: list[str] = []


class PlanNetwork(Request[NetworkPlan], frozen=True, kw_only=True):
    """What would you change, and why? In mode `observe`: what `repair` would."""

    speaker: ClassVar[str] = "netagent"
    reply: ClassVar[type[Reply]] = NetworkPlan


class RepairNetwork(Request[NetworkPlan], frozen=True, kw_only=True):
    """Change it now, also what is held back. In mode `observe` once, as `repair` would."""

    speaker: ClassVar[str] = "netagent"
    reply: ClassVar[type[Reply]] = NetworkPlan


class SwitchNetwork(Request[NetworkPlan], frozen=True, kw_only=True):
    """Off: take back everything of ours and write nothing. On: as configured."""

    speaker: ClassVar[str] = "netagent"
    reply: ClassVar[type[Reply]] = NetworkPlan
    on: bool
    keep: bool = True
    """False: only until this netagent ends."""


class NetworkChanged(Event, frozen=True, kw_only=True):
    """Links, addresses, routes or resolver are not what they were."""

    speaker: ClassVar[str] = "netagent"


class LeaseChanged(Event, frozen=True, kw_only=True):
    """Our own DHCP client has another lease than before, or none. Also kept in the folder of state files."""

    speaker: ClassVar[str] = "netagent"
    link: str
    address: str
    """With prefix length; empty: the lease is lost."""
    why: str = ""


REQUESTS = (GetNetwork, PlanNetwork, RepairNetwork, SwitchNetwork)
EVENTS = (LeaseChanged, NetworkChanged, WireServerFound)
