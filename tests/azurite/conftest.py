"""Azurite from npm, on loopback."""

import base64
import hashlib
import hmac
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import requests

CACHE = Path(__file__).parent.parent.parent / ".cache" / "azurite"
PATIENCE = 60.0

# The one account every Azurite has (its documentation).
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite:
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


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
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
        store = Azurite(found[1])
        assert requests.put(store.url(restype="container"), timeout=30).status_code == 201
        yield store
    finally:
        child.terminate()
        child.wait(timeout=30)
