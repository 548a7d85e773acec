"""The cache: whatever is put, taken, pinned, evicted or damaged, what comes out is what was put in, or nothing."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from guestagent.cache import Cache, NameAndVersion

NAMES = ["A.B", "Contoso.Tools.Greeter", "A.B__C"]
VERSIONS = ["1.0", "1.0.1", "2.0"]
PLACES = [(name, version) for name in NAMES for version in VERSIONS]
LOCATION = "http://blob/package.zip"


class Clock:
    """Stands still unless told; may go back."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def opened(folder: Path, limit_bytes: int = 10**6, limit_entries: int = 100, clock: Clock | None = None) -> Cache:
    return Cache(folder, limit_bytes=limit_bytes, limit_entries=limit_entries, clock=clock or Clock())


def put(cache: Cache, place: NameAndVersion, content: bytes, etag: str = '"e"', location: str = LOCATION) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        file = Path(elsewhere, "download")
        file.write_bytes(content)
        cache.put_package(*place, file, hashlib.sha256(content).hexdigest(), location=location, etag=etag)
        assert file.read_bytes() == content


def get(cache: Cache, place: NameAndVersion) -> bytes | None:
    with cache.package(*place) as held:
        return held.file.read() if held else None


def blobs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*/*") if path.is_file())


def blob(folder: Path, place: NameAndVersion) -> Path:
    (found,) = (folder / "packages" / f"{place[0]}__{place[1]}").iterdir()
    return found


def test_a_package_comes_back_with_what_is_known_of_it(folder: Path) -> None:
    clock = Clock()
    cache = opened(folder, clock=clock)
    put(cache, ("A.B", "1.0"), b"zip", '"e1"')
    for one in (cache, opened(folder)):
        with one.package("A.B", "1.0") as held:
            assert held is not None
            assert held.file.read() == b"zip"
            assert (held.at, held.etags) == (clock.now, {LOCATION: '"e1"'})
        assert one.versions("A.B") == {"1.0": clock.now}
        assert one.versions("A") == {}
        with one.package("A.B", "1.1") as nothing:
            assert nothing is None


def test_the_same_bytes_elsewhere_add_an_etag_and_other_bytes_replace_them_all(folder: Path) -> None:
    cache = opened(folder)
    for number in range(12):
        put(cache, ("A.B", "1.0"), b"zip", f'"{number}"', f"http://mirror{number}/")
    with cache.package("A.B", "1.0") as held:
        assert held is not None
        assert held.etags == {f"http://mirror{number}/": f'"{number}"' for number in range(4, 12)}
    put(cache, ("A.B", "1.0"), b"other", "", "http://mirror1/")
    with cache.package("A.B", "1.0") as held:
        assert held is not None
        assert held.etags == {}
    assert len(blobs(folder)) == 1


def test_a_confirmed_package_is_as_fresh_as_a_new_one(folder: Path) -> None:
    clock = Clock()
    cache = opened(folder, clock=clock)
    put(cache, ("A.B", "1.0"), b"zip")
    clock.now += 60
    cache.confirm("A.B", "1.0")
    cache.confirm("A.B", "9.9")
    assert opened(folder).versions("A.B") == {"1.0": clock.now}


def test_the_last_good_manifest_comes_back(folder: Path) -> None:
    clock = Clock()
    cache = opened(folder, clock=clock)
    cache.put_manifest("A.B", b"<old/>", "http://blob/old.xml")
    cache.put_manifest("A.B", b"<new/>", "http://blob/new.xml?sig=s")
    for one in (cache, opened(folder)):
        found = one.manifest("A.B")
        assert found is not None
        assert (found.data, found.url, found.at) == (b"<new/>", "http://blob/new.xml?sig=s", clock.now)
        assert one.manifest("A.C") is None
    assert len(blobs(folder)) == 1


def test_what_was_used_longest_ago_goes_first_also_after_a_restart(folder: Path) -> None:
    cache = opened(folder, limit_bytes=300)
    cache.pin([])
    for version in ("1.0", "2.0", "3.0"):
        put(cache, ("A.B", version), version.encode() * 33)
    assert get(cache, ("A.B", "1.0")) is not None
    (folder / "index.json").unlink()
    cache = opened(folder, limit_bytes=300)
    cache.pin([])
    put(cache, ("A.B", "4.0"), b"4.0" * 33)
    assert sorted(cache.versions("A.B")) == ["1.0", "3.0", "4.0"]
    cache.put_manifest("A.B", b"m" * 99, "u")
    assert sorted(cache.versions("A.B")) == ["1.0", "4.0"]


def test_neither_more_entries_than_allowed(folder: Path) -> None:
    cache = opened(folder, limit_entries=2)
    cache.pin([])
    for version in ("1.0", "2.0", "3.0"):
        put(cache, ("A.B", version), b"x")
    assert sorted(cache.versions("A.B")) == ["2.0", "3.0"]


def test_pinned_ones_stay_whatever_their_size_and_nothing_goes_before_pins_are_known(folder: Path) -> None:
    cache = opened(folder, limit_bytes=10)
    for version in ("1.0", "2.0", "3.0"):
        put(cache, ("A.B", version), version.encode() * 50)
    cache.put_manifest("A.B", b"m" * 50, "u")
    cache.put_manifest("A.C", b"m" * 50, "u")
    assert len(blobs(folder)) == 5
    assert cache.shrink() == 0
    cache.pin([("A.B", "1.0"), ("A.X", "1.0")])
    assert sorted(cache.versions("A.B")) == ["1.0"]
    assert cache.manifest("A.B") is not None
    assert cache.manifest("A.C") is None
    put(cache, ("A.B", "4.0"), b"new" * 50)
    assert sorted(cache.versions("A.B")) == ["1.0", "4.0"], "what has just come is about to be installed"
    assert cache.shrink() == 150
    assert sorted(cache.versions("A.B")) == ["1.0"]
    assert cache.size == 200


@pytest.mark.parametrize("name", ["../../etc", "A", "A.B/../C", ".A.B", "A.B\0", "", "A." + "b" * 300])
def test_a_name_that_must_not_become_a_path_is_not_kept(folder: Path, name: str) -> None:
    cache = opened(folder)
    put(cache, (name, "1.0"), b"x")
    put(cache, ("A.B", name), b"x")
    cache.put_manifest(name, b"x", "u")
    assert blobs(folder) == []
    assert get(cache, (name, "1.0")) is None
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty", "gone", "folder"])
def test_a_damaged_copy_is_none_and_the_others_are_untouched(folder: Path, damage: str) -> None:
    cache = opened(folder)
    put(cache, ("A.B", "1.0"), b"content")
    put(cache, ("A.B", "2.0"), b"others")
    path = blob(folder, ("A.B", "1.0"))
    match damage:
        case "flip":
            path.write_bytes(b"Content")
        case "cut":
            path.write_bytes(b"conten")
        case "grow":
            path.write_bytes(b"contents")
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "folder":
            path.unlink()
            path.mkdir()
    for one in (opened(folder), cache):
        assert get(one, ("A.B", "1.0")) is None
        assert get(one, ("A.B", "2.0")) == b"others"
    assert list(cache.versions("A.B")) == ["2.0"]
    if damage != "folder":
        put(cache, ("A.B", "1.0"), b"content")
        assert get(cache, ("A.B", "1.0")) == b"content"


@pytest.mark.parametrize("index", [b"", b"{", b"[]", b"\xff", b"null", b'{"packages": 3}', b"[" * 5000])
def test_a_damaged_index_is_written_anew_from_the_blobs(folder: Path, index: bytes) -> None:
    cache = opened(folder)
    put(cache, ("A.B", "1.0"), b"one")
    put(cache, ("A.B__C", "2.0"), b"two")
    cache.put_manifest("A.B", b"<m/>", "u")
    (folder / "index.json").write_bytes(index)
    cache = opened(folder)
    assert get(cache, ("A.B", "1.0")) == b"one"
    assert get(cache, ("A.B__C", "2.0")) == b"two"
    found = cache.manifest("A.B")
    assert found is not None
    assert found.data == b"<m/>"
    assert set(json.loads((folder / "index.json").read_bytes())["packages"]) == {"A.B__1.0", "A.B__C__2.0"}


@pytest.mark.parametrize("entry", [3, {}, {"digest": "x", "size": 1, "at": 0}, {"digest": "../" * 20, "size": "1"}])
def test_one_damaged_entry_costs_no_other(folder: Path, entry: object) -> None:
    cache = opened(folder)
    put(cache, ("A.B", "1.0"), b"one")
    put(cache, ("A.B", "2.0"), b"two")
    index = json.loads((folder / "index.json").read_bytes())
    index["packages"]["A.B__1.0"] = entry
    index["packages"]["nonsense"] = entry
    (folder / "index.json").write_text(json.dumps(index))
    cache = opened(folder)
    assert get(cache, ("A.B", "1.0")) == b"one"
    with cache.package("A.B", "2.0") as held:
        assert held is not None
        assert held.etags == {LOCATION: '"e"'}


def test_what_a_killed_put_left_is_gone_after_a_start(folder: Path) -> None:
    cache = opened(folder)
    put(cache, ("A.B", "1.0"), b"one")
    place = blob(folder, ("A.B", "1.0")).parent
    (place / ".0123.tmp").write_bytes(b"half")
    (place / ("0" * 64)).write_bytes(b"not in the index: killed before it was written")
    (place.parent / "A.B__3.0").mkdir()
    (folder / "manifests" / "A.B").mkdir(parents=True)
    (folder / "manifests" / "A.B" / ".4.tmp").write_bytes(b"")
    cache = opened(folder)
    assert [path.name for path in blobs(folder)] == [hashlib.sha256(b"one").hexdigest()]
    assert sorted(path.name for path in (folder / "packages").iterdir()) == ["A.B__1.0"]
    assert get(cache, ("A.B", "1.0")) == b"one"


def test_an_open_package_may_be_evicted(folder: Path) -> None:
    cache = opened(folder)
    cache.pin([])
    put(cache, ("A.B", "1.0"), b"one")
    with cache.package("A.B", "1.0") as held:
        assert cache.shrink() == 3
        assert held is not None
        assert held.file.read() == b"one"
    assert get(cache, ("A.B", "1.0")) is None
    assert list((folder / "packages").iterdir()) == []


def test_nothing_is_readable_by_others(folder: Path) -> None:
    old = os.umask(0)
    try:
        cache = opened(folder)
        put(cache, ("A.B", "1.0"), b"one")
        cache.put_manifest("A.B", b"<m/>", "u?sig=s")
    finally:
        os.umask(old)
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_that_cannot_be_written_costs_copies_and_nothing_else(folder: Path) -> None:
    folder.write_bytes(b"a file where the folder should be")
    cache = opened(folder)
    put(cache, ("A.B", "1.0"), b"one")
    cache.put_manifest("A.B", b"<m/>", "u")
    cache.confirm("A.B", "1.0")
    cache.pin([("A.B", "1.0")])
    assert get(cache, ("A.B", "1.0")) is None
    assert cache.manifest("A.B") is None
    assert "Not a directory" in cache.problem
    cache.put_package("A.B", "1.0", folder / "gone", "0" * 64, location="", etag="")


def test_a_full_disk_costs_copies_and_nothing_else(tmp_path: Path) -> None:
    """A file system of 256 KiB, mounted for one process only."""
    script = """
        import hashlib, sys
        from pathlib import Path
        from guestagent.cache import Cache

        place, source = Path(sys.argv[1]), Path(sys.argv[2])

        def put(version, content):
            source.write_bytes(content)
            cache.put_package("A.B", version, source, hashlib.sha256(content).hexdigest(), location="l", etag="e")

        def get(version):
            with cache.package("A.B", version) as held:
                return held.file.read() if held else None

        cache = Cache(place / "cache", limit_bytes=10**9, limit_entries=100)
        put("1.0", b"1" * 50_000)
        assert cache.problem == ""
        put("2.0", b"2" * 500_000)
        assert "No space left" in cache.problem, cache.problem
        assert get("1.0") == b"1" * 50_000
        assert get("2.0") is None
        assert [path.name for path in place.rglob("*.tmp")] == []
        (place / "filler").write_bytes(b"")
        try:
            (place / "filler").write_bytes(b"x" * 10**6)
        except OSError:
            pass
        cache.put_manifest("A.B", b"m" * 9000, "u")
        assert cache.problem
        cache.confirm("A.B", "1.0")
        assert [path.name for path in place.rglob("*.tmp")] == []
        cache = Cache(place / "cache", limit_bytes=10**9, limit_entries=100)
        assert get("1.0") == b"1" * 50_000
        cache.pin([])
        assert cache.shrink() == 50_000
        (place / "filler").unlink()
        put("3.0", b"3")
        assert cache.problem == ""
        assert get("3.0") == b"3"
        print("through")
        """
    place = tmp_path / "small"
    place.mkdir()
    command = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=256k none "$1" && exec "$2" - "$1" "$3"']
    done = subprocess.run(
        [*command, "sh", str(place), sys.executable, str(tmp_path / "source")],
        input=textwrap.dedent(script),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "through\n", done.stderr


def test_threads_that_put_take_and_pin_at_once_get_whole_packages(folder: Path) -> None:
    cache = opened(folder, limit_bytes=5000)
    wrong: list[object] = []
    contents = {place: [bytes([number + turn * 9]) * 999 for turn in range(4)] for number, place in enumerate(PLACES)}

    def work(seed: int) -> None:
        try:
            for turn in range(40):
                place = PLACES[(seed * 7 + turn) % len(PLACES)]
                put(cache, place, contents[place][(turn + seed) % 4])
                other = PLACES[(seed + turn * 5) % len(PLACES)]
                found = get(cache, other)
                if found is not None and found not in contents[other]:
                    wrong.append((other, found[:10]))
                if turn % 9 == 0:
                    cache.pin([place])
                if turn % 13 == 0:
                    cache.shrink()
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    cache.pin([])
    assert cache.size <= 5000
    again = opened(folder, limit_bytes=5000)
    assert again.size == cache.size == sum(path.stat().st_size for path in blobs(folder))


class Machine(RuleBasedStateMachine):
    """Any sequence, compared with a dictionary."""

    LIMIT = 1000
    ENTRIES = 5

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.put: dict[NameAndVersion, bytes] = {}
        self.pinned: set[NameAndVersion] | None = None
        self.safe: set[NameAndVersion] = set()
        """What must be there: pinned, and nobody damaged it."""
        self.newest: NameAndVersion | None = None
        self.cache = self.open()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self) -> Cache:
        return Cache(self.folder, limit_bytes=self.LIMIT, limit_entries=self.ENTRIES, clock=self.clock)

    @rule(place=st.sampled_from(PLACES), letter=st.sampled_from(b"ab"), size=st.integers(0, 1200))
    def keep(self, place: NameAndVersion, letter: int, size: int) -> None:
        self.put[place] = bytes([letter]) * size
        put(self.cache, place, self.put[place])
        self.newest = place
        if self.pinned is None or place in self.pinned:
            self.safe.add(place)
        assert get(self.cache, place) == self.put[place]

    @rule(place=st.sampled_from(PLACES))
    def take(self, place: NameAndVersion) -> None:
        found = get(self.cache, place)
        assert found in (None, self.put.get(place))
        if place in self.safe:
            assert found == self.put[place]

    @rule(places=st.sets(st.sampled_from(PLACES), max_size=4))
    def pin(self, places: set[NameAndVersion]) -> None:
        there = {place for place in places if get(self.cache, place) is not None}
        self.cache.pin(places)
        self.pinned, self.safe, self.newest = places, there, None

    @rule()
    def shrink(self) -> None:
        self.cache.shrink()
        if self.pinned is not None:
            assert {place for place in PLACES if get(self.cache, place) is not None} <= self.pinned
            self.newest = None

    @rule(place=st.sampled_from(PLACES), at=st.integers(0, 1200), how=st.sampled_from(["flip", "cut", "gone"]))
    def damage(self, place: NameAndVersion, at: int, how: str) -> None:
        for path in self.folder.glob(f"packages/{place[0]}__{place[1]}/*"):
            content = bytearray(path.read_bytes())
            if how == "gone":
                path.unlink()
            elif how == "cut" or at >= len(content):
                path.write_bytes(content[:at] if at < len(content) else b"")
            else:
                content[at] ^= 1
                path.write_bytes(content)
            self.safe.discard(place)

    @rule(index=st.binary(max_size=20) | st.none(), seconds=st.integers(-1000, 1000))
    def restart(self, index: bytes | None, seconds: int) -> None:
        if index is not None:
            (self.folder / "index.json").write_bytes(index)
        self.clock.now += seconds
        self.cache = self.open()
        if self.pinned is not None:
            self.cache.pin(self.pinned)
            self.newest = None

    @rule(place=st.sampled_from(PLACES))
    def confirm(self, place: NameAndVersion) -> None:
        self.cache.confirm(*place)

    @precondition(lambda self: self.pinned is not None)
    @invariant()
    def bounded(self) -> None:
        kept = {(name, version) for name in NAMES for version in self.cache.versions(name)}
        free = kept - (self.pinned or set()) - {self.newest}
        assert not free or (self.cache.size <= self.LIMIT and len(kept) <= self.ENTRIES)

    @invariant()
    def tidy(self) -> None:
        kept = {f"{name}__{version}" for name in NAMES for version in self.cache.versions(name)}
        lying = [path.parent.name for path in blobs(self.folder)]
        assert len(lying) == len(set(lying))
        assert set(lying) <= kept
        assert not list(self.folder.rglob("*.tmp"))


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestAnySequence = Machine.TestCase
