"""Who may speak to the WireServer, as text for `nft -f -`. Pure.

The WireServer hands out the VM's certificates and secrets: only root and our own users may ask it. What else happens at
its address stays open to all: DNS, DHCP renewals (networkd sends them as a user of its own), and answers to the load
balancer's probes, which come *from* there.
"""

import ipaddress

FAMILY, TABLE = "inet", "azvmagent"

WIRESERVER_PORTS = (80, 32526)
"""HTTP of the WireServer and of HostGAPlugin."""

COUNTERS = ("answers", "dns", "dhcp", "root", "agent", "denied")
"""Names of the table's counters."""

_IMDS = ipaddress.IPv4Address("169.254.169.254")
_LAST_UID = 2**32 - 2  # the last of 32 bits says "nobody at all"


class FirewallError(Exception):
    """The firewall cannot be what it should be; the text says why and what to do."""


def ruleset(wireserver: str, uids: tuple[int, ...]) -> str:
    """Replaces our one table in one transaction, whatever it was. Raises FirewallError.

    `uids` may reach the WireServer's two ports, root all of it. `add` comes before `delete`: that fails on nothing.
    """
    host = _host(wireserver)
    others = sorted({_uid(one) for one in uids} - {0})
    counters = "\n".join(f"\tcounter {name} {{ }}" for name in COUNTERS)
    agent = ""
    if others:
        ports = ", ".join(map(str, WIRESERVER_PORTS))
        users = ", ".join(map(str, others))
        agent = f"\n\t\tmeta skuid {{ {users} }} tcp dport {{ {ports} }} counter name agent accept"
    # Not `ip daddr != HOST accept` in front: that says nothing of IPv6, whose new connections would be dropped.
    return f"""add table {FAMILY} {TABLE}
delete table {FAMILY} {TABLE}
table {FAMILY} {TABLE} {{
{counters}
	chain wireserver {{
		ct state established,related counter name answers accept
		meta l4proto {{ tcp, udp }} th dport 53 counter name dns accept
		udp sport 68 udp dport 67 counter name dhcp accept
		meta skuid 0 counter name root accept{agent}
		ct state new,invalid counter name denied drop
	}}
	chain output {{
		type filter hook output priority 0; policy accept;
		ip daddr {host} goto wireserver
	}}
}}
"""


def _host(text: str) -> ipaddress.IPv4Address:
    try:
        found = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise FirewallError(
            f"the WireServer's address is {text[:60]!r}, no IPv4 address: leave the firewall off"
        ) from error
    if found.is_loopback or found.is_multicast or found.is_unspecified or found == _IMDS or int(found) == 2**32 - 1:
        raise FirewallError(f"the WireServer's address is {found}, which must stay open to all: leave the firewall off")
    return found


def _uid(number: int) -> int:
    if not 0 <= number <= _LAST_UID:
        raise FirewallError(f"{number} is no user id: name users that exist")
    return number
