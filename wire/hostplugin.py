"""HostGAPlugin (protocol: HostGAPlugin). Blocking."""

import base64
import uuid
from pathlib import Path
from typing import Literal

import msgspec

from wire.blob import plan_upload
from wire.deadline import Deadline
from wire.download import PATIENTLY, Downloaded, Patience, Unchanged
from wire.errors import DocumentError, Refused
from wire.extensions import StatusBlob
from wire.http import BODY_LIMIT, HttpClient
from wire.vmsettings import VmSettings, parse_vm_settings

API_VERSION = "2015-09-01"
_SECONDS = 10.0

Unsupported = Literal["unsupported"]


class HostPlugin:
    """Conversations in the name of one container; make a new one when the goal state names other ids."""

    def __init__(self, client: HttpClient, base_url: str, container_id: str, config_name: str) -> None:
        self._client = client
        self.base_url = base_url
        self._headers = {
            "x-ms-version": API_VERSION,
            "x-ms-containerid": container_id,
            "x-ms-host-config-name": config_name,
        }

    def vm_settings(self, *, known: str = "", wait: float = 0.0) -> VmSettings | Unchanged | Unsupported:
        """The FastTrack document, unless `known` (an ETag) is still current. Raises HostError, DocumentError, Gone.

        `wait` as for the WireServer's goal state.
        """
        headers = {**self._headers, "x-ms-client-correlationid": str(uuid.uuid4())}
        if known:
            headers["if-none-match"] = known
            if wait:
                headers["Prefer"] = f"wait={wait:g}"
        url = f"{self.base_url}/vmSettings"
        try:
            answer = self._client.request("GET", url, headers=headers, deadline=Deadline.after(_SECONDS + wait))
        except Refused as refusal:
            if refusal.status == 404:
                return "unsupported"
            raise
        if answer.status == 304 and known:
            return "unchanged"
        etag = answer.headers.get("ETag", "")
        if not etag or len(etag) > 256 or not etag.isprintable():
            raise DocumentError("vmSettings", "came without a usable ETag")
        try:
            settings = parse_vm_settings(answer.body, etag)
        except DocumentError as error:
            error.content = answer.body
            raise
        return settings if settings.supported else "unsupported"

    def fetch(self, location: str, *, fast_track: bool = False, seconds: float = 60.0) -> bytes:
        """A small artifact (manifest, profile) through the host. Raises HostError."""
        headers = self._artifact_headers(location, fast_track=fast_track)
        url = f"{self.base_url}/extensionArtifact"
        deadline = Deadline.after(seconds)
        return self._client.request("GET", url, headers=headers, deadline=deadline, limit=BODY_LIMIT).body

    def download(
        self,
        location: str,
        target: Path,
        *,
        manifest: str,
        limit: int,
        deadline: Deadline,
        fast_track: bool = False,
        known: str = "",
        patience: Patience = PATIENTLY,
    ) -> Downloaded | Unchanged:
        """A package through the host, as `HttpClient.download`. Raises HostError, OSError.

        A host that knows nothing of ETags and ranges answers with the whole.
        """
        headers = self._artifact_headers(location, fast_track=fast_track)
        if manifest:
            headers["x-ms-artifact-manifest-location"] = manifest
        return self._client.download(
            f"{self.base_url}/extensionArtifact",
            target,
            headers=headers,
            deadline=deadline,
            limit=limit,
            known=known,
            patience=patience,
        )

    def put_status(self, blob: StatusBlob, content: bytes, *, seconds: float = 20.0) -> None:
        """Have the host store the status blob. Raises HostError, Gone."""
        deadline = Deadline.after(seconds)
        for put in plan_upload(blob, content, padding=b" "):
            order: dict[str, object] = {
                "requestUri": put.url,
                "headers": [{"headerName": name, "headerValue": value} for name, value in put.headers.items()],
            }
            if put.body:
                order["content"] = base64.b64encode(put.body).decode()
            headers = {**self._headers, "Content-type": "application/json"}
            body = msgspec.json.encode(order, order="sorted")
            self._client.request("PUT", f"{self.base_url}/status", headers=headers, body=body, deadline=deadline)

    def _artifact_headers(self, location: str, *, fast_track: bool) -> dict[str, str]:
        headers = {**self._headers, "x-ms-artifact-location": location}
        if fast_track:
            headers["x-ms-verify-from-artifacts-blob"] = "true"
        return headers
