"""Drills 19 to 22: who plays back, mixes, steals a key, or signs alone; and what if our own files are lost."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, MetaFile

from ipc.places import Places
from rdagent.update.ratchet import Seen, why_older
from rdagent.update.source import SourceError
from tests.rdagent.update.conftest import Blocking
from tests.rdagent.update.lying import SignedRepository, soon


def versions(repository: Blocking) -> list[str]:
    return [one.version for one in repository.look().offered]


def refused(repository: Blocking, kind: str) -> str:
    with pytest.raises(SourceError) as caught:
        repository.look()
    assert caught.value.kind == kind, caught.value
    return caught.value.reason


@pytest.fixture
def kept(places: Places) -> Path:
    """What the library keeps of the repository."""
    return places.state_of("rdagent") / "repository" / "metadata"


def torn(folder: Path) -> None:
    """As after a power cut without fsync."""
    for path in (*folder.glob("*.json"), *folder.glob("root_history/*.json")):
        path.write_bytes(path.read_bytes()[:40])


def test_drill_19_an_older_set_is_played_back(repository: Blocking, signed: SignedRepository) -> None:
    before = dict(signed.files)
    signed.publish("0.3.0")
    assert versions(repository) == ["0.2.0", "0.3.0"]
    after = dict(signed.files)
    signed.files.update(before)
    refused(repository, "untrusted")
    signed.files.update(after)
    assert versions(repository) == ["0.2.0", "0.3.0"]


@pytest.mark.parametrize("lose", [torn, shutil.rmtree])
def test_drill_19_played_back_to_one_who_lost_its_files(
    repository: Blocking, signed: SignedRepository, kept: Path, lose: Callable[[Path], None]
) -> None:
    """The library alone believes it."""
    before = dict(signed.files)
    signed.publish("0.3.0")
    repository.look()
    after = dict(signed.files)
    signed.files.update(before)
    lose(kept)
    for _ in range(2):
        assert "seen before" in refused(repository, "untrusted")
    signed.files.update(after)
    assert versions(repository) == ["0.2.0", "0.3.0"]


def test_drill_19_an_older_root_is_played_back(repository: Blocking, signed: SignedRepository, kept: Path) -> None:
    """By a thief of a key that the newer one revoked: he hides the newer one."""
    before = dict(signed.files)
    signed.rotate("timestamp")
    signed.save_timestamp()
    repository.look()
    signed.files.clear()
    signed.files.update(before)
    shutil.rmtree(kept)
    assert "root is version 1" in refused(repository, "untrusted")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "telemetry", "root"])
def test_drill_20_expired_metadata_authorises_nothing(
    repository: Blocking, signed: SignedRepository, tmp_path: Path, role: str
) -> None:
    repository.look()
    ended = soon(-datetime.timedelta(hours=1))
    getattr(signed, role).expires = ended
    if role == "root":
        signed.rotate()
    if role == "targets":
        signed.targets.version += 1
        signed.write(f"{signed.targets.version}.targets.json", signed.targets, "targets")
        signed.snapshot.meta["targets.json"] = MetaFile(signed.targets.version)
    signed.publish("0.3.0")
    assert "clock" in refused(repository, "expired")
    with pytest.raises(SourceError) as caught:
        repository.fetch("packages/telemetry/telemetry-0.3.0.zip", tmp_path / "x.zip")
    assert caught.value.kind == "expired"
    assert not (tmp_path / "x.zip").exists()
    # A week later somebody signs again.
    getattr(signed, role).expires = soon()
    if role == "root":
        signed.rotate()
    if role == "targets":
        signed.targets.version += 1
        signed.write(f"{signed.targets.version}.targets.json", signed.targets, "targets")
        signed.snapshot.meta["targets.json"] = MetaFile(signed.targets.version)
    signed.save()
    assert versions(repository) == ["0.2.0", "0.3.0"]


def test_drill_20_mix_and_match(repository: Blocking, signed: SignedRepository) -> None:
    """Each file is signed; together they never were."""
    repository.look()
    older = dict(signed.files)
    signed.publish("0.3.0")
    whole = dict(signed.files)
    for role in ("snapshot", "telemetry"):
        version = getattr(signed, role).version
        now, then = f"/metadata/{version}.{role}.json", f"/metadata/{version - 1}.{role}.json"
        signed.files.update(whole)
        signed.files[now] = older[then]
        refused(repository, "untrusted")
    signed.files.update(whole)
    assert versions(repository) == ["0.2.0", "0.3.0"]


@pytest.mark.parametrize("lost", [False, True])
def test_drill_21_stolen_key_fast_forward_then_rotation(
    repository: Blocking, signed: SignedRepository, kept: Path, lost: bool
) -> None:
    honest = signed.timestamp.version, signed.snapshot.version
    signed.timestamp.version = signed.snapshot.version = 1_000_000
    signed.save_snapshot()
    repository.look()
    # The honest owner goes on where he was, and is taken for an attacker: he has to rotate.
    signed.timestamp.version, signed.snapshot.version = honest
    signed.publish("0.3.0")
    refused(repository, "untrusted")
    signed.rotate("timestamp", "snapshot")
    signed.save()
    if lost:
        torn(kept)
    assert versions(repository) == ["0.2.0", "0.3.0"]
    # And the thief's key is worth nothing any more, nor is what was signed with it.
    repository.look()
    signed.keys["timestamp"] = CryptoSigner.generate_ed25519()
    signed.publish("0.4.0")
    refused(repository, "untrusted")


@pytest.mark.parametrize("signers", [("root-1",), ("root-1", "root-1"), ("root-1", "thief"), ("thief", "other")])
def test_drill_22_root_signed_by_too_few(
    repository: Blocking, signed: SignedRepository, signers: tuple[str, ...]
) -> None:
    repository.look()
    signed.keys["thief"], signed.keys["other"] = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()
    signed.rotate("timestamp", signers=signers)
    signed.publish("0.3.0")
    refused(repository, "untrusted")
    # The same root with enough signatures.
    signed.write(f"{signed.root.version}.root.json", signed.root, "root-2", "root-3")
    assert versions(repository) == ["0.2.0", "0.3.0"]


def test_who_may_release_one_component_speaks_of_no_other(
    repository: Blocking, signed: SignedRepository, tmp_path: Path
) -> None:
    custom = {"component": "rdagent", "version": "9.0.0", "channel": "stable", "ring": 0, "digest": "ab" * 32}
    path = "packages/rdagent/rdagent-9.0.0.zip"
    signed.put(path, b"x", custom)
    signed.save()
    answer = repository.look()
    assert [one.component for one in answer.offered] == ["telemetry"]
    assert "is not for the role telemetry to say" in answer.skipped[0]
    with pytest.raises(SourceError) as caught:
        repository.fetch(path, tmp_path / "x.zip")
    assert caught.value.kind == "missing"


def test_a_role_that_lost_its_paths_offers_nothing(repository: Blocking, signed: SignedRepository) -> None:
    """What lies here of it is from before: the library did not look at it, and it is not believed unchecked."""
    repository.look()
    roles = signed.targets.delegations
    assert roles is not None
    assert roles.roles is not None
    key = signed.keys["telemetry"] = CryptoSigner.generate_ed25519()
    roles.keys[key.public_key.keyid] = key.public_key
    roles.roles["telemetry"] = DelegatedRole("telemetry", [key.public_key.keyid], 1, False, ["nothing/*"])
    signed.targets.version += 1
    signed.write(f"{signed.targets.version}.targets.json", signed.targets, "targets")
    signed.snapshot.meta["targets.json"] = MetaFile(signed.targets.version)
    signed.save_snapshot()
    refused(repository, "untrusted")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"<html>", b"[" * 100_000, b'{"signed": {"_type": "root"}}'])
def test_without_a_usable_root_nobody_is_believed(
    repository: Blocking, signed: SignedRepository, places: Places, content: bytes | None
) -> None:
    file = places.trust / "root.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert str(file) in refused(repository, "no-root")
    file.write_bytes(signed.files["/metadata/timestamp.json"])
    refused(repository, "no-root")
    file.write_bytes(signed.trust)
    repository.look()


def test_another_trust_begins_anew(repository: Blocking, signed: SignedRepository, places: Places) -> None:
    """A host that was made anew has other keys and low versions; its root is put here by hand."""
    for version in ("0.3.0", "0.4.0", "0.5.0"):
        signed.publish(version)
    repository.look()
    signed.files.clear()
    other = SignedRepository(signed.files)
    other.publish("0.1.0")
    refused(repository, "untrusted")
    (places.trust / "root.json").write_bytes(other.trust)
    assert versions(repository) == ["0.1.0"]


def test_what_was_seen_is_torn_alone(repository: Blocking, signed: SignedRepository, places: Places) -> None:
    """The library's files still know."""
    before = dict(signed.files)
    signed.publish("0.3.0")
    repository.look()
    (places.state_of("rdagent") / "repository" / "seen.json").write_bytes(b'{"tru')
    signed.files.update(before)
    refused(repository, "untrusted")


def test_a_disk_that_takes_nothing_is_said(repository: Blocking, signed: SignedRepository, places: Places) -> None:
    state = places.state_of("rdagent")
    state.mkdir(parents=True)
    (state / "repository").write_bytes(b"a file where a folder should be")
    assert "repository" in refused(repository, "disk")


SEEN = st.builds(
    Seen,
    trust=st.sampled_from(["a", "b"]),
    root=st.integers(1, 3),
    keys=st.sampled_from(["k", "l"]),
    timestamp=st.integers(1, 3),
    snapshot=st.integers(1, 3),
    targets=st.dictionaries(st.sampled_from(["targets", "telemetry"]), st.integers(1, 3)),
)


@given(SEEN, SEEN)
def test_the_ratchet_gives_way_to_rotation_only(before: Seen, now: Seen) -> None:
    older = {
        "root": now.root < before.root,
        "timestamp": now.timestamp < before.timestamp,
        "snapshot": now.snapshot < before.snapshot,
        "targets": any(now.targets.get(name, 0) < version for name, version in before.targets.items()),
    }
    reason = why_older(before, now)
    if before.trust != now.trust:
        assert not reason
    elif older["root"]:
        assert reason
    elif before.keys != now.keys:
        assert not reason
    else:
        assert bool(reason) == any(older.values())
    assert not why_older(now, now)
    assert not why_older(None, now)
