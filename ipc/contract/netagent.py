"""What netagent answers and announces: the kernel's networking as found, and where the host is."""

from typing import ClassVar, Literal

import msgspec

from ipc.message import Event, Reply, Request

FoundIn = Literal["configuration", "lease", "route", "default"]


class Link(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    carrier: bool


class Address(msgspec.Struct, frozen=True, kw_only=True):
    link: str
    address: str
    """With prefix length: `10.0.0.4/24`."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    """`default` or with prefix length."""
    gateway: str
    """Empty for a connected route."""
    link: str
    metric: int
    protocol: int
    """Who wrote it (rtnetlink(7) route protocol number)."""


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


class Network(Reply, frozen=True, kw_only=True):
    """All that netagent observes."""

    mode: str
    links: list[Link]
    addresses: list[Address]
    routes: list[Route]
    resolver: Resolver
    wireserver: WireServerState
    observed_at: float


class GetNetwork(Request[Network], frozen=True, kw_only=True):
    """What does the network look like?"""

    speaker: ClassVar[str] = "netagent"
    reply: ClassVar[type[Reply]] = Network


class NetworkChanged(Event, frozen=True, kw_only=True):
    """Links, addresses, routes or resolver are not what they were."""

    speaker: ClassVar[str] = "netagent"


REQUESTS = (GetNetwork,)
EVENTS = (NetworkChanged, WireServerFound)
