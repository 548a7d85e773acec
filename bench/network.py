"""netagent beside other ways to keep a route: deleted to restored, memory, and CPU while 20,000 routes come and go.

python -m bench.network         (in namespaces of its own; as root or as any user)
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import procfs
from bench.table import Figures, show

HOST = "168.63.129.16"
TIMES = 60
FLOOD = 20_000
ROUTE = f"ip route add {HOST}/32 via 10.0.0.1 dev eth0"
POLLER = f"while sleep 1; do ip -4 route show {HOST} | grep -q . || {ROUTE}; done"
MONITOR = f"ip -4 monitor route | while read -r line; do case $line in Deleted*{HOST}*) {ROUTE};; esac; done"


class Namespace:
    """One NIC, an address, a default route and a route to the host."""

    def __init__(self) -> None:
        command = ["unshare", "-rn", "sh", "-c", "ip link set lo up && echo up && exec cat"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self._child.stdout.readline()
        self.batch(
            "link add eth0 type veth peer name peer0\naddress add 10.0.0.4/24 dev eth0\nlink set peer0 up\n"
            f"link set eth0 up\nroute add default via 10.0.0.1\nroute add {HOST}/32 via 10.0.0.1\n"
        )

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._child.pid}", "--user", "--net", "--preserve-credentials", *command]

    def batch(self, lines: str) -> None:
        subprocess.run(self.inside("ip", "-batch", "-"), input=lines, text=True, check=True, capture_output=True)

    def end(self) -> None:
        self._child.communicate("")


# Deletes in one process, and looks until it is back: starting `ip` would take longer than what is measured.
MEASURE = f"""
import json, sys, time
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from ipc.contract.netagent import Route
from netagent import netlink, requests
from netagent.kernel import act, dump
names = {{body.index: body.name for body in map(netlink.parse_link, dump(netlink.RTM_GETLINK, netlink.RTM_NEWLINK))}}
index = next(number for number, name in names.items() if name == "eth0")
def found():
    bodies = dump(netlink.RTM_GETROUTE, netlink.RTM_NEWROUTE)
    return [one for body in bodies for one in netlink.parse_routes(body, names) if one.destination == "{HOST}/32"]
took = []
for _ in range({TIMES}):
    (route,) = found()
    began = time.perf_counter()
    act(lambda sequence: requests.delete_route(route, index, sequence))
    while not found():
        pass
    took.append(time.perf_counter() - began)
    time.sleep(float(sys.argv[1]))
print(json.dumps(took))
"""


@contextmanager
def netagent(namespace: Namespace, root: Path) -> Iterator[list[int]]:
    (root / "azvmagent.toml").write_text('[netagent]\nmode = "repair"\n')
    environment = ["env", f"AZVMAGENT_ROOT={root}", sys.executable, "-P", "-m", "netagent"]
    child = subprocess.Popen(namespace.inside(*environment), stderr=subprocess.DEVNULL)
    try:
        while not (root / "state/netagent/network.json").exists():
            time.sleep(0.05)
        yield [child.pid]
    finally:
        child.kill()
        child.wait()


@contextmanager
def script(namespace: Namespace, text: str) -> Iterator[list[int]]:
    child = subprocess.Popen(namespace.inside("sh", "-c", text))
    try:
        time.sleep(1.5)
        yield [child.pid]
    finally:
        subprocess.run(["pkill", "-9", "-P", str(child.pid)], check=False)
        child.kill()
        child.wait()


def measured(namespace: Namespace, pids: list[int], pause: float, *, flood: bool) -> Figures:
    memory = sum(procfs.pss_mb(pid) for pid in pids)
    command = namespace.inside(sys.executable, "-P", "-c", MEASURE, str(pause))
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    took = sorted(one * 1000 for one in json.loads(said))
    figures = {
        "restored_p50_ms": statistics.median(took),
        "restored_p95_ms": took[int(len(took) * 0.95)],
        "restored_max_ms": took[-1],
        "pss_mb": memory,
    }
    if flood:
        before = sum(procfs.cpu_seconds(pid) for pid in pids)
        for what in ("add", "del"):
            lines = (
                f"route {what} 10.{64 + n // 65536}.{n // 256 % 256}.{n % 256}/32 dev eth0\n" for n in range(FLOOD)
            )
            namespace.batch("".join(lines))
        time.sleep(2.0)
        figures["flood_cpu_ms"] = (sum(procfs.cpu_seconds(pid) for pid in pids) - before) * 1000
    return figures


def main() -> None:
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        # Ours is given time: faster would be a fight.
        for name, text, pause in (("ours", "", 3.1), ("each second", POLLER, 0.0), ("ip monitor", MONITOR, 0.1)):
            namespace = Namespace()
            try:
                with script(namespace, text) if text else netagent(namespace, Path(folder)) as pids:
                    figures[name] = measured(namespace, pids, pause, flood=not text)
            finally:
                namespace.end()
    show("route deleted", figures.pop("ours"), figures)


if __name__ == "__main__":
    main()
