"""A second opinion on blobs: our clients against Azurite, which nobody here wrote. Installed from npm, on loopback."""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests

from guestagent.runcommand.blobs import AppendBlob
from guestagent.runcommand.order import BlobTarget
from wire.blob import upload_directly
from wire.errors import Refused
from wire.extensions import BlobType, StatusBlob
from wire.http import HttpClient

pytestmark = pytest.mark.timeout(600)

CACHE = Path(__file__).parent.parent.parent / ".cache" / "azurite"
PATIENCE = 60.0

# The one account every Azurite has (its documentation).
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Store:
    """A running Azurite and one container in it."""

    def __init__(self, base: str) -> None:
        self.base = f"{base}/{ACCOUNT}/test"

    def url(self, name: str = "", *, permissions: str = "rwdlac", **more: str) -> str:
        """Signed for the account (account SAS, version 2018-03-28)."""
        query = {"sv": "2018-03-28", "ss": "b", "srt": "sco", "sp": permissions, "se": "2099-01-01T00:00:00Z"}
        signed = [ACCOUNT, permissions, "b", "sco", "", query["se"], "", "", query["sv"], ""]
        digest = hmac.digest(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256)
        query["sig"] = base64.b64encode(digest).decode()
        return f"{self.base}{'/' + name if name else ''}?{urlencode({**query, **more})}"

    def content(self, name: str) -> requests.Response:
        answer = requests.get(self.url(name), timeout=30)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    program = CACHE / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(CACHE), "azurite@3"]
        subprocess.run(install, check=True, timeout=500)
    folder = tmp_path_factory.mktemp("azurite")
    words = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder), "--skipApiVersionCheck"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen([str(program), *words, "--disableTelemetry"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while not (found := re.search(r"listens? (?:at|on) (http://127[0-9.:]+)", (folder / "log").read_text())):
            assert child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
        store = Store(found[1])
        assert requests.put(store.url(restype="container"), timeout=30).status_code == 201
        yield store
    finally:
        child.terminate()
        child.wait(timeout=30)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient("test")
    yield client
    client.close()


@pytest.mark.parametrize("kind", ["BlockBlob", "PageBlob"])
@pytest.mark.parametrize("size", [1, 511, 512, 5000, 5 * 1024 * 1024])
def test_a_status_blob_of_either_kind_arrives(store: Store, client: HttpClient, kind: BlobType, size: int) -> None:
    name = f"vm.{kind}.{size}.status"
    content = json.dumps({"text": "x" * size}).encode()
    for _ in range(2):
        upload_directly(client, StatusBlob(url=store.url(name), kind=kind), content, seconds=60)
    answer = store.content(name)
    assert answer.headers["x-ms-blob-type"] == kind
    # A page blob is whole pages: the rest is NULs, which every reader of a status strips.
    assert answer.content.rstrip(b"\0") == content
    assert len(answer.content) == (len(content) if kind == "BlockBlob" else len(content) + -len(content) % 512)


def test_a_signature_that_may_not_write_is_refused(store: Store, client: HttpClient) -> None:
    blob = StatusBlob(url=store.url("no.status", permissions="r"))
    with pytest.raises(Refused) as caught:
        upload_directly(client, blob, b"{}")
    assert caught.value.status == 403
    assert "sig=" not in str(caught.value)


def test_an_output_blob_follows_its_file(store: Store, client: HttpClient, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"first\n")
    target = BlobTarget(url=store.url("run-output"), signed=True)
    blob = AppendBlob(client, "http://127.0.0.1:9", target, source)
    blob.create()
    assert blob.append(30), blob.problem
    with source.open("ab") as file:
        file.write(b"second \xff\0\n" + b"long " * 1_000_000)
    assert blob.append(60), blob.problem
    answer = store.content("run-output")
    assert answer.headers["x-ms-blob-type"] == "AppendBlob"
    assert answer.content == source.read_bytes()
    assert blob.stored == len(answer.content)
