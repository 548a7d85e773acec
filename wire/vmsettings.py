"""vmSettings, HostGAPlugin's channel (protocol: vmSettings). Keys in any case, publicSettings JSON in a string.

A handler whose item is wrong keeps its place, with the error; the others go on. (The reference agent rejects the whole
document.)
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from wire import json
from wire.errors import DocumentError
from wire.extensions import (
    AgentFamily,
    ExtensionsGoalState,
    Handler,
    Settings,
    StatusBlob,
    dependency,
    mark_repeated,
    parse_blob_type,
    parse_level,
    parse_switch,
    parse_ticks,
)
from wire.version import BadVersion, Version

DOCUMENT = "vmSettings"

# Older plugins' documents are taken for unsupported.
_OLDEST_PLUGIN = Version("1.0.8.133")
# As in ExtensionsConfig: nine digits.
_SEQUENCE_LIMIT = 10**9


class VmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One document and the tag it came under."""

    etag: str
    supported: bool
    """False if the plugin is older than the first usable one."""
    source: Literal["Fabric", "FastTrack"]
    """A Fabric document repeats what the WireServer says and is not processed."""
    extensions: ExtensionsGoalState
    content: bytes = b""
    """The document as it came."""

    def __repr__(self) -> str:
        return f"VmSettings({self.etag}, {self.source}, {len(self.content)} bytes)"


def parse_vm_settings(data: bytes, etag: str) -> VmSettings:
    """Raises DocumentError."""
    fields = json.Fields(DOCUMENT, "", json.parse(DOCUMENT, data))
    source: Literal["Fabric", "FastTrack"] = (
        "Fabric" if fields.text("extensionGoalStatesSource", "") == "Fabric" else "FastTrack"
    )
    if not _supported(fields):
        # Whatever else such a plugin says is not read.
        none = ExtensionsGoalState(id=f"etag_{etag}", source=source)
        return VmSettings(etag=etag, supported=False, source=source, extensions=none, content=data)
    families, problems = _families(fields)
    extensions = ExtensionsGoalState(
        id=f"etag_{etag}",
        source=source,
        created_on_ticks=parse_ticks(fields.raw("extensionsLastModifiedTickCount")),
        activity_id=_told(fields, "activityId"),
        correlation_id=_told(fields, "correlationId"),
        in_svd_seq_no=_told(fields, "inSvdSeqNo"),
        status_blob=_status_blob(fields),
        on_hold=parse_switch(fields.raw("onHold")) or False,
        required_features=tuple(one.text("name") for one in fields.objects("requiredFeatures")),
        families=families,
        handlers=mark_repeated(_handlers(fields)),
        problems=problems,
    )
    return VmSettings(etag=etag, supported=True, source=source, extensions=extensions, content=data)


def _told(fields: json.Fields, key: str) -> str:
    """What is only echoed or logged: nothing hangs on it."""
    value = fields.raw(key)
    return str(value)[:256] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _supported(fields: json.Fields) -> bool:
    try:
        return Version(fields.text("hostGAPluginVersion", "0")) >= _OLDEST_PLUGIN
    except BadVersion as error:
        raise fields.wrong("hostGAPluginVersion", str(error)) from error


def _status_blob(fields: json.Fields) -> StatusBlob | None:
    if not fields.has("statusUploadBlob"):
        return None
    blob = json.Fields(DOCUMENT, "statusUploadBlob", fields.raw("statusUploadBlob"))
    return StatusBlob(url=blob.text("value"), kind=parse_blob_type(blob.text("statusBlobType", "")))


def _families(fields: json.Fields) -> tuple[tuple[AgentFamily, ...], tuple[str, ...]]:
    """Those that can be read, and what is wrong with the others: extensions do not hang on them."""
    found, problems = [], []
    for number, value in enumerate(_array(fields, "gaFamilies")):
        try:
            found.append(_family(json.Fields(DOCUMENT, f"gaFamilies[{number}]", value)))
        except DocumentError as error:
            problems.append(str(error))
    return tuple(found), tuple(problems)


def _family(fields: json.Fields) -> AgentFamily:
    return AgentFamily(
        name=fields.text("name"),
        version=fields.text("version", ""),
        from_version=fields.text("fromVersion", ""),
        is_version_from_rsm=parse_switch(fields.raw("isVersionFromRSM")),
        is_vm_enabled_for_rsm_upgrades=parse_switch(fields.raw("isVMEnabledForRSMUpgrades")),
        uris=fields.texts("uris"),
    )


def _handlers(fields: json.Fields) -> Iterator[Handler]:
    for number, value in enumerate(_array(fields, "extensionGoalStates")):
        try:
            one = json.Fields(DOCUMENT, f"extensionGoalStates[{number}]", value)
            name = one.text("name")
        except DocumentError as problem:
            yield Handler(name="", version="", state="enabled", error=str(problem))
            continue
        try:
            yield _handler(name, one)
        except DocumentError as problem:
            yield Handler(name=name, version=_told(one, "version"), state="enabled", error=str(problem))


def _handler(name: str, fields: json.Fields) -> Handler:
    multi_config = fields.boolean("isMultiConfig", default=False)
    locations = (fields.text("location", ""), fields.text("failoverLocation", ""), *fields.texts("additionalLocations"))
    return Handler(
        name=name,
        version=fields.text("version"),
        state=_state(fields),
        locations=tuple(dict.fromkeys(url for url in locations if url)),
        multi_config=multi_config,
        signature=fields.text("encodedSignature", ""),
        settings=_settings(name, fields, multi_config=multi_config),
    )


def _array(fields: json.Fields, key: str) -> list[Any]:
    """Absent is empty. Raises DocumentError: without it nothing is known of what is wanted."""
    value = fields.raw(key)
    if value is not None and not isinstance(value, list):
        raise fields.wrong(key, "is not an array")
    return value or []


def _state(fields: json.Fields) -> Literal["enabled", "disabled", "uninstall"]:
    match text := fields.text("state"):
        case "enabled" | "disabled" | "uninstall":
            return text
    raise fields.wrong("state", f"{text[:40]!r} is not enabled, disabled or uninstall")


def _settings(name: str, fields: json.Fields, *, multi_config: bool) -> tuple[Settings, ...]:
    entries, depends = fields.objects("settings"), fields.objects("dependsOn")
    if not multi_config:
        if len(entries) > 1:
            raise fields.wrong("settings", f"has {len(entries)} entries, but {name} is not multi-config")
        if entries and len(depends) > 1:
            raise fields.wrong("dependsOn", f"has {len(depends)} entries, at most one is allowed")
        depend = depends[0] if depends else None
        return tuple(_one(name, one, fields.integer("settingsSeqNo"), depend) for one in entries)
    names = [one.text("extensionName") for one in entries]
    if not all(names) or len(set(names)) < len(names):
        raise fields.wrong("settings", "has an entry without an extensionName of its own")
    by_name = {one.text("name"): one for one in depends}
    if unknown := sorted(by_name.keys() - set(names)):
        raise fields.wrong("dependsOn", f"names {unknown[0][:80]!r}, which has no settings")
    return tuple(
        msgspec.structs.replace(
            _one(name, one, one.integer("seqNo"), by_name.get(extension)), name=extension, state=_extension_state(one)
        )
        for extension, one in zip(names, entries, strict=True)
    )


def _extension_state(entry: json.Fields) -> Literal["enabled", "disabled"]:
    match text := entry.text("extensionState", "enabled").lower():
        case "enabled" | "disabled":
            return text
    raise entry.wrong("extensionState", f"{text[:40]!r} is not enabled or disabled")


def _one(handler: str, entry: json.Fields, sequence: int, depends: json.Fields | None) -> Settings:
    if not 0 <= sequence < _SEQUENCE_LIMIT:
        raise entry.wrong("seqNo", f"{sequence} is no sequence number")
    protected = entry.text("protectedSettings", "") or None
    thumbprint = entry.text("protectedSettingsCertThumbprint", "") or None
    if protected and not thumbprint:
        raise entry.wrong("protectedSettings", "has no protectedSettingsCertThumbprint")
    return Settings(
        sequence_number=sequence,
        public=_public(handler, entry.raw("publicSettings")),
        protected=protected,
        thumbprint=thumbprint.upper() if thumbprint else None,
        dependency_level=parse_level(depends.raw("dependencyLevel")) if depends else 0,
        depends_on=_depends_on(depends),
    )


def _depends_on(depends: json.Fields | None) -> tuple[str, ...]:
    named = depends.objects("dependsOnExtension") if depends else []
    found = (dependency(one.text("handler", ""), one.text("extension", "")) for one in named)
    return tuple(one for one in found if one)


def _public(handler: str, value: Any) -> Any:
    """The decoded value: extensions get it as an object, whatever channel it came by."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return value
    return json.parse(f"{DOCUMENT}: publicSettings of {handler}", value.encode())
