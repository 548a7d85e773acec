"""What is wanted of us: the host's instructions and the repository's packages, kept for as long as neither answers."""

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.contract.rdagent import RepositoryView
from ipc.hostaddress import HostAddress
from ipc.places import COMPONENTS, Places
from rdagent.config import UpdateSettings
from rdagent.update.decision import Unasked
from rdagent.update.host import Instructions, read_instructions
from rdagent.update.memory import Memory
from rdagent.update.offers import Entry, Offer, collect, note_seen
from rdagent.update.pauses import Clock, Pauses
from rdagent.update.repository import Repository
from rdagent.update.source import SourceError
from rdagent.update.words import one_line
from wire.errors import WireError
from wire.http import HttpClient

_PROBLEMS_LIMIT = 50

logger = logging.getLogger("rdagent")


class Wishes:
    """Looked at when they are stale, never oftener than their pauses allow."""

    def __init__(
        self,
        places: Places,
        settings: UpdateSettings,
        client: HttpClient,
        find_host: Callable[[], HostAddress],
        memory: Memory,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._client = client
        self._find_host = find_host
        self._memory = memory
        self._clock = clock
        self._repository = Repository(settings.repository, places) if settings.repository else None
        self._instructions = Instructions()
        self._entries: tuple[Entry, ...] = ()
        self._host_at, self._host_pauses = 0.0, Pauses(settings.check_period)
        self._repository_at, self._repository_pauses = 0.0, Pauses(settings.check_period)
        self._passed_over: tuple[str, ...] = ()
        self.problems: list[str] = []
        """What is wrong with what the host and the repository say, a line each."""
        self.repository = RepositoryView(url=settings.repository)
        self.machine = _machine()

    def stale(self, *, host: bool = False, repository: bool = False) -> None:
        """Look again at the next `refresh`."""
        if host:
            self._host_at = 0.0
        if repository:
            self._repository_at = 0.0

    async def refresh(self) -> None:
        """Look at what is due, at both at once: either may be silent, which changes nothing of what is known."""
        now = self._clock.monotonic()
        async with asyncio.TaskGroup() as looks:
            if now >= self._host_at:
                looks.create_task(self._look_at_host(now))
            if self._repository is not None and now >= self._repository_at:
                looks.create_task(self._look_at_repository(self._repository, now))

    def seconds_to_next(self) -> float:
        due = [self._host_at] + ([self._repository_at] if self._repository is not None else [])
        return max(min(due) - self._clock.monotonic(), 0.1)

    def offers(self, running: dict[str, str]) -> list[Offer]:
        """Everything that is wanted, each with the time it was first seen."""
        asked = {name: version for name, version in self._memory.now.policy.asked.items() if version}
        offers, problems = collect(
            COMPONENTS,
            families=self._instructions.families,
            manifests=self._instructions.manifests,
            running=running,
            entries=self._entries,
            channel=self._settings.channel,
            asked=asked,
            has_repository=bool(self._settings.repository),
        )
        self._note([*problems, *self._passed_over])
        dated, seen = note_seen(offers, self._memory.now.seen, time.time())
        self._memory.change(seen=seen)
        return dated

    def _note(self, problems: list[str]) -> None:
        """A line of the log for each that is new; what is away has had its own, see `_ask_host`."""
        lines = [one_line(one) for one in problems[:_PROBLEMS_LIMIT]]
        for line in dict.fromkeys(lines):
            if line not in self.problems:
                logger.warning("updates: %s", line)
        self.problems = list(dict.fromkeys([*map(one_line, self._instructions.away.values()), *lines]))

    def unasked(self, now: float) -> Unasked:
        """`now`: UTC, seconds since the epoch."""
        manifests = {name: why for name, why in self._instructions.away.items() if name}
        due = min(self._host_at, self._repository_at if self._repository is not None else math.inf)
        wait = max(due - self._clock.monotonic(), 0.0) if due < math.inf else 0.0  # it is under way
        return Unasked(repository=self.repository.problem, manifests=manifests, again_at=now + wait)

    def key(self, offer: Offer) -> str:
        """An offer and where it is to be had: other bytes are another chance."""
        where = "\n".join([offer.target, offer.digest, *(url.partition("?")[0] for url in offer.urls)])
        return f"{offer.name} {hashlib.sha256(where.encode(errors='surrogateescape')).hexdigest()[:16]}"

    async def _look_at_host(self, now: float) -> None:
        # Who says `stale` while we ask wants to be told what is so after that: once more then.
        self._host_at, again = math.inf, now + self._settings.check_period
        try:
            again = await self._ask_host()
        finally:
            self._host_at = min(self._host_at, again)

    async def _look_at_repository(self, repository: Repository, now: float) -> None:
        self._repository_at, again = math.inf, now + self._settings.check_period
        try:
            again = await self._ask_repository(repository)
        finally:
            self._repository_at = min(self._repository_at, again)

    async def _ask_host(self) -> float:
        """When to ask again, by CLOCK_MONOTONIC."""
        try:
            known = self._instructions.in_force
            found = await asyncio.to_thread(read_instructions, self._client, self._find_host(), COMPONENTS, known)
        except WireError as error:
            logger.debug("what the host wants of versions is not known: %s", error)
            return self._clock.monotonic() + self._host_pauses.next()
        for name in found.away.keys() - self._instructions.away.keys():
            logger.warning("updates: %s", one_line(found.away[name]))
        self._instructions = found
        if found.away:
            return self._clock.monotonic() + self._host_pauses.next()
        self._host_pauses.reset()
        # A goal state that guestagent hears of brings us here sooner.
        return self._clock.monotonic() + self._settings.check_period

    async def _ask_repository(self, repository: Repository) -> float:
        """The same."""
        checked_at = time.time()
        try:
            answer = await repository.look(COMPONENTS)
        except SourceError as error:
            if not self.repository.problem:
                logger.warning("the component repository: %s; what runs goes on running", error.reason)
            self.repository = msgspec.structs.replace(self.repository, checked_at=checked_at, problem=error.reason)
            return self._clock.monotonic() + self._repository_pauses.next()
        if self.repository.problem:
            logger.info("the component repository answers again")
        self._entries = tuple(
            Entry(
                component=one.component,
                version=one.version,
                channel=one.channel,
                ring=one.ring,
                digest=one.digest,
                target=one.target,
            )
            for one in answer.offered
        )
        self._passed_over = tuple(f"the repository: passed over is {one}" for one in answer.skipped)
        self.repository = RepositoryView(url=self.repository.url, checked_at=checked_at, reached_at=time.time())
        self._repository_pauses.reset()
        return self._clock.monotonic() + self._settings.check_period


def _machine() -> str:
    """What tells this machine from others (machine-id(5)); after a clone without one, nothing does."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
