"""A server that says what it is told to say, and a component repository with every key in the test's hand."""

import contextlib
import datetime
import hashlib
import io
import socket
import threading
import zipfile
from collections.abc import Callable
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

Script = Callable[[socket.socket], None]
PATIENCE = 30.0
DAY = datetime.timedelta(days=1)
DIGEST = "ab" * 32


def soon(time: datetime.timedelta = 30 * DAY) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + time


def zipped(content: bytes = b"anything") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("whatever", (2026, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


class LyingServer:
    """Serves `files` by path; where a key of `lies` is part of the path, that script has the connection instead."""

    def __init__(self, port: int = 0) -> None:
        """`port`: of loopback; 0: any that is free."""
        self.files: dict[str, bytes] = {}
        self.lies: dict[str, Script] = {}
        self.asked: list[str] = []
        self.ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.ending.set()
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._converse, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                if not (part := connection.recv(65536)):
                    return
                request += part
            path = request.split(b" ", 2)[1].decode()
            self.asked.append(path)
            script = next((lie for word, lie in self.lies.items() if word in path), None)
            found = self.files.get(path.partition("?")[0])
            (script or (reply(found) if found is not None else reply(b"no", "404 Not Found")))(connection)


def reply(body: bytes = b"", status: str = "200 OK", headers: str = "", announced: int | None = None) -> Script:
    """A whole answer; `announced` is a Content-Length that may lie."""

    def script(connection: socket.socket) -> None:
        length = len(body) if announced is None else announced
        head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return script


def silent(server: LyingServer) -> Script:
    """Accepts, and never answers."""

    def script(_: socket.socket) -> None:
        server.ending.wait(PATIENCE)

    return script


def drip(server: LyingServer, body: bytes) -> Script:
    """A byte, and then another, for ever in no hurry."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for one in body:
            connection.sendall(bytes([one]))
            if server.ending.wait(0.2):
                return

    return script


def endless(server: LyingServer, beginning: bytes = b"") -> Script:
    """A body without an end, in chunks."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = beginning or b"{" * 65536
        while not server.ending.is_set():
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            piece = b"{" * 65536

    return script


class SignedRepository:
    """Every role signs what it is told to, so that a test can play the thief of any key."""

    ROLES = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp", "telemetry")

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.keys = {name: CryptoSigner.generate_ed25519() for name in self.ROLES}
        self.root = Root(expires=soon(), consistent_snapshot=True)
        for name in ("root-1", "root-2", "root-3"):
            self.root.add_key(self.keys[name].public_key, "root")
        self.root.roles["root"].threshold = 2
        for name in ("targets", "snapshot", "timestamp"):
            self.root.add_key(self.keys[name].public_key, name)
        key = self.keys["telemetry"].public_key
        role = DelegatedRole("telemetry", [key.keyid], 1, False, ["packages/telemetry/*", "layers/*"])
        self.targets = Targets(expires=soon(), delegations=Delegations({key.keyid: key}, {"telemetry": role}))
        self.telemetry = Targets(expires=soon())
        self.snapshot = Snapshot(expires=soon(), meta={"targets.json": MetaFile(1), "telemetry.json": MetaFile(1)})
        self.timestamp = Timestamp(expires=soon(DAY))
        self.trust = self.write("1.root.json", self.root, "root-1", "root-2")
        self.write("1.targets.json", self.targets, "targets")
        self.write("1.telemetry.json", self.telemetry, "telemetry")
        self.write("1.snapshot.json", self.snapshot, "snapshot")
        self.write("timestamp.json", self.timestamp, "timestamp")

    def write(self, name: str, payload: Any, *signers: str) -> bytes:
        metadata: Metadata[Any] = Metadata(payload)
        for signer in signers:
            metadata.sign(self.keys[signer], append=True)
        self.files[f"/metadata/{name}"] = metadata.to_bytes()
        return self.files[f"/metadata/{name}"]

    def put(self, path: str, content: bytes, custom: dict[str, Any] | None = None) -> None:
        """A target of telemetry's role."""
        target = TargetFile.from_data(path, content, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = custom
        self.telemetry.targets[path] = target
        folder, _, name = path.rpartition("/")
        self.files[f"/targets/{folder}/{hashlib.sha256(content).hexdigest()}.{name}"] = content

    def publish(self, version: str, content: bytes | None = None, **more: Any) -> bytes:
        """A package of telemetry; what it holds."""
        content = zipped(version.encode()) if content is None else content
        custom = {"component": "telemetry", "version": version, "channel": "stable", "ring": 1, "digest": DIGEST}
        self.put(f"packages/telemetry/telemetry-{version}.zip", content, {**custom, "layers": [], **more})
        self.save()
        return content

    def save(self) -> None:
        """The next version of everything below root but targets."""
        self.telemetry.version += 1
        self.write(f"{self.telemetry.version}.telemetry.json", self.telemetry, "telemetry")
        self.snapshot.meta["telemetry.json"] = MetaFile(self.telemetry.version)
        self.save_snapshot()

    def save_snapshot(self) -> None:
        self.snapshot.version += 1
        self.write(f"{self.snapshot.version}.snapshot.json", self.snapshot, "snapshot")
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.save_timestamp()

    def save_timestamp(self) -> None:
        self.timestamp.version += 1
        self.write("timestamp.json", self.timestamp, "timestamp")

    def rotate(self, *roles: str, signers: tuple[str, ...] = ("root-1", "root-2")) -> None:
        """New keys of these roles, by a next version of root."""
        for role in roles:
            (old,) = self.root.roles[role].keyids
            self.root.revoke_key(old, role)
            self.keys[role] = CryptoSigner.generate_ed25519()
            self.root.add_key(self.keys[role].public_key, role)
        self.root.version += 1
        self.write(f"{self.root.version}.root.json", self.root, *signers)
