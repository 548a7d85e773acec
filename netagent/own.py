"""Our own DHCP clients: one for each NIC that nobody else configures."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ipc.contract.netagent import Link
from netagent.dhcp.client import DhcpClient, DhcpSettings
from netagent.dhcp.errors import DhcpError
from netagent.dhcp.lease import Lease
from netagent.netlink import NetlinkError

_AGAIN = 30.0

logger = logging.getLogger("netagent")


class Clients:
    """Owns them. Used from one event loop."""

    def __init__(
        self,
        kept: Path,
        settings: Callable[[], DhcpSettings],
        *,
        accepts: Callable[[Lease], bool],
        configure: Callable[[str, Lease], None],
        changed: Callable[[str, Lease | None, str], None],
    ) -> None:
        """`kept` is the folder of lease files. `configure` gives the address at once; `changed` is told of each change:
        link, lease or None, and why."""
        self._kept = kept
        self._settings = settings
        self._accepts = accepts
        self._configure = configure
        self._changed = changed
        self._clients: dict[str, DhcpClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._carriers: dict[str, bool] = {}
        self.leases: dict[str, Lease] = {}
        """In force, by link."""
        self.problems: dict[str, str] = {}
        self._decided: set[str] = set()

    @property
    def undecided(self) -> frozenset[str]:
        """Links that have neither got a lease nor lost one in this life."""
        return frozenset(self._tasks.keys() - self._decided)

    def serve(self, nics: list[Link]) -> None:
        """Have a client for each of these, and no other. One that has gone leaves its lease to the next boot."""
        wanted = {one.name: one for one in nics}
        for name in [one for one in self._tasks if one not in wanted]:
            self._tasks.pop(name).cancel()
            self._decided.discard(name)
            self._clients.pop(name, None)
            self.leases.pop(name, None)
            self.problems.pop(name, None)
        for name, nic in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.get_running_loop().create_task(self._serve(name))
            elif nic.carrier and self._carriers.get(name) is False and name in self._clients:
                self._clients[name].link_changed()
            self._carriers[name] = nic.carrier

    def resumed(self) -> None:
        """The machine slept: leases may have passed, or the network may be another."""
        for client in self._clients.values():
            client.link_changed()

    def publish(self, host_name: str) -> None:
        """Tell the servers another host name (option 12), without anything else."""
        for name, client in self._clients.items():
            try:
                client.renew(host_name)
            except DhcpError as error:
                self.problems[name] = f"host name {host_name!r} cannot be told: {error}"

    def state(self, link: str) -> str:
        """RFC 2131's name of it; empty without a client."""
        client = self._clients.get(link)
        return client.state if client is not None else ""

    async def release(self) -> None:
        """Give all leases back."""
        for name, client in list(self._clients.items()):
            if not self._tasks[name].done():
                await client.release()
        self.serve([])

    async def _serve(self, name: str) -> None:
        while True:
            try:
                client = self._clients[name] = DhcpClient(
                    name,
                    kept=self._kept / f"lease-{name}.json",
                    settings=self._settings(),
                    on_lease=lambda lease: self._leased(name, lease),
                    on_lost=lambda why: self._lost(name, why),
                )
                await client.run()
            except (DhcpError, OSError) as error:
                if self.problems.get(name) != str(error):
                    logger.warning("DHCP on %s: %s", name, error)
                self.problems[name] = f"DHCP on {name}: {error}"
            await asyncio.sleep(_AGAIN)

    def _leased(self, name: str, lease: Lease) -> None:
        self._decided.add(name)
        if not self._accepts(lease):
            self.problems[name] = f"DHCP on {name}: {lease.server} gives no WireServer (option 245): this is not Azure"
            return
        self.problems.pop(name, None)
        before = self.leases.get(name)
        self.leases[name] = lease
        try:
            self._configure(name, lease)
        except (NetlinkError, OSError) as error:
            self.problems[name] = f"{lease.address}/{lease.prefix} cannot be given to {name}: {error}"
            logger.warning("%s", self.problems[name])
        if before is None or before.address != lease.address:
            self._changed(name, lease, f"lease of {lease.server}")

    def _lost(self, name: str, why: str) -> None:
        self._decided.add(name)
        if self.leases.pop(name, None) is not None:
            self._changed(name, None, why)


def seconds_left(lease: Lease) -> int | None:
    """Of its time, now; None: for ever."""
    if lease.seconds is None:
        return None
    return max(0, round(lease.started + lease.seconds - time.clock_gettime(time.CLOCK_BOOTTIME)))
