"""HostingEnvironmentConfig and SharedConfig: names for telemetry, and a file other products read."""

import msgspec

from wire import xml
from wire.errors import DocumentError

DOCUMENT = "HostingEnvironmentConfig"


class HostingEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """Stamped on telemetry. Empty where the document has nothing."""

    vm_name: str = ""
    role_name: str = ""
    tenant_name: str = ""


def parse_hosting_environment(data: bytes) -> HostingEnvironment:
    """Raises DocumentError."""
    root = xml.parse(DOCUMENT, data)
    return HostingEnvironment(
        vm_name=_attribute(root, "Incarnation", "instance"),
        role_name=_attribute(root, "Role", "name"),
        tenant_name=_attribute(root, "Deployment", "name"),
    )


def check_shared_config(data: bytes) -> bytes:
    """The document as it came, once it is known to be XML. Raises DocumentError."""
    root = xml.parse("SharedConfig", data)
    if root.tag != "SharedConfig":
        raise DocumentError("SharedConfig", f"begins with <{root.tag}>")
    return data


def _attribute(root: xml.Element, name: str, attribute: str) -> str:
    found = xml.find(root, name)
    return found.get(attribute, "") if found is not None else ""
