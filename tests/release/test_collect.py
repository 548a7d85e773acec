"""What is taken away, and what never is."""

import errno
import os
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.build import Built
from release.collect import Collection, Found, Keep, collect, make_room, plan_collection
from release.disk import Disk
from release.errors import DiskTrouble, RecordError, ReleaseError, RottenTree
from release.manifest import File
from release.record import Bad, Chosen, Record, Trial
from release.tree import check_version
from tests.release.product import NAME, Installed, chosen, layer_path, probe, third_party

LIMIT = Path("/x/components/probe/versions")
numbers = st.sampled_from(["0.9.0", "1.0.0", "1.1.0", "1.2.0", "2.0.0"])
choices = numbers.map(lambda number: Chosen(number, "a" * 64))
layers = st.sampled_from(["1" * 64, "2" * 64, "3" * 64])
named = st.none() | st.frozensets(layers)
paths = numbers.map(LIMIT.joinpath) | layers.map(Path("/x/deps").joinpath)
records = st.builds(Record, component=st.just(NAME), current=st.none() | choices, previous=st.none() | choices)
founds = st.builds(
    Found,
    versions=st.dictionaries(numbers.map(LIMIT.joinpath), named),
    others=st.lists(named, max_size=2).map(tuple),
    layers=st.frozensets(layers.map(Path("/x/deps").joinpath)),
    downloads=st.just(frozenset({Path("/x/components/probe/downloads/a.zip")})),
)
keeps = st.builds(
    Keep,
    versions=st.frozensets(numbers, max_size=2),
    layers=st.frozensets(layers, max_size=1),
    in_use=st.frozensets(paths | paths.map(lambda path: path / "probe"), max_size=2),
)


@given(records, founds, keeps)
def test_nothing_goes_that_is_needed(record: Record, found: Found, keep: Keep) -> None:
    plan = plan_collection(record, found, keep)
    named = {one.version for one in (record.current, record.previous) if one} | keep.versions
    assert not named & {path.name for path in plan.versions}
    stay = [layers for path, layers in found.versions.items() if path not in plan.versions] + [*found.others]
    if None in stay:
        assert not plan.layers
    for layers in stay:
        assert not (layers or set()) & {path.name for path in plan.layers}
    assert not keep.layers & {path.name for path in plan.layers}
    for used in keep.in_use:
        assert not {used, used.parent} & {*plan.versions, *plan.layers, *plan.downloads}
    # And everything else goes.
    assert {path for path in found.versions if path.name not in named and path not in plan.versions} <= {
        place for used in keep.in_use for place in (used, used.parent)
    }
    with pytest.raises(RecordError, match="on trial"):
        plan_collection(msgspec.structs.replace(record, trial=Trial(Chosen("3.0.0", "b" * 64), 1)), found, keep)


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """0.1.0 needs layer a, 0.2.0 both, 0.3.0 needs b."""
    folder = tmp_path_factory.mktemp("layered")
    with third_party(folder / "site", "aalayer", "bblayer"):
        return {
            "0.1.0": probe(folder, "0.1.0", "import aalayer"),
            "0.2.0": probe(folder, "0.2.0", "import aalayer, bblayer"),
            "0.3.0": probe(folder, "0.3.0", "import bblayer"),
        }


@pytest.fixture
def full(installed: Installed, layered: dict[str, Built]) -> Installed:
    for built in layered.values():
        installed.put(built)
    return installed


def names(installed: Installed) -> list[str]:
    return sorted(path.name for path in (installed.folder / "versions").iterdir())


def test_versions_and_their_layers(full: Installed, layered: dict[str, Built], one: Built) -> None:
    full.put(one)
    full.set(current=chosen(one), previous=chosen(layered["0.1.0"]))
    gone = collect(full.root, NAME, Keep())
    assert [path.name for path in gone.versions] == ["0.2.0", "0.3.0"]
    assert gone.layers == (layer_path(full.root, layered["0.3.0"], "bblayer"),)
    assert names(full) == ["0.1.0", "1.0.0"]
    check_version(full.tree("0.1.0"), layered["0.1.0"].digest)
    assert layer_path(full.root, layered["0.1.0"], "aalayer").is_dir()
    assert not list((full.folder / "staging").iterdir())
    assert not list((full.root / "deps" / "staging").iterdir())
    assert collect(full.root, NAME, Keep()) == Collection()


def test_what_runs_and_what_is_wanted_stays(full: Installed, layered: dict[str, Built], one: Built) -> None:
    full.put(one)
    full.set(current=chosen(one))
    running = frozenset({full.tree("0.1.0") / "probe"})
    keep = Keep(versions=frozenset({"0.2.0"}), in_use=running)
    assert [path.name for path in collect(full.root, NAME, keep).versions] == ["0.3.0"]
    assert names(full) == ["0.1.0", "0.2.0", "1.0.0"]


def test_layers_of_others_stay(full: Installed, layered: dict[str, Built], one: Built) -> None:
    full.put(one)
    full.set(current=chosen(one))
    other = full.root / "components" / "other" / "versions"
    other.mkdir(parents=True)
    full.tree("0.3.0").rename(other / "0.3.0")
    assert collect(full.root, NAME, Keep()).layers == (layer_path(full.root, layered["0.1.0"], "aalayer"),)
    # Nobody can say what this one needs.
    (other / "0.3.0" / ".manifest").write_text("torn")
    assert collect(full.root, NAME, Keep()).layers == ()
    (other / "0.3.0").rename(full.root / "elsewhere")
    assert collect(full.root, NAME, Keep()).layers == (layer_path(full.root, layered["0.3.0"], "bblayer"),)


def test_a_rotten_version_goes_unless_the_record_names_it(full: Installed, layered: dict[str, Built]) -> None:
    full.set(current=chosen(layered["0.1.0"]), previous=chosen(layered["0.3.0"]))
    for version in ("0.2.0", "0.3.0"):
        (full.tree(version) / ".manifest").unlink()
    gone = collect(full.root, NAME, Keep())
    assert ([path.name for path in gone.versions], gone.layers) == (["0.2.0"], ())


def test_downloads_and_left_overs(full: Installed, layered: dict[str, Built]) -> None:
    full.set(current=chosen(layered["0.3.0"]))
    downloads = full.folder / "downloads"
    downloads.mkdir()
    for name in ("old.zip", "under-way.part"):
        (downloads / name).write_text("x")
    (full.folder / "staging" / "9.9.9").mkdir()
    (full.root / "deps" / "staging" / "x").mkdir()
    # Not ours to judge.
    (full.folder / "versions" / "notes.txt").write_text("of a person")
    (full.root / "deps" / "notes").mkdir()
    gone = collect(full.root, NAME, Keep(in_use=frozenset({downloads / "under-way.part"})))
    assert [path.name for path in gone.downloads] == ["old.zip"]
    assert [path.name for path in downloads.iterdir()] == ["under-way.part"]
    assert not list((full.folder / "staging").iterdir())
    assert not list((full.root / "deps" / "staging").iterdir())
    assert names(full) == ["0.3.0", "notes.txt"]
    assert (full.root / "deps" / "notes").is_dir()


def test_nothing_goes_while_a_version_is_on_trial(full: Installed, layered: dict[str, Built]) -> None:
    full.set(current=chosen(layered["0.1.0"]), trial=Trial(chosen(layered["0.2.0"]), 3))
    with pytest.raises(RecordError, match=r"0\.2\.0 is on trial"):
        collect(full.root, NAME, Keep())
    assert names(full) == ["0.1.0", "0.2.0", "0.3.0"]


def test_nothing_goes_without_a_record(full: Installed) -> None:
    with pytest.raises(RecordError, match="rebuild it first"):
        collect(full.root, NAME, Keep())
    assert names(full) == ["0.1.0", "0.2.0", "0.3.0"]


def test_a_link_instead_of_downloads(full: Installed, layered: dict[str, Built], tmp_path: Path) -> None:
    full.set(current=chosen(layered["0.1.0"]))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (full.folder / "downloads").symlink_to(tmp_path / "precious")
    with pytest.raises(RottenTree, match="a link"):
        collect(full.root, NAME, Keep())
    assert (tmp_path / "precious" / "file").exists()
    (full.folder / "downloads").unlink()
    # A link among the versions: it goes, what it points to does not.
    full.tree("9.0.0").symlink_to(tmp_path / "precious")
    collect(full.root, NAME, Keep())
    assert (tmp_path / "precious" / "file").exists()
    assert names(full) == ["0.1.0"]


def test_a_disk_that_fails_meanwhile(full: Installed, layered: dict[str, Built], launch: ModuleType) -> None:
    full.set(current=chosen(layered["0.1.0"]), bad={"0.2.0+" + "a" * 64: Bad("x")})

    def fail(step: str, path: Path) -> None:
        if (step, path.name) == ("rename", "0.3.0"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DiskTrouble, match="Input/output error"):
        collect(full.root, NAME, Keep(), Disk(fail))
    assert names(full) == ["0.1.0", "0.3.0"]
    collect(full.root, NAME, Keep())
    assert names(full) == ["0.1.0"]


def test_one_at_a_time(full: Installed, layered: dict[str, Built]) -> None:
    full.set(current=chosen(layered["0.1.0"]))

    def meanwhile(step: str, _path: Path) -> None:
        if step == "rename":
            with pytest.raises(ReleaseError, match="another unpack or collection is at work"):
                full.put(layered["0.2.0"])

    (full.tree("0.2.0") / ".manifest").unlink()
    collect(full.root, NAME, Keep(), Disk(meanwhile))
    assert names(full) == ["0.1.0"]


def test_room_is_made_only_when_it_is_short(full: Installed, layered: dict[str, Built]) -> None:
    full.set(current=chosen(layered["0.1.0"]))
    assert make_room(full.root, NAME, layered["0.3.0"].manifest.files, Keep()) == Collection()
    assert names(full) == ["0.1.0", "0.2.0", "0.3.0"]
    endless = {"x": File("a" * 64, 1 << 60)}
    with pytest.raises(DiskTrouble, match="make room, then try again"):
        make_room(full.root, NAME, endless, Keep())
    assert names(full) == ["0.1.0"]
    full.set(current=chosen(layered["0.1.0"]), trial=Trial(chosen(layered["0.2.0"]), 3))
    with pytest.raises(DiskTrouble, match="make room, then try again"):
        make_room(full.root, NAME, endless, Keep())
