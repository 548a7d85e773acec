"""Every row of the table of bad answers, through frame, codec and sanity, without a network."""

from typing import Any

import msgspec
import pytest

from netagent.dhcp import frame, message
from netagent.dhcp.errors import Malformed
from netagent.dhcp.sanity import Accepted, Exchange, Refusal, check, check_inform
from tests.netagent.dhcp import craft
from tests.netagent.dhcp.bad_answers import KEPT, REFUSED, Answer, area_of

MAC = bytes.fromhex("000d3a010203")
XID = 0xA1B2C3D4
OURS = Exchange(mac=MAC, client_id=b"\x01" + MAC, xid=XID, started=100.0, boot_id="boot")


def wire(answer: Answer, kind: int, yours: str) -> bytes:
    head: dict[str, Any] = {"yours": yours, **answer.head}
    xid = XID if answer.xid is None else answer.xid
    payload = craft.bootp(area_of(answer, kind), xid=xid, mac=answer.mac or MAC, **head)
    return craft.ethernet(payload, mac=MAC, **answer.frame)


def verdict(data: bytes) -> Accepted | Refusal | Malformed:
    try:
        found = message.parse(frame.unwrap(data, checksum_ready=True))
    except Malformed as error:
        return error
    return check(found, OURS)


@pytest.mark.parametrize("kind", [craft.OFFER, craft.ACK])
@pytest.mark.parametrize("answer", REFUSED, ids=lambda one: one.name)
def test_a_bad_answer_is_refused(answer: Answer, kind: int) -> None:
    assert isinstance(verdict(wire(answer, kind, craft.BAD)), Refusal | Malformed)


@pytest.mark.parametrize("answer", KEPT, ids=lambda one: one.name)
def test_what_is_extra_and_wrong_is_left_out(answer: Answer) -> None:
    found = verdict(wire(answer, craft.ACK, craft.GOOD))
    assert isinstance(found, Accepted), found
    lease = msgspec.structs.asdict(found.lease)
    assert lease["address"] == craft.GOOD
    assert lease["started"] == 100.0
    assert {name: lease[name] for name in answer.expect} == answer.expect
    # Whatever one of them does, it does it to nothing else.
    codes = {6: "nameservers", 15: "domain", 26: "mtu", 42: "ntp_servers", 119: "search", 245: "wireserver"}
    others = {name for code, name in codes.items() if code not in answer.options}
    good = verdict(wire(KEPT[0], craft.ACK, craft.GOOD))
    assert isinstance(good, Accepted)
    if answer.name != "overload":
        assert all(lease[name] == getattr(good.lease, name) for name in others)


@pytest.mark.parametrize("code", [1, 6, 12, 15, 26, 42, 58, 59, 119, 121, 245])
def test_what_is_left_out_is_noted(code: int) -> None:
    found = verdict(wire(Answer("bad", options={code: b"\x21\xff\xff"}), craft.ACK, craft.GOOD))
    assert isinstance(found, Accepted)
    assert len(found.notes) == 1, found.notes


def test_each_refusal_names_its_reason() -> None:
    reasons = {}
    for answer in REFUSED:
        found = verdict(wire(answer, craft.OFFER, craft.BAD))
        reasons[answer.name] = found.reason if isinstance(found, Refusal) else "malformed"
    assert reasons["yiaddr is the gateway"] == "gateway"
    assert reasons["yiaddr multicast"] == "address"
    assert reasons["lease 0"] == reasons["lease missing"] == "lease time"
    assert reasons["no server identifier"] == reasons["server identifier multicast"] == "server"
    assert reasons["chaddr of another"] == reasons["option 61 of another"] == "not ours"
    assert reasons["a wrong UDP checksum"] == reasons["hlen 255"] == "malformed"


def test_a_checksum_left_to_hardware_is_not_looked_at() -> None:
    data = wire(Answer("offloaded", frame={"udp_checksum": 0x1234}), craft.ACK, craft.GOOD)
    assert isinstance(verdict(data), Malformed)
    assert message.parse(frame.unwrap(data, checksum_ready=False)).yours == craft.GOOD


def test_an_inform_is_answered_without_times() -> None:
    answer = Answer("inform", options={51: None}, head={"yours": "0.0.0.0", "client": "10.0.0.7"})  # noqa: S104
    found = message.parse(frame.unwrap(wire(answer, craft.ACK, craft.BAD), checksum_ready=True))
    accepted = check_inform(found, OURS, "10.0.0.7")
    assert isinstance(accepted, Accepted)
    assert (accepted.lease.address, accepted.lease.prefix, accepted.lease.seconds) == ("10.0.0.7", 24, None)
    assert accepted.lease.wireserver == craft.SERVER
    offer = message.parse(frame.unwrap(wire(answer, craft.OFFER, craft.BAD), checksum_ready=True))
    assert isinstance(check_inform(offer, OURS, "10.0.0.7"), Refusal)
    other = Answer("of another", options={51: None}, head={"yours": "10.0.0.8"})
    found = message.parse(frame.unwrap(wire(other, craft.ACK, craft.BAD), checksum_ready=True))
    assert isinstance(check_inform(found, OURS, "10.0.0.7"), Refusal)
