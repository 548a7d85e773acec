"""The journal: entries in SQLite, durable once `add` returns, bounded, oldest dropped first. Blocking, one thread."""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ipc.contract.telemetry import Entry

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    component TEXT NOT NULL,
    subject TEXT NOT NULL,
    uploaded INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    entry BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting ON entries (cursor) WHERE uploaded = 0;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""

# Room is made in steps, not row by row.
_SLACK = 0.05

logger = logging.getLogger("telemetry")


class JournalError(Exception):
    """The journal cannot be read or written; the text says why."""


class Damaged(JournalError):
    """Its content is at fault, rather than the disk or its mode."""


class Journal:
    """One file. Everything raises JournalError when the disk does not do its part."""

    def __init__(self, path: Path, *, rows: int, size: int) -> None:
        """A damaged file is moved aside, kept, and a new journal begun: `damaged` then names it."""
        self._path = path
        self._rows = rows
        self._size = size
        self.damaged: Path | None = None
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._begin()
        except Damaged as error:
            self._begin_anew(error)

    def add(self, entries: list[Entry]) -> int:
        """Store those that are not there yet; how many were new. Durable when it returns."""
        try:
            return self._add(entries)
        except Damaged as error:
            # Refusing for ever would fill the emitters' own stores until they drop.
            self._database.close()
            self._begin_anew(error)
            return self._add(entries)

    def _begin(self) -> None:
        with self._mapped():
            self._database = _open(self._path)
            # Kept in memory: counting a hundred thousand rows for each batch would cost more than storing it.
            count, total = self._database.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM entries").fetchone()
        self._count, self._total = int(count), int(total)

    def _begin_anew(self, error: Damaged) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        # It is gone already if beginning anew failed half-way.
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(aside)
            self.damaged = aside
            logger.warning("%s (kept as %s, a new one is begun)", error, aside.name)
        # What was not yet copied into the file stands beside it; whoever wants to salvage it needs both.
        with contextlib.suppress(FileNotFoundError):
            self._path.with_name(f"{self._path.name}-wal").rename(f"{aside}-wal")
        self._path.with_name(f"{self._path.name}-shm").unlink(missing_ok=True)
        self._begin()

    def _add(self, entries: list[Entry]) -> int:
        new = 0
        with self._transaction() as database:
            for entry in entries:
                blob = msgspec.json.encode(entry)
                row = (entry.id, entry.component, entry.subject, len(blob), blob)
                sql = "INSERT OR IGNORE INTO entries (id, component, subject, size, entry) VALUES (?, ?, ?, ?, ?)"
                if database.execute(sql, row).rowcount:
                    new += 1
                    self._count += 1
                    self._total += len(blob)
            if self._count > self._rows or self._total > self._size:
                self._make_room(database)
        return new

    def read(self, *, after: int | None, limit: int, component: str = "", subject: str = "") -> list[tuple[int, Entry]]:
        """Entries with their cursors, oldest first: those behind `after`, or the newest when it is None."""
        where, values = ["1"], list[str | int]()
        for column, value in (("component", component), ("subject", subject)):
            if value:
                where.append(f"{column} = ?")
                values.append(value)
        if after is not None:
            where.append("cursor > ?")
            values.append(after)
        order = "DESC" if after is None else "ASC"
        # Only column names of ours are put into the text.
        sql = f"SELECT cursor, entry FROM entries WHERE {' AND '.join(where)} ORDER BY cursor {order} LIMIT ?"  # noqa: S608
        found = self._fetch(sql, (*values, limit))
        return found if after is not None else found[::-1]

    def waiting(self, limit: int) -> list[tuple[int, Entry]]:
        """The oldest entries the host does not have."""
        return self._fetch("SELECT cursor, entry FROM entries WHERE uploaded = 0 ORDER BY cursor LIMIT ?", (limit,))

    def uploaded(self, up_to: int) -> None:
        """The host has everything up to this cursor."""
        with self._transaction() as database:
            database.execute("UPDATE entries SET uploaded = 1 WHERE uploaded = 0 AND cursor <= ?", (up_to,))

    def last(self) -> int:
        """The newest cursor; 0 if the journal is empty."""
        with self._mapped():
            row = self._database.execute("SELECT COALESCE(MAX(cursor), 0) FROM entries").fetchone()
        return int(row[0])

    def dropped(self) -> int:
        """Entries the budget has cost so far."""
        with self._mapped():
            row = self._database.execute("SELECT value FROM counters WHERE name = 'dropped'").fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._database.close()

    def _make_room(self, database: sqlite3.Connection) -> None:
        """Drop the oldest, those the host has before those it has not, down to a little below the budget."""
        rows, size = int(self._rows * (1 - _SLACK)), int(self._size * (1 - _SLACK))
        dropped = 0
        ordered = database.execute("SELECT cursor, size FROM entries ORDER BY uploaded DESC, cursor").fetchall()
        for cursor, length in ordered:
            if self._count <= rows and self._total <= size:
                break
            database.execute("DELETE FROM entries WHERE cursor = ?", (cursor,))
            self._count -= 1
            self._total -= length
            dropped += 1
        sql = (
            "INSERT INTO counters VALUES ('dropped', ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
        )
        database.execute(sql, (dropped,))

    def _fetch(self, sql: str, values: tuple[str | int, ...]) -> list[tuple[int, Entry]]:
        with self._mapped():
            rows = self._database.execute(sql, values).fetchall()
        found = []
        for cursor, blob in rows:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                found.append((cursor, msgspec.json.decode(blob, type=Entry)))
        return found

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        before = self._count, self._total
        try:
            with self._mapped(), self._database:
                yield self._database
        except JournalError:
            self._count, self._total = before
            raise

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = Damaged if _is_damage(error) else JournalError
            raise kind(f"the journal {self._path}: {error}") from error
        except UnicodeDecodeError as error:
            # SQLite quotes what it cannot read.
            raise Damaged(f"the journal {self._path}: malformed: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # FULL: what was acknowledged is on the disk, also after a power cut.
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA cache_size = -512")
        for row in database.execute("PRAGMA quick_check(1)"):
            if row[0] != "ok":
                raise sqlite3.DatabaseError(f"malformed: {row[0]}")
        database.executescript(_SCHEMA)
    except (sqlite3.Error, UnicodeDecodeError):
        database.close()
        raise
    path.chmod(0o600)
    return database


def _is_damage(error: sqlite3.Error) -> bool:
    """Also a connection that was closed, and could not be replaced yet, after damage was found."""
    return any(words in str(error) for words in ("malformed", "not a database", "no such column", "closed database"))
