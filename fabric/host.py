"""The host as one object: what it wants, what it was told, and who waits for a change."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fabric import documents, state, tenant
from fabric.blobs import BlobStore
from fabric.bodies import deep
from fabric.errors import FabricError, Unknown
from fabric.faults import Faults
from fabric.files import Unfinished
from fabric.packages import is_version
from fabric.state import TRANSCRIPT_LIMIT, GoalStateVersion, Health, HostState, VmState, WantedHandler

_EPOCH_TICKS = 621_355_968_000_000_000  # 1970-01-01 in 100 ns since 0001-01-01
_SAVE_DELAY = 0.2
_STATUS_LIMIT = 4 * 1024 * 1024
_OBSERVATIONS_LIMIT = 100


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Base URLs as the VM sees them; written to endpoints.json."""

    pid: int
    wireserver: str
    hostgaplugin: str
    imds: str
    blob: str
    portal: str

    def addresses(self) -> dict[str, str]:
        """By name; without the process."""
        return {name: str(value) for name, value in msgspec.structs.asdict(self).items() if name != "pid"}


class Host:
    """One loop's object.

    What is wanted is saved before anybody hears of it, what was told a moment later, and all at the end.
    """

    def __init__(self, folder: Path, endpoints: Endpoints, earlier: HostState | None) -> None:
        self._path = folder / "state.json"
        self.state = earlier or _new_state()
        self.blobs = BlobStore(folder / "blobs", self._signature, self._blob_written)
        self.faults = Faults()
        self.transcript: deque[dict[str, Any]] = deque(maxlen=TRANSCRIPT_LIMIT)
        self.endpoints = endpoints
        self.closing = False
        self._changed: asyncio.Condition = asyncio.Condition()
        self._save_at: asyncio.TimerHandle | None = None
        self._settle()

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
        await self._until(lambda: current() != tag, min(seconds, 60.0))

    async def pause(self, seconds: float) -> None:
        """Return when the time is up, or the host ends."""
        await self._until(lambda: False, seconds)

    async def close(self) -> None:
        """Wake everybody who waits."""
        self.closing = True
        async with self._changed:
            self._changed.notify_all()

    def save(self) -> None:
        """Write the state down. Raises Unwritable."""
        if self._save_at is not None:
            self._save_at.cancel()
        self._save_at = None
        state.save(self._path, self.state)

    # -- being told ------------------------------------------------------------------------------------------------

    def told_health(self, health: Health) -> None:
        self.vm.told.heartbeats += 1
        self.vm.told.health = health
        self.touch()

    def told_events(self, events: list[dict[str, Any]]) -> None:
        self.vm.told.keep(events)
        self.touch()

    def told_observations(self, observations: list[dict[str, Any]]) -> None:
        """The last of each name. Raises FabricError if there are too many names."""
        known = {**self.vm.told.observations}
        for one in observations:
            known[one["ObservationName"][:64]] = {**one, "at": time.time()}
        if len(known) > _OBSERVATIONS_LIMIT:
            raise FabricError(f"more than {_OBSERVATIONS_LIMIT} names of observations")
        self.vm.told.observations = known
        self.touch()

    def count(self, endpoint: str, method: str, path: str, status: int) -> None:
        """One line of the transcript; the query may hold a signature and is left out."""
        counts = self.vm.told.requests
        counts[endpoint] = counts.get(endpoint, 0) + 1
        self.transcript.append(
            {"at": time.time(), "endpoint": endpoint, "method": method, "path": path[:200], "status": status}
        )
        self.touch()

    def touch(self) -> None:
        """The state will be saved soon."""
        if self._save_at is None:
            self._save_at = asyncio.get_running_loop().call_later(_SAVE_DELAY, self._save_later)

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
        """A blob's URL with a signature of ours; the VM writes its status, the rest it reads."""
        permissions = "rw" if path.startswith(("/status/", "/output/")) else "r"
        signature = self._signature(path, permissions)
        return f"{self.endpoints.blob}{quote(path)}?sv=2018-03-28&sr=b&sp={permissions}&sig={signature}"

    async def publish(self, name: str, version: str, package: Unfinished) -> None:
        """Put a package into the repository and rewrite its handler's manifest."""
        await asyncio.to_thread(self.blobs.take, _package(name, version), package)
        self._write_manifest(name)

    def published(self, name: str, version: str) -> bool:
        return version in self._versions(name)

    def protect(self, settings: Any) -> str:
        return tenant.protect(self.vm.identity, msgspec.json.encode(settings))

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.closing or condition())

    async def _deliver(self, handlers: list[WantedHandler], *, fast_track: bool) -> None:
        before = self.vm.fabric, self.vm.fast_track
        self._change(handlers, fast_track=fast_track)
        try:
            # A host killed from now on must not come back with an older goal state than the VM has seen.
            self.save()
        except FabricError:
            self.vm.fabric, self.vm.fast_track = before
            raise
        async with self._changed:
            self._changed.notify_all()

    def _change(self, handlers: list[WantedHandler], *, fast_track: bool) -> None:
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

    async def _notify(self) -> None:
        self.touch()
        async with self._changed:
            self._changed.notify_all()

    @property
    def _profile_path(self) -> str:
        return f"/status/{self.vm.identity.vm}.vmSettings"

    def _settle(self) -> None:
        """At these addresses: manifests and goal state name URLs, and these may differ from the last run's."""
        addresses = self.endpoints.addresses()
        if self.state.addresses.get("blob", addresses["blob"]) != addresses["blob"]:
            self._change(self.vm.handlers, fast_track=False)
        self.state.addresses = addresses
        self.save()
        for path in self.blobs.paths("/manifests/"):
            self._write_manifest(path.removeprefix("/manifests/").removesuffix(".xml"))
        self.blobs.put("/agents/Prod.xml", documents.manifest([]))

    def _write_manifest(self, name: str) -> None:
        listed = [(version, self.signed(_package(name, version))) for version in self._versions(name)]
        self.blobs.put(f"/manifests/{name}.xml", documents.manifest(listed))

    def _versions(self, name: str) -> list[str]:
        prefix = _package(name, "").removesuffix(".zip")
        found = (path.removeprefix(prefix).removesuffix(".zip") for path in self.blobs.paths(prefix))
        # A.B_C is another handler than A.B, and its packages begin alike.
        return [version for version in found if is_version(version)]

    def _blob_written(self, path: str, content: bytes, channel: str) -> None:
        if path != f"/status/{self.vm.identity.vm}.status":
            return
        told = self.vm.told
        text = content.rstrip(b" \0")[:_STATUS_LIMIT]
        told.status = text.decode("utf-8", "replace")
        if not deep(text):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                told.status = msgspec.json.decode(text)
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
        reported = [one.get("handlerName") for one in handlers if isinstance(one, dict)]
        vm = self.vm
        for version in (vm.fabric, vm.fast_track):
            if version is not None:
                version.handlers = [one for one in version.handlers if one.state != "uninstall" or one.name in reported]

    def _signature(self, path: str, permissions: str) -> str:
        signed = f"{permissions}\n{path}".encode()
        return hmac.new(self.state.signing_secret.encode(), signed, hashlib.sha256).hexdigest()

    def _save_later(self) -> None:
        try:
            self.save()
        except FabricError as error:
            # The next change tries again.
            logging.getLogger(__name__).warning("%s", error)


def _package(name: str, version: str) -> str:
    return f"/packages/{name}_{version}.zip"


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
