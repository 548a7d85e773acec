"""The record: two slots, read and written by release/record.py and by launch.py alike."""

import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release import record as records
from release.build import Built, build
from release.environment import fingerprint
from release.errors import RecordError, RottenTree
from release.manifest import canonical, digest
from release.record import (
    Bad,
    Chosen,
    Record,
    Trial,
    begin_trial,
    complete,
    decode,
    encode,
    forgive,
    read,
    rebuild,
    reject,
    write,
)
from release.signing import Trust
from tests.release.product import KEY, NAME, OTHER_KEY, TRUST, Installed, checkout, chosen

numbers = st.integers(0, 999_999).map(str)
choices = st.builds(
    Chosen,
    st.lists(numbers, min_size=2, max_size=4).map(".".join),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
bads = st.builds(Bad, st.text(max_size=40), st.none() | st.floats(0, 4e9), st.sampled_from(["", "here", "there"]))
made = st.builds(
    Record,
    component=st.just(NAME),
    current=st.none() | choices,
    previous=st.none() | choices,
    trial=st.none() | st.builds(Trial, choices, st.integers(0, 100)),
    bad=st.dictionaries(choices.map(lambda one: one.key), bads, max_size=4),
)
A, B, C = (Chosen(f"1.{number}.0", f"{number}" * 64) for number in range(3))


@given(made)
def test_each_reads_what_the_other_wrote(
    tmp_path_factory: pytest.TempPathFactory, launch: ModuleType, first: Record
) -> None:
    folder = tmp_path_factory.mktemp("record")
    written = write(folder, first)
    theirs = launch.read_record(str(folder))
    assert theirs == msgspec.to_builtins(written)
    launch.write_record(str(folder), theirs)
    assert read(folder) == msgspec.structs.replace(written, serial=2)
    assert launch.read_record(str(folder))["serial"] == 2
    again = write(folder, msgspec.structs.replace(written, serial=2))
    assert launch.read_record(str(folder))["serial"] == again.serial == 3


@given(made, made, st.data())
def test_a_torn_slot_leaves_the_other(
    tmp_path_factory: pytest.TempPathFactory, launch: ModuleType, first: Record, second: Record, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("record")
    older = write(folder, first)
    write(folder, msgspec.structs.replace(second, serial=1))
    newest = folder / "state.0"
    whole = newest.read_bytes()
    cut = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if len(cut) == len(whole):
        cut[data.draw(st.integers(0, len(cut) - 1))] ^= data.draw(st.integers(1, 255))
    newest.write_bytes(cut)
    assert read(folder) == older
    assert launch.read_record(str(folder)) == msgspec.to_builtins(older)
    # And it goes on from there, over the torn one.
    assert read(folder) == older
    assert write(folder, older).serial == 2
    assert read(folder) == msgspec.structs.replace(older, serial=2)
    (folder / "state.0").write_bytes(b"")
    (folder / "state.1").unlink()
    assert read(folder) is None
    assert launch.read_record(str(folder)) == launch.NOTHING


@given(st.binary(max_size=300))
def test_bytes_that_are_no_record(tmp_path_factory: pytest.TempPathFactory, launch: ModuleType, data: bytes) -> None:
    with pytest.raises(RecordError):
        decode(data)
    folder = tmp_path_factory.mktemp("record")
    (folder / "state.0").write_bytes(data)
    assert launch.read_record(str(folder)) == launch.NOTHING


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["format", "serial", "current", "previous", "trial", "bad", "component", "more"])
inner = dict.fromkeys(("version", "digest", "target", "tries"), json)
odd: st.SearchStrategy[Any] = json | st.fixed_dictionaries(inner)


@given(made, st.dictionaries(fields, odd, max_size=3))
def test_a_whole_slot_of_another_shape(
    tmp_path_factory: pytest.TempPathFactory, launch: ModuleType, sound: Record, fields: dict[str, Any]
) -> None:
    """Somebody's mistake with a right checksum: nothing is whole here, and launch.py says so without a traceback."""
    root = tmp_path_factory.mktemp("record")
    folder = root / "components" / NAME
    folder.mkdir(parents=True)
    body = canonical({**msgspec.to_builtins(sound), **fields})
    (folder / "state.0").write_bytes(f"{digest(body)}\n".encode() + body)
    assert launch.choose(str(root), str(folder)) == []


@given(made, st.floats(0, 4e9))
def test_a_bad_version_is_free_when_its_time_is_up_or_the_machine_is_another(record: Record, now: float) -> None:
    left = forgive(record, now=now, environment="here").bad
    for key, bad in record.bad.items():
        over = bad.expires is not None and bad.expires <= now
        assert (key in left) == (not over and bad.environment in {"", "here"})
    assert forgive(record, now=now, environment="").bad.keys() >= left.keys()  # not known is no other machine


@given(made)
def test_what_launch_put_on_the_list_gets_an_end_and_a_place(record: Record) -> None:
    bad = complete(record, expires=5e9, environment="here").bad
    assert all(one.environment for one in bad.values())
    for key, one in record.bad.items():
        assert bad[key].reason == one.reason
        assert bad[key] == one if one.environment else bad[key].expires == 5e9


def test_a_rejected_version_remembers_where_it_failed() -> None:
    here = fingerprint()
    record = reject(Record(component=NAME, trial=Trial(B, 1)), "hangs", 50.0, here)
    assert record.bad == {B.key: Bad("hangs", 50.0, here)}
    with pytest.raises(RecordError, match="bad list: hangs"):
        begin_trial(record, B)
    assert begin_trial(forgive(record, now=50.0, environment=here), B).trial
    assert begin_trial(forgive(record, now=0.0, environment="cpython-3.14"), B).trial


def test_a_fingerprint_names_python_machine_library_and_kernel() -> None:
    assert fingerprint() == fingerprint()
    assert re.fullmatch(r"[a-z]+-\d+\.\d+\.\S+ \S+ \S+ linux-\d+\.\d+", fingerprint())


def newer(record: Record) -> dict[str, Any]:
    """The record as a release to come might write it: more fields at every place that is an object."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    trial = fields["trial"] or {}
    versions = filter(None, (fields["current"], fields["previous"], trial.get("target")))
    for number, one in enumerate((fields, trial, *fields["bad"].values())):
        one["zz"] = {"of": number}
    for one in versions:
        one["zz"] = {"of": one["digest"]}
    return fields


def write_slot(folder: Path, fields: dict[str, Any]) -> None:
    body = canonical(fields)
    (folder / records.SLOTS[fields["serial"] % 2]).write_bytes(f"{digest(body)}\n".encode() + body)


def slot(folder: Path, serial: int) -> dict[str, Any]:
    body = (folder / records.SLOTS[serial % 2]).read_bytes().partition(b"\n")[2]
    fields: dict[str, Any] = msgspec.json.decode(body)
    assert fields["serial"] == serial
    return fields


@given(made)
def test_what_a_newer_release_wrote_stays(
    tmp_path_factory: pytest.TempPathFactory, launch: ModuleType, sound: Record
) -> None:
    folder = tmp_path_factory.mktemp("record")
    fields = newer(sound)
    write_slot(folder, fields)
    found = read(folder)
    assert found == sound
    write(folder, found)
    assert slot(folder, 1) == {**fields, "serial": 1}
    launch.write_record(str(folder), launch.read_record(str(folder)))
    assert slot(folder, 2) == {**fields, "serial": 2}


def test_fields_of_a_version_go_where_it_goes(tmp_path: Path) -> None:
    old = Bad("leaks", 5.0)
    record = Record(component=NAME, current=A, trial=Trial(B, 2), bad={C.key: old})
    write_slot(tmp_path, newer(record))
    done = write(tmp_path, records.commit(record))
    fields = slot(tmp_path, 1)
    assert (fields["current"]["zz"], fields["previous"]["zz"]) == ({"of": B.digest}, {"of": A.digest})
    assert fields["bad"][C.key]["zz"] == {"of": 2}
    assert fields["zz"] == {"of": 0}
    # A new trial of the same version is another one, and so is a new reason.
    write(tmp_path, msgspec.structs.replace(done, trial=Trial(A, 3), bad={C.key: Bad("hangs", 5.0)}))
    fields = slot(tmp_path, 2)
    assert "zz" not in fields["trial"]
    assert "zz" not in fields["bad"][C.key]
    assert fields["trial"]["target"]["zz"] == {"of": A.digest}
    # Off the list is off the list.
    found = read(tmp_path)
    assert found
    write(tmp_path, msgspec.structs.replace(found, bad={}))
    assert slot(tmp_path, 3)["bad"] == {}


def test_slots_take_turns(installed: Installed, one: Built) -> None:
    installed.put(one)
    assert [installed.set(current=A).serial for _ in range(5)] == [1, 2, 3, 4, 5]
    assert decode((installed.folder / "state.0").read_bytes()).serial == 4
    assert decode((installed.folder / "state.1").read_bytes()).serial == 5
    assert {path.name for path in installed.folder.iterdir()} == {
        "state.0",
        "state.1",
        "state.lock",
        "versions",
        "staging",
    }
    assert (installed.folder / "state.1").stat().st_mode & 0o777 == 0o600


def test_a_record_that_changed_meanwhile(tmp_path: Path) -> None:
    first = write(tmp_path, Record(component=NAME, current=A))
    write(tmp_path, first)
    with pytest.raises(RecordError, match="read it again"):
        write(tmp_path, first)


def test_a_folder_others_can_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RottenTree), records.locked(tmp_path):
        pass
    with pytest.raises(RottenTree):
        write(tmp_path, Record(component=NAME))


def test_phases() -> None:
    idle = Record(component=NAME, current=A)
    trying = records.begin_trial(idle, B)
    assert trying.trial == Trial(B, 3)
    committed = records.commit(trying)
    assert (committed.current, committed.previous, committed.trial) == (B, A, None)
    back = records.reject(records.begin_trial(committed, C), "stopped its heartbeat", 99.0)
    assert (back.current, back.previous, back.trial) == (B, A, None)
    assert back.bad == {C.key: Bad("stopped its heartbeat", 99.0)}
    with pytest.raises(RecordError, match="stopped its heartbeat"):
        records.begin_trial(back, C)
    with pytest.raises(RecordError, match="still on trial"):
        records.begin_trial(trying, C)
    # The same number with another content is another version.
    assert records.begin_trial(back, Chosen(C.version, "f" * 64)).trial
    for end in (records.commit, lambda record: records.reject(record, "x")):
        with pytest.raises(RecordError, match="on trial"):
            end(idle)


def test_encoding_is_its_own_inverse() -> None:
    record = Record(component=NAME, current=A, bad={B.key: Bad("why")}, serial=7)
    assert decode(encode(record)) == record


def test_both_slots_gone(installed: Installed, one: Built, two: Built, three: Built) -> None:
    for built in (one, two, three):
        installed.put(built)
    # Nothing says which: the base install.
    assert rebuild(installed.root, NAME, TRUST).current is None
    # The link says it; what is newer may have been on trial.
    installed.set(current=chosen(two))
    records.show_current(installed.folder, installed.record())
    for slot in records.SLOTS:
        (installed.folder / slot).unlink(missing_ok=True)
    assert rebuild(installed.root, NAME, TRUST) == Record(component=NAME, current=chosen(two))
    # What the link says has rotted.
    (installed.tree("1.1.0") / "probe" / "__main__.py").write_text("rot")
    assert rebuild(installed.root, NAME, TRUST).current is None
    # Nobody we know signed it.
    (installed.folder / "current").unlink()
    (installed.folder / "current").symlink_to("versions/1.0.0")
    assert rebuild(installed.root, NAME, TRUST).current == chosen(one)
    assert rebuild(installed.root, NAME, Trust((OTHER_KEY.public(),))).current is None


def test_a_version_without_its_layers_is_not_taken(installed: Installed, one: Built, tmp_path: Path) -> None:
    built = build(checkout(tmp_path, "1.1.0", "import click"), NAME, tmp_path / "out", [KEY])
    for each in (one, built):
        installed.put(each)
    (installed.folder / "current").symlink_to("versions/1.1.0")
    assert rebuild(installed.root, NAME, TRUST).current == chosen(built)
    shutil.rmtree(installed.root / "deps" / built.manifest.layers[0].sha256)
    assert rebuild(installed.root, NAME, TRUST).current is None


def test_a_tree_that_nobody_signed_is_not_taken(installed: Installed, one: Built, two: Built) -> None:
    installed.put(one)
    installed.put(two)
    link = installed.folder / "current"
    link.symlink_to("versions/1.1.0")
    assert rebuild(installed.root, NAME, TRUST).current == chosen(two)
    (installed.tree("1.1.0") / ".signatures").write_bytes((installed.tree("1.0.0") / ".signatures").read_bytes())
    assert rebuild(installed.root, NAME, TRUST).current is None
    # Nor one that lies under another number.
    installed.tree("1.0.0").rename(installed.tree("9.0.0"))
    link.unlink()
    link.symlink_to("versions/9.0.0")
    assert rebuild(installed.root, NAME, TRUST).current is None


def test_a_bad_version_of_2099_is_bad_no_longer_than_others() -> None:
    """Drill 61: it failed while the clock was wrong. An end the operator took away, or a nearer one, stays."""
    now, month = 1.79e9, 30 * 86400.0
    ends = {"1.0.0": 4.07e9 + month, "1.1.0": now + month + 60.0, "1.2.0": now + 7.0, "1.3.0": None}
    bad = {Chosen(version, "a" * 64).key: Bad("hangs", at, "here") for version, at in ends.items()}
    after = complete(Record(component=NAME, bad=bad), expires=now + month, environment="there").bad
    assert [one.expires for one in after.values()] == [now + month, now + month + 60.0, now + 7.0, None]
    assert {one.environment for one in after.values()} == {"here"}
