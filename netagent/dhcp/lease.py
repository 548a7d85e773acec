"""What a DHCP server promised, and until when."""

import msgspec


class StaticRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One route of a lease."""

    destination: str
    """With prefix length, host bits cleared: `168.63.129.16/32`, `0.0.0.0/0`."""
    gateway: str
    """Empty: on the link itself."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A checked lease: whoever has one may configure it as it is."""

    mac: str
    """Of the NIC it was given to."""
    address: str
    prefix: int
    server: str
    """Server identifier (option 54)."""
    started: float
    """When the REQUEST was sent, seconds of CLOCK_BOOTTIME (it goes on during suspend)."""
    boot_id: str
    """The boot in which `started` means something."""
    seconds: int | None
    """Option 51; None: for ever (0xffffffff)."""
    renew_after: int | None
    """T1, seconds after `started`; None: never."""
    rebind_after: int | None
    """T2, seconds after `started`; None: never."""
    routes: tuple[StaticRoute, ...] = ()
    """Of option 121, else 249, else made of option 3 (RFC 3442)."""
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    mtu: int | None = None
    wireserver: str = ""
    """Option 245; empty: not sent."""
    ntp_servers: tuple[str, ...] = ()
    host_name: str = ""
    """Option 12, what the server calls us."""
