"""A line to a local host's control API, held open: `azfabric` itself takes half a second to start each time.

A process in the host's network namespace, with one JSON document a line each way.
"""

import base64
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fabric.client import Client

ROOT = Path(__file__).resolve().parent.parent


class HostLine:
    """The near end."""

    def __init__(self, root: Path, enter: list[str]) -> None:
        """`enter` is the command in front that changes the namespace; empty on this machine's own network."""
        self._process = subprocess.Popen(
            [*enter, sys.executable, "-m", "bench.hostline", str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def told(self) -> dict[str, Any]:
        """What the VM told the host so far."""
        answer: dict[str, Any] = self._call({"method": "GET", "path": "/api/told"})["answer"]
        return answer

    def answered_at(self, endpoint: str, after: float) -> float:
        """When the host answered at `endpoint` for the first time after a moment, UTC seconds since the epoch."""
        transcript = self._call({"method": "GET", "path": "/api/transcript"})["answer"]
        return next(float(one["at"]) for one in transcript if one["endpoint"] == endpoint and one["at"] > after)

    def publish(self, package: bytes) -> None:
        self._call({"method": "PUT", "path": "/api/packages", "data": base64.b64encode(package).decode()})

    def want(self, name: str, version: str, settings: dict[str, Any]) -> float:
        """A new goal state with this extension in it; when it was asked for, UTC seconds since the epoch."""
        order = {"name": name, "version": version, "settings": settings}
        asked_at: float = self._call({"method": "POST", "path": "/api/extensions", "body": order})["at"]
        return asked_at

    def goal(self, handlers: list[dict[str, Any]]) -> float:
        """Make these the goal state; when that was ordered."""
        body = base64.b64encode(json.dumps({"handlers": handlers}).encode()).decode()
        return float(self._call({"method": "PUT", "path": "/api/goal", "data": body})["at"])

    def vanish(self, name: str) -> None:
        """A new goal state without it, and without uninstall."""
        self._call({"method": "DELETE", "path": f"/api/extensions/{name}", "query": {"now": "true"}})

    def close(self) -> None:
        self._process.communicate()

    def _call(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the line to the host broke at {order['method']} {order['path']}")
        found: dict[str, Any] = json.loads(line)
        return found


def main(root: Path) -> None:
    """The far end, until the near end closes."""
    client = Client(root)
    for line in sys.stdin:
        order = json.loads(line)
        at = time.time()
        match order["method"]:
            case "GET":
                answer = client.get(order["path"])
            case "PUT" if order["path"] == "/api/goal":
                answer = client.replace(order["path"], json.loads(base64.b64decode(order["data"])))
            case "PUT":
                answer = client.put(order["path"], base64.b64decode(order["data"]), {})
            case "POST":
                answer = client.post(order["path"], order["body"])
            case "DELETE":
                answer = client.delete(order["path"], order["query"])
        print(json.dumps({"at": at, "answer": answer}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
