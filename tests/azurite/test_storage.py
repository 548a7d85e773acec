"""A second opinion on blobs: our clients against Azurite, which nobody here wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestagent.runcommand.blobs import AppendBlob
from guestagent.runcommand.order import BlobTarget
from tests.azurite.conftest import Azurite
from wire.blob import upload_directly
from wire.errors import Refused
from wire.extensions import BlobType, StatusBlob
from wire.http import HttpClient

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient("test")
    yield client
    client.close()


@pytest.mark.parametrize("kind", ["BlockBlob", "PageBlob"])
@pytest.mark.parametrize("size", [1, 511, 512, 5000, 5 * 1024 * 1024])
def test_a_status_blob_of_either_kind_arrives(azurite: Azurite, client: HttpClient, kind: BlobType, size: int) -> None:
    name = f"vm.{kind}.{size}.status"
    content = json.dumps({"text": "x" * size}).encode()
    for _ in range(2):
        upload_directly(client, StatusBlob(url=azurite.url(name), kind=kind), content, seconds=60)
    answer = azurite.content(name)
    assert answer.headers["x-ms-blob-type"] == kind
    # A page blob is whole pages: the rest is NULs, which every reader of a status strips.
    assert answer.content.rstrip(b"\0") == content
    assert len(answer.content) == (len(content) if kind == "BlockBlob" else len(content) + -len(content) % 512)


def test_a_signature_that_may_not_write_is_refused(azurite: Azurite, client: HttpClient) -> None:
    blob = StatusBlob(url=azurite.url("no.status", permissions="r"))
    with pytest.raises(Refused) as caught:
        upload_directly(client, blob, b"{}")
    assert caught.value.status == 403
    assert "sig=" not in str(caught.value)


def test_an_output_blob_follows_its_file(azurite: Azurite, client: HttpClient, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"first\n")
    target = BlobTarget(url=azurite.url("run-output"), signed=True)
    blob = AppendBlob(client, "http://127.0.0.1:9", target, source)
    blob.create()
    assert blob.append(30), blob.problem
    with source.open("ab") as file:
        file.write(b"second \xff\0\n" + b"long " * 1_000_000)
    assert blob.append(60), blob.problem
    answer = azurite.content("run-output")
    assert answer.headers["x-ms-blob-type"] == "AppendBlob"
    assert answer.content == source.read_bytes()
    assert blob.stored == len(answer.content)
