"""Files that extensions write: a pipe, a link, a device or a folder there holds nobody up and shows nothing."""

import os
from pathlib import Path

import pytest

from guestagent import foreign, heartbeat
from guestagent.foreign import NotAFile


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    os.utime(path, (5.0, 7.0))
    content = foreign.read(path, 4)
    assert (content.data, content.written_at) == (b"0123", 7.0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "link":
            secret = tmp_path / "secret"
            secret.write_text("secret")
            path.symlink_to(secret)
        case "folder":
            path.mkdir()
        case "device":
            path = Path("/dev/null")
    with pytest.raises(NotAFile, match="regular file|link"):
        foreign.read(path, 100)


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        foreign.read(tmp_path / "none", 1)


@pytest.mark.timeout(20)
def test_a_pipe_for_a_heartbeat_is_a_bad_heartbeat(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "heartbeat.log")
    found = heartbeat.look(tmp_path / "heartbeat.log", enabled_at=0.0, now=1.0)
    assert found is not None
    assert (found.status, "not a regular file" in found.message) == ("NotReady", True)
