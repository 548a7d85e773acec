"""PluginVersionManifest: which versions of a handler or agent there are, and where (protocol: manifests)."""

from urllib.parse import urlsplit

import msgspec

from wire import xml
from wire.errors import DocumentError
from wire.extensions import parse_switch
from wire.version import BadVersion, Version, best

DOCUMENT = "PluginVersionManifest"

AGENT_SIZE_LIMIT = 1 << 20
AGENT_VERSIONS_LIMIT = 1000
"""Of an agent's manifest: we are asked to take what stands in it, so less is believed than of an extension's."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One version and the mirrors of its zip."""

    version: str
    uris: tuple[str, ...]
    disallow_major: bool = False
    """Nobody comes to it by himself from another major version."""


def parse_manifest(data: bytes) -> tuple[Package, ...]:
    """All packages, public and internal. Raises DocumentError.

    An entry whose version cannot be read is passed over: the reference agent gives up on the whole handler for it.
    """
    root = xml.parse(DOCUMENT, data)
    if root.tag != DOCUMENT:
        raise DocumentError(DOCUMENT, f"begins with <{root.tag}>")
    packages = []
    for plugin in xml.find_all(root, "Plugin"):
        version = xml.text_of(plugin, "Version").strip()
        uris = tuple((uri.text or "").strip() for uri in xml.find_all(plugin, "Uri"))
        if _is_version(version):
            packages.append(Package(version=version, uris=tuple(uri for uri in uris if uri)))
    return tuple(packages)


def parse_agent_manifest(data: bytes) -> tuple[Package, ...]:
    """The public packages of an agent family, each version once, mirrors by http(s) only. Raises DocumentError.

    Passed over: internal packages, versions that cannot be read, mirrors of another scheme, versions without a mirror.
    """
    if len(data) > AGENT_SIZE_LIMIT:
        raise DocumentError(DOCUMENT, f"is larger than {AGENT_SIZE_LIMIT} bytes")
    root = xml.parse(DOCUMENT, data)
    if root.tag != DOCUMENT:
        raise DocumentError(DOCUMENT, f"begins with <{root.tag}>")
    plugins = [plugin for plugins in xml.children(root, "Plugins") for plugin in xml.children(plugins, "Plugin")]
    if len(plugins) > AGENT_VERSIONS_LIMIT:
        raise DocumentError(DOCUMENT, f"has {len(plugins)} versions, limit {AGENT_VERSIONS_LIMIT}")
    packages: dict[Version, Package] = {}
    for plugin in plugins:
        version = xml.text_of(plugin, "Version").strip()
        uris = tuple(uri for one in xml.find_all(plugin, "Uri") if _is_http(uri := (one.text or "").strip()))
        if uris and _is_version(version):
            disallow = parse_switch(xml.text_of(plugin, "DisallowMajorVersionUpgrade")) is True
            packages.setdefault(Version(version), Package(version=version, uris=uris, disallow_major=disallow))
    return tuple(packages.values())


def choose(packages: tuple[Package, ...], requested: str) -> Package:
    """The highest version that starts with the requested parts. Raises DocumentError if there is none."""
    try:
        wanted = Version(requested)
    except BadVersion as error:
        raise DocumentError(DOCUMENT, f"the requested version: {error}") from error
    by_version = {Version(package.version): package for package in packages}
    chosen = best(wanted, by_version)
    if chosen is None:
        there = ", ".join(sorted(package.version for package in packages)[:20]) or "none at all"
        raise DocumentError(DOCUMENT, f"has no version {requested}; there is {there}")
    return by_version[chosen]


def _is_http(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except BadVersion:
        return False
    return True
