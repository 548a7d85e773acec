"""How many VMs one host carries: heartbeats, goal states, vmSettings and status of simulated VMs over real HTTP.

python -m bench.fleet [--seconds 15]

Every row is the load of a thousand VMs at the reference agent's rhythm, by fewer VMs that hurry in the other rows. So a
row says what more VMs cost, not what more requests cost. PostgreSQL's rows need its Debian package.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pwd
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import procfs
from fabric import tenant
from fabric.state import EPOCH_TICKS, GoalStateVersion, Identity, VmState
from fabric.store import Store, database_url

AT_RHYTHM = 1000
"""VMs whose load every row has."""
PERIOD = 6.0
"""Seconds between two goal states and two vmSettings of a VM; a heartbeat and a status every fifth time."""
REQUESTS_PER_VM = (2 + 2 / 5) / PERIOD
COUNTS = (10, 100, 1000)
_PATIENCE = 60.0
_SERVERS = ("wireserver", "hostgaplugin", "imds", "blob")


# -- the host ----------------------------------------------------------------------------------------------------------


def fill(database: str, count: int) -> list[dict[str, str]]:
    """VMs, each known by its own loopback address. They share one key: making a thousand takes longer than the rest."""
    key, certificate = tenant.make_tenant_certificate("azvmagent tenant")
    store, found = Store(database), []
    for number in range(count):
        name = f"vm{number}"
        identity = Identity(
            vm=name,
            container_id=f"container-{number}",
            deployment_id=f"deployment-{number}",
            tenant_key_pem=key,
            tenant_certificate_pem=certificate,
        )
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        first = GoalStateVersion(number=1, ticks=EPOCH_TICKS + 1)
        store.add(VmState(identity=identity, address=address, fabric=first))
        found.append(
            {
                "name": name,
                "address": address,
                "container": identity.container_id,
                "instance": identity.instance_id,
                "config": identity.config_name,
            }
        )
    store.close()
    return found


@contextlib.contextmanager
def worker(root: Path, *options: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """One host process: its pid and where it listens."""
    root.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(root), *options]
    with (root / "serve.log").open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    file = root / "fabric" / "endpoints.json"
    try:
        end = time.monotonic() + _PATIENCE
        while not file.exists():
            assert child.poll() is None, (root / "serve.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield child.pid, json.loads(file.read_text())
    finally:
        child.terminate()
        child.wait(_PATIENCE)


@contextlib.contextmanager
def hosts(root: Path, database: str, workers: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """`workers` processes at the same addresses."""
    shared = ["--database", database, "--blobs", str(root / "blobs")] if database else []
    with contextlib.ExitStack() as stack:
        first, endpoints = stack.enter_context(worker(root / "first", *shared))
        ports = [f"--{one}-port={endpoints[one].rpartition(':')[2]}" for one in _SERVERS]
        more = [stack.enter_context(worker(root / f"more{n}", *shared, *ports))[0] for n in range(1, workers)]
        yield [first, *more], endpoints


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A URL; the server listens at a socket in that folder only. It declines to be root."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    owner = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
    folder.mkdir(mode=0o755)
    if owner:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = str(folder / "data")
    making = [*owner, str(programs / "initdb"), "-D", data, "-U", "azfabric", "--auth=trust", "-E", "UTF8"]
    subprocess.run(making, check=True, capture_output=True, cwd="/")
    serving = [*owner, str(programs / "postgres"), "-D", data, "-k", str(folder), "-c", "listen_addresses="]
    child = subprocess.Popen(serving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    try:
        end = time.monotonic() + _PATIENCE
        while subprocess.run([programs / "pg_isready", "-h", folder], check=False, capture_output=True).returncode:
            assert time.monotonic() < end
            time.sleep(0.1)
        yield f"postgresql://azfabric@/postgres?host={folder}"
    finally:
        child.terminate()
        child.wait(_PATIENCE)


# -- the VMs: a process of their own -----------------------------------------------------------------------------------


class Machine:
    """One VM: as the reference agent does, it opens a connection for each request."""

    def __init__(self, known: dict[str, str], endpoints: dict[str, Any], period: float) -> None:
        self._known = known
        self._period = period
        self._etag = ""
        self._ports = {one: int(endpoints[one].rpartition(":")[2]) for one in ("wireserver", "hostgaplugin")}
        self._status = ""
        self.spent: defaultdict[str, list[float]] = defaultdict(list)
        self.failed: list[str] = []

    async def live(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        due, turn = loop.time() + random.uniform(0, self._period), random.randrange(5)  # noqa: S311  # no secret
        await self._learn()
        while due < until:
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._turn(turn % 5 == 0)
            # Late is late: the next one does not wait for it.
            due, turn = due + self._period, turn + 1

    async def _learn(self) -> None:
        """Where the status blob is."""
        url = f"/machine/{self._known['container']}/x?comp=config&type=extensionsConfig&incarnation=1"
        _, _, body = await self._ask("wireserver", "GET", url)
        self._status = body.partition("<StatusUploadBlob")[2].partition(">")[2].partition("<")[0].replace("&amp;", "&")
        self.spent.clear()

    async def _turn(self, with_report: bool) -> None:
        await self._timed("goal state", "wireserver", "GET", "/machine/?comp=goalstate")
        headers = {"if-none-match": self._etag} if self._etag else {}
        answer = await self._timed("vmSettings", "hostgaplugin", "GET", "/vmSettings", headers=headers)
        self._etag = answer.get("etag", self._etag)
        if with_report:
            known = self._known
            health = (
                f"<Health><GoalStateIncarnation>1</GoalStateIncarnation><Container><ContainerId>{known['container']}"
                f"</ContainerId><RoleInstanceList><Role><InstanceId>{known['instance']}</InstanceId><Health><State>"
                "Ready</State></Health></Role></RoleInstanceList></Container></Health>"
            )
            await self._timed("heartbeat", "wireserver", "POST", "/machine?comp=health", health)
            content = b64encode(json.dumps({"version": "1.1", "aggregateStatus": {"x": "x" * 1500}}).encode()).decode()
            blob = {"headerName": "x-ms-blob-type", "headerValue": "BlockBlob"}
            order = {"requestUri": self._status, "headers": [blob], "content": content}
            await self._timed("status", "hostgaplugin", "PUT", "/status", json.dumps(order))

    async def _timed(
        self, what: str, server: str, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
    ) -> dict[str, str]:
        began = time.perf_counter()
        status, found, text = await self._ask(server, method, path, body, headers)
        self.spent[what].append(time.perf_counter() - began)
        if status not in {200, 304}:
            self.failed.append(f"{what}: {status} {text[:200]}")
        return found

    async def _ask(
        self, server: str, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        sent = {"Host": "host", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
        if server == "wireserver":
            sent |= {"x-ms-agent-name": "WALinuxAgent", "x-ms-version": "2012-11-30"}
        else:
            sent |= {"x-ms-version": "2015-09-01", "Content-Type": "application/json"}
            sent |= {"x-ms-containerid": self._known["container"], "x-ms-host-config-name": self._known["config"]}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._ports[server], local_addr=(self._known["address"], 0)
            )
            writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode())
            answer = await asyncio.wait_for(reader.read(), _PATIENCE)
            writer.close()
        except (OSError, TimeoutError) as error:
            return 0, {}, str(error)
        head, _, text = answer.decode().partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        pairs = (one.partition(": ") for one in rest)
        return int(([*first.split(" "), "0"])[1]), {name.lower(): value for name, _, value in pairs}, text


async def simulate(vms: list[dict[str, str]], endpoints: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All of them for so long: seconds spent per kind of request, and what failed."""
    period = PERIOD * len(vms) / AT_RHYTHM
    machines = [Machine(one, endpoints, period) for one in vms]
    until = asyncio.get_running_loop().time() + seconds
    await asyncio.gather(*(one.live(until) for one in machines))
    spent: dict[str, list[float]] = defaultdict(list)
    for one in machines:
        for what, times in one.spent.items():
            spent[what] += times
    return {"spent": spent, "failed": [text for one in machines for text in one.failed]}


# -- the table ---------------------------------------------------------------------------------------------------------


def measure(root: Path, title: str, database: str, workers: int, count: int, seconds: float) -> None:
    """One row."""
    vms = fill(database_url(root / "first" / "fabric", database), count)
    with hosts(root, database, workers) as (pids, endpoints):
        command = [sys.executable, "-m", "bench.fleet", "--simulate"]
        order = json.dumps({"vms": vms, "endpoints": endpoints, "seconds": seconds})
        before, began = [procfs.cpu_seconds(pid) for pid in pids], time.monotonic()
        done = subprocess.run(command, input=order, capture_output=True, text=True, check=True)
        lasted = time.monotonic() - began
        cpu = sum(procfs.cpu_seconds(pid) - old for pid, old in zip(pids, before, strict=True))
        memory = sum(procfs.pss_mb(pid) for pid in pids)
    found = json.loads(done.stdout)
    everything = [one for times in found["spent"].values() for one in times]
    hundredths = statistics.quantiles(everything, n=100)
    rate = len(everything) / lasted
    per_core = len(everything) / cpu / REQUESTS_PER_VM
    print(
        f"{title:22}{count:6}{rate:9.0f}{hundredths[49] * 1000:9.1f}{hundredths[98] * 1000:9.1f}"
        f"{cpu / lasted:8.2f}{cpu / len(everything) * 1000:10.2f}{per_core:9.0f}{memory:8.0f}{len(found['failed']):8}",
        flush=True,
    )
    for text in found["failed"][:3]:
        print("   ", text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--simulate", action="store_true", help="be the VMs that stdin names")
    chosen = parser.parse_args()
    if chosen.simulate:
        order = json.load(sys.stdin)
        json.dump(asyncio.run(simulate(order["vms"], order["endpoints"], order["seconds"])), sys.stdout)
        return
    print(f"load: {' '.join(f'{one:.1f}' for one in os.getloadavg())} on {os.cpu_count()} cores")
    print(
        f"{'':22}{'VMs':>6}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'cores':>8}{'CPU ms/rq':>10}{'VMs/core':>9}"
        f"{'MB':>8}{'failed':>8}"
    )
    kinds = [("SQLite", 1, False)]
    if list(Path("/usr/lib/postgresql").glob("*/bin")):
        kinds += [("PostgreSQL", 1, True), ("PostgreSQL, 2 workers", 2, True)]
    for title, workers, shared in kinds:
        for count in COUNTS:
            folder = Path(tempfile.mkdtemp(prefix="azvmagent-fleet-"))
            folder.chmod(0o755)
            try:
                with contextlib.ExitStack() as stack:
                    database = stack.enter_context(postgresql(folder / "postgresql")) if shared else ""
                    (folder / "first" / "fabric").mkdir(parents=True)
                    measure(folder, title, database, workers, count, chosen.seconds)
            finally:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
