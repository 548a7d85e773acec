"""A DHCP server without scruples, for the other end of a test's cable.

    python -m tests.netagent.dhcp.hostile INTERFACE

Reads plans, one JSON document a line: what to answer to DISCOVER, to REQUEST and so on, with the client's `xid` and MAC
put in place; those marked `once` the first time only. Says on its standard output what it was asked.
"""

import json
import select
import socket
import sys
from typing import Any

from tests.netagent.dhcp import craft

KINDS = ("", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM")


def read_options(area: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while area and area[0] != 255:
        if area[0] == 0:
            area = area[1:]
            continue
        found[area[0]] = area[2 : 2 + area[1]]
        area = area[2 + area[1] :]
    return found


def say(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def unpacked(values: dict[str, Any]) -> dict[str, Any]:
    """Bytes come as `x` and hexadecimal digits."""
    return {key: bytes.fromhex(value[1:]) if str(value)[:1] == "x" else value for key, value in values.items()}


def answer(raw: socket.socket, plan: dict[str, Any], asked: dict[str, Any]) -> None:
    mac, xid = bytes.fromhex(asked["mac"].replace(":", "")), asked["xid"]
    answers = plan.get(asked["kind"], [])
    plan[asked["kind"]] = [one for one in answers if not one.get("once")]
    for one in answers:
        area = bytes.fromhex(one["area"])
        chaddr = bytes.fromhex(one["mac"]) if one.get("mac") else mac
        head, frame = unpacked(one["head"]), unpacked(one["frame"])
        payload = craft.bootp(area, xid=xid if one.get("xid") is None else one["xid"], mac=chaddr, **head)
        for _ in range(one.get("times", 1)):
            try:
                raw.send(craft.ethernet(payload, mac=mac, **frame))
            except BlockingIOError:
                break


def heard(frame: bytes) -> dict[str, Any] | None:
    """A client's message, or None."""
    if len(frame) < 282 or frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[36:38] != b"\x00\x43":
        return None
    bootp = frame[42:]
    found = read_options(bootp[240:])
    return {
        "kind": KINDS[found[53][0]],
        "xid": int.from_bytes(bootp[4:8]),
        "client": socket.inet_ntoa(bootp[12:16]),
        "to": socket.inet_ntoa(frame[30:34]),
        "mac": bootp[28:34].hex(":"),
        "options": {code: value.hex() for code, value in found.items()},
    }


def main() -> None:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    raw.bind((sys.argv[1], 0x0800))
    say({"event": "ready"})
    plan: dict[str, Any] = {}
    while True:
        readable, _, _ = select.select([raw, sys.stdin], [], [])
        if sys.stdin in readable:
            line = sys.stdin.readline()
            if not line:
                return
            plan = json.loads(line)
            say({"event": "planned"})
        if raw in readable:
            data, sender = raw.recvfrom(2048)
            asked = None if sender[2] == socket.PACKET_OUTGOING else heard(data)
            if asked is not None:
                say({"event": "asked", **asked})
                answer(raw, plan, asked)


if __name__ == "__main__":
    main()
