"""Brings the kernel to what is wanted: looks, plans, makes the changes, and takes back what cut off the host."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from ipc.contract.netagent import Address, ChangeView, Link
from ipc.errors import StateError
from ipc.record import Emitter
from ipc.statefile import read_state, write_state
from netagent import modes, wanted
from netagent.asking import Asking
from netagent.config import Settings
from netagent.dhcp.lease import Lease
from netagent.imds import NicAddresses
from netagent.managers import find_managers
from netagent.modes import Chosen, Circumstances, Mode
from netagent.netlink import NetlinkError
from netagent.nics import choose_nics, choose_primary
from netagent.plan import AddAddress, AddRoute, Change, DeleteAddress, describe, inverse, plan
from netagent.platform import KEEPS_GIVERS, asset_tag, may_write, synthetic_nics
from netagent.reach import reaches
from netagent.requests import PROTOCOL
from netagent.restraint import Restraint
from netagent.steps import make
from netagent.wanted import Remembered, Wanted
from netagent.watch import Picture

_CONFIRM_TRIES = 3
_CONFIRM_PAUSE = 1.0
_MANAGERS_SECONDS = 30.0

logger = logging.getLogger("netagent")


class Leases(Protocol):
    """Our own DHCP clients, one for each NIC."""

    @property
    def leases(self) -> dict[str, Lease]:
        """In force, by link."""
        ...

    @property
    def undecided(self) -> frozenset[str]:
        """Links of which it is not known yet whether they have one: a restart must not take away what they had."""
        ...

    def serve(self, nics: list[Link]) -> None:
        """Have a client for each of these, and no other."""
        ...

    async def release(self) -> None:
        """Give all leases back."""
        ...


class NoLeases:
    """Nobody asks for any."""

    @property
    def leases(self) -> dict[str, Lease]:
        return {}

    @property
    def undecided(self) -> frozenset[str]:
        return frozenset()

    def serve(self, nics: list[Link]) -> None:
        """None."""

    async def release(self) -> None:
        """None."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`network.json`: what a restart must not forget."""

    remembered: Remembered | None = None
    addresses: list[str] = []
    """Given by us: older kernels do not keep who gave an address."""
    off: bool = False
    azure: list[NicAddresses] | None = None
    """What instance metadata last said."""


class Reconciler:
    """Owns what netagent changes in the kernel. Used from one event loop."""

    def __init__(
        self,
        settings: Settings,
        emitter: Emitter,
        *,
        kept: Path,
        host_elsewhere: bool,
        wireserver: Callable[[], str],
        wake: Callable[[], None],
    ) -> None:
        """`wireserver` is the base URL in use; `wake` has everything looked at again."""
        self._settings = settings
        self._emitter = emitter
        self._leases: Leases = NoLeases()
        self._kept_file = kept
        self._host_elsewhere = host_elsewhere
        self._wireserver = wireserver
        self._wake = wake
        self._restraint = Restraint()
        self._asking = Asking()
        self._tag = asset_tag()
        self._managers_at = 0.0
        self._lost_since: float | None = None
        self._unconfirmed: list[Change] = []
        self._confirming: asyncio.Task[None] | None = None
        self._taking_back = False
        self._off_until_end = False
        self._picture: Picture | None = None
        self._failed = ""
        self._fights: frozenset[str] = frozenset()
        self._kept = self._read_kept()
        self.chosen = Chosen(mode="observe", why="nothing was looked at yet")
        self.writing = asyncio.Event()
        """Set while anything may be changed."""
        self.nics: list[Link] = []
        self.primary: Link | None = None
        self.managers: dict[str, str] = {}
        self.reachable: bool | None = None
        self.problems: tuple[str, ...] = ()

    @property
    def mode(self) -> Mode:
        return self.chosen.mode

    @property
    def writes(self) -> bool:
        """Whether anything may be changed now."""
        return self.mode in {"repair", "delegate", "own"}

    def lease_by(self, clients: Leases) -> None:
        """Whose leases count in mode own."""
        self._leases = clients

    def told(self, addresses: list[NicAddresses]) -> None:
        """What instance metadata says of this VM's NICs."""
        if addresses != self._kept.azure:
            self._keep(msgspec.structs.replace(self._kept, azure=addresses))
            self._wake()

    async def look(self, picture: Picture) -> None:
        """Do what is to be done about what was found."""
        picture = self.mark_ours(picture)
        self._excuse(self._picture, picture)
        self._picture = picture
        await self._get_bearings(picture)
        self._leases.serve(self.nics if self.mode == "own" else [])
        goal = self._wanted(picture)
        self.problems = tuple(one for one in (self.chosen.refused, self._failed, *goal.problems) if one)
        if self._taking_back or not (self.writes or self.mode == "off"):
            return
        now = time.monotonic()
        changes = [one for one in self._plan(goal, picture) if self._restraint.may(_key(one), now)]
        made = self._make(changes, picture)
        if made:
            for one in made:
                self._restraint.made(_key(one), now)
                self._emitter.emit("Network", f"{describe(one)}: {one.why}")
            self._unconfirmed += made
            if self._confirming is None:
                self._confirming = asyncio.get_running_loop().create_task(self._confirm())
        elif not changes and self.writes:
            self._all_is_well(picture)
        self._tell_of_fights(now)

    def mark_ours(self, picture: Picture) -> Picture:
        """Older kernels do not keep who gave an address: there it is looked up in what we wrote down."""
        if KEEPS_GIVERS or not self._kept.addresses:
            return picture
        addresses = [
            msgspec.structs.replace(one, protocol=PROTOCOL) if one.address in self._kept.addresses else one
            for one in picture.addresses
        ]
        return msgspec.structs.replace(picture, addresses=addresses)

    def held(self) -> list[ChangeView]:
        """What is left alone, and why."""
        left = time.monotonic()
        pauses = self._restraint.pauses(left)
        rest = self._restraint.rests(left)
        resting = [ChangeView(what="all changes", why="", held=f"very many were made; goes on in {rest:.0f} s")]
        return (resting if rest else []) + [
            ChangeView(what=what, why="", held=f"{pause.why}; tried again in {max(0, round(pause.until - left))} s")
            for what, pause in sorted(pauses.items())
        ]

    def seconds_to_next(self) -> float | None:
        """When to look even if nothing is announced: a grace or a pause ends. None: nothing is waited for."""
        now = time.monotonic()
        ends = [one for one in (self._restraint.next_end(now),) if one is not None]
        if self._lost_since is not None and self.mode in {"repair", "delegate"}:
            ends += [end for end in (self._lost_since + self._settings.address_grace,) if end > now]
        return max(0.05, min(ends) - now) if ends else None

    def preview(self, picture: Picture) -> list[ChangeView]:
        """What would be changed now, or, in mode observe and in Azure, by `repair`."""
        if self.only_looks(picture):
            return []
        pauses = self._restraint.pauses(time.monotonic())
        mode: Mode = "repair" if self.mode == "observe" else self.mode
        return [
            ChangeView(what=describe(one), why=one.why, held=pauses[_key(one)].why if _key(one) in pauses else "")
            for one in self._plan(self._wanted(picture, mode=mode), picture)
        ]

    def only_looks(self, picture: Picture) -> str:
        """Why nothing may be written, not even when asked; empty if it may."""
        if self.mode != "observe":
            return ""
        if self._host_elsewhere:
            return "[host] wireserver names a host of its own, so this agent needs no network"
        if not self.is_azure(picture):
            return "nothing says that this machine is in Azure; if it is: azure = true under [netagent]"
        return ""

    def repair_now(self, picture: Picture) -> list[ChangeView]:
        """Make them, also those that are held back. Raises nothing: what failed is among the problems."""
        self._restraint.forget()
        mode: Mode = "repair" if self.mode == "observe" else self.mode
        made = self._make(self._plan(self._wanted(picture, mode=mode, patient=False), picture), picture)
        for one in made:
            self._emitter.emit("Network", f"{describe(one)}: asked for by an operator")
        return [ChangeView(what=describe(one), why=one.why) for one in made]

    async def switch(self, picture: Picture, *, on: bool, keep: bool) -> list[ChangeView]:
        """Off: everything of ours goes, at once."""
        if self._host_elsewhere and self._settings.mode in {"auto", "observe"}:
            # What is in the kernel is another agent's, the machine's own: this one never wrote.
            return []
        self._off_until_end = not on
        if keep or on:
            self._keep(msgspec.structs.replace(self._kept, off=not on))
        if on:
            self._wake()
            return []
        self._set_mode(Chosen(mode="off", why="switched off by an operator: agentctl net on"))
        await self._leases.release()
        made = self._make(self._plan(Wanted(), picture), picture)
        for one in made:
            self._emitter.emit("Network", f"{describe(one)}: switched off")
        return [ChangeView(what=describe(one), why=one.why) for one in made]

    def leased(self, link: str, lease: Lease) -> None:
        """Give the address of a new or renewed lease at once: the server's answers to a renewal come to it.

        Raises NetlinkError, OSError.
        """
        if self._picture is None:
            return
        one = wanted.leased_address(link, lease)
        self._remember_address(one.address.address)
        links = {one.name: one for one in self._picture.links}
        others = {
            each.link for each in self._picture.addresses if each.address != one.address.address and "." in each.address
        }
        make(AddAddress(one.address, one.why, one.passes), links, crowded=others)
        self._wake()

    # -- deciding --------------------------------------------------------------------------------------------------

    async def _get_bearings(self, picture: Picture) -> None:
        nics = choose_nics(picture.links, synthetic=_synthetic(picture), only=self._settings.nics)
        now = time.monotonic()
        if [one.name for one in nics] != [one.name for one in self.nics] or now >= self._managers_at:
            self._managers_at = now + _MANAGERS_SECONDS
            self.managers = await asyncio.to_thread(find_managers, nics)
        self.nics = nics
        self.primary = choose_primary(nics, picture.leases, picture.routes)
        if self.mode == "own" and self.primary is not None and self._leases.leases:
            self.primary = _leased_primary(nics, self._leases.leases) or self.primary
        self._set_mode(self._choose(picture))
        if self.primary is not None and any(_is_of(one, self.primary) for one in picture.addresses):
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now

    def is_azure(self, picture: Picture) -> str:
        """Why this machine is known to be Azure's; empty if it is not."""
        return modes.evidence(
            picture.leases,
            [one for one in picture.routes if one.protocol != PROTOCOL],
            self._tag,
            remembered=self._is_remembered(),
            configured=self._settings.azure,
        )

    def accepts(self, lease: Lease) -> bool:
        """Whether a lease may be configured: where nothing else says that this is Azure, the lease has to."""
        known = self._picture is not None and self.is_azure(self._picture)
        return bool(lease.wireserver or known or self._settings.mode == "own")

    def _choose(self, picture: Picture) -> Chosen:
        if self._off_until_end or self._kept.off:
            return Chosen(mode="off", why="switched off by an operator: agentctl net on")
        bare = modes.unaddressed(self.nics, [one for one in picture.addresses if one.protocol != PROTOCOL])
        return modes.choose_mode(
            self._settings.mode,
            Circumstances(
                may_write=may_write(),
                host_elsewhere=self._host_elsewhere,
                azure=self.is_azure(picture),
                nics=tuple(one.name for one in self.nics),
                managers=self.managers,
                unaddressed=bare,
            ),
        )

    def _is_remembered(self) -> bool:
        known = self._kept.remembered
        return known is not None and any(one.mac == known.mac for one in self.nics)

    def _set_mode(self, chosen: Chosen) -> None:
        if chosen != self.chosen:
            if (chosen.mode, chosen.refused) != (self.chosen.mode, self.chosen.refused):
                self._emitter.emit("NetworkMode", f"{chosen.mode}: {chosen.why}", ok=not chosen.refused)
                logger.info("mode %s: %s", chosen.mode, chosen.why)
            self.chosen = chosen
        if self.writes:
            self.writing.set()
        else:
            self.writing.clear()

    def _wanted(self, picture: Picture, *, mode: Mode | None = None, patient: bool = True) -> Wanted:
        mode = mode or self.mode
        if mode == "own":
            primary = self.primary.name if self.primary else ""
            return wanted.own(self.nics, primary, self._leases.leases, undecided=self._leases.undecided)
        if mode not in {"repair", "delegate"} or self.primary is None:
            return Wanted()
        waited = self._lost_since is not None and time.monotonic() - self._lost_since >= self._settings.address_grace
        parts = [
            wanted.repair(
                self.primary,
                picture.addresses,
                picture.leases,
                picture.routes,
                self._kept.remembered,
                address_may_be_ours=waited or not patient,
                default_route=self._settings.default_route,
            )
        ]
        if mode == "delegate":
            parts.append(wanted.delegate(self.nics, self.primary.name, picture.addresses, self._kept.azure))
        return wanted.together(*parts)

    def _excuse(self, before: Picture | None, now: Picture) -> None:
        """What went with a link or its address was not undone by anybody."""
        if before is None:
            return
        for nic in self.nics:
            was, state = _state_of(nic.name, before), _state_of(nic.name, now)
            if was != state:
                self._restraint.excuse(nic.name)

    def _plan(self, goal: Wanted, picture: Picture) -> list[Change]:
        return plan(goal, self.mark_ours(picture))

    # -- acting ----------------------------------------------------------------------------------------------------

    def _make(self, changes: list[Change], picture: Picture) -> list[Change]:
        """Those that could be made."""
        links = {one.name: one for one in picture.links}
        made: list[Change] = []
        self._failed = ""
        counts = Counter(one.link for one in picture.addresses if "." in one.address)
        crowded = {link for link, count in counts.items() if count > 1}
        for change in changes:
            if isinstance(change, AddAddress):
                self._remember_address(change.address.address)
                crowded.add(change.address.link)
            try:
                make(change, links, crowded=crowded)
            except (NetlinkError, OSError) as error:
                self._failed = f"{describe(change)}: {error}"
                logger.warning("%s", self._failed)
                continue
            made.append(change)
            if isinstance(change, DeleteAddress):
                self._forget_address(change.address.address)
            if isinstance(change, AddRoute | AddAddress) and self.primary is not None and self.writes:
                self._ask_manager(self.primary.name)
        return made

    def _ask_manager(self, link: str) -> None:
        asked = self._asking.ask(
            self.managers.get(link, ""), link, time.monotonic(), address_lost=self._lost_since is not None
        )
        if asked:
            self._emitter.emit("Network", f"asked the manager of {link}: {asked}")

    async def _confirm(self) -> None:
        """What was changed is kept only if the host answers as it did before."""
        try:
            while self._unconfirmed:
                made, self._unconfirmed = self._unconfirmed, []
                before, self.reachable = self.reachable, await self._still_reaches()
                if before and not self.reachable:
                    await self._take_back(made)
        finally:
            self._confirming = None

    async def _still_reaches(self) -> bool:
        """Tried again only if it was there before."""
        for _ in range(_CONFIRM_TRIES if self.reachable else 1):
            if await reaches(self._wireserver()):
                return True
            await asyncio.sleep(_CONFIRM_PAUSE)
        return False

    async def _take_back(self, made: list[Change]) -> None:
        """Unless the host is away without our doing."""
        if self._picture is None:
            return
        self._taking_back = True
        try:
            self._make([one for one in map(inverse, reversed(made)) if one is not None], self._picture)
            self.reachable = await reaches(self._wireserver())
            if not self.reachable:
                self._make(made, self._picture)
                return
        finally:
            self._taking_back = False
            self._wake()
        for one in made:
            self._restraint.hold(_key(one), time.monotonic(), "the host was cut off by it, so it was taken back")
            self._emitter.emit("Network", f"taken back, it cut off the host: {describe(one)}", ok=False)

    async def check_host(self) -> None:
        """Now and then: so that it is known whether the host was there before the next change."""
        if self.writes and self._confirming is None:
            self.reachable = await reaches(self._wireserver())

    def _all_is_well(self, picture: Picture) -> None:
        if self.primary is None or self.mode == "own":
            return
        self._asking.well(self.primary.name)
        known = wanted.remember(self.primary, picture.addresses, picture.routes)
        if known is not None and known != self._kept.remembered:
            self._keep(msgspec.structs.replace(self._kept, remembered=known))

    def _tell_of_fights(self, now: float) -> None:
        pauses = self._restraint.pauses(now)
        for what in pauses.keys() - self._fights:
            self._emitter.emit("Network", f"left alone: {what}: {pauses[what].why}", ok=False)
            logger.warning("left alone: %s: %s", what, pauses[what].why)
        self._fights = frozenset(pauses)

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _remember_address(self, address: str) -> None:
        if address not in self._kept.addresses:
            self._keep(msgspec.structs.replace(self._kept, addresses=[*self._kept.addresses, address]))

    def _forget_address(self, address: str) -> None:
        left = [one for one in self._kept.addresses if one != address]
        if left != self._kept.addresses:
            self._keep(msgspec.structs.replace(self._kept, addresses=left))

    def _keep(self, kept: Kept) -> None:
        self._kept = kept
        try:
            write_state(self._kept_file, kept)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._kept_file, error.strerror)

    def _read_kept(self) -> Kept:
        try:
            return read_state(self._kept_file, Kept) or Kept()
        except StateError as error:
            logger.warning("%s; begun anew", error)
            return Kept()


def _state_of(link: str, picture: Picture) -> tuple[object, ...]:
    """What carries its routes."""
    states = [(one.index, one.up, one.carrier, one.carrier_changes) for one in picture.links if one.name == link]
    return (*states, *sorted(one.address for one in picture.addresses if one.link == link and "." in one.address))


def _key(change: Change) -> str:
    return describe(change)


def _is_of(address: Address, nic: Link) -> bool:
    return address.link == nic.name and "." in address.address and address.protocol != PROTOCOL


def _leased_primary(nics: list[Link], leases: dict[str, Lease]) -> Link | None:
    for nic in nics:
        lease = leases.get(nic.name)
        if lease is not None and lease.wireserver:
            return nic
    return next((nic for nic in nics if nic.name in leases), None)


def _synthetic(picture: Picture) -> frozenset[str]:
    """Only looked for where two links have one MAC."""
    macs = [one.mac for one in picture.links if one.mac]
    return synthetic_nics() if len(set(macs)) < len(macs) else frozenset()
