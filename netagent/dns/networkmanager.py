"""NetworkManager, by nmcli: added to what the device has now, never to its profile; gone with the next activation."""

import ipaddress

from netagent.dns.program import run
from netagent.dns.wanted import DnsWanted, Old


class NetworkManager:
    """What was given is taken back by name, so that other changes of the device stay (`reapply` would undo those)."""

    def apply(self, wanted: DnsWanted, old: Old = ()) -> None:
        """Raises DnsError."""
        self._run(modify(wanted.link, wanted.nameservers, wanted.search, "+"))
        for one in old:
            same = one.link == wanted.link
            servers = tuple(server for server in one.nameservers if not same or server not in wanted.nameservers)
            search = tuple(name for name in one.search if not same or name not in wanted.search)
            self._run(modify(one.link, servers, search, "-"))

    def undo(self, given: DnsWanted) -> None:
        """Raises DnsError."""
        self._run(modify(given.link, given.nameservers, given.search, "-"))

    def _run(self, commands: list[list[str]]) -> None:
        for arguments in commands:
            run("nmcli", *arguments)


def modify(link: str, nameservers: tuple[str, ...], search: tuple[str, ...], sign: str) -> list[list[str]]:
    """Arguments of nmcli. Adding what is there, or removing what is not, changes nothing.

    IPv4 first and by itself: a profile may have IPv6 switched off, and refuses all that comes with it.
    """
    commands = []
    for version in (4, 6):
        settings = []
        if servers := [one for one in nameservers if ipaddress.ip_address(one).version == version]:
            settings += [f"{sign}ipv{version}.dns", ",".join(servers)]
        if search and version == 4:
            # NetworkManager has one list for each family; the resolver has their sum.
            settings += [f"{sign}ipv4.dns-search", ",".join(search)]
        if settings:
            commands.append(["--wait", "10", "device", "modify", link, *settings])
    return commands
