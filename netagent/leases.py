"""Lease files of the DHCP clients around: what they say of option 245, the WireServer's address. Pure parsers.

Option 245 is Azure's; the host sends it in every lease (protocol: DHCP).
"""

import calendar
import ipaddress
import re
import time
from collections.abc import Iterator

import msgspec

SIZE_LIMIT = 1024 * 1024

# Each is matched against one line: what a DHCP server sends may look like several.
_OPTION = re.compile(r"\s*option\s+(?:unknown-245|azure-wireserver|wireserver)\s+([^;]{1,64});")
_EXPIRE = re.compile(r"\s*expire\s+(?:never|epoch\s+(\d{1,12})|\d\s+(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d))\s*;")
_BYTES = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){3}")
_DIGITS = re.compile(r"[0-9A-Fa-f]{8}")
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
    for lines in _blocks(_text(data)):
        option = _first(_OPTION, lines)
        if option is not None and not _expired(lines, now):
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
        if _BYTES.fullmatch(text):
            # dhclient drops the leading zero of each byte.
            found = ipaddress.IPv4Address(bytes(int(part, 16) for part in text.split(":")))
        elif _DIGITS.fullmatch(text):
            found = ipaddress.IPv4Address(bytes.fromhex(text))
        else:
            found = ipaddress.IPv4Address(text)
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


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of each whole lease: only its braces stand at the beginning of a line."""
    lines: list[str] | None = None
    for line in text.split("\n"):
        if line.startswith("lease {"):
            lines = []
        elif lines is not None and line.startswith("}"):
            yield lines
            lines = None
        elif lines is not None:
            lines.append(line)


def _first(pattern: re.Pattern[str], lines: list[str]) -> re.Match[str] | None:
    return next((match for line in lines if (match := pattern.match(line))), None)


def _expired(lines: list[str], now: float) -> bool:
    match = _first(_EXPIRE, lines)
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
