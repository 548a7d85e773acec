"""The environment of a command (protocol: commands, order, environment)."""

import json
import os
from collections.abc import Mapping

import msgspec

from guestagent.layout import HandlerFolder
from guestagent.operation import Kind
from wire.extensions import Settings

FEATURES = json.dumps([{"Key": "ExtensionTelemetryPipeline", "Value": "1.0"}])

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Codes(msgspec.Struct, kw_only=True):
    """What an update's commands are told of the ones before (protocol: environment)."""

    uninstall: str = "NOT_RUN"
    disable: str = "None"
    """Of a handler with one configuration; `None` where it was not run, as the reference agent says it."""
    disables: dict[str, str] = {}
    """By extension, of a multi-config handler."""
    updating_from: str = ""


def command_environment(
    kind: Kind,
    folder: HandlerFolder,
    settings: Settings | None,
    *,
    wireserver: str,
    codes: Codes,
    version: str,
    inherited: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """What the extension sees: ours first; what we inherited stays, for it is what the machine's owner set."""
    environment = {
        "PATH": _PATH,
        "HOME": "/root" if os.geteuid() == 0 else os.path.expanduser("~"),  # noqa: PTH111  # not a path to walk
        "AZURE_GUEST_AGENT_EXTENSION_PATH": str(folder.path),
        "AZURE_GUEST_AGENT_EXTENSION_VERSION": folder.version,
        "AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS": wireserver,
        "AZURE_GUEST_AGENT_EXTENSION_SUPPORTED_FEATURES": FEATURES,
        "ConfigSequenceNumber": str(settings.sequence_number if settings else 0),
    }
    if settings and settings.name:
        environment["ConfigExtensionName"] = settings.name
    if kind in {"install", "enable"}:
        environment["AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE"] = codes.uninstall
    if kind == "update":
        environment["VERSION"] = version
        environment["AZURE_GUEST_AGENT_UPDATING_FROM_VERSION"] = codes.updating_from
        if codes.disables:
            codes_by_name = [{"extensionName": name, "exitCode": code} for name, code in codes.disables.items()]
            environment["AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODES_MULTIPLE_EXTENSIONS"] = json.dumps(codes_by_name)
        else:
            environment["AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE"] = codes.disable
    return {**environment, **inherited}
