"""The NIC's manager is asked to bring back what is its own: only it knows the lease."""

import asyncio
import contextlib
import logging
import os

from netagent.managers import NETWORK_MANAGER, NETWORKD

_PATIENCE = 30.0
_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 3600.0

logger = logging.getLogger("netagent")


def words(manager: str, link: str, *, address_lost: bool) -> list[str]:
    """The command that asks; empty if there is none that leaves everything else alone.

    networkd asks its DHCP server again. NetworkManager has no such command: the connection is made anew, which is done
    only when there is no address left to lose. A bare client (dhclient) cannot be asked at all.
    """
    if manager == NETWORKD:
        return ["networkctl", "renew", link]
    if manager == NETWORK_MANAGER and address_lost:
        return ["nmcli", "--wait", "20", "device", "connect", link]
    return []


class Asking:
    """Each NIC's manager is asked seldom, and more seldom while it does not help. `now` never goes back."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, manager: str, link: str, now: float, *, address_lost: bool) -> str:
        """Begin to; the command as it was given, empty if nobody is asked now."""
        command = words(manager, link, address_lost=address_lost)
        if not command or now < self._next.get(link, 0.0):
            return ""
        pause = self._pauses.get(link, _FIRST_PAUSE)
        self._next[link], self._pauses[link] = now + pause, min(pause * 2, _LONGEST_PAUSE)
        task = asyncio.get_running_loop().create_task(_run(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return " ".join(command)

    def well(self, link: str) -> None:
        """All is as it should be: the next time it is asked at once."""
        self._pauses.pop(link, None)


async def _run(command: list[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        logger.warning("%s cannot be run: %s", command[0], error.strerror)
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            _, said = await process.communicate()
    except (TimeoutError, asyncio.CancelledError) as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        logger.warning("%s took more than %g s", " ".join(command), _PATIENCE)
        return
    if process.returncode:
        logger.warning("%s: %s", " ".join(command), said.decode(errors="replace").strip()[:300])
