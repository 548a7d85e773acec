"""The group at rest beside Debian's reference agent: memory, CPU, wake-ups, requests, time to Ready.

python -m bench.rest            (as root: the reference agent gets namespaces of its own)
"""

import time

from bench import peers, procfs
from bench.peers import Peer
from bench.table import Figures, show

SETTLING = 10.0
SECONDS = 60.0


def at_rest(peer: Peer) -> Figures:
    """Memory now; CPU, context switches and requests over a minute."""
    time.sleep(SETTLING)
    requests = sum(peer.host.told()["requests"].values())
    before = [(procfs.cpu_seconds(pid), procfs.switches(pid)) for pid in peer.pids]
    time.sleep(SECONDS)
    after = [(procfs.cpu_seconds(pid), procfs.switches(pid)) for pid in peer.pids]
    asked = sum(peer.host.told()["requests"].values()) - requests
    pairs = list(zip(before, after, strict=True))
    return {
        "processes": len(peer.pids),
        "ready_s": peer.ready_seconds,
        "pss_mb": sum(procfs.pss_mb(pid) for pid in peer.pids),
        "cpu_ms_per_min": sum(new[0] - old[0] for old, new in pairs) * 1000 * 60 / SECONDS,
        "switches_per_s": sum(new[1] - old[1] for old, new in pairs) / SECONDS,
        "requests_per_min": asked * 60 / SECONDS,
    }


def main() -> None:
    with peers.ours() as peer:
        mine = at_rest(peer)
    theirs: Figures = {}
    if peers.can_run_reference():
        with peers.reference() as peer:
            theirs = at_rest(peer)
    show("at rest", mine, {"waagent": theirs})


if __name__ == "__main__":
    main()
