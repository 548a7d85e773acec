"""The journal: what was acknowledged is there, whatever ends the process or befalls the disk."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipc.contract.telemetry import Entry
from telemetry.journal import Journal, JournalError

Make = Callable[..., Entry]

ADDING = """
import sys
from pathlib import Path
from ipc.contract.telemetry import Entry
from telemetry.journal import Journal
journal = Journal(Path(sys.argv[1]), rows=1_000_000, size=10**9)
number = 0
while True:
    batch = [
        Entry(id=str(one), at=1.0, monotonic=1.0, boot="b", component="c", version="1", pid=1, operation="Work")
        for one in range(number, number + 3)
    ]
    journal.add(batch)
    number += 3
    print(number, flush=True)
"""

FULL = """
import os, sys
from pathlib import Path
from ipc.contract.telemetry import Entry
from telemetry.journal import Journal, JournalError
folder = Path(sys.argv[1])
ballast = folder / "ballast"
ballast.write_bytes(bytes(300_000))
journal = Journal(folder / "journal.sqlite", rows=1_000_000, size=10**9)
def add(number):
    journal.add([Entry(id=str(number), at=1.0, monotonic=1.0, boot="b", component="c", version="1", pid=1,
                       operation="Work", message="x" * 2000)])
number = 0
try:
    while number < 100_000:
        add(number)
        number += 1
except JournalError as error:
    print(error)
else:
    sys.exit("the disk never got full")
for _ in range(5):
    try:
        add(number)
    except JournalError:
        continue
    number += 1
kept = journal.read(after=0, limit=1_000_000)
assert [one.id for _, one in kept] == [str(one) for one in range(number)], "read while full"
ballast.unlink()
add(number)
journal.uploaded(journal.last())
assert journal.waiting(10) == []
journal.close()
again = Journal(folder / "journal.sqlite", rows=1_000_000, size=10**9)
assert again.damaged is None
assert [one.id for _, one in again.read(after=0, limit=1_000_000)] == [str(one) for one in range(number + 1)]
print("survived")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    one = Journal(path, rows=1000, size=1024 * 1024)
    yield one
    one.close()


def reopened(path: Path) -> Journal:
    return Journal(path, rows=1000, size=1024 * 1024)


def ids(found: list[tuple[int, Entry]]) -> list[str]:
    return [entry.id for _, entry in found]


def test_entries_come_back_as_they_were(path: Path, journal: Journal, entry: Make) -> None:
    kept = [
        entry(1, "ünï \0 \x1b[0m ]]>", ok=False, subject="A.B", duration_ms=5),
        entry(2, at=-1.5, monotonic=1e300),
    ]
    assert journal.add(kept) == 2
    with closing(reopened(path)) as again:
        assert [one for _, one in again.read(after=0, limit=10)] == kept


def test_a_second_copy_is_dropped_within_and_across_batches(journal: Journal, entry: Make) -> None:
    assert journal.add([entry(1), entry(1, "again"), entry(2)]) == 2
    assert journal.add([entry(2), entry(3)]) == 1
    assert ids(journal.read(after=0, limit=10)) == ["id-1", "id-2", "id-3"]
    assert journal.dropped() == 0


def test_reading_by_cursor_component_and_subject(journal: Journal, entry: Make) -> None:
    assert (journal.last(), journal.read(after=0, limit=5), journal.read(after=None, limit=5)) == (0, [], [])
    journal.add([entry(1), entry(2, component="netagent"), entry(3, subject="A.B"), entry(4, subject="A.B")])
    (first, _), (second, _) = journal.read(after=0, limit=2)
    assert ids(journal.read(after=second, limit=10)) == ["id-3", "id-4"]
    assert ids(journal.read(after=None, limit=2)) == ["id-3", "id-4"]
    assert ids(journal.read(after=0, limit=10, component="netagent")) == ["id-2"]
    assert ids(journal.read(after=first, limit=10, component="guestagent", subject="A.B")) == ["id-3", "id-4"]
    assert journal.read(after=0, limit=10, component="x' OR '1'='1") == []
    assert journal.read(after=journal.last(), limit=10) == []


def test_what_waits_for_the_host_is_the_oldest_it_does_not_have(path: Path, journal: Journal, entry: Make) -> None:
    journal.add([entry(one) for one in range(5)])
    first = journal.waiting(2)
    assert ids(first) == ["id-0", "id-1"]
    journal.uploaded(first[-1][0])
    assert ids(journal.waiting(10)) == ["id-2", "id-3", "id-4"]
    with closing(reopened(path)) as again:
        assert ids(again.waiting(10)) == ["id-2", "id-3", "id-4"]
    assert len(journal.read(after=0, limit=10)) == 5, "what the host has is still read here"


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(500, 20_000),
    st.lists(st.tuples(st.lists(st.integers(1, 2000), max_size=12), st.integers(0, 12)), max_size=12),
)
def test_the_budgets_hold_and_cost_the_oldest_first(rows: int, size: int, batches: list[tuple[list[int], int]]) -> None:
    added = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "journal.sqlite"
        with closing(Journal(path, rows=rows, size=size)) as journal:
            for lengths, uploaded in batches:
                last = journal.last()
                journal.add([make(added + one, "x" * length) for one, length in enumerate(lengths)])
                added += len(lengths)
                journal.uploaded(last - uploaded)
                check_budget(path, rows, size, added)
                assert journal.dropped() + len(journal.read(after=0, limit=1000)) == added
            kept, waiting = ids(journal.read(after=0, limit=1000)), ids(journal.waiting(1000))
        with closing(Journal(path, rows=rows, size=size)) as again:
            assert ids(again.read(after=0, limit=1000)) == kept
    # Those that wait for the host go last: among them none older than one that was dropped.
    numbers = [int(one) for one in waiting]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def make(number: int, message: str) -> Entry:
    return Entry(
        id=str(number),
        at=1.0,
        monotonic=1.0,
        boot="b",
        component="c",
        version="1",
        pid=1,
        operation="Work",
        message=message,
    )


def check_budget(path: Path, rows: int, size: int, added: int) -> None:
    """By another connection's count, not by the journal's own."""
    with closing(sqlite3.connect(path)) as other:
        count, total = other.execute("SELECT COUNT(*), COALESCE(SUM(LENGTH(entry)), 0) FROM entries").fetchone()
    assert count <= min(rows, added)
    assert total <= size


def test_a_killed_process_loses_nothing_it_acknowledged(path: Path) -> None:
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", ADDING, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged = 0
        for line in child.stdout:
            acknowledged = int(line)
            if acknowledged >= 200:
                break
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
        acknowledged = max([acknowledged, *(int(line) for line in rest.splitlines() if line.isdigit())])
        with closing(Journal(path, rows=1_000_000, size=10**9)) as journal:
            assert journal.damaged is None
            found = [int(one) for one in ids(journal.read(after=0, limit=1_000_000))]
        assert found[:acknowledged] == list(range(acknowledged))
        assert len(found) % 3 == 0, "a batch is there whole or not at all"


def test_a_full_disk_refuses_keeps_what_it_has_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    inside = 'mount -t tmpfs -o size=1500k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", inside, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "full" in done.stdout
    assert done.stdout.endswith("survived\n")


def test_a_journal_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(JournalError, match="journal.sqlite: unable to open"):
        reopened(tmp_path / "journal.sqlite")


def filled(path: Path, entry: Make) -> None:
    with closing(reopened(path)) as journal:
        # More than SQLite keeps in memory.
        journal.add([entry(one, "x" * 3000) for one in range(300)])


def overwrite(path: Path, start: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(os.urandom(path.stat().st_size - start))


def other_tables(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE entries (cursor INTEGER PRIMARY KEY, id TEXT)")
        other.commit()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "rubbish": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "rubbish behind the head": lambda path: overwrite(path, 4096),
    "cut short": lambda path: os.truncate(path, 5000),
    "text": lambda path: path.write_text("hello\n" * 1000),
    "another's tables": other_tables,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_kept_aside_and_a_new_journal_begun(path: Path, entry: Make, damage: str) -> None:
    filled(path, entry)
    DAMAGE[damage](path)
    content = path.read_bytes()
    with closing(reopened(path)) as journal:
        assert journal.damaged is not None
        # The head (100 bytes) says by now that it is in WAL mode.
        assert journal.damaged.read_bytes()[100:] == content[100:]
        assert journal.add([entry(1)]) == 1
    with closing(reopened(path)) as again:
        assert again.damaged is None
        assert ids(again.read(after=0, limit=10)) == ["id-1"]


@pytest.mark.parametrize("damage", ["rubbish behind the head", "cut short"])
def test_damage_found_while_it_runs_is_kept_aside_too(path: Path, entry: Make, damage: str) -> None:
    filled(path, entry)
    with closing(reopened(path)) as journal:
        DAMAGE[damage](path)
        assert journal.add([entry(1000), entry(1001)]) == 2
        assert journal.damaged is not None
        assert journal.damaged.exists()
        assert ids(journal.read(after=0, limit=1000)) == ["id-1000", "id-1001"]
        assert journal.add([entry(1001), entry(1002)]) == 1
    with closing(reopened(path)) as again:
        assert len(again.read(after=0, limit=1000)) == 3


def test_an_empty_file_is_no_damage(path: Path, entry: Make) -> None:
    path.parent.mkdir()
    path.touch()
    with closing(reopened(path)) as journal:
        assert journal.damaged is None
        assert journal.add([entry(1)]) == 1
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=100, deadline=None)
@example(3844, b"\x80")
@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=64))
def test_whatever_the_bytes_are_it_opens_or_says_why(position: int, rubbish: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "journal.sqlite"
        with closing(reopened(path)) as journal:
            journal.add([make(one, "x" * 200) for one in range(30)])
        data = bytearray(path.read_bytes())
        start = position % len(data)
        data[start : start + len(rubbish)] = rubbish
        path.write_bytes(data)
        try:
            with closing(reopened(path)) as journal:
                journal.add([make(1000, "after")])
                # A byte of a row's number may be another, and SQLite cannot know: it need not be the last.
                assert "1000" in ids(journal.read(after=None, limit=1000))
                journal.uploaded(journal.last())
        except JournalError:
            pass
