"""Lease files of the DHCP clients around: address, routes, and option 245, the WireServer's address. Pure parsers.

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
_INTERFACE = re.compile(r'\s*interface\s+"([^"]{1,64})";')
_FIXED = re.compile(r"\s*fixed-address\s+([0-9.]{1,15});")
_MASK = re.compile(r"\s*option\s+subnet-mask\s+([0-9.]{1,15});")
_ROUTERS = re.compile(r"\s*option\s+routers\s+([0-9., ]{1,256});")
# Code 121 before Microsoft's 249; Debian's and Red Hat's names for both.
_CLASSLESS = (
    re.compile(
        r"\s*option\s+(?:rfc3442-classless-static-routes|classless-static-routes|unknown-121)\s+([^;]{1,1024});"
    ),
    re.compile(r"\s*option\s+(?:ms-classless-static-routes|unknown-249)\s+([^;]{1,1024});"),
)
_KEY = re.compile(r"^([A-Z0-9_]{1,32})=([^\n]{0,4096})$", re.MULTILINE)
_DEVICE = re.compile(r"^dhcp4\.([a-z0-9_]{1,64})=([^\n]{0,4096})$", re.MULTILINE)
_BYTES = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){3}")
_DIGITS = re.compile(r"[0-9A-Fa-f]{8}")
_NETWORKD = re.compile(r"^OPTION_245=([0-9A-Fa-f:]{1,64})\s*$", re.MULTILINE)
_MANAGER = re.compile(r"^(?:OPTION_245|WIRESERVER|ADDRESS_245)=([0-9A-Fa-f:.]{1,64})\s*$", re.MULTILINE)


class LeaseError(Exception):
    """A lease file that cannot be used; the text says why."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What we need of one. Only what was sent is there; text and tuples may be empty."""

    wireserver: str = ""
    """Dotted quad."""
    link: str = ""
    address: str = ""
    """With prefix length."""
    routes: tuple[tuple[str, str], ...] = ()
    """Destination with prefix length (`0.0.0.0/0`), gateway (empty: on the link)."""

    def gateway(self, destination: str) -> str:
        """Of the route to it, else of the default route; empty if there is none."""
        routes = dict(self.routes)
        return routes.get(destination) or routes.get("0.0.0.0/0", "")


def parse_dhclient(data: bytes, *, now: float) -> Lease | None:
    """The last lease that is still valid (dhclient.leases(5)), None if there is none. Raises LeaseError."""
    found: Lease | None = None
    for lines in _blocks(_text(data)):
        if _expired(lines, now):
            continue
        option = _first(_OPTION, lines)
        # A client need not ask for 245 each time.
        wireserver = address(option[1]) if option else found.wireserver if found else ""
        interface = _first(_INTERFACE, lines)
        found = Lease(
            wireserver=wireserver,
            link=interface[1] if interface else "",
            address=_with_prefix(_value(_FIXED, lines), _value(_MASK, lines)),
            routes=_routes(next((one for each in _CLASSLESS if (one := _value(each, lines))), ""))
            or _default(_value(_ROUTERS, lines)),
        )
    return found


def parse_networkd(data: bytes) -> Lease | None:
    """systemd-networkd's runtime lease: `OPTION_245=a83f8110`. None for an empty file. Raises LeaseError."""
    return _parse_keys(_text(data), _NETWORKD)


def parse_network_manager(data: bytes) -> Lease | None:
    """NetworkManager's own client writes the same `KEY=value` lines. Raises LeaseError."""
    return _parse_keys(_text(data), _MANAGER)


def parse_network_manager_device(data: bytes) -> Lease | None:
    """The `[dhcp4]` section of /run/NetworkManager/devices/INDEX: all options; its lease file has but the address."""
    keys: dict[str, str] = {key: value.strip() for key, value in _DEVICE.findall(_text(data))}
    if "ip_address" not in keys:
        return None
    pairs = (keys.get("rfc3442_classless_static_routes") or keys.get("ms_classless_static_routes") or "").split()
    routes = tuple(
        (_network(destination), "" if gateway == "0.0.0.0" else _host(gateway))  # noqa: S104 - on the link
        for destination, gateway in zip(pairs[:128:2], pairs[1:128:2], strict=False)
    )
    return Lease(
        wireserver=address(keys["private_245"]) if "private_245" in keys else "",
        address=_with_prefix(keys["ip_address"], keys.get("subnet_mask", "")),
        routes=routes or _default((keys.get("routers", "").split() or [""])[0]),
    )


def _parse_keys(text: str, option: re.Pattern[str]) -> Lease | None:
    keys: dict[str, str] = {key: value.strip() for key, value in _KEY.findall(text)}
    named = option.search(text)
    if "ADDRESS" not in keys and not named:
        return None
    pairs = keys.get("CLASSLESS_ROUTES") or keys.get("ROUTES") or ""
    routes = tuple(
        (_network(destination), "" if gateway in {"", "0.0.0.0"} else _host(gateway))  # noqa: S104 - on the link
        for destination, _, gateway in (one.partition(",") for one in pairs.split()[:64])
    )
    return Lease(
        wireserver=address(named[1]) if named else "",
        # NetworkManager since 1.22 writes the address alone: that is no address with a length of 32.
        address=_with_prefix(keys["ADDRESS"], keys["NETMASK"]) if keys.keys() >= {"ADDRESS", "NETMASK"} else "",
        routes=routes or _default(keys.get("ROUTER", "").split()[0] if keys.get("ROUTER", "").strip() else ""),
    )


def _with_prefix(text: str, mask: str) -> str:
    """Empty without an address; a lease without a mask is of a single address."""
    if not text:
        return ""
    try:
        found = ipaddress.IPv4Interface(f"{text}/{mask or 32}")
    except ValueError as error:
        raise LeaseError(f"its address is {text[:40]!r} with mask {mask[:40]!r}") from error
    if found.is_loopback or found.is_multicast or found.is_unspecified:
        raise LeaseError(f"its address is {found.ip}, which no NIC can have")
    return found.with_prefixlen


def _default(routers: str) -> tuple[tuple[str, str], ...]:
    first = routers.split(",")[0].strip()
    return (("0.0.0.0/0", _host(first)),) if first else ()


def _routes(text: str) -> tuple[tuple[str, str], ...]:
    """Option 121 as bytes: `32,168,63,129,16,10,0,0,1` or `20:a8:3f:...` (RFC 3442). Raises LeaseError."""
    base = 16 if ":" in text else 10
    try:
        data = bytes(int(part, base) for part in text.replace(":", ",").split(",")) if text else b""
    except ValueError as error:
        raise LeaseError(f"its routes are {text[:60]!r}") from error
    found, offset = [], 0
    while offset < len(data):
        prefix = data[offset]
        significant = (prefix + 7) // 8
        if prefix > 32 or offset + 1 + significant + 4 > len(data):
            raise LeaseError(f"its routes are {text[:60]!r}, which is cut or has a wrong width")
        quad = data[offset + 1 : offset + 1 + significant].ljust(4, b"\0")
        offset += 1 + significant + 4
        network = ipaddress.IPv4Network((int.from_bytes(quad, "big"), prefix), strict=False)
        gateway = ipaddress.IPv4Address(data[offset - 4 : offset])
        found.append((str(network), "" if gateway.is_unspecified else str(gateway)))
    return tuple(found)


def _network(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text, strict=False))
    except ValueError as error:
        raise LeaseError(f"it has a route to {text[:40]!r}") from error


def _host(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise LeaseError(f"it has a gateway {text[:40]!r}") from error


def _value(pattern: re.Pattern[str], lines: list[str]) -> str:
    match = _first(pattern, lines)
    return match[1].strip() if match else ""


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
