"""Who vouches: thresholds, keys, and files of keys."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release.errors import KeyFileError, Untrusted
from release.signing import (
    SecretKey,
    Thresholds,
    Trust,
    new_key,
    read_key,
    read_public_key,
    sign,
    signers,
    trust_for,
    write_key,
)

KEYS = [SecretKey(f"{number:02x}" * 32) for number in range(1, 6)]
PUBLIC = [key.public() for key in KEYS]
TEXT = b"a manifest"


def test_n_of_m_in_every_combination() -> None:
    trust = Trust(tuple(PUBLIC[:3]), threshold=2)
    for count in range(len(KEYS) + 1):
        for chosen in itertools.combinations(range(len(KEYS)), count):
            signatures = sign(TEXT, [KEYS[number] for number in chosen])
            known = sorted(PUBLIC[number].name for number in chosen if number < 3)
            if len(known) >= 2:
                assert signers(TEXT, signatures, trust) == known
            else:
                with pytest.raises(Untrusted, match="2 are needed"):
                    signers(TEXT, signatures, trust)


def test_one_key_twice_is_one_key() -> None:
    twice = Trust((PUBLIC[0], PUBLIC[0]), threshold=2)
    with pytest.raises(Untrusted, match="signed by 1"):
        signers(TEXT, sign(TEXT, [KEYS[0], KEYS[0]]), twice)


def test_no_threshold_takes_nothing() -> None:
    with pytest.raises(Untrusted, match="would take anything"):
        signers(TEXT, sign(TEXT, []), Trust((), threshold=0))


def test_order_of_keys_does_not_show() -> None:
    assert sign(TEXT, KEYS) == sign(TEXT, KEYS[::-1])


@given(st.data())
def test_a_changed_byte_is_untrusted(data: st.DataObject) -> None:
    signatures, text = bytearray(sign(TEXT, KEYS[:1])), bytearray(TEXT)
    chosen = data.draw(st.sampled_from([signatures, text]))
    chosen[data.draw(st.integers(0, len(chosen) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(signatures) != sign(TEXT, KEYS[:1]) or bytes(text) != TEXT:
        try:
            signers(bytes(text), bytes(signatures), Trust(tuple(PUBLIC)))
        except Untrusted:
            return
        # JSON forgives some bytes outside its values; what was signed it does not.
        assert bytes(text) == TEXT


@given(st.binary(max_size=200))
def test_bytes_that_are_no_signatures(data: bytes) -> None:
    with pytest.raises(Untrusted):
        signers(TEXT, data, Trust(tuple(PUBLIC)))


def test_another_keys_signature_under_a_known_name() -> None:
    wrong = sign(TEXT, [KEYS[1]]).replace(PUBLIC[1].name.encode(), PUBLIC[0].name.encode())
    with pytest.raises(Untrusted, match="wrong"):
        signers(TEXT, wrong, Trust(tuple(PUBLIC[:1])))


def test_key_files(tmp_path: Path) -> None:
    path, key = tmp_path / "release.key", new_key()
    public = write_key(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == key
    assert read_public_key(public) == key.public()
    assert key.ed25519_secret not in repr(key)
    with pytest.raises(KeyFileError, match="never written over"):
        write_key(path, new_key())
    assert read_key(path) == key
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        read_key(path)


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match="agentctl package keygen"):
        read_key(path)
    public = write_key(path, new_key())
    with pytest.raises(KeyFileError, match="is not the .pub file"):
        read_public_key(path)
    for mode in (0o600, 0o644):
        public.chmod(mode)
        with pytest.raises(KeyFileError, match="is the public half of a key"):
            read_key(public)
    for file in (path.with_name("hostname"), Path("/dev/zero")):
        if not file.exists():
            file.write_text("host\n")
            file.chmod(0o644)
        with pytest.raises(KeyFileError, match="is not a key made by agentctl package keygen"):
            read_key(file)
        with pytest.raises(KeyFileError, match="is not the .pub file"):
            read_public_key(file)


def test_what_is_no_secret_key_is_said_so_whoever_may_read_it(tmp_path: Path) -> None:
    """Nobody is to be sent to change the mode of a file that is no key."""
    public = write_key(tmp_path / "release.key", new_key())
    with pytest.raises(KeyFileError, match=f"public half of a key; sign with the other one: {tmp_path}/release.key$"):
        read_key(public)
    other = tmp_path / "hostname"
    other.write_text("machine\n")
    other.chmod(0o644)
    with pytest.raises(KeyFileError, match="is not a key made by agentctl package keygen") as told:
        read_key(other)
    assert "chmod" not in str(told.value)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A trust folder with two keys, and what else may lie there."""
    folder = tmp_path / "trust"
    folder.mkdir()
    for number, key in enumerate(KEYS[:2]):
        write_key(tmp_path / f"{number}.key", key).rename(folder / f"{number}.pub")
    (folder / "root.json").write_text("{}")
    return folder


def test_rdagent_takes_more(keys: Path) -> None:
    thresholds = Thresholds(threshold=1, rdagent_threshold=2)
    rdagent, telemetry = (trust_for(component, keys, thresholds) for component in ("rdagent", "telemetry"))
    assert (set(rdagent.keys), rdagent.threshold) == (set(PUBLIC[:2]), 2)
    assert telemetry == Trust(rdagent.keys, 1)
    one, both = sign(TEXT, KEYS[:1]), sign(TEXT, KEYS[:2])
    assert signers(TEXT, one, telemetry) == [PUBLIC[0].name]
    with pytest.raises(Untrusted, match="2 are needed"):
        signers(TEXT, one, rdagent)
    assert len(signers(TEXT, both, rdagent)) == 2


def test_the_same_key_in_two_files_is_one_key(keys: Path) -> None:
    (keys / "copy.pub").write_bytes((keys / "0.pub").read_bytes())
    (keys / "1.pub").unlink()
    trust = trust_for("rdagent", keys, Thresholds(rdagent_threshold=2))
    with pytest.raises(Untrusted, match="signed by 1"):
        signers(TEXT, sign(TEXT, KEYS[:2]), trust)


def bare(folder: Path) -> None:
    for path in folder.glob("*.pub"):
        path.unlink()


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "junk": (lambda folder: (folder / "x.pub").write_bytes(b"\xff junk"), r"x\.pub: is not the \.pub file"),
    "empty": (lambda folder: (folder / "x.pub").touch(), r"x\.pub: is not the \.pub file"),
    "secret": (lambda folder: write_key(folder / "x", KEYS[2]).with_suffix("").rename(folder / "x.pub"), r"x\.pub: is"),
    "folder": (lambda folder: (folder / "x.pub").mkdir(), r"x\.pub: is no plain file"),
    "link": (lambda folder: (folder / "x.pub").symlink_to(folder / "0.pub"), r"x\.pub: is no plain file but a link"),
    "file of all": (lambda folder: (folder / "0.pub").chmod(0o666), r"0\.pub: could be written to by others"),
    "folder of all": (lambda folder: folder.chmod(0o777), "trust: could be written to by others"),
    "folder of a group": (lambda folder: folder.chmod(0o775), "trust: could be written to by others"),
    "elsewhere": (lambda folder: folder.symlink_to(folder.rename(f"{folder}.real")), "trust: is no plain folder"),
    "gone": (shutil.rmtree, "trust: cannot be read"),
    "bare": (bare, "holds no .pub file"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_trust_folder_that_is_not_to_be_trusted(keys: Path, name: str) -> None:
    spoil, why = SPOILED[name]
    spoil(keys)
    with pytest.raises(KeyFileError, match=why):
        trust_for("telemetry", keys, Thresholds())
