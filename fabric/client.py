"""The command's side of the control API."""

import functools
import shlex
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import requests

from fabric.errors import FabricError, NoHost

_SECONDS = 60.0
_JSON = {"Content-Type": "application/json"}


class Client:
    """Talks to the host that serves a root."""

    def __init__(self, root: Path, vm: str = "") -> None:
        """`vm`: whom orders are about; empty: the only one. Raises NoHost where we may not look."""
        self.vm = vm
        self._root = root
        self._start = f"azfabric serve --root {shlex.quote(str(root))}, or with its agent: agentctl up"
        try:
            kept = (root / "keeper.log").exists()
        except OSError as error:
            raise NoHost(f"{root} cannot be looked at: {error.strerror}. Run it as its owner") from error
        if kept:
            # A lab's host is there for namespaces that only its keeper knows.
            above = shlex.quote(str(root.absolute().parent.parent))
            self._start = f"azfabric lab restart --root {above} --name {root.name}"

    @functools.cached_property
    def _base(self) -> str:
        """Raises NoHost, with the command that starts one."""
        try:
            file = self._root / "fabric" / "endpoints.json"
            return str(msgspec.json.decode(file.read_bytes(), type=dict[str, Any])["portal"])
        except PermissionError as error:
            raise NoHost(f"{file} cannot be read: {error.strerror}. Run it as its owner") from error
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise NoHost(f"no host serves {self._root}. Start one with: {self._start}") from error

    def get(self, path: str) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("POST", path, data=msgspec.json.encode(body), headers=_JSON)

    def replace(self, path: str, body: Any) -> Any:
        """PUT a JSON document. Raises FabricError, NoHost."""
        return self._call("PUT", path, data=msgspec.json.encode(body), headers=_JSON)

    def put(self, path: str, body: bytes | BinaryIO, query: dict[str, str]) -> Any:
        """Bytes. Raises FabricError, NoHost."""
        return self._call("PUT", path, data=body, params=query)

    def delete(self, path: str, query: dict[str, str] | None = None) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("DELETE", path, params=query or {})

    def _call(self, method: str, path: str, **what: Any) -> Any:
        url = self._base + path
        try:
            with requests.Session() as session:
                session.trust_env = False
                what["params"] = {**what.get("params", {}), **({"vm": self.vm} if self.vm else {})}
                answer = session.request(method, url, timeout=_SECONDS, **what)
        except requests.RequestException as error:
            raise NoHost(f"the host at {self._base} does not answer. Start it with: {self._start}") from error
        try:
            document = msgspec.json.decode(answer.content)
        except msgspec.DecodeError as error:
            raise FabricError(f"{method} {path}: HTTP {answer.status_code}, and no JSON") from error
        if answer.status_code != 200:
            reason = document.get("reason") or document.get("detail") if isinstance(document, dict) else document
            raise FabricError(str(reason))
        return document
