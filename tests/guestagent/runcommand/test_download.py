"""Scripts and artifacts from a real HTTP server, and what is done to their text."""

import base64
import codecs
import datetime
import hashlib
import hmac
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.runcommand.script import as_unix_text, convert_file, looks_like_text
from guestagent.runcommand.sharedkey import signed_url


def test_a_script_is_fetched_with_its_signature_and_run(managed: Any, files: Any) -> None:
    files.files = {"/c/my script.py": b"#!/usr/bin/env python3\r\nprint('from afar')\r\n", "/c/my%20script.py": b""}
    files.files["/c/my%20script.py"] = files.files["/c/my script.py"]
    view = managed.run(
        {"source": {"scriptUri": f"{files.url}/c/my%20script.py"}}, {"sourceSASToken": "?sv=1&sig=secret"}
    )
    assert view["output"] == "from afar\n"
    assert files.asked[0][0] == "/c/my%20script.py?sv=1&sig=secret"
    assert (managed.place().work / "my script.py").exists()


def test_a_signature_in_the_address_itself_does_too(managed: Any, files: Any) -> None:
    files.files = {"/s.sh": b"echo here"}
    view = managed.run({"source": {"scriptUri": f"{files.url}/s.sh?sv=1&sig=a"}})
    assert view["output"] == "here\n"


def test_artifacts_lie_beside_the_script(managed: Any, files: Any, script: Any) -> None:
    files.files = {"/a.bin": b"\x00\r\n", "/b": b"b"}
    view = managed.run(
        script(
            "od -An -c data.bin; cat Artifact7",
            artifacts=[
                {"id": 1, "uri": f"{files.url}/a.bin", "fileName": "data.bin"},
                {"id": 7, "uri": f"{files.url}/b"},
            ],
        ),
        {"artifacts": [{"id": 7, "sasToken": "sig=seven"}, {"id": 1, "sasToken": "?sig=one"}]},
    )
    assert view["output"] == "  \\0  \\r  \\n\nb"
    assert sorted(path for path, _ in files.asked) == ["/a.bin?sig=one", "/b?sig=seven"]


@pytest.mark.parametrize(
    ("status", "headers", "reason"), [(404, {}, "404"), (403, {}, "403"), (302, {"Location": "/loop"}, "redirects")]
)
def test_a_script_that_does_not_come_is_minus_100(
    managed: Any, files: Any, status: int, headers: dict[str, str], reason: str
) -> None:
    files.answers = {"/s.sh": (status, headers), "/loop": (302, {"Location": "/loop"})}
    managed.enable({"source": {"scriptUri": f"{files.url}/s.sh"}}, {"sourceSASToken": "sv=1&sig=CANARY"})
    assert managed.ended()["status"] == "success"
    view = managed.view()
    assert (view["executionState"], view["exitCode"]) == ("Failed", -100)
    assert reason in view["executionMessage"]
    assert "CANARY" not in view["executionMessage"]
    assert not managed.record().started


def test_an_artifact_that_does_not_come_is_minus_215(managed: Any, files: Any, script: Any) -> None:
    view = managed.run(script("echo never", artifacts=[{"id": 1, "uri": f"{files.url}/gone"}]))
    assert view["exitCode"] == -215
    assert "artifact downloads failed" in view["executionMessage"]
    assert "never" not in view["output"]


def test_redirects_are_followed(managed: Any, files: Any) -> None:
    files.answers = {"/s.sh": (302, {"Location": "/elsewhere/t.sh"})}
    files.files = {"/elsewhere/t.sh": b"echo found"}
    view = managed.run({"source": {"scriptUri": f"{files.url}/s.sh"}})
    assert view["output"] == "found\n"
    assert (managed.place().work / "s.sh").exists()


def test_two_files_of_one_name_are_refused(managed: Any, files: Any) -> None:
    files.files = {"/one": b"echo 1"}
    view = managed.run(
        {
            "source": {"scriptUri": f"{files.url}/one"},
            "artifacts": [{"id": 1, "uri": f"{files.url}/one", "fileName": "one"}],
        }
    )
    assert view["exitCode"] == -215


def test_files_called_like_the_streams_do_not_disturb_them(managed: Any, files: Any, script: Any) -> None:
    files.files = {"/x": b"theirs"}
    artifacts = [{"id": number, "uri": f"{files.url}/x", "fileName": name} for number, name in enumerate(["stdout"])]
    view = managed.run(script("cat stdout; echo; echo ours", artifacts=artifacts))
    assert view["output"] == "theirs\nours\n"
    assert (managed.place().work / "stdout").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"#!/bin/sh\r\necho x\r\n", b"#!/bin/sh\necho x\n"),
        (codecs.BOM_UTF8 + b"#!/bin/sh\n", b"#!/bin/sh\n"),
        (codecs.BOM_UTF16_LE + "#!/bin/sh\r\nécho".encode("utf-16-le"), "#!/bin/sh\nécho".encode()),
        (codecs.BOM_UTF16_BE + "#!/bin/sh\n".encode("utf-16-be"), b"#!/bin/sh\n"),
        (b"lone \r stays\n", b"lone \r stays\n"),
        (codecs.BOM_UTF16_LE + b"\x00", codecs.BOM_UTF16_LE + b"\x00"),
    ],
)
def test_text_is_made_unix_text(data: bytes, wanted: bytes, tmp_path: Path) -> None:
    assert as_unix_text(data) == wanted
    file = tmp_path / "script.sh"
    file.write_bytes(data)
    file.chmod(0o500)
    convert_file(file)
    assert file.read_bytes() == wanted
    assert file.stat().st_mode & 0o777 == 0o500


@given(st.binary(max_size=200))
def test_any_bytes_survive_the_look_at_them(data: bytes) -> None:
    assert as_unix_text(data) is not None
    looks_like_text("x.bin", data[:64])


@pytest.mark.parametrize(
    ("name", "head", "wanted"),
    [
        ("a.SH", b"", True),
        ("a.py", b"\x00", True),
        ("run", b"#!/bin/sh\n", True),
        ("run", codecs.BOM_UTF8 + b"#!x ", True),
        ("run", b"\x7fELF", False),
        ("a.zip", b"PK", False),
    ],
)
def test_text_is_known_by_name_or_beginning(name: str, head: bytes, wanted: bool) -> None:
    assert looks_like_text(name, head) is wanted


def test_an_embedded_script_is_made_unix_text_too(managed: Any, script: Any) -> None:
    assert managed.run(script("\ufeff#!/bin/bash\r\necho fine\r\n"))["output"] == "fine\n"


def test_a_storage_key_signs_as_azure_does() -> None:
    """The string to sign of service version 2018-11-09, checked by an independent hand."""

    key = base64.b64encode(b"k" * 32).decode()
    now = datetime.datetime(2031, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    url = signed_url("https://acct.blob.core.windows.net/box/dir/a%20b.sh", "acct", key, lambda: now)
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["se"] == "2031-05-06T07:38:09Z"
    text = f"r\n\n{query['se']}\n/blob/acct/box/dir/a b.sh\n\n\n\n2018-11-09\nb\n\n\n\n\n\n"
    wanted = base64.b64encode(hmac.new(b"k" * 32, text.encode(), hashlib.sha256).digest()).decode()
    assert query["sig"] == wanted
    with pytest.raises(ValueError, match="base64"):
        signed_url("https://acct.blob.core.windows.net/box/a", "acct", "?", lambda: now)
