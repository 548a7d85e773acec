"""Having a recording again: a fresh host that begins as the recorded one did, asked the same, in the same order."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from fabric import again, inforce
from fabric.errors import FabricError
from fabric.host import FIRST_TENANT
from fabric.places import Addresses
from fabric.recording import Asked, Came, Ordered, read
from fabric.store import Store

_SECONDS = 30.0
_DIFFERENCES = 50
_PAGE = 5000
"""Requests whose lines are asked for at once: a host forgets the oldest of many."""


class Difference(msgspec.Struct, kw_only=True):
    """A request that was answered otherwise."""

    number: int
    """Of the request, from 1."""
    vm: str
    endpoint: str
    method: str
    target: str
    recorded: str
    replayed: str


class Replayed(msgspec.Struct, kw_only=True):
    """What came of it."""

    requests: int = 0
    orders: int = 0
    passed_over: int = 0
    """Requests that were too long to be recorded, or answered after their VM was removed."""
    differences: list[Difference] = []
    """The first of them."""


def restore(path: Path, store: Store, blobs: Path) -> None:
    """Into an empty store. Raises FabricError."""
    beginning, _ = read(path)
    if store.vms():
        raise FabricError("a recording is restored into an empty root only")
    store.keep("signing_secret", beginning.secret)
    store.keep_removed(beginning.removed)
    inforce.keep(store, beginning.faults)
    for state in beginning.vms:
        if state.doors or state.tenant != FIRST_TENANT or not (state.address or "127.").startswith("127."):
            # Wherever it was asked from: here it has ports of its own.
            state.doors = dict.fromkeys(msgspec.structs.asdict(beginning.places[state.identity.vm]), "")
            state.tenant, state.address = FIRST_TENANT, ""
        store.add(state)
    for name, content in beginning.blobs.items():
        file = blobs / name.lstrip("/")
        if file.parent.parent != blobs:
            raise FabricError(f"{path}: {name[:100]!r} is no blob path")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def replay(path: Path, root: Path, progress: Callable[[int, int], None], page: int = _PAGE) -> Replayed:
    """Raises FabricError. `root` is a fresh folder; `progress` hears how many lines of how many are done."""
    beginning, entries = read(path)
    for one in entries:
        if isinstance(one, Ordered) and one.cut:
            raise FabricError(
                f"{path} cannot be had again: it has {one.method} {one.target.partition('?')[0]} without its body, "
                "which was too long. Publish such packages before the recording begins"
            )
    with _host(path, root) as portal:
        player = _Player(portal, beginning.places)
        result = Replayed()
        asked: list[tuple[Asked, int]] = []
        for number, entry in enumerate(entries, 1):
            if isinstance(entry, Ordered):
                player.order(entry)
                result.orders += 1
            elif isinstance(entry, Came):
                player.came(entry)
            elif entry.cut or entry.vm in player.removed:
                player.passed(entry)
                result.passed_over += 1
            else:
                asked.append((entry, player.ask(entry)))
            if len(asked) >= page or number == len(entries):
                _compare(asked, player.transcript(len(asked)), result)
                asked.clear()
            progress(number, len(entries))
    return result


def _compare(asked: list[tuple[Asked, int]], lines: list[dict[str, Any]], result: Replayed) -> None:
    """The next requests with their lines of the transcript. Raises FabricError."""
    if len(asked) != len(lines):
        raise FabricError(f"the host has {len(lines)} lines of {len(asked)} requests")
    for (entry, status), line in zip(asked, lines, strict=True):
        result.requests += 1
        recorded, replayed = _outcome(entry.status, entry.fault), _outcome(status, line.get("fault", ""))
        if recorded != replayed and len(result.differences) < _DIFFERENCES:
            result.differences.append(
                Difference(
                    number=result.requests,
                    vm=entry.vm,
                    endpoint=entry.endpoint,
                    method=entry.method,
                    target=entry.target.partition("?")[0],
                    recorded=recorded,
                    replayed=replayed,
                )
            )


class _Player:
    """Sends what was recorded, to where it is to go now."""

    def __init__(self, portal: str, recorded: dict[str, Addresses]) -> None:
        self._portal = portal
        self._recorded = recorded
        self._places: dict[str, dict[str, Any]] = {}
        self.removed: set[str] = set()
        """VMs that are there no more; who waited for an answer got it afterwards."""
        self._look()

    def order(self, entry: Ordered) -> None:
        """Raises FabricError: it was taken then and is not now."""
        headers = {again.AT: repr(entry.at), "Content-Type": entry.content_type}
        status, answer = _send(self._portal, entry.method, entry.target, headers, entry.body, "")
        if status != 200:
            raise FabricError(f"{entry.method} {entry.target}: HTTP {status}: {answer.decode(errors='replace')[:300]}")
        path = entry.target.partition("?")[0]
        if path == "/api/vms" and entry.method == "POST":
            added = msgspec.json.decode(entry.answer)
            name = added.pop("name")
            self._recorded[name] = msgspec.convert(added, Addresses)
            self.removed.discard(name)
            self._look()
        elif path.startswith("/api/vms/") and entry.method == "DELETE":
            self.removed.add(unquote(path.removeprefix("/api/vms/")))

    def came(self, entry: Came) -> None:
        """Raises FabricError."""
        self._part(entry, entry.at, {again.CAME: f"{entry.number} {entry.endpoint}"})

    def passed(self, entry: Asked) -> None:
        """It is counted as it was, without being asked. Raises FabricError."""
        which = f"{entry.number} {entry.endpoint}"
        if _is_whole(entry):
            self._part(entry, entry.came or entry.at, {again.CAME: which})
        self._part(entry, entry.at, {again.PASSED: which})

    def ask(self, entry: Asked) -> int:
        """The status; 0 for a connection closed without an answer. Raises FabricError."""
        place = self._place(entry.vm)
        before = msgspec.structs.asdict(self._recorded[entry.vm])
        now = place["places"]

        def moved(text: str) -> str:
            for name, url in before.items():
                text = text.replace(url, now[name])
            return text

        # Nobody is kept waiting: what they waited for has come before, in the order of the answers.
        headers = {name: moved(value) for name, value in entry.headers if name != "prefer"}
        if _is_whole(entry):
            headers |= {again.AT: repr(entry.came or entry.at), again.ANSWERED: repr(entry.at)}
        else:
            headers |= {again.AT: repr(entry.at), again.NUMBER: str(entry.number)}
        body = moved(entry.body.decode("latin-1")).encode("latin-1")
        status, _ = _send(now[entry.server], entry.method, entry.target, headers, body, place["address"])
        return status

    def transcript(self, count: int) -> list[dict[str, Any]]:
        if count == 0:
            return []
        _, answer = _send(self._portal, "GET", f"/api/transcript?limit={count}", {}, b"", "")
        lines: list[dict[str, Any]] = msgspec.json.decode(answer)
        return lines

    def _part(self, entry: Came | Asked, at: float, headers: dict[str, str]) -> None:
        if entry.vm in self.removed:
            return
        place = self._place(entry.vm)
        base, source = place["places"][entry.server], place["address"]
        status, answer = _send(base, "GET", "/", {**headers, again.AT: repr(at)}, b"", source)
        if status != 204:
            raise FabricError(f"the host does not take part of a request: HTTP {status}: {answer[:300]!r}")

    def _place(self, vm: str) -> dict[str, Any]:
        place = self._places.get(vm)
        if place is None or vm not in self._recorded:
            raise FabricError(f"the recording says nothing of where VM {vm} was")
        return place

    def _look(self) -> None:
        _, answer = _send(self._portal, "GET", "/api/vms", {}, b"", "")
        self._places = {one["name"]: one for one in msgspec.json.decode(answer)}


@contextmanager
def _host(recording: Path, root: Path) -> Iterator[str]:
    """The portal's URL of a host that begins as the recorded one did."""
    command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(root), "--restore", str(recording)]
    root.mkdir(parents=True, exist_ok=True)
    with (root / "serve.log").open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        endpoints, until = root / "fabric" / "endpoints.json", time.monotonic() + _SECONDS
        while not endpoints.exists():
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.05)
                raise FabricError((root / "serve.log").read_text(errors="replace").strip())
            if time.monotonic() > until:
                raise FabricError(f"the host did not start within {_SECONDS:g} s")
        yield str(json.loads(endpoints.read_text())["portal"])
    finally:
        child.terminate()
        child.wait()


def _send(base: str, method: str, target: str, headers: dict[str, str], body: bytes, source: str) -> tuple[int, bytes]:
    address = urlsplit(base)
    own = (source, 0) if source else None
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_SECONDS, source_address=own)
    try:
        connection.request(method, target, body or None, {**headers, "Connection": "close"})
        answer = connection.getresponse()
        content = b""
        with suppress(http.client.IncompleteRead, ConnectionError):
            content = answer.read()
    except (http.client.RemoteDisconnected, ConnectionError):
        return 0, b""
    except (OSError, http.client.HTTPException) as error:
        raise FabricError(f"{method} {target[:100]}: {error}") from error
    else:
        return answer.status, content
    finally:
        connection.close()


def _is_whole(entry: Asked) -> bool:
    """Whether nothing else happened between its coming and its answer."""
    return entry.number == 0 or entry.came > 0


def _outcome(status: int, fault: str) -> str:
    return f"{status or 'closed'}{f', {fault}' if fault else ''}"
