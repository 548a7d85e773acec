"""Documents rdagent sends: the Health report and HealthService observations (protocol: health reports)."""

import xml.etree.ElementTree as ET
from typing import Literal

import msgspec

from wire.xml import writable

_DESCRIPTION_LIMIT = 3686


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the host is told about the VM as a whole."""

    state: Literal["Ready", "NotReady"]
    substatus: str = ""
    """`Provisioning`, `ProvisioningFailed`... Details are sent only with one."""
    description: str = ""
    """Cut to 3686 characters: longer ones once brought the host down."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a HealthService report."""

    name: str
    healthy: bool
    description: str = ""
    value: str = ""


def health_document(report: HealthReport, *, incarnation: str, container_id: str, instance_id: str) -> bytes:
    """The body of POST /machine?comp=health."""
    health = ET.Element("Health")
    ET.SubElement(health, "GoalStateIncarnation").text = writable(incarnation)
    container = ET.SubElement(health, "Container")
    ET.SubElement(container, "ContainerId").text = writable(container_id)
    role = ET.SubElement(ET.SubElement(container, "RoleInstanceList"), "Role")
    ET.SubElement(role, "InstanceId").text = writable(instance_id)
    state = ET.SubElement(role, "Health")
    ET.SubElement(state, "State").text = report.state
    if report.substatus:
        details = ET.SubElement(state, "Details")
        ET.SubElement(details, "SubStatus").text = writable(report.substatus)
        ET.SubElement(details, "Description").text = writable(report.description[:_DESCRIPTION_LIMIT])
    text: str = ET.tostring(health, encoding="unicode")
    return b'<?xml version="1.0" encoding="utf-8"?>' + text.encode()


def observations_document(source: str, observations: list[Observation]) -> bytes:
    """The body of POST /HealthService."""
    return msgspec.json.encode(
        {
            "Api": "reporttargethealth",
            "Version": "1.0",
            "Source": source,
            "Observations": [
                {
                    "ObservationName": one.name[:64],
                    "IsHealthy": one.healthy,
                    "Description": one.description[:128],
                    "Value": one.value[:128],
                }
                for one in observations
            ],
        }
    )
