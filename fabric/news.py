"""What the other workers of a fleet changed: PostgreSQL's notifications, turned into ours."""

import asyncio
import logging

import sqlalchemy

from fabric.errors import FabricError
from fabric.host import Host
from fabric.store import CHANNEL

_PAUSE = 1.0
"""Seconds between two tries to reach the database."""

logger = logging.getLogger("fabric")


async def hear(host: Host, url: str) -> None:
    """For ever. Whatever may have been missed while the connection was away is read anew."""
    import psycopg  # only a fleet has it

    address = sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
            async with connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                _forget_all(host)
                async for one in connection.notifies():
                    _heard(host, one.payload)
        except (psycopg.Error, FabricError) as error:
            logger.warning("news of other workers are late: %s", str(error).strip())
            await asyncio.sleep(_PAUSE)


def _heard(host: Host, payload: str) -> None:
    worker, _, what = payload.partition(" ")
    if worker == host.store.worker:
        return
    kind, _, name = what.partition(" ")
    if kind == "faults":
        host.faults.forget()
    elif kind == "vm":
        host.changed_elsewhere(name)


def _forget_all(host: Host) -> None:
    host.faults.forget()
    host.changed_elsewhere("")
