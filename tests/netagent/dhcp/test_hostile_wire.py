"""The same table on a real wire: a hostile server answers first, then a good one."""

import json
from typing import Any

import pytest

from tests.netagent.dhcp import craft
from tests.netagent.dhcp.bad_answers import KEPT, REFUSED, Answer, area_of
from tests.netagent.dhcp.conftest import Cable, Talker


def reply(answer: Answer, kind: int, yours: str, times: int = 1, *, once: bool = False) -> dict[str, Any]:
    def plain(values: dict[str, Any]) -> dict[str, Any]:
        return {key: "x" + value.hex() if isinstance(value, bytes) else value for key, value in values.items()}

    return {
        "area": area_of(answer, kind).hex(),
        "head": plain({"yours": yours, **answer.head}),
        "frame": plain(answer.frame),
        "xid": answer.xid,
        "mac": answer.mac.hex() if answer.mac else None,
        "times": times,
        "once": once,
    }


GOOD = Answer("good")
GOOD_OFFER = reply(GOOD, craft.OFFER, craft.GOOD)
GOOD_ACK = reply(GOOD, craft.ACK, craft.GOOD)


def plan(server: Talker, **answers: list[dict[str, Any]]) -> None:
    server.tell(json.dumps(answers))
    server.wait_for("planned")


@pytest.fixture(scope="module")
def server(module_cable: Cable) -> Talker:
    return module_cable.hostile()


@pytest.fixture(scope="module")
def owner(module_cable: Cable, tmp_path_factory: pytest.TempPathFactory) -> Talker:
    return module_cable.owner(tmp_path_factory.mktemp("kept") / "lease.json")


def leave(owner: Talker) -> None:
    owner.tell("release")
    owner.wait_for("released")
    owner.tell("stop")
    owner.wait_for("stopped")


def bound(owner: Talker) -> dict[str, Any]:
    """From nothing to the first lease, and back to nothing."""
    owner.tell("start")
    lease = owner.wait_for("lease")
    leave(owner)
    return lease


@pytest.mark.parametrize("answer", REFUSED, ids=lambda one: one.name)
def test_a_bad_answer_does_not_keep_it_from_the_good_one(server: Talker, owner: Talker, answer: Answer) -> None:
    bad = [reply(answer, kind, craft.BAD) for kind in (craft.OFFER, craft.ACK)]
    plan(server, DISCOVER=[bad[0], GOOD_OFFER], REQUEST=[bad[1], GOOD_ACK])
    lease = bound(owner)
    assert lease["address"] == craft.GOOD
    assert lease["problem"] == ""


@pytest.mark.parametrize("answer", KEPT, ids=lambda one: one.name)
def test_an_odd_answer_is_used_as_far_as_it_goes(server: Talker, owner: Talker, answer: Answer) -> None:
    offer, ack = (reply(answer, kind, craft.GOOD) for kind in (craft.OFFER, craft.ACK))
    plan(server, DISCOVER=[offer], REQUEST=[ack])
    lease = bound(owner)
    assert lease["address"] == craft.GOOD
    for name, value in answer.expect.items():
        if name != "routes":
            assert lease[name] == (list(value) if isinstance(value, tuple) else value)
    # The kernel takes what is in it.
    assert lease["problem"] == ""


def test_a_rogue_nak_of_another_server_is_nobody_s(server: Talker, owner: Talker) -> None:
    rogue = reply(Answer("nak", options={54: craft.ip("10.0.0.66")}), craft.NAK, "0.0.0.0")  # noqa: S104
    nameless = reply(Answer("nak", options={54: None}), craft.NAK, "0.0.0.0")  # noqa: S104
    plan(server, DISCOVER=[rogue, GOOD_OFFER], REQUEST=[rogue, nameless, GOOD_ACK, rogue])
    assert bound(owner)["address"] == craft.GOOD


def test_an_ack_of_another_address_is_taken_if_it_can_be_ours(server: Talker, owner: Talker) -> None:
    plan(server, DISCOVER=[GOOD_OFFER], REQUEST=[reply(GOOD, craft.ACK, "10.0.0.21")])
    assert bound(owner)["address"] == "10.0.0.21"


def test_a_server_that_never_acknowledges_gives_way_to_another(server: Talker, owner: Talker) -> None:
    fast = reply(Answer("fast", options={54: craft.ip("10.0.0.66")}), craft.OFFER, craft.BAD)
    plan(server, DISCOVER=[fast, GOOD_OFFER], REQUEST=[])
    owner.tell("start")
    for _ in range(3):
        asked = server.wait_for("asked", kind="REQUEST")
        assert asked["options"]["54"] == craft.ip("10.0.0.66").hex()
    plan(server, DISCOVER=[fast, GOOD_OFFER], REQUEST=[GOOD_ACK])
    assert owner.wait_for("lease")["address"] == craft.GOOD
    leave(owner)


def test_floods_cost_little_and_hold_nothing_up(server: Talker, owner: Talker) -> None:
    """What does not fit the kernel's queue is lost, the good answer too; the next try finds it empty."""
    flood = reply(Answer("flood", options={51: None}), craft.OFFER, craft.BAD, 20_000, once=True)
    others = reply(Answer("others", mac=b"\x00\x0d\x3a\xff\xff\xff"), craft.OFFER, craft.BAD, 20_000, once=True)
    plan(server, DISCOVER=[others, flood, GOOD_OFFER], REQUEST=[GOOD_ACK])
    owner.tell("start")
    owner.tell("state")
    before = owner.wait_for("state")
    lease = owner.wait_for("lease")
    owner.tell("state")
    after = owner.wait_for("state")
    assert lease["address"] == craft.GOOD
    assert after["memory"] - before["memory"] < 4096  # KiB
    said = [one for one in owner.all if one["event"] == "log" and "no lease time" in one["text"]]
    assert len(said) <= 3  # each refusal once a round; there were three rows of the table with this one
    leave(owner)


def test_refusals_of_its_own_server_are_obeyed_and_lived_through(server: Talker, owner: Talker) -> None:
    nak = reply(Answer("nak"), craft.NAK, "0.0.0.0", once=True)  # noqa: S104
    plan(server, DISCOVER=[GOOD_OFFER], REQUEST=[nak])
    owner.tell("start")
    server.wait_for("asked", kind="REQUEST")
    server.wait_for("asked", kind="DISCOVER")
    plan(server, DISCOVER=[GOOD_OFFER], REQUEST=[GOOD_ACK])
    assert owner.wait_for("lease")["address"] == craft.GOOD
    leave(owner)
