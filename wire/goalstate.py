"""GoalState: which incarnation is wanted, who we are to the host, where the parts are (protocol: GoalState)."""

import msgspec

from wire import xml
from wire.errors import DocumentError, NoRoleInstance

DOCUMENT = "GoalState"


class GoalState(msgspec.Struct, frozen=True, kw_only=True):
    """All ids are opaque strings; a lower incarnation is as new as a higher one."""

    incarnation: str
    container_id: str
    instance_id: str
    config_name: str
    """Sent to HostGAPlugin; the text before its first dot is the deployment id."""
    hosting_environment_url: str
    shared_config_url: str
    extensions_url: str
    """Empty if the goal state has no extensions part."""
    certificates_url: str
    """Empty if there are no certificates."""
    remote_access_url: str
    probe_ports: tuple[int, ...]
    content: bytes = b""
    """The document as it came."""


def parse_goal_state(data: bytes) -> GoalState:
    """Raises DocumentError, NoRoleInstance."""
    root = xml.parse(DOCUMENT, data)
    if root.tag != "GoalState":
        raise DocumentError(DOCUMENT, f"begins with <{root.tag}>")
    role = xml.find(root, "RoleInstance")
    if role is None:
        raise NoRoleInstance
    return GoalState(
        incarnation=_mandatory(root, "Incarnation"),
        container_id=_mandatory(root, "ContainerId"),
        instance_id=_mandatory(role, "InstanceId"),
        config_name=_mandatory(role, "ConfigName"),
        hosting_environment_url=_mandatory(role, "HostingEnvironmentConfig"),
        shared_config_url=_mandatory(role, "SharedConfig"),
        extensions_url=xml.text_of(role, "ExtensionsConfig").strip(),
        certificates_url=xml.text_of(role, "Certificates").strip(),
        remote_access_url=xml.text_of(root, "RemoteAccessInfo").strip(),
        probe_ports=_ports(root),
        content=data,
    )


def _mandatory(element: xml.Element, name: str) -> str:
    text = xml.text_of(element, name).strip()
    if not text:
        raise DocumentError(DOCUMENT, f"has no {name}")
    if len(text) > 2048 or any(ord(character) < 32 for character in text):
        # These go into request headers and URLs.
        raise DocumentError(DOCUMENT, f"has a {name} that cannot be used")
    return text


def _ports(root: xml.Element) -> tuple[int, ...]:
    """The load balancer's probe ports; what is no port is passed over, the rest of the goal state matters more."""
    texts = [port.text or "" for ports in xml.find_all(root, "LBProbePorts") for port in xml.children(ports, "Port")]
    numbers = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= 5]
    return tuple(number for number in numbers if 0 < number < 65536)
