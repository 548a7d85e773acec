"""The WireServer (protocol: endpoint table). Blocking."""

from collections.abc import Mapping
from typing import Literal

from wire.deadline import Deadline
from wire.errors import DocumentError
from wire.goalstate import GoalState, parse_goal_state
from wire.health import HealthReport, Observation, health_document, observations_document
from wire.http import HttpClient
from wire.retry import ONCE, PATIENT, Policy

PROTOCOL_VERSION = "2012-11-30"
Cipher = Literal["AES128_CBC", "DES_EDE3_CBC"]

_HEADERS = {"x-ms-agent-name": "WALinuxAgent", "x-ms-version": PROTOCOL_VERSION}
_XML = {"Content-Type": "text/xml;charset=utf-8"}
_SECONDS = 10.0


class WireServer:
    """Conversations with one WireServer; each call is bounded by ten seconds unless it says otherwise."""

    def __init__(self, client: HttpClient, base_url: str) -> None:
        self._client = client
        self.base_url = base_url

    def check_version(self) -> None:
        """Whether the host speaks our protocol version. Raises HostError, DocumentError."""
        from wire import xml

        root = xml.parse("Versions", self._get(f"{self.base_url}/?comp=versions", policy=PATIENT))
        offered = {(version.text or "").strip() for version in xml.find_all(root, "Version")}
        if PROTOCOL_VERSION not in offered:
            raise DocumentError("Versions", f"{PROTOCOL_VERSION} is not among {sorted(offered)}")

    def goal_state(self, *, known: str = "", wait: float = 0.0) -> GoalState:
        """The goal state. Raises HostError, DocumentError, NoRoleInstance.

        With `wait` (seconds) a host that honours `Prefer: wait` (RFC 7240 section 4.3) answers when the incarnation is
        no longer the `known` one; any other host answers at once.
        """
        headers = {"Prefer": f"wait={wait:g}", "If-None-Match": f'"{known}"'} if wait and known else {}
        url = f"{self.base_url}/machine/?comp=goalstate"
        return parse_goal_state(self._get(url, headers=headers, seconds=_SECONDS + wait))

    def document(self, url: str) -> bytes:
        """A part of the goal state, by the URL it names. Raises HostError."""
        return self._get(url, policy=PATIENT)

    def certificates(self, url: str, transport_certificate: str, cipher: Cipher) -> bytes:
        """The Certificates document, encrypted to `transport_certificate` (base64 DER, one line). Raises HostError."""
        headers = {"x-ms-guest-agent-public-x509-cert": transport_certificate, "x-ms-cipher-name": cipher}
        return self._get(url, headers=headers)

    def report_health(self, report: HealthReport, goal_state: GoalState, *, seconds: float = _SECONDS) -> None:
        """POST /machine?comp=health. Raises HostError."""
        body = health_document(
            report,
            incarnation=goal_state.incarnation,
            container_id=goal_state.container_id,
            instance_id=goal_state.instance_id,
        )
        self._post("/machine?comp=health", body, {**_HEADERS, **_XML}, seconds=seconds)

    def observe(self, source: str, observations: list[Observation]) -> None:
        """POST /HealthService. Raises HostError."""
        body = observations_document(source, observations)
        self._post("/HealthService", body, {"Content-Type": "application/json"})

    def send_telemetry(self, body: bytes) -> None:
        """POST /machine?comp=telemetrydata, one body of `wire.events`. Raises HostError."""
        self._post("/machine?comp=telemetrydata", body, {**_HEADERS, **_XML})

    def _get(
        self, url: str, *, headers: Mapping[str, str] | None = None, seconds: float = _SECONDS, policy: Policy = ONCE
    ) -> bytes:
        deadline = Deadline.after(seconds)
        answer = self._client.request(
            "GET", url, headers={**_HEADERS, **(headers or {})}, deadline=deadline, policy=policy
        )
        return answer.body

    def _post(self, path: str, body: bytes, headers: Mapping[str, str], *, seconds: float = _SECONDS) -> None:
        url = self.base_url + path
        self._client.request("POST", url, headers=headers, body=body, deadline=Deadline.after(seconds))
