"""How often the updater looked into the repository in vain: as it tells itself, by the time of each look."""

from agentctl.drill.group.updates import Versions, until
from agentctl.drill.variants import replaced
from ipc.contract.rdagent import Updates

LOOK_SECONDS, MANIFEST_SECONDS = 5, 4
SHORT = {
    "rdagent/update/repository.py": replaced("^LOOK_SECONDS = 30.0$", f"LOOK_SECONDS = {LOOK_SECONDS}.0"),
    "rdagent/update/host.py": replaced("^_MANIFEST_SECONDS = 20.0$", f"_MANIFEST_SECONDS = {MANIFEST_SECONDS}.0"),
}
"""Changes of rdagent: one look at a source that does not answer takes half a minute on a VM."""


class Looks:
    """Since the making. Only what is asked for meanwhile is seen."""

    def __init__(self, versions: Versions, *, fail: bool) -> None:
        """`fail`: only those count that did; else the lists are there, and what they name is away."""
        self._versions = versions
        self._fail = fail
        self._at: set[float] = set()

    def __len__(self) -> int:
        return len(self._at)

    def see(self) -> Updates | None:
        """What the updater says now; None if it does not answer."""
        updates = self._versions.updates()
        if updates and (at := updates.repository.checked_at) and (updates.repository.problem or not self._fail):
            self._at.add(at)
        return updates

    def until_more(self, times: int, patience: float) -> None:
        """So many from now on; the first of them may have begun before. Raises Broken."""
        enough = len(self._at) + times

        def missing() -> str:
            self.see()
            return "" if len(self._at) >= enough else "rdagent does not look into the repository any more"

        until(missing, patience)
