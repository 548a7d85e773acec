"""The command's side of the control API."""

from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import requests

from fabric.errors import FabricError, NoHost

_SECONDS = 60.0


class Client:
    """Talks to the host that serves a root."""

    def __init__(self, root: Path) -> None:
        """Raises NoHost, with the command that starts one."""
        self._start = f"azfabric serve --root {root}"
        try:
            endpoints = msgspec.json.decode((root / "fabric" / "endpoints.json").read_bytes(), type=dict[str, Any])
            self._base = str(endpoints["portal"])
        except (OSError, msgspec.DecodeError, KeyError) as error:
            raise NoHost(f"no host serves {root}. Start one with: {self._start} (or agentctl up)") from error

    def get(self, path: str) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("POST", path, data=msgspec.json.encode(body), headers={"Content-Type": "application/json"})

    def put(self, path: str, body: bytes | BinaryIO, query: dict[str, str]) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("PUT", path, data=body, params=query)

    def delete(self, path: str, query: dict[str, str] | None = None) -> Any:
        """Raises FabricError, NoHost."""
        return self._call("DELETE", path, params=query or {})

    def _call(self, method: str, path: str, **what: Any) -> Any:
        try:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.request(method, self._base + path, timeout=_SECONDS, **what)
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
