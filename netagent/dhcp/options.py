"""DHCP options to values and back (RFC 2132, 3396, 3397, 3442, 4361, 4702). Pure; the only error is Malformed."""

import re
from collections.abc import Iterable, Iterator

import msgspec

from netagent.dhcp.errors import Malformed
from netagent.dhcp.lease import StaticRoute

PAD, END = 0, 255
MASK, ROUTER, DNS, HOST_NAME, DOMAIN, MTU, NTP = 1, 3, 6, 12, 15, 26, 42
ADDRESS, LEASE_TIME, OVERLOAD, KIND, SERVER, WANTED, TEXT, MAX_SIZE = 50, 51, 52, 53, 54, 55, 56, 57
T1, T2, CLIENT_ID, FQDN, SEARCH, ROUTES, WIRESERVER, MS_ROUTES = 58, 59, 61, 81, 119, 121, 245, 249

Options = dict[int, tuple[bytes, ...]]
"""Every copy of every option, in the order they came."""

_NAME_LIMIT = 253
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_POINTER = 0xC0


class Fqdn(msgspec.Struct, frozen=True, kw_only=True):
    """Option 81. `flags`: 1 the server updates DNS, 4 the name is in wire form, 8 nobody does."""

    flags: int
    name: str


def split(area: bytes) -> Iterator[tuple[int, bytes]]:
    """The options of one area. It may lack its END. Raises Malformed if an option is longer than what is left.

    Such an area is refused as a whole: who cannot count its bytes is not believed in the rest of them either.
    """
    position, end = 0, len(area)
    while position < end:
        code = area[position]
        position += 1
        if code == PAD:
            continue
        if code == END:
            return
        if position == end or position + 1 + area[position] > end:
            raise Malformed(f"option {code} is longer than the packet")
        length = area[position]
        yield code, area[position + 1 : position + 1 + length]
        position += 1 + length


def gather(options: Options, pairs: Iterable[tuple[int, bytes]]) -> None:
    """Add an area's options to those of the areas before it."""
    for code, value in pairs:
        options[code] = (*options.get(code, ()), value)


def join(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    """Bytes with an END; what is longer than 255 bytes goes out in pieces (RFC 3396)."""
    data = bytearray()
    for code, value in pairs:
        for start in range(0, len(value), 255) or (0,):
            piece = value[start : start + 255]
            data += bytes((code, len(piece))) + piece
    data.append(END)
    return bytes(data)


def fixed(options: Options, code: int, length: int) -> bytes | None:
    """An option of one length. Of several copies the first counts: some servers send option 54 twice."""
    copies = options.get(code)
    if copies is None:
        return None
    if len(copies[0]) != length:
        raise Malformed(f"option {code} has {len(copies[0])} bytes, not {length}")
    return copies[0]


def whole(options: Options, code: int) -> bytes | None:
    """An option of any length; several copies are pieces of one value (RFC 3396)."""
    copies = options.get(code)
    return None if copies is None else b"".join(copies)


def number(options: Options, code: int, length: int) -> int | None:
    value = fixed(options, code, length)
    return None if value is None else int.from_bytes(value)


def address(options: Options, code: int) -> str | None:
    value = fixed(options, code, 4)
    return None if value is None else dotted(value)


def addresses(options: Options, code: int) -> tuple[str, ...]:
    value = whole(options, code) or b""
    if len(value) % 4:
        raise Malformed(f"option {code} has {len(value)} bytes, which are no whole addresses")
    return tuple(dotted(value[start : start + 4]) for start in range(0, len(value), 4))


def dotted(value: bytes) -> str:
    """Four bytes as an address is written."""
    return f"{value[0]}.{value[1]}.{value[2]}.{value[3]}"


def packed(text: str) -> bytes:
    """A well-formed address of ours to its four bytes."""
    return bytes(map(int, text.split(".")))


def is_address(text: str) -> bool:
    """Four numbers, each as it is written; nothing that `packed` could stumble over."""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdecimal() and len(part) <= 3 for part in parts):
        return False
    return all(int(part) < 256 and str(int(part)) == part for part in parts)


def prefix_of(mask: bytes) -> int | None:
    """None for a mask with holes, or one that would make all the world our neighbour."""
    value = int.from_bytes(mask)
    inverse = value ^ 0xFFFFFFFF
    return None if inverse & (inverse + 1) or not value else value.bit_count()


def decode_routes(value: bytes) -> tuple[StaticRoute, ...]:
    """Options 121 and 249 (RFC 3442): width, as many bytes of the destination as the width needs, gateway."""
    routes = []
    position = 0
    while position < len(value):
        width = value[position]
        if width > 32:
            raise Malformed(f"a route has a width of {width}")
        size = (width + 7) // 8
        if position + 1 + size + 4 > len(value):
            raise Malformed("the last route is cut short")
        bits = int.from_bytes(value[position + 1 : position + 1 + size].ljust(4, b"\0"))
        network = bits & (0xFFFFFFFF << (32 - width)) & 0xFFFFFFFF
        gateway = value[position + 1 + size : position + 5 + size]
        routes.append(
            StaticRoute(
                destination=f"{dotted(network.to_bytes(4))}/{width}",
                gateway=dotted(gateway) if any(gateway) else "",
            )
        )
        position += 5 + size
    return tuple(routes)


def encode_routes(routes: Iterable[StaticRoute]) -> bytes:
    data = b""
    for route in routes:
        network, _, width = route.destination.partition("/")
        size = (int(width) + 7) // 8
        data += bytes((int(width),)) + packed(network)[:size] + packed(route.gateway or "0.0.0.0")  # noqa: S104
    return data


def decode_search(value: bytes) -> tuple[str, ...]:
    """Option 119 (RFC 3397): names as in DNS; a pointer counts from the start of the joined option."""
    names = []
    position = 0
    while position < len(value):
        name, position = _decode_name(value, position)
        names.append(name)
    return tuple(names)


def encode_search(names: Iterable[str]) -> bytes:
    """Without compression."""
    return b"".join(_encode_name(name) for name in names)


def host_text(value: bytes) -> str:
    """A name that may be used anywhere, the shell included. Raises Malformed for every other."""
    text = value.rstrip(b"\0").decode("latin-1").removesuffix(".")
    if not text or len(text) > _NAME_LIMIT or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise Malformed(f"{value[:64]!r} is no host or domain name")
    return text


def client_identifier(mac: bytes) -> bytes:
    """Hardware type and address, as most clients do; 255 + IAID + DUID (RFC 4361) would look like another machine."""
    return b"\x01" + mac


def decode_fqdn(value: bytes) -> Fqdn:
    if len(value) < 3:
        raise Malformed("option 81 is cut short")
    flags, name = value[0], value[3:]
    if flags & 4:
        # May lack its last byte: a name that is not fully qualified.
        return Fqdn(flags=flags, name=_decode_name(name if name.endswith(b"\0") else name + b"\0", 0)[0])
    return Fqdn(flags=flags, name=host_text(name))


def encode_fqdn(fqdn: Fqdn) -> bytes:
    name = _encode_name(fqdn.name) if fqdn.flags & 4 else fqdn.name.encode("ascii")
    return bytes((fqdn.flags, 0, 0)) + name


def _encode_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split(".")) + b"\0"


def _decode_name(data: bytes, start: int) -> tuple[str, int]:
    """A name and where the next one starts. A pointer must go back, so that no chain of them can be a ring."""
    labels: list[str] = []
    position, floor, resume, length = start, start, -1, 0
    while True:
        if position >= len(data):
            raise Malformed("a name is cut short")
        size = data[position]
        if size >= _POINTER:
            target = int.from_bytes(data[position : position + 2]) & 0x3FFF
            if position + 2 > len(data) or target >= floor:
                raise Malformed("a name's pointer does not go back")
            resume = position + 2 if resume < 0 else resume
            position = floor = target
            continue
        if size == 0:
            break
        label = data[position + 1 : position + 1 + size]
        length += size + 1
        if size > 63 or len(label) < size or length > _NAME_LIMIT + 1:
            raise Malformed("a name is longer than it may be")
        labels.append(label.decode("latin-1"))
        position += 1 + size
    return host_text(".".join(labels).encode("latin-1")), position + 1 if resume < 0 else resume
