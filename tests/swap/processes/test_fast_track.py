"""Versions that the host asks for by vmSettings alone: the group obeys whichever document is in force."""

from typing import Any

from fabric.reports import dig
from tests.swap.processes.product import Root


def want(root: Root, version: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = root.host.post("/api/components", {"component": "telemetry", "version": version, **more})
    return found


def update_status(root: Root) -> Any:
    return dig(root.host.get("/api/told")["status"], "aggregateStatus", "guestAgentStatus", "updateStatus")


def test_whichever_channel_spoke_last(root: Root, shop: Any) -> None:
    for version in ("0.92.0", "0.93.0"):
        root.publish(shop("telemetry", version))
    before = root.host.get("/api/vms")[0]["incarnation"]
    assert want(root, "0.92.0", fast_track=True)["fast_track"] is True
    assert root.host.get("/api/vms")[0]["incarnation"] == before
    root.until_runs("telemetry", "0.92.0")
    told = root.until(lambda: update_status(root), "the host to be told")
    assert (told["status"], told["expectedVersion"]) == ("Success", "0.92.0")

    want(root, "0.93.0")
    root.until_runs("telemetry", "0.93.0")
    # The older document of FastTrack is there still.
    root.until(lambda: (found := update_status(root)) and found["expectedVersion"] == "0.93.0", "the next success")

    want(root, "0.92.0", fast_track=True)

    def refused() -> Any:
        found = update_status(root)
        return found if dig(found, "status") == "Error" else None

    told = root.until(refused, "the refusal")
    assert told["expectedVersion"] == "0.92.0"
    assert told["formattedMessage"]["message"].startswith("telemetry 0.92.0 is older than 0.93.0")
    (asked,) = root.host.get("/api/components")
    assert (asked["state"], asked["fast_track"]) == ("refused", True)
    # Who begins anew reads both channels again.
    root.kill("rdagent")
    view = root.until(lambda: (one := root.view("telemetry")) and one.wanted == "0.92.0" and one, "the wish")
    assert "the host gave no fromVersion" in view.why
    assert root.version("telemetry") == "0.93.0"

    root.host.delete("/api/components/telemetry")
    root.until(lambda: update_status(root) is None, "the status to be without it")
