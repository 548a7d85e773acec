"""What is wanted of the resolver, checked: whoever has one may put it into a file or a command as it is. Pure."""

import ipaddress
import re

import msgspec

from netagent.dns.errors import BadWish

NAMESERVERS_LIMIT = 8
SEARCH_LIMIT = 32
NAME_LIMIT = 253

_LINK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class DnsWanted(msgspec.Struct, frozen=True, kw_only=True):
    """For one link. Raises BadWish when made of anything else than names and addresses."""

    link: str
    nameservers: tuple[str, ...]
    """Addresses in their usual form, the first is asked first. A link-local one ends with `%LINK`."""
    search: tuple[str, ...] = ()
    """Domains, without the final dot."""

    def __post_init__(self) -> None:
        if not _LINK.fullmatch(self.link):
            raise BadWish(f"{self.link[:40]!r} is no link that can be named to others: rename it")
        if not self.nameservers or len(self.nameservers) > NAMESERVERS_LIMIT:
            raise BadWish(
                f"{len(self.nameservers)} nameservers, 1 to {NAMESERVERS_LIMIT} can be given: look at the lease"
            )
        if len(self.search) > SEARCH_LIMIT:
            raise BadWish(f"{len(self.search)} search domains, {SEARCH_LIMIT} can be given: look at the lease")
        for text in self.nameservers:
            _check_address(text, self.link)
        for name in self.search:
            check_domain(name)


Old = tuple[DnsWanted, ...]
"""What was given before, and is replaced."""


def check_domain(name: str) -> None:
    """Letters, digits, hyphens, underscores and dots. Raises BadWish."""
    if len(name) > NAME_LIMIT or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise BadWish(f"{name[:80]!r} is no domain: look at the lease")


def _check_address(text: str, link: str) -> None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise BadWish(f"{text[:60]!r} is no address of a nameserver: look at the lease") from error
    if found.is_unspecified or found.is_multicast or text != str(found):
        raise BadWish(f"{text[:60]!r} is no address of a nameserver: look at the lease")
    if "%" in text and text.partition("%")[2] != link:
        raise BadWish(f"{text[:60]!r} is an address on another link than {link}: look at the lease")
