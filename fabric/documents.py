"""The XML and JSON the WireServer and HostGAPlugin answer with (protocol sections of those names)."""

import base64
import json
import textwrap
import xml.etree.ElementTree as ET
from typing import Any

import msgspec

from fabric.state import GoalStateVersion, VmState, WantedHandler, WantedInstance

VERSIONS = (
    b'<?xml version="1.0" encoding="utf-8"?><Versions><Preferred><Version>2015-04-05</Version></Preferred>'
    b"<Supported><Version>2012-11-30</Version><Version>2015-04-05</Version></Supported></Versions>"
)
_HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n'


class Urls(msgspec.Struct, frozen=True, kw_only=True):
    """Where this VM finds things; each already signed where that is needed."""

    status_blob: str
    manifest: dict[str, str]
    """By handler name."""
    families: dict[str, str]
    """Manifests of agent families, by name."""
    artifacts_profile: str = ""


def goal_state(vm: VmState, wireserver: str, *, with_role: bool = True) -> bytes:
    root = ET.Element("GoalState")
    number = str(vm.fabric.number)
    _text(root, "Version", "2012-11-30")
    _text(root, "Incarnation", number)
    machine = ET.SubElement(root, "Machine")
    _text(machine, "ExpectedState", "Started")
    ports = ET.SubElement(machine, "LBProbePorts")
    for port in vm.probe_ports:
        _text(ports, "Port", str(port))
    container = ET.SubElement(root, "Container")
    _text(container, "ContainerId", vm.identity.container_id)
    roles = ET.SubElement(container, "RoleInstanceList")
    if with_role:
        role = ET.SubElement(roles, "RoleInstance")
        _text(role, "InstanceId", vm.identity.instance_id)
        _text(role, "State", "Started")
        configuration = ET.SubElement(role, "Configuration")
        base = f"{wireserver}/machine/{vm.identity.container_id}/{vm.identity.vm}"
        for name, kind in (
            ("HostingEnvironmentConfig", "hostingEnvironmentConfig"),
            ("SharedConfig", "sharedConfig"),
            ("ExtensionsConfig", "extensionsConfig"),
            ("FullConfig", "fullConfig"),
        ):
            _text(configuration, name, f"{base}?comp=config&type={kind}&incarnation={number}")
        _text(configuration, "Certificates", f"{base}?comp=certificates&incarnation={number}")
        _text(configuration, "ConfigName", vm.identity.config_name)
    return _document(root)


def hosting_environment(vm: VmState) -> bytes:
    root = ET.Element("HostingEnvironmentConfig", version="1.0.0.0", goalStateIncarnation=str(vm.fabric.number))
    ET.SubElement(root, "Deployment", name=vm.identity.deployment_id)
    ET.SubElement(root, "Incarnation", number=str(vm.fabric.number), instance=f"_{vm.identity.vm}")
    ET.SubElement(root, "Role", name=f"_{vm.identity.vm}")
    return _document(root)


def shared_config(vm: VmState) -> bytes:
    root = ET.Element("SharedConfig", version="1.0.0.0", goalStateIncarnation=str(vm.fabric.number))
    ET.SubElement(root, "Deployment", name=vm.identity.deployment_id)
    return _document(root)


def extensions_config(vm: VmState, urls: Urls, thumbprint: str, *, ticks_are_missing: bool = False) -> bytes:
    root = ET.Element("Extensions", version="1.0.0.0", goalStateIncarnation=str(vm.fabric.number))
    agent = ET.SubElement(root, "GuestAgentExtension")
    families = ET.SubElement(agent, "GAFamilies")
    for fields in _families(vm.fabric, urls):
        family = ET.SubElement(families, "GAFamily")
        for name, value in fields.items():
            if name == "uris":
                _text(ET.SubElement(family, "Uris"), "Uri", str(value[0]))
            else:
                _text(family, name[0].upper() + name[1:], str(value).lower() if isinstance(value, bool) else str(value))
    _text(agent, "Location", "local")
    _text(agent, "ServiceName", "CRP")
    if vm.required_features:
        required = ET.SubElement(root, "RequiredFeatures")
        for name in vm.required_features:
            _text(ET.SubElement(required, "RequiredFeature"), "Name", name)
    plugins, settings = ET.SubElement(root, "Plugins"), ET.SubElement(root, "PluginSettings")
    for handler in vm.fabric.handlers:
        location = urls.manifest[handler.name]
        ET.SubElement(
            plugins, "Plugin", name=handler.name, version=handler.version, location=location, state=handler.state,
            autoUpgrade="false", runAsStartupTask="false", isJson="true", useExactVersion="true",
            encodedSignature=handler.signature,
        )  # fmt: skip
        if handler.has_settings and handler.state != "uninstall":
            plugin = ET.SubElement(settings, "Plugin", name=handler.name, version=handler.version)
            places: list[WantedHandler | WantedInstance] = [*handler.instances] or [handler]
            for place in places:
                _depends_on(plugin, place)
            for one in handler.instances:
                instance = ET.SubElement(
                    plugin, "ExtensionRuntimeSettings", seqNo=str(one.sequence_number), name=one.name, state=one.state
                )
                # As ASCII: JSON may hold characters that XML may not.
                instance.text = json.dumps(_runtime_settings(one, thumbprint))
            if handler.instances:
                continue
            runtime = ET.SubElement(plugin, "RuntimeSettings", seqNo=str(handler.sequence_number))
            # As ASCII: JSON may hold characters that XML may not.
            runtime.text = json.dumps(_runtime_settings(handler, thumbprint))
    blob = ET.SubElement(root, "StatusUploadBlob", statusBlobType="BlockBlob")
    blob.text = urls.status_blob
    if vm.on_hold is not None:
        _text(root, "InVMArtifactsProfileBlob", urls.artifacts_profile)
    metadata = ET.SubElement(
        root, "InVMGoalStateMetaData", inSvdSeqNo=str(vm.fabric.number), activityId=f"activity-{vm.fabric.number}",
        correlationId=f"correlation-{vm.fabric.number}",
    )  # fmt: skip
    if not ticks_are_missing:
        metadata.set("createdOnTicks", str(vm.fabric.ticks))
    return _document(root)


def vm_settings(vm: VmState, urls: Urls, thumbprint: str, *, ticks_are_missing: bool = False) -> bytes:
    """The FastTrack channel: the change it delivered last, or a repetition of the Fabric goal state."""
    fast = vm.fast_track is not None and vm.fast_track.ticks > vm.fabric.ticks
    version = vm.fast_track if fast and vm.fast_track is not None else vm.fabric
    return msgspec.json.encode(
        {
            "hostGAPluginVersion": "1.0.8.160",
            "vmSettingsSchemaVersion": "0.0",
            "activityId": f"activity-{version.number}",
            "correlationId": f"correlation-{version.number}",
            "inSvdSeqNo": version.number,
            **({} if ticks_are_missing else {"extensionsLastModifiedTickCount": version.ticks}),
            "extensionGoalStatesSource": "FastTrack" if fast else "Fabric",
            "onHold": bool(vm.on_hold),
            "statusUploadBlob": {"statusBlobType": "BlockBlob", "value": urls.status_blob},
            "gaFamilies": _families(version, urls),
            "requiredFeatures": [{"name": name} for name in vm.required_features],
            "extensionGoalStates": [_fast_handler(one, urls, thumbprint) for one in version.handlers],
        }
    )


def vm_settings_etag(vm: VmState) -> str:
    """Empty if this host has no FastTrack."""
    if not vm.fast_track_supported:
        return ""
    fast: GoalStateVersion | None = vm.fast_track
    return f'"{vm.fabric.number}-{fast.number if fast else 0}"'


def certificate_file(vm: VmState, envelope: bytes) -> bytes:
    root = ET.Element("CertificateFile")
    _text(root, "Version", "2012-11-30")
    _text(root, "Incarnation", str(vm.fabric.number))
    _text(root, "Format", "Pkcs7BlobWithPfxContents")
    _text(root, "Data", "\n".join(textwrap.wrap(base64.b64encode(envelope).decode(), 64)))
    return _document(root)


def manifest(packages: list[tuple[str, str]]) -> bytes:
    """A PluginVersionManifest of (version, URL)."""
    root = ET.Element("PluginVersionManifest")
    plugins = ET.SubElement(root, "Plugins")
    for version, url in packages:
        plugin = ET.SubElement(plugins, "Plugin")
        _text(plugin, "Version", version)
        _text(ET.SubElement(plugin, "Uris"), "Uri", url)
    ET.SubElement(root, "InternalPlugins")
    return _document(root)


def _families(version: GoalStateVersion, urls: Urls) -> list[dict[str, Any]]:
    """As vmSettings has them; in XML the names begin large."""
    asked = {one.name: one for one in version.components or ()}
    return [
        {
            "name": name,
            **({"version": one.version} if (one := asked.get(name)) else {}),
            **({"fromVersion": one.from_version} if one and one.from_version else {}),
            # Said also when it is not so: without them an agent stays in the mode it is in.
            "isVersionFromRSM": one is not None,
            "isVMEnabledForRSMUpgrades": one is not None,
            "uris": [manifest],
        }
        for name, manifest in urls.families.items()
    ]


def _depends_on(plugin: ET.Element, wanted: WantedHandler | WantedInstance) -> None:
    if not wanted.dependency_level and not wanted.depends_on:
        return
    element = ET.SubElement(plugin, "DependsOn", dependencyLevel=str(wanted.dependency_level))
    if isinstance(wanted, WantedInstance):
        element.set("name", wanted.name)
    for one in wanted.depends_on:
        handler, _, extension = one.partition("/")
        named = ET.SubElement(element, "DependsOnExtension", handler=handler)
        if extension:
            named.set("extension", extension)


def _fast_depends_on(wanted: WantedHandler | WantedInstance) -> list[dict[str, Any]]:
    if not wanted.dependency_level and not wanted.depends_on:
        return []
    named = [dict(zip(("handler", "extension"), one.split("/", 1), strict=False)) for one in wanted.depends_on]
    entry: dict[str, Any] = {"dependsOnExtension": named, "dependencyLevel": wanted.dependency_level}
    return [{**entry, "name": wanted.name} if isinstance(wanted, WantedInstance) else entry]


def _runtime_settings(handler: WantedHandler | WantedInstance, thumbprint: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"publicSettings": handler.public if handler.public is not None else {}}
    if handler.protected:
        named = handler.thumbprint or thumbprint
        settings |= {"protectedSettings": handler.protected, "protectedSettingsCertThumbprint": named}
    return {"runtimeSettings": [{"handlerSettings": settings}]}


def _fast_handler(handler: WantedHandler, urls: Urls, thumbprint: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": handler.name,
        "version": handler.version,
        "location": urls.manifest[handler.name],
        "state": handler.state,
        "isMultiConfig": bool(handler.instances),
        **({"encodedSignature": handler.signature} if handler.signature else {}),
    }
    if handler.instances and handler.state != "uninstall":
        entry["settings"] = [
            {
                **_fast_settings(one, thumbprint),
                "extensionName": one.name,
                "seqNo": one.sequence_number,
                "extensionState": one.state,
            }
            for one in handler.instances
        ]
        depends_on = [found for one in handler.instances for found in _fast_depends_on(one)]
        # The reference agent complains of an empty array.
        return entry | ({"dependsOn": depends_on} if depends_on else {})
    if handler.has_settings and handler.state != "uninstall":
        entry |= {"settingsSeqNo": handler.sequence_number, "settings": [_fast_settings(handler, thumbprint)]}
        if depends_on := _fast_depends_on(handler):
            entry["dependsOn"] = depends_on
    return entry


def _fast_settings(wanted: WantedHandler | WantedInstance, thumbprint: str) -> dict[str, Any]:
    settings = {"publicSettings": msgspec.json.encode(wanted.public if wanted.public is not None else {}).decode()}
    if wanted.protected:
        named = wanted.thumbprint or thumbprint
        settings |= {"protectedSettings": wanted.protected, "protectedSettingsCertThumbprint": named}
    return settings


def _text(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, name).text = text


def _document(root: ET.Element) -> bytes:
    text: str = ET.tostring(root, encoding="unicode")
    return _HEAD + text.encode()
