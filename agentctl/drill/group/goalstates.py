"""New goal states of the local host, by its portal: nothing is asked for that was not there before."""

import json
import urllib.request
from typing import Any

from agentctl.errors import CommandError

_SECONDS = 10.0


class GoalStates:
    """Of one VM. All raise CommandError; none is for the event loop."""

    def __init__(self, portal: str) -> None:
        """`portal`: its base URL."""
        self._portal = portal

    def renew(self) -> None:
        """A new incarnation. The VM is asked for no features, as before."""
        self._ask("/api/required-features", {"names": []})

    def told(self) -> str:
        """The incarnation that the last health report named; empty before the first."""
        health = self._ask("/api/told?events=0")["health"]
        return str(health["incarnation"]) if health else ""

    def _ask(self, path: str, order: dict[str, Any] | None = None) -> Any:
        data = json.dumps(order).encode() if order is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._portal}{path}", data, headers)  # noqa: S310  # our own host
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise CommandError(f"the local host does not answer {path}: {error}") from error
