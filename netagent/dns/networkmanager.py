"""NetworkManager, by nmcli: added to what the device has now, never to its profile; gone with the next activation."""

import ipaddress

from netagent.dns.program import run
from netagent.dns.wanted import DnsWanted, Old


class NetworkManager:
    """What was given is taken back by name, so that other changes of the device stay (`reapply` would undo those)."""

    def apply(self, wanted: DnsWanted, old: Old = ()) -> None:
        """Raises DnsError."""
        run("nmcli", *modify(wanted.link, wanted.nameservers, wanted.search, "+"))
        for one in old:
            same = one.link == wanted.link
            servers = tuple(server for server in one.nameservers if not same or server not in wanted.nameservers)
            search = tuple(name for name in one.search if not same or name not in wanted.search)
            if servers or search:
                run("nmcli", *modify(one.link, servers, search, "-"))

    def undo(self, given: DnsWanted) -> None:
        """Raises DnsError."""
        run("nmcli", *modify(given.link, given.nameservers, given.search, "-"))


def modify(link: str, nameservers: tuple[str, ...], search: tuple[str, ...], sign: str) -> list[str]:
    """Arguments of nmcli. Adding what is there, or removing what is not, changes nothing."""
    arguments = ["--wait", "10", "device", "modify", link]
    versions = {ipaddress.ip_address(one).version for one in nameservers}
    for version in sorted(versions):
        servers = [one for one in nameservers if ipaddress.ip_address(one).version == version]
        arguments += [f"{sign}ipv{version}.dns", ",".join(servers)]
    if search:
        # NetworkManager has one list for each family; the resolver has their sum.
        arguments += [f"{sign}ipv4.dns-search", ",".join(search)]
    return arguments
