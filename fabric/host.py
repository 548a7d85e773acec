"""The host as one object: what it wants, what it was told, and who waits for a change."""

import asyncio
import hashlib
import hmac
import secrets
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fabric import documents, state, tenant
from fabric.blobs import BlobStore
from fabric.errors import FabricError, Unknown
from fabric.faults import Faults
from fabric.state import EVENTS_LIMIT, TRANSCRIPT_LIMIT, GoalStateVersion, Health, HostState, VmState, WantedHandler

_EPOCH_TICKS = 621_355_968_000_000_000  # 1970-01-01 in 100 ns since 0001-01-01
_SAVE_DELAY = 0.2


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Base URLs as the VM sees them; written to endpoints.json."""

    pid: int
    wireserver: str
    hostgaplugin: str
    imds: str
    blob: str
    portal: str


class Host:
    """One loop's object. State is saved a moment after each change, and at the end."""

    def __init__(self, folder: Path, endpoints: Endpoints) -> None:
        """Raises FabricError if an earlier run's state cannot be read."""
        self._path = folder / "state.json"
        try:
            loaded = state.load(self._path)
        except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
            raise FabricError(f"{self._path} is damaged: {error}. Move it away to begin anew") from error
        self.state = loaded or _new_state()
        self.blobs = BlobStore(folder / "blobs", self._signature, self._blob_written)
        self.faults = Faults()
        self.transcript: deque[dict[str, Any]] = deque(maxlen=TRANSCRIPT_LIMIT)
        self.endpoints = endpoints
        self.closing = False
        self._changed: asyncio.Condition = asyncio.Condition()
        self._save_at: asyncio.TimerHandle | None = None
        self._write_manifests()

    # One VM for now; the lab will find it by where the request comes from.
    @property
    def vm(self) -> VmState:
        return next(iter(self.state.vms.values()))

    # -- wanting ---------------------------------------------------------------------------------------------------

    async def want(self, handler: WantedHandler, *, fast_track: bool) -> WantedHandler:
        """Put a handler into the goal state; its sequence number follows the one before."""
        before = {one.name: one for one in self.vm.handlers}
        if handler.name in before:
            handler.sequence_number = before[handler.name].sequence_number + 1
        before[handler.name] = handler
        await self._deliver(list(before.values()), fast_track=fast_track)
        return handler

    async def want_all(self, handlers: list[WantedHandler], *, fast_track: bool) -> None:
        """Make these the goal state, sequence numbers as they are."""
        await self._deliver(handlers, fast_track=fast_track)

    async def remove(self, name: str, *, now: bool, fast_track: bool) -> None:
        """Ask for uninstall, or have it vanish from the goal state without a word. Raises Unknown."""
        handlers = self.vm.handlers
        if name not in {one.name for one in handlers}:
            raise Unknown(f"{name} is not in the goal state")
        if now:
            left = [one for one in handlers if one.name != name]
        else:
            left = [msgspec.structs.replace(one, state="uninstall") if one.name == name else one for one in handlers]
        await self._deliver(left, fast_track=fast_track)

    async def require(self, features: list[str]) -> None:
        """A new incarnation that requires them."""
        self.vm.required_features = features
        await self._deliver(self.vm.handlers, fast_track=False)

    async def support_fast_track(self, supported: bool) -> None:
        self.vm.fast_track_supported = supported
        await self._notify()

    def hold(self, on: bool) -> None:
        """In the artifacts profile, which is read with the next incarnation: this one stays as it is."""
        self.blobs.put(self._profile_path, msgspec.json.encode({"onHold": on, "profileId": "p"}))
        self.vm.on_hold = on
        self.touch()

    def rotate_certificate(self, *, elliptic: bool) -> str:
        """Another tenant certificate instead of the one there is, without a new incarnation; its thumbprint."""
        identity = self.vm.identity
        key, certificate = tenant.make_tenant_certificate("azvmagent tenant", elliptic=elliptic)
        identity.tenant_key_pem, identity.tenant_certificate_pem = key, certificate
        self.touch()
        return tenant.thumbprint(identity)

    async def add_certificate(self, *, elliptic: bool) -> str:
        """One more beside the tenant certificate, with a new incarnation; its thumbprint."""
        key, certificate = tenant.make_tenant_certificate("azvmagent vault", elliptic=elliptic)
        self.vm.identity.more_certificates.append(state.KeyPair(key_pem=key, certificate_pem=certificate))
        await self._deliver(self.vm.handlers, fast_track=False)
        return tenant.thumbprint_of(certificate)

    def move(self) -> str:
        """The VM to another container, without a word; its id."""
        self.vm.identity.container_id = str(uuid.uuid4())
        self.touch()
        return self.vm.identity.container_id

    async def wait_for_change(self, tag: str, current: Any, seconds: float) -> None:
        """Return when `current()` is no longer `tag`, the time is up, or the host ends."""
        try:
            async with asyncio.timeout(min(seconds, 60.0)), self._changed:
                await self._changed.wait_for(lambda: self.closing or current() != tag)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Wake everybody who waits, and write the state down."""
        self.closing = True
        async with self._changed:
            self._changed.notify_all()
        if self._save_at is not None:
            self._save_at.cancel()
        self._save()

    # -- being told ------------------------------------------------------------------------------------------------

    def told_health(self, health: Health) -> None:
        self.vm.told.heartbeats += 1
        self.vm.told.health = health
        self.touch()

    def told_events(self, events: list[dict[str, Any]]) -> None:
        told = self.vm.told
        told.events = [*told.events, *events][-EVENTS_LIMIT:]
        self.touch()

    def told_observations(self, observations: list[dict[str, Any]]) -> None:
        for one in observations:
            self.vm.told.observations[str(one.get("ObservationName", ""))[:64]] = {**one, "at": time.time()}
        self.touch()

    def count(self, endpoint: str, method: str, path: str, status: int) -> None:
        """One line of the transcript; the query may hold a signature and is left out."""
        counts = self.vm.told.requests
        counts[endpoint] = counts.get(endpoint, 0) + 1
        self.transcript.append(
            {"at": time.time(), "endpoint": endpoint, "method": method, "path": path, "status": status}
        )
        self.touch()

    def touch(self) -> None:
        """The state will be saved soon."""
        if self._save_at is None and not self.closing:
            self._save_at = asyncio.get_running_loop().call_later(_SAVE_DELAY, self._save)

    # -- places ----------------------------------------------------------------------------------------------------

    def urls(self) -> documents.Urls:
        names = {one.name for version in (self.vm.fabric, self.vm.fast_track) if version for one in version.handlers}
        return documents.Urls(
            wireserver=self.endpoints.wireserver,
            status_blob=self.signed(f"/status/{self.vm.identity.vm}.status"),
            manifest={name: self.signed(f"/manifests/{name}.xml") for name in names},
            agent_manifest=self.signed("/agents/Prod.xml"),
            artifacts_profile=self.signed(self._profile_path),
        )

    def signed(self, path: str) -> str:
        """A blob's URL with a signature of ours."""
        signature = quote(self._signature(path), safe="")
        return f"{self.endpoints.blob}{quote(path)}?sv=2018-03-28&sr=b&sp=rw&sig={signature}"

    def publish(self, name: str, version: str, package: bytes) -> None:
        """Put a package into the repository and rewrite its handler's manifest."""
        self.blobs.put(f"/packages/{name}_{version}.zip", package)
        self._write_manifest(name)

    def protect(self, settings: Any) -> str:
        return tenant.protect(self.vm.identity, msgspec.json.encode(settings))

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _deliver(self, handlers: list[WantedHandler], *, fast_track: bool) -> None:
        vm = self.vm
        if fast_track and not vm.fast_track_supported:
            raise FabricError("FastTrack is off: azfabric fast-track on")
        # Time may stand still or go back; what is newer must look newer.
        last = max(vm.fabric.ticks, vm.fast_track.ticks if vm.fast_track else 0)
        ticks = max(last + 1, _EPOCH_TICKS + time.time_ns() // 100)
        if fast_track:
            number = vm.fast_track.number + 1 if vm.fast_track else 1
            vm.fast_track = GoalStateVersion(number=number, ticks=ticks, handlers=handlers)
        else:
            vm.fabric = GoalStateVersion(number=vm.fabric.number + 1, ticks=ticks, handlers=handlers)
        await self._notify()

    async def _notify(self) -> None:
        self.touch()
        async with self._changed:
            self._changed.notify_all()

    @property
    def _profile_path(self) -> str:
        return f"/status/{self.vm.identity.vm}.vmSettings"

    def _write_manifests(self) -> None:
        """Ports may differ from the last run's, and manifests name URLs: write each again."""
        for path in self.blobs.paths("/manifests/"):
            self._write_manifest(path.removeprefix("/manifests/").removesuffix(".xml"))
        self.blobs.put("/agents/Prod.xml", documents.manifest([]))

    def _write_manifest(self, name: str) -> None:
        prefix = f"/packages/{name}_"
        versions = sorted(path.removeprefix(prefix).removesuffix(".zip") for path in self.blobs.paths(prefix))
        listed = [(version, self.signed(f"{prefix}{version}.zip")) for version in versions]
        self.blobs.put(f"/manifests/{name}.xml", documents.manifest(listed))

    def _blob_written(self, path: str, content: bytes, channel: str) -> None:
        if path != f"/status/{self.vm.identity.vm}.status":
            return
        told = self.vm.told
        text = content.rstrip(b" \0")
        try:
            told.status = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            told.status = text.decode("utf-8", "replace")
        told.status_at, told.status_by = time.time(), channel
        told.status_count += 1
        self._forget_uninstalled()
        self.touch()

    def _forget_uninstalled(self) -> None:
        """What the VM no longer reports after it was asked to uninstall it is gone."""
        aggregate = self.vm.told.status.get("aggregateStatus") if isinstance(self.vm.told.status, dict) else None
        handlers = aggregate.get("handlerAggregateStatus") if isinstance(aggregate, dict) else None
        if not isinstance(handlers, list):
            return
        reported = {one.get("handlerName") for one in handlers if isinstance(one, dict)}
        vm = self.vm
        for version in (vm.fabric, vm.fast_track):
            if version is not None:
                version.handlers = [one for one in version.handlers if one.state != "uninstall" or one.name in reported]

    def _signature(self, path: str) -> str:
        return hmac.new(self.state.signing_secret.encode(), path.encode(), hashlib.sha256).hexdigest()

    def _save(self) -> None:
        self._save_at = None
        state.save(self._path, self.state)


def _new_state() -> HostState:
    key, certificate = tenant.make_tenant_certificate("azvmagent tenant")
    identity = state.Identity(
        vm="vm1",
        container_id=str(uuid.uuid4()),
        deployment_id=str(uuid.uuid4()),
        tenant_key_pem=key,
        tenant_certificate_pem=certificate,
    )
    first = GoalStateVersion(number=1, ticks=_EPOCH_TICKS + time.time_ns() // 100)
    return HostState(signing_secret=secrets.token_hex(32), vms={"vm1": VmState(identity=identity, fabric=first)})
