"""What the VMs told the host: gathered in memory for a moment, then written down in one transaction."""

import asyncio
import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, select

from fabric.bodies import deep
from fabric.clock import Clock
from fabric.errors import FabricError, Unfit
from fabric.state import Health, Told
from fabric.store import Store
from fabric.tables import EVENTS, OBSERVATIONS, REQUESTS, TOLD, TRANSCRIPT

STATUS_LIMIT = 4 * 1024 * 1024
EVENTS_LIMIT = 2000
EVENTS_BYTES = 4 * 1024 * 1024
TRANSCRIPT_LIMIT = 20_000
OBSERVATIONS_LIMIT = 100
_SAVE_DELAY = 0.2

logger = logging.getLogger("fabric")


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request of the transcript; the query may hold a signature and is left out."""

    at: float
    vm: str
    endpoint: str
    method: str
    path: str
    status: int
    """0: the connection was closed without an answer."""
    fault: str = ""


class _News(msgspec.Struct, kw_only=True):
    """Of one VM, since the last save."""

    heartbeats: int = 0
    health: Health | None = None
    status: bytes | None = None
    status_at: float | None = None
    status_count: int = 0
    status_by: str = ""
    agent_logs: int = 0
    requests: Counter[str] = msgspec.field(default_factory=Counter)
    observations: dict[str, dict[str, Any]] = {}
    events: list[bytes] = []

    def absorb(self, later: "_News") -> None:
        """What came after this could not be saved."""
        self.heartbeats += later.heartbeats
        self.health = later.health or self.health
        if later.status is not None:
            self.status, self.status_at, self.status_by = later.status, later.status_at, later.status_by
        self.status_count += later.status_count
        self.agent_logs += later.agent_logs
        self.requests.update(later.requests)
        self.observations |= later.observations
        self.events = [*self.events, *later.events][-EVENTS_LIMIT:]

    def pieces(self) -> "Iterator[_News]":
        """Each with one thing that was told."""
        yield _News(heartbeats=self.heartbeats, health=self.health, agent_logs=self.agent_logs)
        yield _News(
            status=self.status, status_at=self.status_at, status_count=self.status_count, status_by=self.status_by
        )
        for endpoint, count in self.requests.items():
            yield _News(requests=Counter({endpoint: count}))
        for name, document in self.observations.items():
            yield _News(observations={name: document})
        for event in self.events:
            yield _News(events=[event])


class Ledger:
    """One loop's object. `save` and `told` may raise Unwritable; being told never does."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._news: defaultdict[str, _News] = defaultdict(_News)
        self._lines: list[Line] = []
        self._names: dict[str, set[str]] = {}
        self._save_at: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        # One thread: a save waits for the one before, and who reads after a save reads all that was told before.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    # -- being told ------------------------------------------------------------------------------------------------

    def health(self, vm: str, health: Health) -> None:
        news = self._of(vm)
        news.heartbeats += 1
        news.health = health

    def status(self, vm: str, content: bytes, channel: str) -> None:
        """A whole status blob, padded or not."""
        news = self._of(vm)
        news.status = content.rstrip(b" \0")[:STATUS_LIMIT]
        news.status_at, news.status_by = self._clock.now(), channel
        news.status_count += 1

    def events(self, vm: str, events: list[dict[str, Any]]) -> None:
        news = self._of(vm)
        news.events = [*news.events, *(msgspec.json.encode(one) for one in events)][-EVENTS_LIMIT:]

    def observations(self, vm: str, observations: list[dict[str, Any]]) -> None:
        """The last of each name. Raises FabricError if there are too many names, or one that is no text."""
        found = {one["ObservationName"][:64]: {**one, "at": self._clock.now()} for one in observations}
        if any("\0" in name for name in found):
            # PostgreSQL has no such text.
            raise FabricError("the name of an observation has a NUL")
        if vm not in self._names:
            with self._store.begin() as connection:
                names = connection.execute(select(OBSERVATIONS.c.name).where(OBSERVATIONS.c.vm == vm)).scalars()
                self._names[vm] = set(names)
        if len(self._names[vm] | set(found)) > OBSERVATIONS_LIMIT:
            raise FabricError(f"more than {OBSERVATIONS_LIMIT} names of observations")
        self._names[vm] |= set(found)
        self._of(vm).observations |= found

    def agent_log(self, vm: str) -> None:
        self._of(vm).agent_logs += 1

    def request(self, line: Line) -> None:
        self._of(line.vm).requests[line.endpoint] += 1
        self._lines.append(line)

    def forget(self, vm: str) -> None:
        self._news.pop(vm, None)
        self._names.pop(vm, None)

    # -- telling ---------------------------------------------------------------------------------------------------

    def told(self, vm: str) -> Told:
        """Everything of one VM."""
        self.save()
        with self._store.begin() as connection:
            row = connection.execute(select(TOLD).where(TOLD.c.vm == vm)).mappings().first()
            events = connection.execute(_newest(EVENTS.c.document).where(EVENTS.c.vm == vm)).scalars().all()
            observed = select(OBSERVATIONS.c.name, OBSERVATIONS.c.document).where(OBSERVATIONS.c.vm == vm)
            observations = {name: msgspec.json.decode(one) for name, one in connection.execute(observed)}
            counted = select(REQUESTS.c.endpoint, REQUESTS.c.count).where(REQUESTS.c.vm == vm)
            requests = {str(endpoint): int(count) for endpoint, count in connection.execute(counted)}
        told = Told(
            events=[msgspec.json.decode(one) for one in reversed(events)], observations=observations, requests=requests
        )
        if row is not None:
            told.heartbeats, told.agent_logs = row["heartbeats"], row["agent_logs"]
            told.health = msgspec.json.decode(row["health"], type=Health) if row["health"] else None
            told.status = read_status(row["status"]) if row["status"] is not None else None
            told.status_at, told.status_count = row["status_at"], row["status_count"]
            told.status_by = row["status_by"]
        return told

    def summaries(self) -> dict[str, Told]:
        """Of every VM that told anything: health and counts, without what is long."""
        self.save()
        columns = (TOLD.c.vm, TOLD.c.heartbeats, TOLD.c.health, TOLD.c.status_at, TOLD.c.status_count)
        with self._store.begin() as connection:
            rows = connection.execute(select(*columns)).mappings().all()
        return {
            row["vm"]: Told(
                heartbeats=row["heartbeats"],
                health=msgspec.json.decode(row["health"], type=Health) if row["health"] else None,
                status_at=row["status_at"],
                status_count=row["status_count"],
            )
            for row in rows
        }

    def transcript(self, limit: int) -> list[Line]:
        """The newest, oldest first."""
        self.save()
        with self._store.begin() as connection:
            query = select(TRANSCRIPT.c.document).order_by(TRANSCRIPT.c.id.desc()).limit(limit)
            rows = connection.execute(query).scalars().all()
        return [msgspec.json.decode(one, type=Line) for one in reversed(rows)]

    # -- writing down ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write down what is not written yet, and wait for it. Raises Unwritable; nothing is lost then."""
        if self._save_at is not None:
            self._save_at.cancel()
            self._save_at = None
        news, lines = self._take()
        try:
            self._writer.submit(self._write, news, lines).result()
        except FabricError:
            self._put_back(news, lines)
            raise

    async def end(self) -> None:
        """Wait for a save that runs. Raises Unwritable."""
        if self._saving is not None:
            await self._saving
        try:
            self.save()
        finally:
            self._writer.shutdown()

    def _of(self, vm: str) -> _News:
        if self._save_at is None:
            self._save_at = asyncio.get_running_loop().call_later(_SAVE_DELAY, self._save_soon)
        return self._news[vm]

    def _save_soon(self) -> None:
        self._save_at = None
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._save_later())
        else:
            # The disk is slower than the VMs: one save at a time.
            self._save_at = asyncio.get_running_loop().call_later(_SAVE_DELAY, self._save_soon)

    async def _save_later(self) -> None:
        news, lines = self._take()
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._write, news, lines)
        except FabricError as error:
            # The next news tries again.
            logger.warning("%s", error)
            self._put_back(news, lines)

    def _take(self) -> tuple[dict[str, _News], list[Line]]:
        news, lines = dict(self._news), self._lines
        self._news.clear()
        self._lines = []
        return news, lines

    def _put_back(self, news: dict[str, _News], lines: list[Line]) -> None:
        for vm, earlier in news.items():
            earlier.absorb(self._news[vm])
            self._news[vm] = earlier
        self._lines = [*lines, *self._lines][-TRANSCRIPT_LIMIT:]

    def _write(self, news: dict[str, _News], lines: list[Line]) -> None:
        if not news and not lines:
            return
        # In one order everywhere: two workers that meet in the same rows must not wait for each other.
        ordered = sorted(news.items(), key=lambda one: one[0])
        try:
            with self._store.begin() as connection:
                self._write_all(connection, ordered, lines)
        except Unfit:
            self._write_what_fits(ordered, lines)

    def _write_what_fits(self, news: list[tuple[str, _News]], lines: list[Line]) -> None:
        """What can never be kept must not hold up the rest, now and at each later save."""
        pieces = [(vm, [(vm, piece)], list[Line]()) for vm, one in news for piece in one.pieces()]
        pieces += [(line.vm, [], [line]) for line in lines]
        with self._store.begin() as connection:
            for vm, told, asked in pieces:
                try:
                    with self._store.part(connection):
                        self._write_all(connection, told, asked)
                except Unfit as error:
                    logger.warning("something that VM %s told cannot be kept: %s", vm, error)

    def _write_all(self, connection: Connection, news: list[tuple[str, _News]], lines: list[Line]) -> None:
        self._write_told(connection, news)
        self._write_observations(connection, news)
        self._write_requests(connection, news)
        _write_events(connection, news)
        if lines:
            connection.execute(TRANSCRIPT.insert(), [{"document": msgspec.json.encode(one)} for one in lines])
            last = connection.execute(select(func.max(TRANSCRIPT.c.id))).scalar_one()
            connection.execute(delete(TRANSCRIPT).where(TRANSCRIPT.c.id <= last - TRANSCRIPT_LIMIT))

    def _write_told(self, connection: Connection, news: list[tuple[str, _News]]) -> None:
        rows = [
            {
                "vm": vm,
                "heartbeats": one.heartbeats,
                "health": msgspec.json.encode(one.health) if one.health else None,
                "status": one.status,
                "status_at": one.status_at,
                "status_count": one.status_count,
                "status_by": one.status_by,
                "agent_logs": one.agent_logs,
            }
            for vm, one in news
            if one.heartbeats or one.status_count or one.agent_logs
        ]
        if not rows:
            return
        insert = self._store.upsert(TOLD)
        new = insert.excluded
        update = {
            "heartbeats": TOLD.c.heartbeats + new.heartbeats,
            "health": func.coalesce(new.health, TOLD.c.health),
            "status": func.coalesce(new.status, TOLD.c.status),
            "status_at": func.coalesce(new.status_at, TOLD.c.status_at),
            "status_count": TOLD.c.status_count + new.status_count,
            "status_by": func.coalesce(func.nullif(new.status_by, ""), TOLD.c.status_by),
            "agent_logs": TOLD.c.agent_logs + new.agent_logs,
        }
        connection.execute(insert.on_conflict_do_update(index_elements=["vm"], set_=update), rows)

    def _write_observations(self, connection: Connection, news: list[tuple[str, _News]]) -> None:
        rows = [
            {"vm": vm, "name": name, "document": msgspec.json.encode(document)}
            for vm, one in news
            for name, document in sorted(one.observations.items())
        ]
        if rows:
            insert = self._store.upsert(OBSERVATIONS)
            update = {"document": insert.excluded.document}
            connection.execute(insert.on_conflict_do_update(index_elements=["vm", "name"], set_=update), rows)

    def _write_requests(self, connection: Connection, news: list[tuple[str, _News]]) -> None:
        rows = [
            {"vm": vm, "endpoint": endpoint, "count": count}
            for vm, one in news
            for endpoint, count in sorted(one.requests.items())
        ]
        if rows:
            insert = self._store.upsert(REQUESTS)
            update = {"count": REQUESTS.c.count + insert.excluded.count}
            connection.execute(insert.on_conflict_do_update(index_elements=["vm", "endpoint"], set_=update), rows)


def read_status(content: bytes) -> Any:
    """Parsed; as sent, if it is no JSON, or JSON nobody should have to give out again."""
    if not deep(content):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(content)
    return content.decode("utf-8", "replace")


def _newest(column: Any) -> Any:
    return select(column).order_by(EVENTS.c.id.desc())


def _write_events(connection: Connection, news: list[tuple[str, _News]]) -> None:
    rows = [{"vm": vm, "size": len(document), "document": document} for vm, one in news for document in one.events]
    if not rows:
        return
    connection.execute(EVENTS.insert(), rows)
    for vm in {str(row["vm"]) for row in rows}:
        newest = EVENTS.c.id.desc()
        size, rank = func.sum(EVENTS.c.size).over(order_by=newest), func.row_number().over(order_by=newest)
        columns = (EVENTS.c.id, size.label("bytes"), rank.label("rank"))
        ranked = select(*columns).where(EVENTS.c.vm == vm).subquery()
        old = select(ranked.c.id).where((ranked.c.bytes > EVENTS_BYTES) | (ranked.c.rank > EVENTS_LIMIT))
        connection.execute(delete(EVENTS).where(EVENTS.c.id.in_(old)))
