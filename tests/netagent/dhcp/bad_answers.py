"""What a client must survive, from what was seen to break others: a table for the codec and for the real wire.

`REFUSED`: an OFFER or ACK like this names the address .99 and must not be believed. `KEPT`: an answer like this is
used, and what it leads to is named.
"""

from typing import Any

import msgspec

from netagent.dhcp.lease import StaticRoute
from tests.netagent.dhcp.craft import ROUTES, SERVER, ip, options

ROUTER_ONLY = (StaticRoute(destination="0.0.0.0/0", gateway="10.0.0.1"),)
AZURE_ROUTES = (
    *ROUTER_ONLY,
    StaticRoute(destination="168.63.129.16/32", gateway="10.0.0.1"),
    StaticRoute(destination="169.254.169.254/32", gateway="10.0.0.1"),
)


class Answer(msgspec.Struct, frozen=True):
    """How it differs from a good one."""

    name: str
    options: dict[int, bytes | None] = {}
    head: dict[str, Any] = {}
    frame: dict[str, Any] = {}
    kind: int | None = -1
    """-1: what was asked for; None: no option 53."""
    area: bytes | None = None
    """In place of the options."""
    xid: int | None = None
    mac: bytes | None = None
    expect: dict[str, Any] = {}
    """Of the lease, where it is used."""


def _offered(area: bytes = b"") -> bytes:
    """The least options that a lease takes, then something."""
    return b"\x35\x01\x02\x36\x04" + ip(SERVER) + b"\x33\x04\x00\x00\x0e\x10\x01\x04\xff\xff\xff\x00" + area


REFUSED = [
    Answer("no option 53", kind=None),
    Answer("option 53 is 99", kind=99),
    Answer("option 53 is 0", kind=0),
    Answer("option 53 of no length", kind=None, options={53: b""}),
    Answer("option 53 of three bytes", kind=None, options={53: b"\x02\x02\x02"}),
    Answer("garbage for options", area=bytes(range(7, 250))),
    Answer("nothing for options", area=b""),
    Answer("a length without a value", area=_offered(b"\x0c\x20ab")),
    Answer("a code without a length", area=_offered(b"\x0c")),
    Answer("option 121 overruns the packet", area=_offered(b"\x79\xff\x00\x0a\x00\x00\x01")),
    Answer("another transaction", xid=0x01020304),
    Answer("transaction ffffffff", xid=0xFFFFFFFF),
    Answer("a BOOTREQUEST", head={"op": 1}),
    Answer("op 0", head={"op": 0}),
    Answer("op 255", head={"op": 255}),
    Answer("chaddr of another", mac=bytes.fromhex("000d3affffff")),
    Answer("hlen 255", head={"hlen": 255}),
    Answer("hlen 0", head={"hlen": 0}),
    Answer("token ring", head={"htype": 6}),
    Answer("no cookie", head={"cookie": b"\0\0\0\0"}),
    Answer("option 61 of another", options={61: b"\x01\x00\x0d\x3a\xff\xff\xff"}),
    Answer("a wrong UDP checksum", frame={"udp_checksum": 0x1234}),
    Answer("a wrong IP checksum", frame={"ip_checksum": 0x1234}),
    Answer("a UDP length beyond the packet", frame={"udp_length": 60000}),
    Answer("a UDP length of 3", frame={"udp_length": 3}),
    Answer("a fragment", frame={"fragment": 0x2000}),
    Answer("to another port", frame={"port": 69}),
    Answer("from another port", frame={"from_port": 53}),
    Answer("yiaddr 0.0.0.0", head={"yours": "0.0.0.0"}),  # noqa: S104
    Answer("yiaddr 255.255.255.255", head={"yours": "255.255.255.255"}),
    Answer("yiaddr multicast", head={"yours": "224.0.0.99"}),
    Answer("yiaddr 127.0.0.1", head={"yours": "127.0.0.1"}),
    Answer("yiaddr class E", head={"yours": "240.0.0.99"}),
    Answer("yiaddr 0.0.0.99", head={"yours": "0.0.0.99"}),
    Answer("yiaddr link-local", head={"yours": "169.254.169.254"}),
    Answer("yiaddr is the gateway", head={"yours": "10.0.0.1"}),
    Answer("yiaddr is the gateway of option 3 alone", head={"yours": "10.0.0.1"}, options={121: None, 249: None}),
    Answer("yiaddr is the server", head={"yours": "10.0.0.99"}, options={54: ip("10.0.0.99")}),
    Answer("yiaddr is the WireServer", head={"yours": SERVER}, options={54: ip("10.0.0.1")}),
    Answer("yiaddr is the network", head={"yours": "10.0.0.0"}),
    Answer("yiaddr is its broadcast", head={"yours": "10.0.0.255"}),
    Answer("lease 0", options={51: b"\0\0\0\0"}),
    Answer("lease missing", options={51: None}),
    Answer("lease of 3 bytes", options={51: b"\0\0\x0e"}),
    Answer("lease of 5 bytes", options={51: b"\0\0\x0e\x10\0"}),
    Answer("no server identifier", options={54: None}),
    Answer("server identifier of 2 bytes", options={54: b"\x0a\x00"}),
    Answer("server identifier 0.0.0.0", options={54: b"\0\0\0\0"}),
    Answer("server identifier broadcast", options={54: b"\xff\xff\xff\xff"}),
    Answer("server identifier multicast", options={54: ip("224.0.0.1")}),
    Answer("overload 4", options={52: b"\x04"}),
    Answer("overload of 2 bytes", options={52: b"\x01\x01"}),
    Answer("overload into a field that overruns", options={52: b"\x01"}, head={"file": b"\x0c\xff" + b"x" * 126}),
]

_RING = b"\x03lab\xc0\x00"
_LATER = b"\xc0\x04\x00\x00\x03lab\x00"
_TWO_NAMES = ("lab.example", "other.example")

KEPT = [
    Answer("as Azure sends it", expect={"routes": AZURE_ROUTES, "search": _TWO_NAMES, "mtu": 1400, "seconds": 3600}),
    Answer("empty option 61", options={61: b""}),
    Answer("IP options in the header", frame={"ip_options": b"\x94\x04\x00\x00"}),
    Answer("no UDP checksum", frame={"udp_checksum": 0}),
    Answer("sent to the offered address", frame={"to": "10.0.0.20"}),
    Answer("121 with a width of 33", options={121: b"\x21" + ROUTES}, expect={"routes": AZURE_ROUTES}),
    Answer("121 cut short", options={121: ROUTES[:-2]}, expect={"routes": AZURE_ROUTES}),
    Answer("121 and 249 cut short", options={121: ROUTES[:-2], 249: b"\x20"}, expect={"routes": ROUTER_ONLY}),
    Answer("121 empty", options={121: b"", 249: b""}, expect={"routes": ROUTER_ONLY}),
    Answer("121 empty, 249 good", options={121: b""}, expect={"routes": AZURE_ROUTES}),
    Answer(
        "121 without a default, so there is none",
        options={121: ROUTES[5:]},
        expect={"routes": AZURE_ROUTES[1:]},
    ),
    Answer(
        "121 with host bits",
        options={121: b"\x14\xac\x10\xff\x0a\x00\x00\x01"},
        expect={"routes": (StaticRoute(destination="172.16.240.0/20", gateway="10.0.0.1"),)},
    ),
    Answer(
        "121 on the link",
        options={121: b"\x10\xac\x10\x00\x00\x00\x00"},
        expect={"routes": (StaticRoute(destination="172.16.0.0/16", gateway=""),)},
    ),
    Answer("121 by a multicast gateway", options={121: b"\x00\xe0\x00\x00\x01"}, expect={"routes": AZURE_ROUTES}),
    Answer("121 into loopback", options={121: b"\x08\x7f\x0a\x00\x00\x01" + ROUTES}, expect={"routes": AZURE_ROUTES}),
    Answer("121 twice the same", options={121: ROUTES + ROUTES}, expect={"routes": AZURE_ROUTES}),
    Answer(
        "121 in two pieces",
        options={121: ROUTES[:7]},
        area=b"",  # the second piece: see `area_of`
        expect={"routes": AZURE_ROUTES},
    ),
    Answer(
        "overload",
        options={121: None, 249: None, 52: b"\x03", 6: None},
        head={"file": b"\x79\x17" + ROUTES + b"\xff", "sname": b"\x06\x04\x0a\x00\x00\x35\xff"},
        expect={"routes": AZURE_ROUTES, "nameservers": ("10.0.0.53",)},
    ),
    Answer("search list in a ring", options={119: _RING}, expect={"search": ()}),
    Answer("search list that points ahead", options={119: _LATER}, expect={"search": ()}),
    Answer("search list that points at itself", options={119: b"\xc0\x00"}, expect={"search": ()}),
    Answer("search list cut short", options={119: b"\x07exam"}, expect={"search": ()}),
    Answer("search list with a shell's characters", options={119: b"\x06a;b`c\n\x00"}, expect={"search": ()}),
    Answer("domain with a shell's characters", options={15: b"a;`reboot`\nb"}, expect={"domain": ""}),
    Answer("domain with $( )", options={15: b"$(reboot)"}, expect={"domain": ""}),
    Answer("domain ends in a NUL", options={15: b"lab.example\0"}, expect={"domain": "lab.example"}),
    Answer("domain is not ASCII", options={15: "bücher.example".encode()}, expect={"domain": ""}),
    Answer("host name with a path", options={12: b"../../etc/passwd"}, expect={"host_name": ""}),
    Answer("host name with a line break", options={12: b"vm1\nnameserver 10.6.6.6"}, expect={"host_name": ""}),
    Answer("host name of 300 bytes", options={12: b"a" * 300}, expect={"host_name": ""}),
    Answer("host name begins like an option", options={12: b"-rf"}, expect={"host_name": ""}),
    Answer("the name in option 81", options={12: None, 81: b"\x05\0\0\x03vm9\x00"}, expect={"host_name": "vm9"}),
    Answer("two copies of option 54", options={54: None}, area=b"", expect={"server": SERVER}),
    Answer(
        "T1 after T2 after the end",
        options={58: (9000).to_bytes(4), 59: (8000).to_bytes(4)},
        expect={"renew_after": 1800, "rebind_after": 3150},
    ),
    Answer("T1 and T2 of 3 bytes", options={58: b"\0\0\1", 59: b"\0\0\1"}, expect={"renew_after": 1800}),
    Answer("T1 and T2 of 0", options={58: b"\0" * 4, 59: b"\0" * 4}, expect={"renew_after": 1800}),
    Answer("lease of 1 s", options={51: b"\0\0\0\1"}, expect={"seconds": 1}),
    Answer(
        "an infinite lease",
        options={51: b"\xff" * 4, 58: b"\xff" * 4, 59: b"\xff" * 4},
        expect={"seconds": None, "renew_after": None, "rebind_after": None},
    ),
    Answer("an infinite T1 of a finite lease", options={58: b"\xff" * 4}, expect={"renew_after": 1800}),
    Answer("no mask", options={1: None}, expect={"prefix": 32}),
    Answer("a mask with holes", options={1: ip("255.0.255.0")}, expect={"prefix": 32}),
    Answer("a mask of nothing", options={1: b"\0\0\0\0"}, expect={"prefix": 32}),
    Answer("a mask of 3 bytes", options={1: b"\xff\xff\xff"}, expect={"prefix": 32}),
    Answer("a mask of 32 bits", options={1: b"\xff\xff\xff\xff"}, expect={"prefix": 32}),
    Answer(
        "a router off the link",
        options={3: ip("192.0.2.1"), 121: None, 249: None},
        expect={"routes": (StaticRoute(destination="0.0.0.0/0", gateway="192.0.2.1"),)},
    ),
    Answer(
        "a router that is none, then one",
        options={3: ip("0.0.0.0") + ip("10.0.0.1"), 121: None, 249: None},  # noqa: S104
        expect={"routes": ROUTER_ONLY},
    ),
    Answer("no router at all", options={3: None, 121: None, 249: None}, expect={"routes": ()}),
    Answer("MTU 0", options={26: b"\0\0"}, expect={"mtu": None}),
    Answer("MTU 68", options={26: b"\0\x44"}, expect={"mtu": None}),
    Answer("MTU 65535", options={26: b"\xff\xff"}, expect={"mtu": None}),
    Answer("MTU of 3 bytes", options={26: b"\0\x05\xdc"}, expect={"mtu": None}),
    Answer("MTU 576", options={26: b"\x02\x40"}, expect={"mtu": 576}),
    Answer("MTU 9216", options={26: b"\x24\x00"}, expect={"mtu": 9216}),
    Answer("MTU 9217", options={26: b"\x24\x01"}, expect={"mtu": None}),
    Answer("DNS of 3 bytes", options={6: b"\x0a\0\0"}, expect={"nameservers": ()}),
    Answer("DNS of no bytes", options={6: b""}, expect={"nameservers": ()}),
    Answer(
        "DNS at odd places",
        options={6: ip("0.0.0.0") + ip("255.255.255.255") + ip("10.0.0.53") + ip("127.0.0.1")},  # noqa: S104
        expect={"nameservers": ("10.0.0.53",)},
    ),
    Answer("245 of 3 bytes", options={245: b"\xa8\x3f\x81"}, expect={"wireserver": ""}),
    Answer("245 is loopback", options={245: ip("127.0.0.1")}, expect={"wireserver": ""}),
    Answer("245 as it should be", expect={"wireserver": SERVER}),
    Answer("200 PADs and no END", area=b"", expect={"seconds": 3600}),
]

_SECOND_PIECE = {
    "121 in two pieces": bytes((121, len(ROUTES) - 7)) + ROUTES[7:],
    "two copies of option 54": b"\x36\x04" + ip(SERVER) + b"\x36\x04" + ip("10.9.9.9"),
    "200 PADs and no END": b"\0" * 200,
}


def area_of(answer: Answer, kind: int) -> bytes:
    """The options as they lie in the packet."""
    if answer.area:
        return answer.area
    whole = options(kind if answer.kind == -1 else answer.kind, answer.options)
    second = _SECOND_PIECE.get(answer.name)
    if second is not None:
        return whole[:-1] + second + (b"" if "no END" in answer.name else b"\xff")
    return b"" if answer.area == b"" else whole
