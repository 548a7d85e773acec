"""What a VM's documents say: they may be of any shape."""

from typing import Any


def dig(value: Any, *names: str) -> Any:
    """What a document of the VM's holds at that path; None if it is of another shape."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def handlers(status: Any) -> list[dict[str, Any]]:
    """The handlers of a status blob, whatever else it is."""
    found = dig(status, "aggregateStatus", "handlerAggregateStatus")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
