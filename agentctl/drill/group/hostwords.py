"""What a drill has its local host do, by `azfabric`: publish versions, ask for them, go wrong."""

from pathlib import Path
from typing import Any

import msgspec

from agentctl.drill.group.stage import Stage
from agentctl.errors import CommandError

CHANNEL = "drill"
"""Nobody follows it: what is published runs only when it is asked for."""


class Host:
    """Of a stage. All raise CommandError with what the host said."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def publish(self, package: Path) -> None:
        """Into the repository, and into the family of its component. Its layers lie beside it."""
        self._say("publish", str(package), "--channel", CHANNEL)

    def withdraw(self, component: str, version: str) -> None:
        self._say("publish", "--withdraw", component, version)

    def want(self, component: str, version: str) -> None:
        """Ask for this version, in a new incarnation of the goal state."""
        self._say("want", component, version)

    def wanted(self, component: str) -> dict[str, Any]:
        """What is asked for, and what the VM told of it; empty if nothing is."""
        asked: list[dict[str, Any]] = self._say("want", "--list")
        return next((one for one in asked if one["component"] == component), {})

    def spoil(self, endpoint: str, fault: str, value: float | None = None) -> int:
        """A fault; its number."""
        words = ["--value", f"{value:g}"] if value is not None else []
        return int(self._say("fault", "add", endpoint, fault, *words)["id"])

    def lift(self, number: int) -> None:
        self._say("fault", "lift", str(number))

    def _say(self, *words: str) -> Any:
        done = self._stage.azfabric(*words, "--json")
        if done.returncode != 0:
            raise CommandError(f"azfabric {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        try:
            return msgspec.json.decode(done.stdout)
        except msgspec.DecodeError as error:
            raise CommandError(f"azfabric {' '.join(words)} answers with no JSON: {done.stdout[:200]}") from error
