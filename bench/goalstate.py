"""From a new goal state to the extension's commands and the reported status, beside Debian's reference agent.

Fresh extensions whose commands do nothing, one after the other; both agents take turns.

python -m bench.goalstate       (as root: the reference agent gets namespaces of its own)
"""

import statistics
import time
from contextlib import ExitStack

from bench import peers, probe
from bench.peers import Peer, until
from bench.table import Figures, show

EXTENSIONS = 12
# The reference looks every six seconds. Where in its period a goal state falls must not be left to our own rhythm.
PERIOD = 6.0
GOLDEN = 0.618


class Readings:
    """Of one agent, over all extensions; seconds."""

    def __init__(self, peer: Peer) -> None:
        self._host = peer.host
        self._fetched: list[float] = []
        self._first: list[float] = []
        self._next: list[float] = []
        self._whole: list[float] = []

    def take(self, number: int) -> None:
        """One extension into the goal state, through, and out again."""
        name = f"Azvmagent.Bench.Probe{number}"
        self._host.publish(probe.package(name))
        time.sleep(number * GOLDEN % 1 * PERIOD)
        asked_at = self._host.want(name, probe.VERSION, {"number": number})
        outcome = until(lambda: probe.outcome(self._host.told(), name), f"{name} to report success", pause=0.1)
        fetched_at = self._host.answered_at("extensionsconfig", asked_at)
        self._host.vanish(name)
        self._fetched.append(outcome.install - fetched_at)
        self._first.append(outcome.install - asked_at)
        self._next.append(outcome.enable - outcome.install)
        self._whole.append(outcome.reported - asked_at)

    def figures(self) -> Figures:
        # The first command after the order, after its document was fetched; the second after the first; the last word.
        return {
            "first_command_p50_s": statistics.median(self._first),
            "first_command_min_s": min(self._first),
            "first_command_max_s": max(self._first),
            "fetched_to_first_p50_s": statistics.median(self._fetched),
            "next_command_p50_s": statistics.median(self._next),
            "reported_p50_s": statistics.median(self._whole),
            "reported_min_s": min(self._whole),
            "reported_max_s": max(self._whole),
        }


def main() -> None:
    with ExitStack() as alive:
        mine = Readings(alive.enter_context(peers.ours()))
        theirs = Readings(alive.enter_context(peers.reference())) if peers.can_run_reference() else None
        for number in range(EXTENSIONS):
            mine.take(number)
            if theirs is not None:
                theirs.take(number)
        show("goal state", mine.figures(), {"waagent": theirs.figures() if theirs else {}})


if __name__ == "__main__":
    main()
