"""ExtensionsConfig, the WireServer's channel (protocol: ExtensionsConfig).

A handler whose part is wrong keeps its place, with the error; the others go on. (The reference agent rejects the whole
document for some of these mistakes.)
"""

from typing import Literal

import msgspec

from wire import json, xml
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
    parse_ticks,
)

DOCUMENT = "ExtensionsConfig"


def parse_extensions_config(data: bytes, incarnation: str) -> ExtensionsGoalState:
    """Raises DocumentError only if the document as a whole cannot be read."""
    root = xml.parse(DOCUMENT, data)
    if root.tag != "Extensions":
        raise DocumentError(DOCUMENT, f"begins with <{root.tag}>")
    metadata = xml.find(root, "InVMGoalStateMetaData")
    attributes = metadata.attrib if metadata is not None else {}
    return ExtensionsGoalState(
        id=f"incarnation_{incarnation}",
        source="Fabric",
        created_on_ticks=parse_ticks(attributes.get("createdOnTicks", "")),
        activity_id=attributes.get("activityId", ""),
        correlation_id=attributes.get("correlationId", ""),
        in_svd_seq_no=incarnation,
        status_blob=_status_blob(root),
        artifacts_profile_url=xml.text_of(root, "InVMArtifactsProfileBlob").strip(),
        required_features=tuple(xml.text_of(one, "Name").strip() for one in xml.find_all(root, "RequiredFeature")),
        families=tuple(_family(one) for one in xml.find_all(root, "GAFamily")),
        handlers=mark_repeated(_handlers(root)),
    )


def empty_extensions(incarnation: str) -> ExtensionsGoalState:
    """For a goal state that names no ExtensionsConfig: nothing is wanted, and nothing is unwanted either."""
    return ExtensionsGoalState(
        id=f"incarnation_{incarnation}",
        source="Fabric",
        in_svd_seq_no=incarnation,
        withheld="the goal state has no ExtensionsConfig",
    )


def _status_blob(root: xml.Element) -> StatusBlob | None:
    element = xml.find(root, "StatusUploadBlob")
    url = (element.text or "").strip() if element is not None else ""
    if element is None or not url:
        return None
    return StatusBlob(url=url, kind=parse_blob_type(element.get("statusBlobType", "")))


def _family(element: xml.Element) -> AgentFamily:
    return AgentFamily(
        name=xml.text_of(element, "Name").strip(),
        version=xml.text_of(element, "Version").strip(),
        from_version=xml.text_of(element, "FromVersion").strip(),
        is_version_from_rsm=_switch(element, "IsVersionFromRSM"),
        is_vm_enabled_for_rsm_upgrades=_switch(element, "IsVMEnabledForRSMUpgrades"),
        uris=tuple(text for uri in xml.find_all(element, "Uri") if (text := (uri.text or "").strip())),
    )


def _switch(element: xml.Element, name: str) -> bool | None:
    """Absent is unknown; any word but `true` is false."""
    found = xml.find(element, name)
    return None if found is None else (found.text or "").strip().lower() == "true"


def _handlers(root: xml.Element) -> tuple[Handler, ...]:
    plugins, settings = xml.find(root, "Plugins"), xml.find(root, "PluginSettings")
    nodes = list(xml.children(settings, "Plugin")) if settings is not None else []
    wanted = xml.children(plugins, "Plugin") if plugins is not None else ()
    return tuple(_handler(plugin, nodes) for plugin in wanted)


def _handler(plugin: xml.Element, settings_nodes: list[xml.Element]) -> Handler:
    name, version = plugin.get("name", ""), plugin.get("version", "")
    locations = [plugin.get("location", ""), plugin.get("failoverlocation", "")]
    locations += [(one.text or "").strip() for one in xml.find_all(plugin, "additionalLocation")]
    state: Literal["enabled", "disabled", "uninstall"] = "enabled"
    error, multi_config = "", False
    settings: tuple[Settings, ...] = ()
    try:
        state = _state(name, version, plugin.get("state", ""))
        own = [node for node in settings_nodes if node.get("name", "").lower() == name.lower()]
        multi_config, settings = _settings(name, version, own)
    except DocumentError as problem:
        error = str(problem)
    return Handler(
        name=name,
        version=version,
        state=state,
        locations=tuple(dict.fromkeys(url for url in locations if url)),
        multi_config=multi_config,
        signature=plugin.get("encodedSignature", ""),
        settings=settings,
        error=error,
    )


def _state(name: str, version: str, text: str) -> Literal["enabled", "disabled", "uninstall"]:
    if not name or not version:
        raise DocumentError(DOCUMENT, f"{name or 'a plugin'} has no {'version' if name else 'name'}")
    match text:
        case "enabled" | "disabled" | "uninstall":
            return text
    raise DocumentError(DOCUMENT, f"{name}: state {text[:40]!r} is not enabled, disabled or uninstall")


def _settings(name: str, version: str, nodes: list[xml.Element]) -> tuple[bool, tuple[Settings, ...]]:
    """Whether the handler is multi-config, and its settings."""
    if not nodes:
        return False, ()
    if len(nodes) > 1:
        raise DocumentError(DOCUMENT, f"{name}: {len(nodes)} PluginSettings instead of one")
    node = nodes[0]
    if node.get("version", "") != version:
        raise DocumentError(
            DOCUMENT, f"{name}: settings for version {node.get('version', '')[:40]!r}, wanted {version!r}"
        )
    single, several = list(xml.children(node, "RuntimeSettings")), list(xml.children(node, "ExtensionRuntimeSettings"))
    if single and several:
        raise DocumentError(DOCUMENT, f"{name}: both RuntimeSettings and ExtensionRuntimeSettings")
    if len(single) > 1:
        raise DocumentError(DOCUMENT, f"{name}: {len(single)} RuntimeSettings instead of one")
    depends = list(xml.children(node, "DependsOn"))
    if single:
        if len(depends) > 1:
            raise DocumentError(DOCUMENT, f"{name}: {len(depends)} DependsOn instead of at most one")
        return False, _one(name, single[0], depends[0] if depends else None)
    by_name = {one.get("name", ""): one for one in depends}
    names = [one.get("name", "") for one in several]
    if several and not all((*names, *by_name)):
        raise DocumentError(DOCUMENT, f"{name}: ExtensionRuntimeSettings or DependsOn without a name")
    if len(set(names)) < len(names):
        raise DocumentError(DOCUMENT, f"{name}: two ExtensionRuntimeSettings of one name")
    found = [
        msgspec.structs.replace(settings, name=extension, state=_extension_state(name, one))
        for extension, one in zip(names, several, strict=True)
        for settings in _one(name, one, by_name.get(extension))
    ]
    return bool(several), tuple(found)


def _one(handler: str, element: xml.Element, depends: xml.Element | None) -> tuple[Settings, ...]:
    """One; none if the array inside is empty."""
    sequence = element.get("seqNo", "")
    if not (sequence.isascii() and sequence.isdigit() and len(sequence) < 10):
        raise DocumentError(DOCUMENT, f"{handler}: seqNo {sequence[:40]!r} is not a number")
    document = f"{DOCUMENT}: settings of {handler}"
    items = json.Fields(document, "", json.parse(document, (element.text or "").encode())).objects("runtimeSettings")
    if len(items) > 1:
        raise DocumentError(document, f"runtimeSettings has {len(items)} items instead of one")
    depends_on = _depends_on(depends)
    level = parse_level(depends.get("dependencyLevel")) if depends is not None else 0
    return tuple(_handler_settings(document, item, int(sequence), level=level, depends_on=depends_on) for item in items)


def _extension_state(handler: str, element: xml.Element) -> Literal["enabled", "disabled"]:
    match text := element.get("state", "enabled").lower():
        case "enabled" | "disabled":
            return text
    raise DocumentError(DOCUMENT, f"{handler}: state {text[:40]!r} of an extension is not enabled or disabled")


def _handler_settings(
    document: str, item: json.Fields, sequence: int, *, level: int, depends_on: tuple[str, ...]
) -> Settings:
    fields = json.Fields(document, "handlerSettings", item.raw("handlerSettings"))
    thumbprint = fields.text("protectedSettingsCertThumbprint", "") or None
    return Settings(
        sequence_number=sequence,
        public=fields.raw("publicSettings"),
        # Empty counts as absent: an empty string breaks handlers that look for the key.
        protected=fields.text("protectedSettings", "") or None,
        thumbprint=thumbprint.upper() if thumbprint else None,
        dependency_level=level,
        depends_on=depends_on,
    )


def _depends_on(depends: xml.Element | None) -> tuple[str, ...]:
    named = xml.children(depends, "DependsOnExtension") if depends is not None else ()
    found = (dependency(one.get("handler", ""), one.get("extension", "")) for one in named)
    return tuple(one for one in found if one)
