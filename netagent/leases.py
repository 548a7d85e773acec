"""Lease files of the DHCP clients around: what they say of option 245, the WireServer's address. Pure parsers.

Option 245 is Azure's; the host sends it in every lease (protocol: DHCP).
"""

import calendar
import ipaddress
import re
import time

import msgspec

SIZE_LIMIT = 1024 * 1024

_OPTION = re.compile(r"^\s*option\s+(?:unknown-245|azure-wireserver|wireserver)\s+([^;]{1,64});", re.MULTILINE)
_EXPIRE = re.compile(
    r"^\s*expire\s+(?:never|epoch\s+(\d{1,12})|\d\s+(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d))\s*;", re.MULTILINE
)
_NETWORKD = re.compile(r"^OPTION_245=([0-9A-Fa-f:]{1,64})\s*$", re.MULTILINE)
_MANAGER = re.compile(r"^(?:OPTION_245|WIRESERVER|ADDRESS_245)=([0-9A-Fa-f:.]{1,64})\s*$", re.MULTILINE)


class LeaseError(Exception):
    """A lease file that cannot be used; the text says why."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What we need of one."""

    wireserver: str
    """Dotted quad."""


def parse_dhclient(data: bytes, *, now: float) -> Lease | None:
    """The last lease that is still valid (dhclient.leases(5)); None if none names the WireServer. Raises LeaseError."""
    found: Lease | None = None
    for block in _text(data).split("lease {")[1:]:
        body = block.partition("}")[0]
        option = _OPTION.search(body)
        if option is None or _expired(body, now):
            continue
        found = Lease(wireserver=address(option[1]))
    return found


def parse_networkd(data: bytes) -> Lease | None:
    """systemd-networkd's runtime lease: `OPTION_245=a83f8110`. Raises LeaseError."""
    option = _NETWORKD.search(_text(data))
    return Lease(wireserver=address(option[1])) if option else None


def parse_network_manager(data: bytes) -> Lease | None:
    """NetworkManager's own client writes the same `KEY=value` lines. Raises LeaseError."""
    option = _MANAGER.search(_text(data))
    return Lease(wireserver=address(option[1])) if option else None


def address(text: str) -> str:
    """`a8:3f:81:10`, `a83f8110` or `168.63.129.16` as a dotted quad. Raises LeaseError."""
    text = text.strip().strip('"')
    try:
        if text.count(".") == 3:
            found = ipaddress.IPv4Address(text)
        else:
            # dhclient drops the leading zero of each byte.
            parts = [part.zfill(2) for part in text.split(":")] if ":" in text else [text]
            found = ipaddress.IPv4Address(bytes.fromhex("".join(parts)))
    except ValueError as error:
        raise LeaseError(f"option 245 is {text[:40]!r}, no IPv4 address") from error
    if (
        found.is_unspecified
        or found.is_loopback
        or found.is_multicast
        or found == ipaddress.IPv4Address("255.255.255.255")
    ):
        raise LeaseError(f"option 245 is {found}, which no host can have")
    return str(found)


def _expired(body: str, now: float) -> bool:
    match = _EXPIRE.search(body)
    if match is None:
        return True
    if match[1]:
        return int(match[1]) <= now
    if match[2]:
        try:
            return calendar.timegm(time.strptime(match[2], "%Y/%m/%d %H:%M:%S")) <= now
        except (ValueError, OverflowError):
            return True
    return False


def _text(data: bytes) -> str:
    if len(data) > SIZE_LIMIT:
        raise LeaseError(f"is larger than {SIZE_LIMIT} bytes")
    return data.decode("utf-8", "replace")
