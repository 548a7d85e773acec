"""`azfabric serve`: every port of the host on one event loop."""

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from fabric.api import make_api
from fabric.doors import Doors, Listen
from fabric.errors import FabricError
from fabric.files import forget_unfinished, write_whole
from fabric.host import Host
from fabric.news import hear
from fabric.places import Endpoints
from fabric.recording import Recorder
from fabric.replay import restore
from fabric.repository import Repository
from fabric.store import Store, database_url


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What only some hosts have."""

    database: str = ""
    """A URL; empty: SQLite in the root."""
    blobs: Path | None = None
    record: Path | None = None
    """Write a recording there."""
    restore: Path | None = None
    """Begin as this recording does, and replay it."""


def serve(root: Path, listen: Listen, extras: Extras) -> None:
    """Serve until SIGTERM or SIGINT. Raises FabricError."""
    folder = root / "fabric"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FabricError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise FabricError(f"a host already serves {root}; choose another --root") from error
    forget_unfinished(folder)
    # Each VM keeps connections open, and so may whoever means no good.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(folder, listen, extras))
    finally:
        os.close(lock)


async def _serve(folder: Path, listen: Listen, extras: Extras) -> None:
    database, blobs = database_url(folder, extras.database), extras.blobs or folder / "blobs"
    store = Store(database)
    if extras.restore is not None:
        restore(extras.restore, store, blobs)
    doors = Doors(listen, shared=store.shared)
    file = folder / "endpoints.json"
    with contextlib.closing(doors):
        # A VM that runs goes on at the same addresses as if nothing had been.
        earlier = msgspec.json.decode(store.value("addresses", lambda: "{}"), type=dict[str, str])
        found = doors.bind_all(earlier)
        endpoints = Endpoints(pid=os.getpid(), **found, repository=f"{found['blob']}/repository")
        # Where all workers have their files, if there may be several.
        repository = Repository((blobs if store.shared else folder) / "repository")
        host = Host(blobs, repository, store, endpoints, replaying=extras.restore is not None)
        doors.open_all(host, make_api(host, doors))
        if extras.record is not None:
            host.recorder = Recorder(extras.record, host)
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ending.set)
        news = loop.create_task(hear(host, database)) if store.shared else None
        try:
            # The sockets listen already: whoever reads this file is answered.
            write_whole(file, msgspec.json.format(msgspec.json.encode(endpoints)) + b"\n")
            if sys.stdout.isatty():
                print(f"Portal {endpoints.portal}   Ctrl-C ends it.", flush=True)  # noqa: T201  # for whoever sits there
            await ending.wait()
            await host.close()
            await doors.close_all()
        finally:
            if news is not None:
                news.cancel()
            file.unlink(missing_ok=True)
            await host.end()
