"""One VM as the host sees it: orders about it, and what it tells."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import msgspec

from fabric import documents, tenant, wishes
from fabric.errors import FabricError, Unknown
from fabric.orders import ComponentOrder, ExtensionOrder
from fabric.packages import is_version, spelling
from fabric.state import Health, Identity, KeyPair, Told, VmState, WantedComponent, WantedHandler
from fabric.told import STATUS_LIMIT, read_status

if TYPE_CHECKING:
    from fabric.host import Host
    from fabric.places import Addresses

T = TypeVar("T")


class Vm:
    """Cheap: made for each request, it keeps nothing itself."""

    def __init__(self, host: "Host", name: str) -> None:
        self.host = host
        self.name = name

    @property
    def state(self) -> VmState:
        """To be read only. Raises Unknown."""
        return self.host.store.vm(self.name)

    @property
    def identity(self) -> Identity:
        return self.state.identity

    @property
    def addresses(self) -> "Addresses":
        """Where it finds the host."""
        return self.host.addresses_of(self.state)

    # -- orders ----------------------------------------------------------------------------------------------------

    def change(self, edit: Callable[[VmState], T]) -> T:
        """One change, kept before anybody hears of it. Raises what `edit` raises, Unwritable, Unknown."""
        result = self.host.store.change(self.name, edit)
        self.host.changed(self.name)
        return result

    def want(self, handler: WantedHandler, *, fast_track: bool) -> WantedHandler:
        """Put a handler into the goal state."""

        def edit(state: VmState) -> WantedHandler:
            wishes.deliver(state, wishes.with_handler(state, handler), fast_track=fast_track, now=self.host.clock.now())
            return handler

        return self.change(edit)

    def order(self, order: ExtensionOrder) -> WantedHandler:
        """Put an extension into the goal state. Raises Unknown: its package is not published."""
        if not self.host.published(order.name, order.version):
            raise Unknown(f"no package {order.name} {order.version} is published: PUT /api/packages first")
        protected = order.protected is not None
        handler = WantedHandler(
            name=order.name,
            version=order.version,
            public=order.settings,
            protected=self.protect(order.protected) if protected else None,
            thumbprint=tenant.thumbprint(self.identity) if protected else "",
            has_settings=order.settings is not None or protected,
        )
        return self.want(handler, fast_track=order.fast_track)

    def want_all(self, make: Callable[[VmState], list[WantedHandler]], *, fast_track: bool) -> None:
        """Make these the goal state, sequence numbers as they are."""
        self.change(lambda state: wishes.deliver(state, make(state), fast_track=fast_track, now=self.host.clock.now()))

    def remove(self, name: str, *, vanish: bool, fast_track: bool) -> None:
        """Ask for uninstall, or have it vanish from the goal state without a word. Raises Unknown."""
        self.want_all(lambda state: wishes.without_handler(state, name, vanish=vanish), fast_track=fast_track)

    def require(self, features: list[str]) -> None:
        """A new incarnation that requires them."""

        def edit(state: VmState) -> None:
            state.required_features = features
            wishes.deliver(state, state.handlers, fast_track=False, now=self.host.clock.now())

        self.change(edit)

    def ask(self, order: ComponentOrder) -> WantedComponent:
        """Ask for a version of an agent family, spelled as it is published. Raises Unknown: it is not."""
        known = self.host.families().get(order.component, [])
        version = spelling(known, order.version)
        if version is None:
            called = f"{order.component} {order.version}"
            how = f"azfabric publish PACKAGE.zip (a component), azfabric family publish {order.component} PACKAGE.zip"
            raise Unknown(f"no package {called} is published: {how} (another family)")
        if order.from_version and not is_version(order.from_version):
            raise FabricError(f"{order.from_version!r} is no version")
        component = WantedComponent(
            name=order.component,
            version=version,
            from_version=order.from_version,
            fast_track=order.fast_track,
        )
        self.change(lambda state: wishes.ask(state, component, self.host.clock.now()))
        return component

    def ask_no_more(self, name: str = "") -> int:
        """For any version of it, or of anything; how many were asked for. Raises Unknown."""
        return self.change(lambda state: wishes.ask_no_more(state, name, self.host.clock.now()))

    def support_fast_track(self, supported: bool) -> None:
        def edit(state: VmState) -> None:
            state.fast_track_supported = supported

        self.change(edit)

    def hold(self, on: bool) -> None:
        """In the artifacts profile, which is read with the next incarnation: this one stays as it is."""

        def edit(state: VmState) -> None:
            state.on_hold = on

        profile = msgspec.json.encode({"onHold": on, "profileId": "p"})
        self.host.blobs.put(f"/status/{self.name}.vmSettings", profile)
        self.change(edit)

    def probe(self, ports: list[int]) -> None:
        """The load balancer's, in a new incarnation."""

        def edit(state: VmState) -> None:
            state.probe_ports = ports
            wishes.deliver(state, state.handlers, fast_track=False, now=self.host.clock.now())

        self.change(edit)

    def rotate_certificate(self, *, elliptic: bool) -> str:
        """Another tenant certificate instead of the one there is, without a new incarnation; its thumbprint."""
        key, certificate = tenant.make_tenant_certificate("azvmagent tenant", elliptic=elliptic)

        def edit(state: VmState) -> None:
            state.identity.tenant_key_pem, state.identity.tenant_certificate_pem = key, certificate

        self.change(edit)
        return tenant.thumbprint_of(certificate)

    def add_certificate(self, *, elliptic: bool) -> str:
        """One more beside the tenant certificate, with a new incarnation; its thumbprint."""
        key, certificate = tenant.make_tenant_certificate("azvmagent vault", elliptic=elliptic)

        def edit(state: VmState) -> None:
            state.identity.more_certificates.append(KeyPair(key_pem=key, certificate_pem=certificate))
            wishes.deliver(state, state.handlers, fast_track=False, now=self.host.clock.now())

        self.change(edit)
        return tenant.thumbprint_of(certificate)

    def move(self) -> str:
        """To another container, without a word; its id."""

        def edit(state: VmState) -> str:
            state.identity.container_id = self.host.new_id(state.identity.container_id)
            return state.identity.container_id

        return self.change(edit)

    # -- being told ------------------------------------------------------------------------------------------------

    def told(self) -> Told:
        return self.host.ledger.told(self.name)

    def told_health(self, health: Health) -> None:
        self.host.ledger.health(self.name, health)
        self.host.heard(self.name)

    def told_events(self, events: list[dict[str, Any]]) -> None:
        self.host.ledger.events(self.name, events)
        self.host.heard(self.name)

    def told_observations(self, observations: list[dict[str, Any]]) -> None:
        """Raises FabricError if there are too many names."""
        self.host.ledger.observations(self.name, observations)
        self.host.heard(self.name)

    def told_log(self) -> None:
        self.host.ledger.agent_log(self.name)

    def told_status(self, content: bytes, channel: str) -> None:
        """A status blob."""
        self.host.ledger.status(self.name, content, channel)
        if any(one.state == "uninstall" for one in self.state.handlers):
            self._forget_uninstalled(read_status(content.rstrip(b" \0")[:STATUS_LIMIT]))
        self.host.heard(self.name)

    async def wait_for_change(self, tag: str, current: Callable[[], str], seconds: float) -> None:
        """Return when `current()` is no longer `tag`, the time is up, or the host ends."""
        await self.host.changes.wait(self.name, lambda: current() != tag, min(seconds, 60.0))

    # -- places ----------------------------------------------------------------------------------------------------

    def urls(self) -> documents.Urls:
        state = self.state
        versions = (state.fabric, state.fast_track, state.previous)
        names = {one.name for version in versions if version for one in version.handlers}
        return documents.Urls(
            status_blob=self.signed(f"/status/{self.name}.status"),
            manifest={name: self.signed(f"/manifests/{name}.xml") for name in names},
            families={name: self.signed(f"/agents/{name}.xml") for name in self.host.family_names()},
            artifacts_profile=self.signed(f"/status/{self.name}.vmSettings"),
        )

    def signed(self, path: str) -> str:
        """A blob's URL with a signature of ours; the VM writes its status and output, the rest it reads."""
        return self.host.signed(path, self.addresses.blob)

    def protect(self, settings: Any) -> str:
        return tenant.protect(self.identity, msgspec.json.encode(settings))

    def _forget_uninstalled(self, status: Any) -> None:
        aggregate = status.get("aggregateStatus") if isinstance(status, dict) else None
        handlers = aggregate.get("handlerAggregateStatus") if isinstance(aggregate, dict) else None
        if not isinstance(handlers, list):
            return
        reported = {str(one.get("handlerName")) for one in handlers if isinstance(one, dict)}
        # No news to the VM: it is as it was asked to be.
        self.host.store.change(self.name, lambda state: wishes.forget_uninstalled(state, reported))


def signed_url(base: str, path: str, permissions: str, signature: str) -> str:
    return f"{base}{quote(path)}?sv=2018-03-28&sr=b&sp={permissions}&sig={signature}"
