"""What can go wrong with DHCP.

DhcpError
├── Malformed    the bytes are no DHCP packet, or an option is not what it should be
├── PortTaken    UDP port 68 belongs to another DHCP client
├── NoSuchLink   there is no such interface, or it is no Ethernet
└── NotAllowed   the process may not open the sockets
"""


class DhcpError(Exception):
    """Anything this package raises on purpose."""


class Malformed(DhcpError):
    """Of what came from the network."""


class PortTaken(DhcpError):
    """Two clients on one interface would take each other's answers."""

    def __init__(self, link: str) -> None:
        super().__init__(f"{link}: UDP port 68 is taken: another DHCP client runs here; stop it, or leave mode `own`")


class NoSuchLink(DhcpError):
    """The interface is not there."""

    def __init__(self, link: str, reason: str = "there is no such interface") -> None:
        super().__init__(f"{link}: {reason}")


class NotAllowed(DhcpError):
    """A capability is missing."""

    def __init__(self, link: str) -> None:
        super().__init__(f"{link}: not permitted: DHCP takes CAP_NET_RAW and CAP_NET_BIND_SERVICE")
