"""The client's half of RFC 2131 as a state machine. No socket and no clock: events with their time in, actions out.

`now` is CLOCK_BOOTTIME in seconds: it goes on in suspend. A timer may come as late as it likes; `now` alone decides.
The first acceptable offer is taken at once. One timer serves all states; the end of a lease comes before all else.
"""

import math
from collections.abc import Callable
from typing import Literal

import msgspec

from netagent.dhcp import message as m
from netagent.dhcp import requests
from netagent.dhcp.actions import Action, Configure, Drop, EndProbe, Log, Probe, Send, SetTimer
from netagent.dhcp.kept import Kept
from netagent.dhcp.lease import Lease
from netagent.dhcp.sanity import (
    T1_SHARE,
    T2_SHARE,
    Exchange,
    Refusal,
    check,
    not_for_us,
    server_of,
)

State = Literal["INIT", "SELECTING", "REQUESTING", "BOUND", "RENEWING", "REBINDING", "INIT-REBOOT", "REBOOTING"]

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries, give or take a tenth. RFC 2131's 4 to 64 s cost minutes where packets are lost."""
_REQUEST_TRIES = 3
_REBOOT_TRIES, _REBOOT_TRIES_OF_OLD = 3, 2
_EARLY_UNICASTS, _EARLY_TRIES = 2, 5
PROBES, PROBE_PAUSE = 3, 0.2
"""A shortened RFC 5227: its own timers would cost six seconds at each start."""
DECLINE_PAUSE = 10.0
_NUDGE_PAUSE = 1.0
_RECHECK, _RECHECK_LIMIT = 60.0, 3600.0
_RENEW_FLOOR, _RENEW_CEILING = 60.0, 3600.0
_SHUNNED_SECONDS, _SHUNNED_LIMIT = 60.0, 16
_SHORT_LEASE = 10


class _Times(msgspec.Struct, frozen=True):
    """Of a lease, absolute; infinite where there is no such moment."""

    renew: float
    rebind: float
    end: float


class Machine:
    """One interface's client. `chance` gives numbers from 0 to just below 1."""

    def __init__(
        self,
        who: requests.Identity,
        *,
        boot_id: str,
        chance: Callable[[], float],
        arp_probe: bool = False,
        kept: Kept = Kept(),  # noqa: B008 - frozen
    ) -> None:
        self.state: State = "INIT"
        self.lease: Lease | None = None
        self._who = who
        self._boot_id = boot_id
        self._chance = chance
        self._arp_probe = arp_probe
        self._kept = kept.lease
        self._hint = kept.address
        self._actions: list[Action] = []
        self._at = math.inf
        self._times = _Times(math.inf, math.inf, math.inf)
        self._halted = False
        self._down = False
        # Of the exchange that runs.
        self._xid = 0
        self._began = 0.0
        self._sent = 0.0
        self._tries = 0
        self._early = False
        self._offer: Lease | None = None
        self._second_choice: Lease | None = None
        self._foreign_nak = ""
        self._asked_name = ""
        # A lease that is probed for.
        self._pending: Lease | None = None
        self._probes = 0
        # What keeps floods, storms and endless refusals cheap.
        self._said: set[str] = set()
        self._shunned: dict[str, float] = {}
        self._naks = 0
        self._declines = 0
        self._recheck_at = math.inf
        self._recheck_pause = _RECHECK
        self._nudge: Literal["renew", "link"] | None = None
        self._nudge_at = math.inf
        self._nudged = -math.inf

    # -- events --------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        self.state = "INIT-REBOOT" if self._hint else "INIT"
        if not self._down:
            self._look(now)
        return self._done()

    def timer(self, now: float) -> list[Action]:
        """The time of the last SetTimer has come, or anybody wants to make sure."""
        if not self._halted:
            if now >= self._times.end:
                self._lose(now, f"the lease of {self._address()} ran out")
            elif not self._down and now >= self._nudge_at:
                self._obey_nudge(now)
            elif not self._down and now >= self._at:
                self._next(now)
        return self._done()

    def received(self, now: float, message: m.Message) -> list[Action]:
        """A message that could be read; whatever it says."""
        if not self._halted and self._pending is None:
            if self.state == "SELECTING" and message.kind == m.OFFER:
                self._offered(now, message)
            elif self.state in ("REQUESTING", "RENEWING", "REBINDING", "REBOOTING"):
                if message.kind == m.ACK:
                    self._acknowledged(now, message)
                elif message.kind == m.NAK:
                    self._refused(now, message)
        return self._done()

    def conflict(self, now: float, address: str, holder: bytes) -> list[Action]:
        """Somebody else answered a probe."""
        if self._pending is not None and self._pending.address == address:
            self._decline(now, self._pending, holder)
        return self._done()

    def link_up(self, now: float) -> list[Action]:
        """Carrier came back, or the machine was resumed: we may be on another network."""
        self._down = False
        self._wish(now, "link")
        return self.timer(now)

    def link_down(self) -> list[Action]:
        """Nothing can be sent; what we have is kept as long as it runs."""
        self._down = True
        return self._done()

    def resumed(self, now: float) -> list[Action]:
        return self.link_up(now)

    def renew(self, now: float, host_name: str = "") -> list[Action]:
        """Before it is time, for instance to publish another host name."""
        if host_name:
            self._who = msgspec.structs.replace(self._who, host_name=host_name)
        self._wish(now, "renew")
        return self.timer(now)

    def release(self, now: float) -> list[Action]:
        """The end: nothing happens after it."""
        lease = self.lease
        if not self._halted and lease is not None:
            self._begin(now)
            payload = requests.release(self._who, self._turn(now), lease.address, lease.server)
            self._actions.append(Send(payload=payload, server=lease.server, source=lease.address))
        if not self._halted:
            self._end_probing()
            self._forget("released")
            self._halted = True
        return self._done()

    # -- looking for a lease -------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """For the one that we have or had, else for any."""
        if self.lease or self._kept or self.state in ("INIT-REBOOT", "REBOOTING"):
            self._reboot(now)
        else:
            self._discover(now)

    def _discover(self, now: float) -> None:
        self.state = "SELECTING"
        self._begin(now)
        self._offer = self._second_choice = None
        self._send_discover(now)

    def _send_discover(self, now: float) -> None:
        self._send(now, requests.discover(self._who, self._turn(now), self._hint))

    def _offered(self, now: float, message: m.Message) -> None:
        found = check(message, self._exchange(now))
        if isinstance(found, Refusal):
            self._say(found)
        elif self._shunned.get(found.lease.server, now) > now:
            # It offered before and then did not keep its word: somebody else's offer is better, for a moment.
            self._second_choice = found.lease
        else:
            self._request(now, found.lease)

    def _request(self, now: float, offer: Lease) -> None:
        self.state = "REQUESTING"
        self._offer, self._second_choice = offer, None
        self._tries = 0
        self._sent = now
        self._send_request(now, offer)

    def _send_request(self, now: float, offer: Lease) -> None:
        self._asked_name = self._who.host_name
        self._send(now, requests.request_offered(self._who, self._turn(now), offer.address, offer.server))

    def _reboot(self, now: float) -> None:
        self.state = "REBOOTING"
        self._begin(now)
        self._send_reboot(now)

    def _send_reboot(self, now: float) -> None:
        self._asked_name = self._who.host_name
        self._send(now, requests.request_known(self._who, self._turn(now), self._hint))

    # -- answers -------------------------------------------------------------------------------------------------------

    def _acknowledged(self, now: float, message: m.Message) -> None:
        found = check(message, self._exchange(self._sent))
        if isinstance(found, Refusal):
            self._say(found)
            return
        lease = found.lease
        expected = self._only_server()
        if expected and lease.server != expected:
            return
        if now >= _times_of(lease).end:
            self._say(Refusal("lease time", "it ran out before it was read"))
            return
        self._actions += [Log("warning", f"DHCP: {note}") for note in found.notes if self._first_time(note)]
        held = self.lease.address if self.lease else ""
        if self._arp_probe and lease.address != held:
            self._pending, self._probes = lease, 0
            self._send_probe(now, lease)
        else:
            self._bind(now, lease)

    def _bind(self, now: float, lease: Lease) -> None:
        """The server's word counts from now on."""
        self._settle(now, lease)
        self._said.clear()
        self._shunned.clear()
        self._naks = self._declines = 0
        self._recheck_at, self._recheck_pause = math.inf, _RECHECK
        if self._who.host_name != self._asked_name:
            self._wish(now, "renew")

    def _settle(self, now: float, lease: Lease) -> None:
        times = _times_of(lease)
        early = 0.95 + 0.05 * self._chance()
        renew = lease.started + (times.renew - lease.started) * early
        # Not at once, whatever a server calls a lease time.
        self._times = _Times(max(renew, now + 0.2), times.rebind, times.end)
        self.state, self.lease, self._kept, self._hint = "BOUND", lease, None, lease.address
        self._early = False
        length = "for ever" if lease.seconds is None else f"for {lease.seconds} s"
        self._actions += [
            Configure(lease),
            Log("info", f"DHCP: {lease.address}/{lease.prefix} of {lease.server} {length}"),
        ]
        self._at = self._times.renew

    def _refused(self, now: float, message: m.Message) -> None:
        if not_for_us(message, self._exchange(now)):
            return
        server = server_of(message)
        if isinstance(server, Refusal):
            self._say(server)
        elif self.state == "REQUESTING":
            if server == self._only_server():
                self._shun(now, server)
                self._start_over(now)
        elif server == self._known_server() or (self.state == "REBOOTING" and not self._known_server()):
            self._lose(now, f"the server {server} refused {self._address()}")
        elif self.state == "REBOOTING":
            # On another network another server is right to refuse; on ours it is not. Ours has until the next try.
            self._foreign_nak = server

    def _only_server(self) -> str:
        """The one whose answer counts; empty: anybody's."""
        if self.state == "REQUESTING" and self._offer is not None:
            return self._offer.server
        if self.state == "RENEWING" and self.lease is not None:
            return self.lease.server
        return ""

    def _known_server(self) -> str:
        lease = self.lease or self._kept
        return lease.server if lease else ""

    # -- keeping it ----------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> None:
        """What the state does when its time has come."""
        if self._pending is not None:
            self._probe_on(now, self._pending)
        elif self.state in ("INIT", "INIT-REBOOT"):
            self._discover(now)
        elif self.state == "SELECTING":
            if self._second_choice is not None:
                self._request(now, self._second_choice)
            else:
                self._send_discover(now)
        elif self.state == "REQUESTING":
            self._request_on(now)
        elif self.state == "REBOOTING":
            self._reboot_on(now)
        else:
            self._renew_on(now)

    def _request_on(self, now: float) -> None:
        offer = self._offer
        if offer is not None and self._tries < _REQUEST_TRIES:
            self._send_request(now, offer)
            return
        if offer is not None:
            self._shun(now, offer.server)
        self._discover(now)

    def _reboot_on(self, now: float) -> None:
        if self._foreign_nak:
            self._lose(now, f"the server {self._foreign_nak} refused {self._address()}")
            return
        lease = self.lease or self._kept
        if self._tries < (_REBOOT_TRIES if lease else _REBOOT_TRIES_OF_OLD):
            self._send_reboot(now)
        elif lease is None or now >= _times_of(lease).end:
            self._discover(now)
        else:
            # RFC 2131 3.2: who gets no answer may go on with what it had.
            self._actions.append(Log("warning", f"DHCP: no server answers; {lease.address} is kept as long as it runs"))
            self._settle(now, lease)
            self._recheck_later(now)

    def _renew_on(self, now: float) -> None:
        """BOUND, RENEWING or REBINDING."""
        lease = self.lease
        if lease is None:
            self._discover(now)
        elif now >= self._times.rebind:
            self._ask_again(now, lease, "REBINDING", early=False)
        elif now >= self._times.renew:
            self._ask_again(now, lease, "RENEWING", early=False)
        elif self.state == "BOUND":
            self._tries = 0
            self._ask_again(now, lease, "RENEWING", early=True)
        elif self._tries < _EARLY_TRIES:
            # The server may be reached by everybody's address only.
            self._ask_again(now, lease, "RENEWING" if self._tries < _EARLY_UNICASTS else "REBINDING", early=True)
        else:
            self._actions.append(Log("warning", f"DHCP: {lease.server} does not answer an early renewal"))
            self.state, self._early = "BOUND", False
            self._recheck_later(now)

    def _ask_again(self, now: float, lease: Lease, state: State, *, early: bool) -> None:
        if self.state == "BOUND" or (self._early and not early):
            self._tries, self._began = 0, now
        self.state, self._early = state, early
        # A new number each time: the answer tells which REQUEST it is for, and so when the lease began.
        self._xid = int(self._chance() * 2**32)
        self._sent = now
        self._asked_name = self._who.host_name
        server = lease.server if state == "RENEWING" else ""
        self._send(
            now,
            requests.request_more(self._who, self._turn(now), lease.address),
            server=server,
            source=lease.address,
        )
        if not early:
            until = self._times.rebind if state == "RENEWING" else self._times.end
            # RFC 2131's floor is a minute; a lease of a few seconds has none.
            ending = math.inf if self._times.end == math.inf else self._times.end - self._times.rebind
            floor = min(_RENEW_FLOOR, max(1.0, ending / 4))
            self._at = min(now + min(max((until - now) / 2, floor), _RENEW_CEILING), until)
        else:
            self._at = min(self._at, self._times.renew)

    def _recheck_later(self, now: float) -> None:
        self._recheck_at = now + self._recheck_pause
        self._recheck_pause = min(self._recheck_pause * 2, _RECHECK_LIMIT)
        self._at = min(self._times.renew, self._recheck_at)

    # -- losing it -----------------------------------------------------------------------------------------------------

    def _lose(self, now: float, reason: str) -> None:
        hint = self._hint
        ran_out = now >= self._times.end
        self._end_probing()
        self._forget(reason)
        if ran_out:
            # The server may well give it again.
            self._hint = hint
            self._discover(now)
        else:
            self._start_over(now)

    def _forget(self, reason: str) -> None:
        self._actions += [Drop(reason), Log("warning", f"DHCP: {reason}")]
        self.state, self.lease, self._kept, self._hint = "INIT", None, None, ""
        self._times = _Times(math.inf, math.inf, math.inf)
        self._at = self._recheck_at = self._nudge_at = math.inf
        self._foreign_nak = ""

    def _start_over(self, now: float) -> None:
        """At once the first time, then with the pauses of any other try: a storm of refusals stays a trickle."""
        self._naks += 1
        self.state = "INIT"
        if self._naks == 1:
            self._discover(now)
        else:
            self._at = now + self._pause(self._naks - 1)

    def _decline(self, now: float, lease: Lease, holder: bytes) -> None:
        why = f"{lease.address} is in use by {holder.hex(':')}"
        payload = requests.decline(self._who, self._turn(now), lease.address, lease.server, why)
        self._actions.append(Send(payload=payload))
        self._end_probing()
        self._forget(f"declined: {why}")
        self._declines += 1
        self._at = now + DECLINE_PAUSE * min(self._declines, 6)

    def _shun(self, now: float, server: str) -> None:
        if len(self._shunned) >= _SHUNNED_LIMIT:
            del self._shunned[min(self._shunned, key=self._shunned.__getitem__)]
        self._shunned[server] = now + _SHUNNED_SECONDS

    # -- probing -------------------------------------------------------------------------------------------------------

    def _probe_on(self, now: float, lease: Lease) -> None:
        if self._probes < PROBES:
            self._send_probe(now, lease)
        else:
            self._end_probing()
            self._bind(now, lease)

    def _send_probe(self, now: float, lease: Lease) -> None:
        self._probes += 1
        self._actions.append(Probe(lease.address))
        self._at = now + PROBE_PAUSE

    def _end_probing(self) -> None:
        if self._pending is not None:
            self._pending = None
            self._actions.append(EndProbe())

    # -- wishes from outside -------------------------------------------------------------------------------------------

    def _wish(self, now: float, what: Literal["renew", "link"]) -> None:
        """At most one a second is obeyed: a flapping link is no reason for a flood."""
        if not self._halted:
            self._nudge = "link" if "link" in (what, self._nudge) else what
            self._nudge_at = max(now, self._nudged + _NUDGE_PAUSE)

    def _obey_nudge(self, now: float) -> None:
        what, self._nudge, self._nudge_at, self._nudged = self._nudge, None, math.inf, now
        if self._pending is not None or (what == "renew" and self.lease is None):
            return  # what is under way will do
        self._naks = 0
        if what == "link":
            self._look(now)
        elif self.state != "REBOOTING":
            self.state, self._early = "BOUND", False
            self._renew_on(now)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._xid = int(self._chance() * 2**32)
        self._began = self._sent = now
        self._tries = 0
        self._foreign_nak = ""

    def _turn(self, now: float) -> requests.Turn:
        return requests.Turn(xid=self._xid, secs=int(now - self._began))

    def _exchange(self, started: float) -> Exchange:
        return Exchange(
            mac=self._who.mac,
            client_id=self._who.client_id,
            xid=self._xid,
            started=started,
            boot_id=self._boot_id,
        )

    def _send(self, now: float, payload: bytes, server: str = "", source: str = m.NOBODY) -> None:
        self._tries += 1
        self._actions.append(Send(payload=payload, server=server, source=source))
        self._at = now + self._pause(self._tries)

    def _pause(self, tries: int) -> float:
        return PAUSES[min(tries, len(PAUSES)) - 1] * (0.9 + 0.2 * self._chance())

    def _address(self) -> str:
        return self.lease.address if self.lease else self._hint

    def _say(self, refusal: Refusal) -> None:
        if refusal.reason != "not ours" and self._first_time(refusal.reason):
            self._actions.append(Log("warning", f"DHCP: an answer is passed over: {refusal.text}"))

    def _first_time(self, what: str) -> bool:
        if what in self._said:
            return False
        self._said.add(what)
        return True

    def _done(self) -> list[Action]:
        due = self._times.end
        if not self._down:
            due = min(due, self._at, self._nudge_at)
        actions, self._actions = self._actions, []
        return [*actions, SetTimer(None if self._halted or due == math.inf else due)]


def _times_of(lease: Lease) -> _Times:
    def after(seconds: float | None) -> float:
        return math.inf if seconds is None else lease.started + seconds

    if lease.seconds is not None and lease.seconds < _SHORT_LEASE:
        # Whole seconds are too coarse here.
        return _Times(after(lease.seconds * T1_SHARE), after(lease.seconds * T2_SHARE), after(lease.seconds))
    return _Times(after(lease.renew_after), after(lease.rebind_after), after(lease.seconds))
