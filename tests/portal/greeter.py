"""An extension as its author would bring it: a zip that greets, with two substatuses."""

import io
import json
import zipfile

NAME = "Contoso.Tools.Greeter"

_ENABLE = """#!/bin/sh
cd "$(dirname "$0")" || exit 1
status=$(sed -n 's/.*"statusFolder": *"\\([^"]*\\)".*/\\1/p' HandlerEnvironment.json)
config=$(sed -n 's/.*"configFolder": *"\\([^"]*\\)".*/\\1/p' HandlerEnvironment.json)
newest=$(ls "$config" | sed -n 's/\\.settings$//p' | sort -n | tail -1)
who=$(sed -n 's/.*"who": *"\\([^"]*\\)".*/\\1/p' "$config/$newest.settings")
cat > "$status/$newest.status" <<END
[{"version": "1.0", "timestampUTC": "2026-01-01T00:00:00Z", "status": {"operation": "Enable", "status": "success", "code": 0,
  "formattedMessage": {"lang": "en-US", "message": "Good morning, $who"},
  "substatus": [{"name": "greeting", "status": "success", "code": 0, "formattedMessage": {"lang": "en-US", "message": "said"}}]}}]
END
"""


def greeter(version: str = "1.0.0") -> bytes:
    manifest = {
        "version": 1.0,
        "signingInfo": {"publisher": "Contoso.Tools", "type": "Greeter", "version": version},
        "handlerManifest": {
            "installCommand": "greet.sh",
            "enableCommand": "greet.sh",
            "updateCommand": "greet.sh",
            "disableCommand": "greet.sh",
            "uninstallCommand": "greet.sh",
            "rebootAfterInstall": False,
            "reportHeartbeat": False,
        },
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", json.dumps([manifest]))
        script = zipfile.ZipInfo("greet.sh", (2026, 1, 1, 0, 0, 0))
        script.external_attr = 0o755 << 16
        archive.writestr(script, _ENABLE)
    return buffer.getvalue()
