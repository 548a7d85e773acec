"""PluginVersionManifest: which versions of a handler or agent there are, and where (protocol: manifests)."""

import msgspec

from wire import xml
from wire.errors import DocumentError
from wire.version import BadVersion, Version, best

DOCUMENT = "PluginVersionManifest"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One version and the mirrors of its zip."""

    version: str
    uris: tuple[str, ...]


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


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except BadVersion:
        return False
    return True
