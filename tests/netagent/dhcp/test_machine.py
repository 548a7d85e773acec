"""The state machine with a clock that the test turns."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from netagent.dhcp import message, requests
from netagent.dhcp import options as o
from netagent.dhcp.actions import Action, Configure, Drop, EndProbe, Log, Probe, Send, SetTimer
from netagent.dhcp.kept import Kept
from netagent.dhcp.lease import Lease
from netagent.dhcp.machine import DECLINE_PAUSE, PROBES, Machine
from tests.netagent.dhcp import craft

MAC = bytes.fromhex("000d3a010203")
OTHER = "10.0.0.66"
KEPT = Lease(
    mac=MAC.hex(":"),
    address="10.0.0.7",
    prefix=24,
    server=craft.SERVER,
    started=900.0,
    boot_id="boot",
    seconds=3600,
    renew_after=1800,
    rebind_after=3150,
)
INFINITE: dict[int, bytes | None] = {51: b"\xff" * 4}
TIMES: dict[int, bytes | None] = {51: (1000).to_bytes(4), 58: (500).to_bytes(4), 59: (875).to_bytes(4)}


class World:
    """A machine, its clock, and everything that it wanted done."""

    def __init__(self, kept: Kept | None = None, *, seed: int = 1, **wishes: Any) -> None:
        self.now = 1000.0
        self.due: float | None = None
        self.sent: list[tuple[float, message.Message, Send]] = []
        self.configured: list[Lease] = []
        self.lost: list[str] = []
        self.probes: list[str] = []
        self.probing = False
        self.logged: list[str] = []
        who = requests.Identity(mac=MAC, client_id=o.client_identifier(MAC), host_name=wishes.pop("host_name", ""))
        chance = random.Random(seed).random
        self.machine = Machine(who, boot_id="boot", chance=chance, kept=kept or Kept(), **wishes)

    def start(self) -> "World":
        self.act(self.machine.start(self.now))
        return self

    def act(self, actions: list[Action]) -> None:
        assert sum(isinstance(one, SetTimer) for one in actions) == 1
        for action in actions:
            match action:
                case SetTimer(at):
                    self.due = at
                case Send():
                    self.sent.append((self.now, message.parse(action.payload), action))
                case Configure(lease):
                    self.configured.append(lease)
                case Drop(reason):
                    self.lost.append(reason)
                case Probe(address):
                    self.probing = True
                    self.probes.append(address)
                case EndProbe():
                    self.probing = False
                case Log():
                    self.logged.append(action.text)

    def advance(self, seconds: float) -> None:
        """With a timer that comes as it was wished."""
        until = self.now + seconds
        while self.due is not None and self.due <= until:
            self.now = max(self.now, self.due)
            self.act(self.machine.timer(self.now))
        self.now = until

    def answer(
        self,
        kind: int,
        yours: str = craft.GOOD,
        server: str = craft.SERVER,
        options: dict[int, bytes | None] | None = None,
        **other: Any,
    ) -> None:
        """To what was sent last."""
        area = craft.options(kind, {54: craft.ip(server), **TIMES, **(options or {})})
        xid = other.pop("xid", self.last().xid)
        data = craft.bootp(area, xid=xid, mac=MAC, yours=yours, **other)
        self.act(self.machine.received(self.now, message.parse(data)))

    def last(self) -> message.Message:
        return self.sent[-1][1]

    def kinds(self) -> list[str]:
        return [message.KINDS[one.kind] for _, one, _ in self.sent]

    def bound(self, options: dict[int, bytes | None] | None = None) -> "World":
        self.start()
        self.answer(craft.OFFER, options=options)
        self.answer(craft.ACK, options=options)
        assert self.state == "BOUND"
        self.sent.clear()
        return self

    @property
    def state(self) -> str:
        return self.machine.state


def option(sent: message.Message, code: int) -> str:
    return o.address(sent.options, code) or ""


def test_from_nothing_to_bound() -> None:
    world = World().start()
    assert (world.state, world.kinds()) == ("SELECTING", ["DISCOVER"])
    assert world.sent[0][2].server == ""
    xid = world.last().xid
    world.now += 0.5
    world.answer(craft.OFFER)
    assert (world.state, world.kinds()) == ("REQUESTING", ["DISCOVER", "REQUEST"])
    assert (option(world.last(), o.ADDRESS), option(world.last(), o.SERVER)) == (craft.GOOD, craft.SERVER)
    assert (world.last().client, world.last().xid) == ("0.0.0.0", xid)  # noqa: S104
    requested = world.now
    world.now += 0.5
    world.answer(craft.ACK)
    assert world.state == "BOUND"
    (lease,) = world.configured
    assert world.machine.lease == lease
    # It runs from when it was asked for.
    assert (lease.started, lease.boot_id, lease.seconds) == (requested, "boot", 1000)


def test_it_tries_again_at_1_2_4_8_and_16_seconds_give_or_take_a_tenth() -> None:
    world = World().start()
    world.advance(200)
    times = [when for when, _, _ in world.sent]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(pauses) > 10
    for pause, wanted in zip(pauses, [1, 2, 4, 8] + [16] * 20, strict=False):
        assert wanted * 0.9 <= pause <= wanted * 1.1
    assert pauses[4] != pauses[5]
    assert world.last().secs == int(times[-1] - times[0])


def test_an_offer_without_ack_is_given_up_and_the_next_server_taken() -> None:
    world = World().start()
    world.answer(craft.OFFER, server=OTHER)
    while world.state == "REQUESTING":
        world.advance(0.1)
    assert world.kinds() == ["DISCOVER", "REQUEST", "REQUEST", "REQUEST", "DISCOVER"]
    world.answer(craft.OFFER, server=OTHER)
    assert world.state == "SELECTING"
    world.answer(craft.OFFER)
    assert option(world.last(), o.SERVER) == craft.SERVER


def test_where_there_is_no_other_server_it_gets_another_chance() -> None:
    world = World().start()
    world.answer(craft.OFFER)
    world.advance(9)
    world.answer(craft.OFFER)
    assert world.state == "SELECTING"
    world.advance(1.2)
    assert (world.state, world.kinds()[-1]) == ("REQUESTING", "REQUEST")


def test_only_the_chosen_server_acknowledges_or_refuses() -> None:
    world = World().start()
    world.answer(craft.OFFER)
    world.answer(craft.ACK, server=OTHER)
    world.answer(craft.NAK, server=OTHER)
    world.answer(craft.NAK, options={54: None})
    assert world.state == "REQUESTING"
    world.answer(craft.NAK)
    assert world.state == "SELECTING"
    assert world.lost == []  # there was nothing to lose


def test_a_storm_of_refusals_stays_a_trickle() -> None:
    world = World().start()
    until = world.now + 3600
    while world.now < until:
        if world.state == "SELECTING":
            world.answer(craft.OFFER)
        if world.state == "REQUESTING":
            world.answer(craft.NAK)
        world.advance(0.1)
    assert 100 < len(world.sent) < 600
    assert len(world.logged) < 10


def test_a_flood_of_offers_is_answered_once() -> None:
    world = World().start()
    for _ in range(1000):
        world.answer(craft.OFFER)
        world.answer(craft.OFFER, options={51: None})
    assert world.kinds() == ["DISCOVER", "REQUEST"]


def test_a_flood_of_bad_offers_is_told_once() -> None:
    world = World().start()
    for _ in range(1000):
        world.answer(craft.OFFER, options={51: None})
    assert world.kinds() == ["DISCOVER"]
    assert world.logged == ["DHCP: an answer is passed over: no lease time"]


def test_an_ack_of_another_address_counts_if_it_can_be_ours() -> None:
    world = World().start()
    world.answer(craft.OFFER)
    world.answer(craft.ACK, yours="10.0.0.1")
    assert world.state == "REQUESTING"
    world.answer(craft.ACK, yours="10.0.0.21")
    assert world.configured[-1].address == "10.0.0.21"


def test_it_renews_at_t1_from_the_server_alone() -> None:
    world = World().bound()
    world.advance(470)
    assert world.sent == []
    world.advance(40)
    assert world.state == "RENEWING"
    _, sent, send = world.sent[0]
    assert (send.server, send.source, sent.client) == (craft.SERVER, craft.GOOD, craft.GOOD)
    assert option(sent, o.ADDRESS) == option(sent, o.SERVER) == ""
    when = world.sent[-1][0]
    world.answer(craft.ACK)
    assert world.state == "BOUND"
    assert world.configured[-1].started == when
    assert world.lost == []


def test_it_rebinds_at_t2_from_anybody_and_gives_up_at_the_end() -> None:
    world = World().bound()
    world.advance(874)
    renewals = len(world.sent)
    assert 3 <= renewals < 10
    assert {send.server for _, _, send in world.sent} == {craft.SERVER}
    world.advance(2)
    assert world.state == "REBINDING"
    assert world.sent[-1][2].server == ""
    world.advance(122)
    assert world.state == "REBINDING"
    assert len(world.sent) - renewals >= 2
    assert world.lost == []
    world.advance(3)
    assert world.lost == [f"the lease of {craft.GOOD} ran out"]
    assert world.machine.lease is None
    assert world.kinds()[-1] == "DISCOVER"
    assert option(world.last(), o.ADDRESS) == craft.GOOD
    world.answer(craft.OFFER)
    world.answer(craft.ACK)
    assert len(world.configured) == 2


def test_another_server_may_rebind() -> None:
    world = World().bound()
    world.advance(876)
    world.answer(craft.ACK, server=OTHER)
    assert world.state == "BOUND"
    assert world.configured[-1].server == OTHER


def test_another_server_may_not_renew_nor_refuse() -> None:
    world = World().bound()
    world.advance(510)
    world.answer(craft.ACK, server=OTHER)
    world.answer(craft.NAK, server=OTHER)
    assert world.state == "RENEWING"
    world.advance(400)
    world.answer(craft.NAK, server=OTHER)
    assert world.state == "REBINDING"
    assert world.lost == []


def test_a_refusal_of_a_renewal_is_obeyed() -> None:
    world = World().bound()
    world.advance(510)
    world.answer(craft.NAK)
    assert world.lost == [f"the server {craft.SERVER} refused {craft.GOOD}"]
    assert (world.state, world.kinds()[-1]) == ("SELECTING", "DISCOVER")
    assert option(world.last(), o.ADDRESS) == ""


def test_an_answer_to_an_earlier_try_is_not_for_this_one() -> None:
    world = World().bound()
    world.advance(510)
    xid = world.last().xid
    world.advance(330)
    assert world.last().xid != xid
    world.answer(craft.ACK, xid=xid)
    assert world.state == "RENEWING"


def test_another_address_on_renewal_replaces_the_first() -> None:
    world = World().bound()
    world.advance(510)
    world.answer(craft.ACK, yours="10.0.0.30")
    assert [lease.address for lease in world.configured] == [craft.GOOD, "10.0.0.30"]
    assert world.lost == []


def test_an_infinite_lease_is_never_renewed_by_itself() -> None:
    world = World().bound({**INFINITE, 58: b"\xff" * 4, 59: b"\xff" * 4})
    assert world.due is None
    world.advance(10 * 365 * 86400)
    assert world.sent == []
    world.act(world.machine.renew(world.now, "web-7"))
    assert world.state == "RENEWING"
    assert o.whole(world.last().options, o.HOST_NAME) == b"web-7"
    world.answer(craft.ACK, options={**INFINITE, 58: None, 59: None})
    assert (world.state, world.due) == ("BOUND", None)


def test_an_infinite_lease_with_a_t1_is_renewed() -> None:
    world = World().bound(INFINITE)
    world.advance(510)
    assert world.state == "RENEWING"
    world.advance(400)
    assert world.state == "REBINDING"
    world.advance(1e6)
    assert world.lost == []


def test_an_early_renewal_that_nobody_answers_ends_and_comes_back() -> None:
    world = World().bound(INFINITE | {58: None, 59: None})
    world.act(world.machine.renew(world.now, "web-7"))
    world.advance(45)
    assert [bool(send.server) for _, _, send in world.sent] == [True, True, False, False, False]
    assert world.state == "BOUND"
    world.sent.clear()
    world.advance(70)
    assert world.sent
    world.sent.clear()
    world.advance(86400)
    assert 100 < len(world.sent) < 200
    assert world.lost == []


def test_a_name_that_changed_while_it_was_asking_is_told_afterwards() -> None:
    world = World(host_name="vm1").start()
    world.answer(craft.OFFER)
    world.act(world.machine.renew(world.now, "web-7"))
    world.answer(craft.ACK)
    assert len(world.configured) == 1
    world.advance(2)
    assert o.whole(world.last().options, o.HOST_NAME) == b"web-7"
    world.answer(craft.ACK)
    assert world.state == "BOUND"
    world.sent.clear()
    world.advance(100)
    assert world.sent == []


def test_a_kept_lease_is_asked_for_again() -> None:
    world = World(Kept(address=KEPT.address, lease=KEPT)).start()
    assert (world.state, world.kinds()) == ("REBOOTING", ["REQUEST"])
    assert (option(world.last(), o.ADDRESS), option(world.last(), o.SERVER)) == (KEPT.address, "")
    assert world.last().client == "0.0.0.0"  # noqa: S104
    world.answer(craft.ACK, yours=KEPT.address)
    assert world.configured[-1].address == KEPT.address
    assert world.lost == []


def test_a_kept_lease_is_used_while_no_server_answers() -> None:
    world = World(Kept(address=KEPT.address, lease=KEPT)).start()
    world.advance(8)
    assert world.configured == [KEPT]
    assert world.state == "BOUND"
    world.advance(80)
    assert world.kinds()[3] == "REQUEST"  # and asked for again soon
    world.advance(3600)
    assert world.lost == [f"the lease of {KEPT.address} ran out"]


def test_an_address_of_an_earlier_boot_is_asked_for_and_not_used() -> None:
    world = World(Kept(address=KEPT.address)).start()
    world.advance(4)
    assert world.configured == []
    assert world.kinds() == ["REQUEST", "REQUEST", "DISCOVER"]
    assert option(world.last(), o.ADDRESS) == KEPT.address


@pytest.mark.parametrize("kept", [Kept(address=KEPT.address), Kept(address=KEPT.address, lease=KEPT)])
def test_a_kept_lease_that_is_refused_is_gone(kept: Kept) -> None:
    world = World(kept).start()
    world.answer(craft.NAK)
    assert world.lost == [f"the server {craft.SERVER} refused {KEPT.address}"]
    assert world.kinds() == ["REQUEST", "DISCOVER"]


def test_another_server_s_refusal_counts_when_ours_says_nothing() -> None:
    """On another network it is right; a rogue on ours is not, and ours is faster than a second."""
    world = World(Kept(address=KEPT.address, lease=KEPT)).start()
    world.answer(craft.NAK, server=OTHER)
    assert world.state == "REBOOTING"
    world.advance(1.2)
    assert world.lost == [f"the server {OTHER} refused {KEPT.address}"]
    world = World(Kept(address=KEPT.address, lease=KEPT)).start()
    world.answer(craft.NAK, server=OTHER)
    world.answer(craft.ACK, yours=KEPT.address)
    world.advance(2)
    assert (world.state, world.lost) == ("BOUND", [])


def test_after_the_link_came_back_it_asks_for_what_it_has_and_keeps_it_meanwhile() -> None:
    world = World().bound()
    world.advance(10)
    world.act(world.machine.link_down())
    world.advance(10)
    world.act(world.machine.link_up(world.now))
    assert (world.state, world.kinds()) == ("REBOOTING", ["REQUEST"])
    assert world.machine.lease is not None
    world.advance(8)
    assert (world.state, world.lost) == ("BOUND", [])


def test_nothing_is_sent_while_the_link_is_down_but_the_lease_ends_in_time() -> None:
    world = World().bound()
    world.act(world.machine.link_down())
    world.advance(999)
    assert (world.sent, world.lost) == ([], [])
    world.advance(2)
    assert len(world.lost) == 1
    sent = len(world.sent)
    world.advance(100)
    assert len(world.sent) == sent
    world.act(world.machine.link_up(world.now))
    assert world.kinds()[-1] == "DISCOVER"


def test_started_without_a_link_it_waits_for_it() -> None:
    world = World(Kept(address=KEPT.address, lease=KEPT))
    world.act(world.machine.link_down())
    world.start()
    assert (world.state, world.sent) == ("INIT-REBOOT", [])
    world.act(world.machine.link_up(world.now))
    assert world.state == "REBOOTING"


def test_a_flapping_link_is_no_flood() -> None:
    world = World().bound()
    for _ in range(1000):
        world.act(world.machine.link_up(world.now))
        world.act(world.machine.renew(world.now))
        world.advance(0.01)
    assert len(world.sent) < 30


def test_a_timer_that_comes_late_finds_the_lease_ended() -> None:
    """The machine was suspended: no timer ran, time did."""
    world = World().bound()
    world.now += 5000
    world.act(world.machine.resumed(world.now))
    assert len(world.lost) == 1
    assert world.kinds()[-1] in ("DISCOVER", "REQUEST")
    world.advance(1.5)
    assert world.kinds()[-1] == "DISCOVER"


def test_an_ack_that_was_read_too_late_is_not_believed() -> None:
    world = World().start()
    world.answer(craft.OFFER)
    world.now += 1001
    world.answer(craft.ACK)
    assert (world.state, world.configured) == ("REQUESTING", [])


def test_an_address_is_probed_for_before_it_is_used() -> None:
    world = World(arp_probe=True).start()
    world.answer(craft.OFFER)
    world.answer(craft.ACK)
    assert (world.probes, world.configured, world.probing) == ([craft.GOOD], [], True)
    world.advance(0.55)
    assert (len(world.probes), world.configured) == (PROBES, [])
    world.advance(0.1)
    assert (len(world.configured), world.probing) == (1, False)
    # A renewal of the same address needs no proof.
    world.advance(510)
    world.answer(craft.ACK)
    assert len(world.configured) == 2
    assert len(world.probes) == PROBES


def test_an_address_in_use_is_declined() -> None:
    world = World(arp_probe=True).start()
    world.answer(craft.OFFER)
    world.answer(craft.ACK)
    world.advance(0.3)
    world.act(world.machine.conflict(world.now, "10.0.0.77", b"\x02" * 6))
    assert world.state == "REQUESTING"
    world.act(world.machine.conflict(world.now, craft.GOOD, b"\x02" * 6))
    assert world.kinds()[-1] == "DECLINE"
    assert (option(world.last(), o.ADDRESS), option(world.last(), o.SERVER)) == (craft.GOOD, craft.SERVER)
    assert world.sent[-1][2].server == ""
    assert (world.state, world.probing) == ("INIT", False)
    assert world.lost == [f"declined: {craft.GOOD} is in use by 02:02:02:02:02:02"]
    world.advance(DECLINE_PAUSE - 0.1)
    assert world.kinds()[-1] == "DECLINE"
    world.advance(0.2)
    assert world.kinds()[-1] == "DISCOVER"
    assert option(world.last(), o.ADDRESS) == ""


def test_release() -> None:
    world = World().bound()
    world.act(world.machine.release(world.now))
    (_, sent, send) = world.sent[-1]
    assert (world.kinds(), send.server, sent.client) == (["RELEASE"], craft.SERVER, craft.GOOD)
    assert option(sent, o.SERVER) == craft.SERVER
    assert (world.lost, world.due, world.machine.lease) == (["released"], None, None)
    world.act(world.machine.link_up(world.now))
    world.act(world.machine.renew(world.now))
    world.act(world.machine.timer(world.now + 1e6))
    assert world.kinds() == ["RELEASE"]


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, in whatever order: nothing breaks, a lease is never used after its end, little is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Kept(address=KEPT.address, lease=KEPT), arp_probe=True).start()
        self.began = self.world.now
        self.released = False
        self.nudges = 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 1.0, 3.0, 20.0, 130.0, 600.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(seconds=st.sampled_from([10.0, 400.0, 5000.0]))
    def suspended(self, seconds: float) -> None:
        self.world.now += seconds
        self.nudges += 1
        self.world.act(self.world.machine.resumed(self.world.now))

    @precondition(lambda self: self.world.sent)
    @rule(
        kind=st.sampled_from([craft.OFFER, craft.ACK, craft.NAK]),
        server=st.sampled_from([craft.SERVER, OTHER]),
        yours=st.sampled_from([craft.GOOD, "10.0.0.21", "10.0.0.1", "0.0.0.0"]),  # noqa: S104
        seconds=st.sampled_from([1, 7, 300, 0xFFFFFFFF, 0]),
    )
    def a_server_says(self, kind: int, server: str, yours: str, seconds: int) -> None:
        times: dict[int, bytes | None] = {51: seconds.to_bytes(4), 58: None, 59: None}
        self.world.answer(kind, yours, server, times)

    @rule(conflicting=st.sampled_from([craft.GOOD, "10.0.0.21", "10.0.0.77"]))
    def somebody_answers_a_probe(self, conflicting: str) -> None:
        self.world.act(self.world.machine.conflict(self.world.now, conflicting, b"\x02" * 6))

    @rule(name=st.sampled_from(["", "web-7", "web-8"]))
    def renew(self, name: str) -> None:
        self.nudges += 1
        self.world.act(self.world.machine.renew(self.world.now, name))

    @rule(event=st.sampled_from(["link_up", "link_down"]))
    def link(self, event: str) -> None:
        self.nudges += 1
        if event == "link_up":
            self.world.act(self.world.machine.link_up(self.world.now))
        else:
            self.world.act(self.world.machine.link_down())

    @precondition(lambda self: self.nudges > 5)
    @rule()
    def release(self) -> None:
        self.released = True
        self.world.act(self.world.machine.release(self.world.now))

    @invariant()
    def the_lease_runs(self) -> None:
        lease = self.world.machine.lease
        self.world.advance(0)
        if lease is not None and lease.seconds is not None and self.world.machine.lease == lease:
            assert self.world.now < lease.started + lease.seconds
        assert lease is None or lease.address not in ("10.0.0.1", "0.0.0.0")  # noqa: S104

    @invariant()
    def what_is_said_fits(self) -> None:
        machine = self.world.machine
        if machine.state in ("BOUND", "RENEWING", "REBINDING"):
            assert machine.lease is not None
        if self.released:
            assert (machine.lease, self.world.due) == (None, None)
        if machine.lease is not None:
            assert self.world.configured[-1] == machine.lease

    @invariant()
    def little_is_sent(self) -> None:
        # Two a second is what a lease of one second takes; the rest is tries, and answers that lead to another message.
        assert len(self.world.sent) < 40 + 3 * (self.world.now - self.began) + 3 * self.nudges + len(self.world.lost)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestAnyOrder: Callable[..., Any] = AnyOrder.TestCase


def test_values_are_values() -> None:
    """The machine hands out frozen structs only: nobody can change what it decided."""
    with pytest.raises(AttributeError):
        World().bound().configured[0].address = "10.0.0.9"  # type: ignore[misc]
    assert msgspec.structs.asdict(KEPT)["address"] == "10.0.0.7"
