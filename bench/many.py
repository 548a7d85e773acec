"""Many extensions in one goal state: wall time for 5 and for 50, and memory while their commands run at once.

python -m bench.many            (as root: the reference agent gets namespaces of its own)
"""

import time

from bench import procfs
from bench.peers import Peer, can_run_reference, ours, reference, until
from bench.probe import VERSION, outcome, package
from bench.table import Figures, show

NUMBERS = (5, 50)
# The reference agent takes at least four seconds for each.
_PATIENCE = 600.0


def measure(peer: Peer) -> Figures:
    """Seconds until all have reported success, and the most memory seen meanwhile, above that at rest."""
    figures: Figures = {}
    at_rest = sum(procfs.pss_mb(pid) for pid in peer.pids)
    for number in NUMBERS:
        names = [f"Bench.Many{number}.Probe{one}" for one in range(number)]
        for name in names:
            peer.host.publish(package(name))
        ordered = peer.host.goal([{"name": name, "version": VERSION, "settings": {}} for name in names])
        most = 0.0

        def all_done(names: list[str] = names) -> list[float] | None:
            nonlocal most
            most = max(most, memory(peer))
            told = peer.host.told()
            found = [outcome(told, name) for name in names]
            return [one.reported for one in found if one] if all(found) else None

        began = time.time()
        until(all_done, f"{number} extensions to succeed", pause=0.2, patience=_PATIENCE)
        figures[f"{number} extensions, s"] = time.time() - min(ordered, began)
        figures[f"{number}: memory on top, MB"] = most - at_rest
        peer.host.goal([])
        until(lambda: none_left(peer), "none to be left")
    small, large = (figures[f"{number} extensions, s"] for number in NUMBERS)
    figures["growth from 5 to 50"] = large / small
    return figures


def none_left(peer: Peer) -> bool | None:
    return peer.host.told()["status"]["aggregateStatus"]["handlerAggregateStatus"] == [] or None


def memory(peer: Peer) -> float:
    """Of the agent and of everything it has started, MB of PSS."""
    found = {pid for own in peer.pids for pid in (own, *procfs.descendants(own))}
    total = 0.0
    for pid in found:
        try:
            total += procfs.pss_mb(pid)
        except (OSError, StopIteration):
            continue  # it has ended
    return total


def main() -> None:
    with ours() as peer:
        mine = measure(peer)
    theirs: Figures = {}
    if can_run_reference():
        with reference() as peer:
            theirs = measure(peer)
    show("many extensions", mine, {"waagent": theirs})


if __name__ == "__main__":
    main()
