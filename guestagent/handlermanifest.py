"""HandlerManifest.json: what a handler's author promises and asks (protocol: HandlerManifest.json).

Real ones carry booleans as strings, versions as numbers, names that are wrong and keys nobody knows.
"""

from typing import Any

import msgspec

from guestagent.errors import PackageError
from guestagent.limits import ResourceLimits, parse_limits

SIZE_LIMIT = 1024 * 1024


class SigningInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a signed package says it is. What is no text is empty."""

    publisher: str = ""
    type: str = ""
    version: str = ""


class HandlerManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The commands are lines for a shell, relative to the extension's folder."""

    install: str
    enable: str
    disable: str
    update: str
    uninstall: str
    report_heartbeat: bool = False
    update_with_install: bool = True
    continue_on_update_failure: bool = False
    multi_config: bool = False
    roll_back: bool = True
    """Whether the version before may be brought back when an update fails; a key of ours, `rollbackOnUpdateFailure`."""
    limits: ResourceLimits = ResourceLimits()
    signing_info: SigningInfo | None = None


def parse_handler_manifest(data: bytes) -> HandlerManifest:
    """The first element of the list, or the object. Raises PackageError (code 1003)."""
    if len(data) > SIZE_LIMIT:
        raise PackageError(f"HandlerManifest.json is larger than {SIZE_LIMIT} bytes", 1003)
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"HandlerManifest.json is not JSON: {error}", 1003) from error
    first = document[0] if isinstance(document, list) and document else document
    manifest = first.get("handlerManifest") if isinstance(first, dict) else None
    if not isinstance(manifest, dict):
        raise PackageError("HandlerManifest.json has no handlerManifest object", 1003)
    mode = manifest.get("updateMode")
    return HandlerManifest(
        install=_command(manifest, "installCommand"),
        enable=_command(manifest, "enableCommand"),
        disable=_command(manifest, "disableCommand"),
        update=_command(manifest, "updateCommand"),
        uninstall=_command(manifest, "uninstallCommand"),
        report_heartbeat=_switch(manifest.get("reportHeartbeat")),
        update_with_install=not isinstance(mode, str) or mode.lower() == "updatewithinstall",
        continue_on_update_failure=_switch(manifest.get("continueOnUpdateFailure")),
        multi_config=_switch(manifest.get("supportsMultipleExtensions")),
        roll_back=_switch(manifest.get("rollbackOnUpdateFailure", True)),
        # These two stand beside handlerManifest, and what is wrong with them is no reason to refuse the package.
        limits=parse_limits(first.get("resourceLimits")),
        signing_info=_signing_info(first.get("signingInfo")),
    )


def _command(manifest: dict[str, Any], key: str) -> str:
    value = manifest.get(key)
    command = value.lstrip("/") if isinstance(value, str) else ""
    if not command.strip() or "\0" in command:
        raise PackageError(f"HandlerManifest.json: {key} is not a command", 1003)
    return command


def _signing_info(value: Any) -> SigningInfo | None:
    if not isinstance(value, dict):
        return None
    texts = {name: found for name in ("publisher", "type", "version") if isinstance(found := value.get(name), str)}
    return SigningInfo(**texts)


def _switch(value: Any) -> bool:
    """Real booleans, and strings that say true in any case."""
    return value is True or (isinstance(value, str) and value.lower() == "true")
