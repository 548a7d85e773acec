"""What the host is told of the whole, and how a status finds its way."""

from collections.abc import Callable
from typing import Any

Make = Callable[..., bytes]


def test_the_aggregate_names_the_goal_state_as_the_reference_does(life: Any, make_package: Make) -> None:
    """An extension fails: the goal state was carried out all the same. It is called by its incarnation, as text."""
    life.want(make_package({"install": "exit 7"}))
    life.failed()
    (vm,) = life.call("GET", "/api/vms")

    def told() -> Any:
        whole = life.told()["status"]["aggregateStatus"].get("vmArtifactsAggregateStatus", {})
        aggregate = whole.get("goalStateAggregateStatus", {})
        return aggregate if aggregate.get("inSvdSeqNo") == str(vm["incarnation"]) else None

    aggregate = life.until(told, "the incarnation in the aggregate")
    assert (aggregate["status"], aggregate["code"]) == ("Success", 0)


def test_a_stale_container_is_a_new_goal_state_and_not_another_way(life: Any, make_package: Make) -> None:
    """410 says that our ids are old, not that this way is closed: the next upload comes by it again."""
    life.want(make_package())
    life.ready()
    life.call("POST", "/api/move")
    before = life.told()
    life.want(None, settings={"again": True})
    life.ready(sequence=1)
    after = life.told()
    assert after["status_by"] == "hostgaplugin"
    assert after["requests"].get("statusblob", 0) == before["requests"].get("statusblob", 0)
