"""vmSettings, HostGAPlugin's channel (protocol: vmSettings). Keys in any case, publicSettings JSON in a string."""

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
    parse_blob_type,
)
from wire.version import BadVersion, Version

DOCUMENT = "vmSettings"

# Older plugins' documents are taken for unsupported.
_OLDEST_PLUGIN = Version("1.0.8.133")


class VmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One document and the tag it came under."""

    etag: str
    supported: bool
    """False if the plugin is older than the first usable one."""
    source: Literal["Fabric", "FastTrack"]
    """A Fabric document repeats what the WireServer says and is not processed."""
    extensions: ExtensionsGoalState


def parse_vm_settings(data: bytes, etag: str) -> VmSettings:
    """Raises DocumentError."""
    fields = json.Fields(DOCUMENT, "", json.parse(DOCUMENT, data))
    source: Literal["Fabric", "FastTrack"] = (
        "Fabric" if fields.text("extensionGoalStatesSource", "") == "Fabric" else "FastTrack"
    )
    extensions = ExtensionsGoalState(
        id=f"etag_{etag}",
        source=source,
        created_on_ticks=max(0, fields.integer("extensionsLastModifiedTickCount", 0)),
        activity_id=fields.text("activityId", ""),
        correlation_id=fields.text("correlationId", ""),
        in_svd_seq_no=fields.text("inSvdSeqNo", ""),
        status_blob=_status_blob(fields),
        on_hold=fields.boolean("onHold", default=False),
        required_features=tuple(one.text("name") for one in fields.objects("requiredFeatures")),
        families=tuple(_family(one) for one in fields.objects("gaFamilies")),
        handlers=tuple(_handler(one) for one in fields.objects("extensionGoalStates")),
    )
    return VmSettings(etag=etag, supported=_supported(fields), source=source, extensions=extensions)


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


def _family(fields: json.Fields) -> AgentFamily:
    return AgentFamily(
        name=fields.text("name"),
        version=fields.text("version", ""),
        from_version=fields.text("fromVersion", ""),
        is_version_from_rsm=fields.boolean("isVersionFromRSM", default=False)
        if fields.has("isVersionFromRSM")
        else None,
        is_vm_enabled_for_rsm_upgrades=(
            fields.boolean("isVMEnabledForRSMUpgrades", default=False)
            if fields.has("isVMEnabledForRSMUpgrades")
            else None
        ),
        uris=fields.texts("uris"),
    )


def _handler(fields: json.Fields) -> Handler:
    name, version = fields.text("name"), fields.text("version")
    locations = (fields.text("location", ""), fields.text("failoverLocation", ""), *fields.texts("additionalLocations"))
    multi_config = fields.boolean("isMultiConfig", default=False)
    state: Literal["enabled", "disabled", "uninstall"] = "enabled"
    error: str = ""
    settings: tuple[Settings, ...] = ()
    try:
        state = _state(fields)
        settings = _settings(name, fields, multi_config=multi_config)
    except DocumentError as problem:
        error = str(problem)
    return Handler(
        name=name,
        version=version,
        state=state,
        locations=tuple(dict.fromkeys(url for url in locations if url)),
        multi_config=multi_config,
        signature=fields.text("encodedSignature", ""),
        settings=settings,
        error=error,
    )


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
        return tuple(_one(name, one, "", fields.integer("settingsSeqNo"), depend) for one in entries)
    names = {one.text("extensionName") for one in entries}
    by_name = {one.text("name"): one for one in depends}
    if unknown := sorted(set(by_name) - names):
        raise fields.wrong("dependsOn", f"names {unknown[0][:80]!r}, which has no settings")
    return tuple(
        _one(name, one, one.text("extensionName"), one.integer("seqNo"), by_name.get(one.text("extensionName")))
        for one in entries
    )


def _one(handler: str, entry: json.Fields, extension: str, sequence: int, depends: json.Fields | None) -> Settings:
    if sequence < 0:
        raise entry.wrong("seqNo", "is negative")
    protected = entry.text("protectedSettings", "") or None
    thumbprint = entry.text("protectedSettingsCertThumbprint", "") or None
    if protected and not thumbprint:
        raise entry.wrong("protectedSettings", "has no protectedSettingsCertThumbprint")
    return Settings(
        name=extension,
        sequence_number=sequence,
        state="disabled" if entry.text("extensionState", "enabled").lower() == "disabled" else "enabled",
        public=_public(handler, entry.raw("publicSettings")),
        protected=protected,
        thumbprint=thumbprint.upper() if thumbprint else None,
        dependency_level=depends.integer("dependencyLevel", 0) if depends else 0,
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
