"""Where a host's memory is: SQLite in its own folder, or PostgreSQL for several workers behind one address.

What is wanted of the VMs is kept here whole and in memory as last seen; a change is one transaction, and whoever
caches is told of it (`news`).
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy
from sqlalchemy import Connection, Engine, Integer, Text, cast, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from fabric.errors import FabricError, Refused, Unfit, Unknown, Unwritable
from fabric.state import VmState
from fabric.tables import EVENTS, HOST, METADATA, OBSERVATIONS, PLACES, REQUESTS, TOLD, VMS

DATABASE = "state.sqlite"
VMS_LIMIT = 100_000
CHANNEL = "azfabric"
"""Of PostgreSQL's notifications: WORKER `vm` NAME, or WORKER `faults`."""

_REMOVED = "removed"
"""Key of a count."""

T = TypeVar("T")


class Store:
    """Blocking. Raises Unwritable when the database declines (Unfit: what it was given), FabricError when what it holds
    cannot be read."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.shared = self._engine.dialect.name == "postgresql"
        """Other workers may use it too."""
        self.worker = secrets.token_hex(8)
        self._seen: dict[str, VmState] | None = None
        with self._readable(), self.begin() as connection:
            if self.shared:
                # Of several workers that start at once, one makes the tables.
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(168631291)"))
            METADATA.create_all(connection)

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction."""
        with self._declining(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def part(self, connection: Connection) -> Iterator[None]:
        """Of a transaction: undone by itself if it fails."""
        with self._declining(), connection.begin_nested():
            yield

    @contextlib.contextmanager
    def _declining(self) -> Iterator[None]:
        try:
            yield
        except (DataError, IntegrityError, UnicodeEncodeError, OverflowError) as error:
            # The last two are the driver's own, and SQLAlchemy lets them pass.
            raise Unfit(f"{self._engine.url.render_as_string()}: {_reason(error)}") from error
        except SQLAlchemyError as error:
            raise Unwritable(f"{self._engine.url.render_as_string()}: {_reason(error)}") from error

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """SQLite finds out at the first question what the file is."""
        try:
            yield
        except Unwritable as error:
            if "not a database" in str(error) or "malformed" in str(error):
                raise FabricError(f"{self._engine.url.database} is damaged. Move it away to begin anew") from error
            raise

    def upsert(self, table: sqlalchemy.Table) -> Any:
        """An INSERT that knows ON CONFLICT."""
        return postgresql.insert(table) if self.shared else sqlite.insert(table)

    def tell(self, connection: Connection, what: str) -> None:
        """Have the other workers know, once this transaction is done."""
        if self.shared:
            connection.execute(select(sqlalchemy.func.pg_notify(CHANNEL, f"{self.worker} {what}")))

    def close(self) -> None:
        self._engine.dispose()

    # -- the host as a whole ---------------------------------------------------------------------------------------

    def value(self, key: str, make: Callable[[], str]) -> str:
        """What is kept under that key; `make` it if nothing is."""
        with self.begin() as connection:
            connection.execute(self.upsert(HOST).values(key=key, value=make()).on_conflict_do_nothing())
            return str(connection.execute(select(HOST.c.value).where(HOST.c.key == key)).scalar_one())

    def keep(self, key: str, value: str) -> None:
        with self.begin() as connection:
            insert = self.upsert(HOST).values(key=key, value=value)
            connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_={"value": value}))

    # -- VMs -------------------------------------------------------------------------------------------------------

    def vms(self) -> dict[str, VmState]:
        """All, as last seen, in the order they were added. To be read only."""
        if self._seen is None:
            with self.begin() as connection:
                rows = connection.execute(select(VMS.c.name, VMS.c.document).order_by(VMS.c.number)).all()
            self._seen = {name: _decoded(name, document) for name, document in rows}
        return self._seen

    def vm(self, name: str) -> VmState:
        """To be read only. Raises Unknown."""
        found = self.vms().get(name)
        if found is None:
            raise Unknown(f"there is no VM {name[:80]!r}: azfabric vm list")
        return found

    def add(self, state: VmState) -> None:
        """Raises Refused: the name or the address is taken."""
        name = state.identity.vm
        if len(self.vms()) >= VMS_LIMIT:
            raise Refused(409, f"this host has {VMS_LIMIT} VMs already")
        with self.begin() as connection:
            last = connection.execute(select(sqlalchemy.func.max(VMS.c.number))).scalar() or 0
            row = {"name": name, "number": last + 1, "revision": 1, "document": msgspec.json.encode(state)}
            insert = self.upsert(VMS).values(row).on_conflict_do_nothing().returning(VMS.c.name)
            if connection.execute(insert).first() is None:
                raise Refused(409, f"there is a VM {name!r} already")
            if not state.doors:
                self._take_place(connection, state)
            self.tell(connection, f"vm {name}")
        self.vms()[name] = state

    def _take_place(self, connection: Connection, state: VmState) -> None:
        row = {"tenant": state.tenant, "address": state.address, "vm": state.identity.vm}
        insert = self.upsert(PLACES).values(row).on_conflict_do_nothing().returning(PLACES.c.vm)
        if connection.execute(insert).first() is None:
            here = (PLACES.c.tenant == state.tenant) & (PLACES.c.address == state.address)
            raise address_taken(state.address, str(connection.execute(select(PLACES.c.vm).where(here)).scalar()))

    def removed(self) -> int:
        """How many VMs there were that are no more."""
        return int(self.value(_REMOVED, lambda: "0"))

    def keep_removed(self, count: int) -> None:
        self.keep(_REMOVED, str(count))

    def remove(self, name: str) -> None:
        """It and all it told. Raises Unknown."""
        self.vm(name)
        with self.begin() as connection:
            connection.execute(VMS.delete().where(VMS.c.name == name))
            counted = self.upsert(HOST).values(key=_REMOVED, value="1")
            more = cast(cast(HOST.c.value, Integer) + 1, Text)
            connection.execute(counted.on_conflict_do_update(index_elements=["key"], set_={"value": more}))
            for table in (PLACES, TOLD, OBSERVATIONS, REQUESTS, EVENTS):
                connection.execute(table.delete().where(table.c.vm == name))
            self.tell(connection, f"vm {name}")
        self.vms().pop(name, None)

    def change(self, name: str, edit: Callable[[VmState], T]) -> T:
        """Have `edit` change a copy, and keep it if it raises nothing. Raises Unknown, and what `edit` raises."""
        query = select(VMS.c.document).where(VMS.c.name == name)
        with self.begin() as connection:
            row = connection.execute(query.with_for_update() if self.shared else query).first()
            if row is None:
                raise Unknown(f"there is no VM {name[:80]!r}: azfabric vm list")
            state = _decoded(name, row.document)
            result = edit(state)
            values = {"document": msgspec.json.encode(state), "revision": VMS.c.revision + 1}
            connection.execute(VMS.update().where(VMS.c.name == name).values(values))
            self.tell(connection, f"vm {name}")
        self.vms()[name] = state
        return result

    def forget(self, name: str) -> None:
        """Another worker changed, added or removed it: read it anew. Empty: all of them."""
        if self._seen is None or not name:
            self._seen = None
            return
        with self.begin() as connection:
            row = connection.execute(select(VMS.c.document).where(VMS.c.name == name)).first()
        if row is None:
            self._seen.pop(name, None)
        else:
            self._seen[name] = _decoded(name, row.document)


def address_taken(address: str, by: str) -> Refused:
    """Within a tenant."""
    taken = f"address {address}" if address else "every address that is nobody else's"
    return Refused(409, f"{taken} is {by}'s already: name another --address, or take --own-ports")


def database_url(folder: Path, url: str) -> str:
    """What the engine takes. Raises FabricError for a URL of neither kind."""
    if not url:
        return f"sqlite:///{folder / DATABASE}"
    scheme, separator, rest = url.partition("://")
    if separator and scheme in {"postgresql", "postgres"}:
        return f"postgresql+psycopg://{rest}"
    if separator and scheme == "sqlite":
        return url
    raise FabricError(f"--database takes postgresql://USER@HOST/NAME or sqlite:///FILE, not {scheme[:40]!r}")


def _engine(url: str) -> Engine:
    try:
        engine = sqlalchemy.create_engine(url, pool_pre_ping=url.startswith("postgresql"))
    except (SQLAlchemyError, ImportError) as error:
        missing = "pip install 'azvmagent[postgresql]'" if isinstance(error, ImportError) else str(error)
        raise FabricError(f"the database cannot be used: {missing}") from error
    if engine.dialect.name == "sqlite":
        _own(Path(engine.url.database or ""))
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    return engine


def _own(file: Path) -> None:
    """For the owner only from the first byte on: it holds the keys of tenant certificates. Raises FabricError."""
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise FabricError(f"the database cannot be used: {file}: {error.strerror}") from error


def _prepare(connection: Any, _: object) -> None:
    # Transactions begin where we say, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _decoded(name: str, document: bytes) -> VmState:
    try:
        return msgspec.json.decode(document, type=VmState)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FabricError(f"what is kept of VM {name} cannot be read: {error}") from error


def _reason(error: Exception) -> str:
    origin = getattr(error, "orig", None)
    return str(origin or error).strip().partition("\n")[0]
