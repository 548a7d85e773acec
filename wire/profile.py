"""The artifacts profile blob: whether extension processing is on hold (protocol: InVMArtifactsProfileBlob)."""

from wire import json


def parse_on_hold(data: bytes) -> bool:
    """Raises DocumentError; a caller takes that for not on hold, as the protocol says."""
    fields = json.Fields("artifacts profile", "", json.parse("artifacts profile", data.rstrip(b"\0 \t\r\n")))
    value = fields.raw("onHold")
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return fields.boolean("onHold", default=False)
