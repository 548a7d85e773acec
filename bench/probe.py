"""An extension that does nothing but say when its commands started."""

import io
import json
import zipfile
from typing import Any, NamedTuple

VERSION = "1.0.0"

_COMMANDS = ("install", "enable", "disable", "update", "uninstall")
_SCRIPT = """#!/bin/sh
now=$(date +%s.%N)
cd "$(dirname "$0")/.." || exit 1
if [ "$1" = install ]; then echo "$now" >installed; fi
[ "$1" = enable ] || exit 0
sequence=${ConfigSequenceNumber:-0}
cat >"status/$sequence.tmp" <<END_OF_STATUS
[{"version": "1.0", "timestampUTC": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "status": {"name": "Probe", "operation": "Enable", "status": "success", "code": 0,
             "formattedMessage": {"lang": "en-US", "message": "$(cat installed) $now"}}}]
END_OF_STATUS
mv "status/$sequence.tmp" "status/$sequence.status"
"""


def package(name: str) -> bytes:
    """`name` is `Publisher.Type`, the publisher of as many words as it likes."""
    publisher, _, kind = name.rpartition(".")
    commands = {f"{one}Command": f"bin/probe.sh {one}" for one in _COMMANDS}
    manifest = [
        {
            "version": 1.0,
            "signingInfo": {"publisher": publisher, "type": kind, "version": VERSION},
            "handlerManifest": {**commands, "rebootAfterInstall": False, "reportHeartbeat": False},
        }
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", json.dumps(manifest))
        script = zipfile.ZipInfo("bin/probe.sh")
        script.external_attr = 0o755 << 16
        archive.writestr(script, _SCRIPT)
    return buffer.getvalue()


class Outcome(NamedTuple):
    """When what happened, UTC seconds since the epoch."""

    install: float
    enable: float
    reported: float
    """When the host was told of it."""


def outcome(told: dict[str, Any], name: str) -> Outcome | None:
    """Of the probe called `name`; None until it reported success."""
    status = told["status"] if isinstance(told["status"], dict) else {}
    for handler in status.get("aggregateStatus", {}).get("handlerAggregateStatus", []):
        if handler.get("handlerName") != name or handler.get("status") != "Ready":
            continue
        inner = ((handler.get("runtimeSettingsStatus") or {}).get("settingsStatus") or {}).get("status") or {}
        if inner.get("status") == "success":
            install, enable = (inner.get("formattedMessage") or {}).get("message", "").split()
            return Outcome(float(install), float(enable), told["status_at"])
    return None
