"""The DHCP client of one interface: joins sockets, clock, kept lease and machine, and lives through their troubles."""

import asyncio
import errno
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from netagent.dhcp import message as m
from netagent.dhcp import options as o
from netagent.dhcp import requests
from netagent.dhcp.actions import Action, Configure, Drop, EndProbe, Log, Probe, Send, SetTimer
from netagent.dhcp.clock import asleep, boot_id, chance, now
from netagent.dhcp.errors import DhcpError, Malformed
from netagent.dhcp.inform import inform as inform
from netagent.dhcp.kept import forget_kept, read_kept, write_kept
from netagent.dhcp.lease import Lease
from netagent.dhcp.machine import Machine
from netagent.dhcp.socket import AT_ONCE, ArpSocket, DhcpSocket, Link, current, find_link, is_gone, is_up

_LOOK_PERIOD = 60.0
"""A timer of the loop does not count the time of a suspend; no wait is longer than this."""
_LOOK_PERIOD_DOWN = 1.0
_SUSPENDED = 1.0
_FLOOD_PAUSE = 0.05
"""After more packets at once than any server sends."""
_SAID_LIMIT = 50

logger = logging.getLogger("netagent")


class DhcpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to ask."""

    arp_probe: bool = False
    """Ask the network whether the address is free before it is used: 0.6 s."""
    host_name: str = ""
    """Option 12; empty: not sent."""
    fqdn: bool = False
    """Send the name as option 81 instead."""
    client_id: bytes = b""
    """Option 61; empty: hardware type and MAC."""


class DhcpClient:
    """`on_lease` is called at each ACK, with the same or other values, and has configured the address when it returns:
    a renewal is sent from it. `on_lost` is called with the reason when there is no lease any more."""

    def __init__(
        self,
        link: str,
        *,
        kept: Path,
        settings: DhcpSettings,
        on_lease: Callable[[Lease], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Raises Malformed if the host name is none."""
        self._name = link
        self._kept = kept
        self._settings = settings
        self._host_name = _checked_name(settings.host_name)
        self._on_lease = on_lease
        self._on_lost = on_lost
        self._boot_id = boot_id()
        self._link: Link | None = None
        self._socket: DhcpSocket | None = None
        self._arp: ArpSocket | None = None
        self._probed = ""
        self._machine: Machine | None = None
        self._mac = b""
        self._due: float | None = None
        self._down = False
        self._suspect = False
        self._slept = asleep()
        self._poked = asyncio.Event()
        self._link_changed = False
        self._renewal = False
        self._release = False
        self._released = asyncio.Event()
        self._said: set[str] = set()

    @property
    def state(self) -> str:
        return self._machine.state if self._machine else "INIT"

    @property
    def lease(self) -> Lease | None:
        return self._machine.lease if self._machine else None

    def link_changed(self) -> None:
        """Carrier came back, or the machine was resumed."""
        self._link_changed = True
        self._poked.set()

    def renew(self, host_name: str = "") -> None:
        """Now, and from now on with this name. Raises Malformed if it is none."""
        self._host_name = _checked_name(host_name) or self._host_name
        self._renewal = True
        self._poked.set()

    async def release(self) -> None:
        """Give the address back; `run` does nothing more. `on_lost` has been called when this returns."""
        self._release = True
        self._poked.set()
        if self._machine is not None:
            await self._released.wait()
        else:
            self._forget()

    async def run(self) -> None:
        """Until cancelled. Raises NoSuchLink, PortTaken, NotAllowed, OSError, all of them at the start only."""
        self._link = find_link(self._name)
        try:
            self._socket = DhcpSocket(self._link)
            self._down = not is_up(self._link)
            machine = self._start(self._socket)
            while not self._released.is_set():
                await self._wait()
                # Another MAC makes another machine.
                machine = self._look_at_link(machine)
                await self._turn(machine)
            # The port is free for whoever comes next.
            self._close()
            await asyncio.get_running_loop().create_future()
        finally:
            self._machine = None
            self._released.set()
            self._close()

    # -- one turn ------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        longest = _LOOK_PERIOD_DOWN if self._down or self._socket is None else _LOOK_PERIOD
        if self._due is not None:
            longest = min(longest, self._due - now())
        loop = asyncio.get_running_loop()
        # Watched only while we wait: the loop would turn without a pause as long as there is something to read.
        watched = [one for one in (self._socket, self._arp) if one is not None]
        for one in watched:
            loop.add_reader(one, self._poked.set)
        try:
            async with asyncio.timeout(max(longest, 0)):
                await self._poked.wait()
        except TimeoutError:
            pass
        finally:
            for one in watched:
                loop.remove_reader(one)
            self._poked.clear()

    async def _turn(self, machine: Machine) -> None:
        if self._release:
            self._act(machine.release(now()))
            self._released.set()
            return
        slept, self._slept = self._slept, asleep()
        if self._slept - slept > _SUSPENDED:
            self._act(machine.resumed(now()))
        if self._link_changed:
            self._link_changed = False
            self._act(machine.link_up(now()))
        if self._renewal:
            self._renewal = False
            self._act(machine.renew(now(), self._host_name))
        flood = self._read(machine)
        self._read_arp(machine)
        self._act(machine.timer(now()))
        if flood:
            await asyncio.sleep(_FLOOD_PAUSE)

    def _read(self, machine: Machine) -> bool:
        """Whether there may be more."""
        if self._socket is None:
            return False
        count = 0
        try:
            for datagram in self._socket.receive():
                count += 1
                try:
                    if isinstance(datagram, Malformed):
                        raise datagram
                    message = m.parse(datagram)
                except Malformed as error:
                    self._say(f"a packet is passed over: {error}", logging.DEBUG)
                else:
                    self._act(machine.received(now(), message))
        except OSError as error:
            self._trouble(error)
        return count >= AT_ONCE

    def _read_arp(self, machine: Machine) -> None:
        if self._arp is None:
            return
        try:
            holder = self._arp.conflict(self._probed)
        except OSError as error:
            self._trouble(error)
        else:
            if holder is not None:
                self._act(machine.conflict(now(), self._probed, holder))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SetTimer(at):
                    self._due = at
                case Send():
                    self._send(action)
                case Configure(lease):
                    self._said.clear()
                    self._on_lease(lease)
                    self._keep(lease)
                case Drop(reason):
                    self._forget()
                    self._on_lost(reason)
                case Probe(address):
                    self._probe(address)
                case EndProbe():
                    self._end_probing()
                case Log(level, text):
                    logger.log(logging.getLevelNamesMapping()[level.upper()], "%s: %s", self._name, text)

    def _send(self, send: Send) -> None:
        if self._socket is None:
            return
        try:
            if send.server:
                try:
                    self._socket.send_to(send.server, send.payload, send.source)
                except OSError as error:
                    # Somebody took the route or the address away; whoever hears everybody hears us.
                    self._say(f"{send.server} cannot be reached directly: {error.strerror}", logging.WARNING)
                else:
                    return
            self._socket.send_to_all(send.payload, o.packed(send.source))
        except OSError as error:
            # Not fatal, whatever it is: it is sent again when it is time.
            self._trouble(error)

    def _probe(self, address: str) -> None:
        if self._socket is None or self._link is None:
            return
        try:
            if self._arp is None:
                self._arp = ArpSocket(self._link, self._socket.mac)
            self._probed = address
            self._arp.probe(address)
        except (OSError, DhcpError) as error:
            self._say(f"{address} cannot be probed for: {error}", logging.WARNING)

    def _end_probing(self) -> None:
        if self._arp is not None:
            self._arp.close()
            self._arp = None

    def _keep(self, lease: Lease) -> None:
        try:
            write_kept(self._kept, lease)
        except OSError as error:
            self._say(f"the lease cannot be kept in {self._kept}: {error.strerror}", logging.WARNING)

    def _forget(self) -> None:
        try:
            forget_kept(self._kept)
        except OSError as error:
            self._say(f"{self._kept} cannot be removed: {error.strerror}", logging.WARNING)

    # -- the interface comes and goes ----------------------------------------------------------------------------------

    def _start(self, at: DhcpSocket) -> Machine:
        """A machine for the MAC that the interface has."""
        self._mac = at.mac
        kept = read_kept(self._kept, mac=self._mac.hex(":"), boot_id=self._boot_id, now=now())
        if kept.why_not:
            logger.info("%s: DHCP: %s", self._name, kept.why_not)
        self._machine = Machine(
            requests.Identity(
                mac=self._mac,
                client_id=self._settings.client_id or o.client_identifier(self._mac),
                host_name=self._host_name,
                fqdn=self._settings.fqdn,
            ),
            boot_id=self._boot_id,
            chance=chance,
            arp_probe=self._settings.arp_probe,
            kept=kept,
        )
        if self._down:
            self._act(self._machine.link_down())
        self._act(self._machine.start(now()))
        return self._machine

    def _trouble(self, error: OSError) -> None:
        """A socket says that something is wrong; what it is, the interface itself is asked."""
        self._say(str(error.strerror), logging.WARNING)
        if error.errno == errno.ENETDOWN or is_gone(error):
            self._suspect = True
            self._poked.set()

    def _look_at_link(self, machine: Machine) -> Machine:
        if self._link is None or not (self._suspect or self._down or self._socket is None):
            return machine
        self._suspect = False
        found = current(self._link)
        if found is None or found.index != self._link.index:
            # The sockets hang on an interface that is no more.
            self._close()
        if found is not None:
            self._link, self._name = found, found.name
        if found is None or not is_up(found):
            self._go_down(machine)
        elif self._socket is None:
            self._open(found)
        if self._socket is None or found is None or not is_up(found):
            return machine
        self._down = False
        logger.info("%s: DHCP: the interface is up", self._name)
        if self._socket.mac == self._mac:
            self._act(machine.link_up(now()))
            return machine
        if machine.lease is not None:
            self._on_lost("the interface has another MAC")
        return self._start(self._socket)

    def _go_down(self, machine: Machine) -> None:
        if not self._down:
            self._down = True
            logger.info("%s: DHCP: the interface is down or gone", self._name)
            self._act(machine.link_down())

    def _open(self, link: Link) -> None:
        try:
            self._socket = DhcpSocket(link)
        except (DhcpError, OSError) as error:
            self._say(f"the interface cannot be used: {error}", logging.WARNING)

    def _close(self) -> None:
        self._end_probing()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, text: str, level: int) -> None:
        """Each trouble once until there is a lease again."""
        if text not in self._said and len(self._said) < _SAID_LIMIT:
            self._said.add(text)
            logger.log(level, "%s: DHCP: %s", self._name, text)


def _checked_name(name: str) -> str:
    return o.host_text(name.encode()) if name else ""
