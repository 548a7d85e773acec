"""The faults in force, kept where all workers of a host see them."""

import msgspec
from sqlalchemy import delete, select, update

from fabric.clock import Clock
from fabric.errors import FabricError, Unknown
from fabric.faults import Fault, Order, check
from fabric.store import Store
from fabric.tables import FAULTS as RULES

_RULES_LIMIT = 200


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as the store has it."""

    id: int
    rule: Fault
    hits: int
    spoiled: int


def kept(store: Store) -> list[Kept]:
    """All rules, oldest first."""
    with store.begin() as connection:
        rows = connection.execute(select(RULES).order_by(RULES.c.id)).all()
    found = [(row, msgspec.json.decode(row.document, type=Fault)) for row in rows]
    return [Kept(id=row.id, rule=rule, hits=row.hits, spoiled=row.spoiled) for row, rule in found]


def keep(store: Store, rules: list[Kept]) -> None:
    """Into a store without any."""
    with store.begin() as connection:
        for one in rules:
            row = {"id": one.id, "document": msgspec.json.encode(one.rule), "hits": one.hits, "spoiled": one.spoiled}
            connection.execute(RULES.insert().values(row))


class Faults:
    """The rules in force, oldest first. Kept where all workers of a host see them."""

    def __init__(self, store: Store, clock: Clock, *, fresh: bool = True) -> None:
        """`fresh`: none are in force yet, unless other workers have some."""
        self._store = store
        self._clock = clock
        self._rules: list[Fault] | None = None
        if fresh and not store.shared:
            # The host's own: they go when it goes.
            self.clear()

    def add(self, order: Order) -> Fault:
        """Raises FabricError, naming what there is to choose from."""
        check(order)
        rule = msgspec.convert({**msgspec.structs.asdict(order), "added_at": self._clock.now()}, Fault)
        if len(self.listed()) >= _RULES_LIMIT:
            raise FabricError(f"{_RULES_LIMIT} faults are in force already: azfabric fault clear")
        with self._store.begin() as connection:
            done = connection.execute(RULES.insert().values(document=msgspec.json.encode(rule)))
            rule.id = int(done.inserted_primary_key[0]) if done.inserted_primary_key else 0
            self._store.tell(connection, "faults")
        rule.left = rule.count
        self.forget()
        return rule

    def take(self, vm: str, endpoint: str) -> Fault | None:
        """The first rule that spoils this request, counted."""
        if self._rules == []:
            return None
        now = self._clock.now()
        for rule in self._known():
            if rule.concerns(vm, endpoint, now) and rule.fires(self._hit(rule)) and self._spoil(rule):
                return rule
        return None

    def listed(self) -> list[Fault]:
        """With what is left of each count; those whose time is up are gone."""
        now = self._clock.now()
        with self._store.begin() as connection:
            rows = connection.execute(select(RULES).order_by(RULES.c.id)).all()
        found = []
        for row in rows:
            rule = msgspec.json.decode(row.document, type=Fault)
            rule.id = row.id
            rule.left = None if rule.count is None else rule.count - row.spoiled
            over = rule.last is not None and now >= rule.added_at + rule.wait + rule.last
            if rule.left != 0 and not over:
                found.append(rule)
        return found

    def lift(self, number: int) -> None:
        """Raises Unknown."""
        with self._store.begin() as connection:
            found = connection.execute(delete(RULES).where(RULES.c.id == number).returning(RULES.c.id)).first()
            self._store.tell(connection, "faults")
        if found is None:
            raise Unknown(f"there is no fault {number}: azfabric fault list")
        self.forget()

    def clear(self) -> int:
        """Lift all; how many there were."""
        count = len(self.listed())
        with self._store.begin() as connection:
            connection.execute(delete(RULES))
            self._store.tell(connection, "faults")
        self.forget()
        return count

    def forget(self) -> None:
        """They changed, here or at another worker."""
        self._rules = None

    def _known(self) -> list[Fault]:
        if self._rules is None:
            self._rules = self.listed()
        return self._rules

    def _hit(self, rule: Fault) -> int:
        counted = update(RULES).where(RULES.c.id == rule.id).values(hits=RULES.c.hits + 1).returning(RULES.c.hits)
        with self._store.begin() as connection:
            return int(connection.execute(counted).scalar() or 0)

    def _spoil(self, rule: Fault) -> bool:
        more = RULES.c.id == rule.id
        if rule.count is not None:
            more &= RULES.c.spoiled < rule.count
        with self._store.begin() as connection:
            counted = update(RULES).where(more).values(spoiled=RULES.c.spoiled + 1).returning(RULES.c.id)
            return connection.execute(counted).first() is not None
