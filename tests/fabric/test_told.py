"""What VMs told: who reads sees all that was told before, also what is just on its way to the disk."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fabric.clock import Clock
from fabric.errors import Unwritable
from fabric.state import Health
from fabric.store import Store
from fabric.told import Ledger, Line
from tests.fabric.conftest import PATIENCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


def saving() -> bool:
    return any(one.name.startswith("ledger") for one in threading.enumerate())


def test_what_is_on_its_way_to_the_disk_is_not_missed(file: Path) -> None:
    async def run() -> None:
        ledger = Ledger(Store(f"sqlite:///{file}"), Clock())
        with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
            # Somebody else has the disk when the save begins.
            other.execute("BEGIN IMMEDIATE")
            ledger.health("vm1", Health(state="Ready"))
            async with asyncio.timeout(PATIENCE):
                while not saving():
                    await asyncio.sleep(0.01)
            ledger.health("vm1", Health(state="NotReady"))
            threading.Thread(target=other.execute, args=("COMMIT",)).start()
            told = ledger.told("vm1")
        assert told.heartbeats == 2
        assert told.health is not None
        assert told.health.state == "NotReady"
        await ledger.end()

    asyncio.run(run())


def test_what_could_not_be_saved_is_saved_later(file: Path) -> None:
    async def run() -> None:
        store = Store(f"sqlite:///{file}")
        ledger = Ledger(store, Clock())
        ledger.health("vm1", Health(state="Ready"))
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("ALTER TABLE told RENAME TO away")
            with pytest.raises(Unwritable):
                ledger.save()
            ledger.health("vm1", Health(state="NotReady"))
            other.execute("ALTER TABLE away RENAME TO told")
        told = ledger.told("vm1")
        assert (told.heartbeats, told.health and told.health.state) == (2, "NotReady")
        await ledger.end()

    asyncio.run(run())


def test_the_file_is_its_owners_only(file: Path) -> None:
    Store(f"sqlite:///{file}")
    assert file.stat().st_mode & 0o077 == 0


def keeps_the_rest(store: Store, endpoint: str) -> None:
    """What cannot be kept under this name costs nothing else, and is not tried again."""

    def line(name: str) -> Line:
        return Line(at=1.0, vm="fit", endpoint=name, method="GET", path="/", status=200)

    async def run() -> None:
        ledger = Ledger(store, Clock())
        ledger.request(line("before"))
        ledger.request(line(endpoint))
        ledger.health("fit", Health(state="Ready"))
        ledger.events("fit", [{"number": 1}, {"number": 2}])
        ledger.observations("fit", [{"ObservationName": "seen"}])
        ledger.status("fit", b"{}", "direct")
        ledger.health("other", Health(state="Ready"))
        told = ledger.told("fit")
        assert told.requests == {"before": 1}
        assert (told.heartbeats, told.status, list(told.observations)) == (1, {}, ["seen"])
        assert [one["number"] for one in told.events] == [1, 2]
        assert ledger.told("other").heartbeats == 1
        ledger.request(line("later"))
        assert ledger.told("fit").requests == {"before": 1, "later": 1}
        assert {"before", "later"} <= {one.endpoint for one in ledger.transcript(10)}
        await ledger.end()

    asyncio.run(run())
    store.close()


def test_what_the_database_never_takes_costs_only_itself(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeps_the_rest(Store(f"sqlite:///{file}"), "\ud800")
    assert "something that VM fit told cannot be kept" in caplog.text
