"""The host as one object: its VMs, its blobs, its faults, and who waits for a change."""

import hashlib
import hmac
import re
import secrets
import uuid
from pathlib import Path

import msgspec

from fabric import documents, tenant, wishes
from fabric.blobs import BlobStore
from fabric.changes import Changes
from fabric.clock import Clock
from fabric.errors import FabricError, Refused, Unknown
from fabric.files import Unfinished
from fabric.inforce import Faults
from fabric.packages import FAMILY, is_version
from fabric.places import Addresses, Door, Endpoints
from fabric.recording import Recorder
from fabric.repository import Repository
from fabric.stage import Stage
from fabric.state import EPOCH_TICKS, GoalStateVersion, Identity, VmState
from fabric.store import Store, address_taken
from fabric.told import Ledger, Line
from fabric.vm import Vm, signed_url

FIRST_TENANT, FIRST_VM = "default", "vm1"
FIRST_FAMILY = "Prod"
"""Of agents: VMs are told of it also while it is empty."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
"""Of a VM or a tenant: it stands in paths, host names and namespaces."""


class Host:
    """One loop's object.

    What is wanted is saved before anybody hears of it, what was told a moment later, and all at the end.
    """

    def __init__(
        self, blobs: Path, repository: Repository, store: Store, endpoints: Endpoints, *, replaying: bool = False
    ) -> None:
        """`replaying`: requests say when they came in, and nobody is kept waiting."""
        self.replaying = replaying
        self.repository = repository
        self.store = store
        self.clock = Clock()
        self.ledger = Ledger(store, self.clock)
        self.changes = Changes()
        self.faults = Faults(store, self.clock, fresh=not replaying)
        self.stage = Stage(self)
        self.recorder: Recorder | None = None
        self.endpoints = endpoints
        self._at: dict[tuple[str, str], str] | None = None
        self.tenants: dict[str, Addresses] = {FIRST_TENANT: endpoints.addresses()}
        self.secret = store.value("signing_secret", lambda: secrets.token_hex(32))
        self.blobs = BlobStore(blobs, self._signature, self._blob_written, self._made)
        if not store.vms():
            self._add_first()
        self._settle()

    # -- VMs -------------------------------------------------------------------------------------------------------

    def vms(self) -> list[Vm]:
        """In the order they were added."""
        return [Vm(self, name) for name in self.store.vms()]

    def vm(self, name: str = "") -> Vm:
        """By its name; without one, the only one there is. Raises Unknown, Refused."""
        if name:
            return Vm(self, self.store.vm(name).identity.vm)
        names = list(self.store.vms())
        if len(names) == 1:
            return Vm(self, names[0])
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise Refused(400, f"which VM? Name one (--vm NAME, or ?vm=NAME): {some}" if names else "there is no VM")

    def vm_at(self, door: Door, address: str) -> Vm | None:
        """Whose a request is that came in by this door from there; None: nobody's."""
        if door.vm:
            return Vm(self, door.vm) if door.vm in self.store.vms() else None
        if self._at is None:
            # The first of several without an address has the rest.
            states = reversed(self.store.vms().items())
            self._at = {(state.tenant, state.address): name for name, state in states if not state.doors}
        name = self._at.get((door.tenant, address)) or self._at.get((door.tenant, ""))
        return Vm(self, name) if name else None

    def add(
        self,
        name: str,
        *,
        of: str = FIRST_TENANT,
        address: str = "",
        doors: dict[str, str] | None = None,
        mac: str = "",
    ) -> Vm:
        """A new VM with its own certificate. Raises FabricError, Refused."""
        self.check_new(name, of=of)
        for other, state in self.store.vms().items():
            if (state.tenant, state.address) == (of, address) and not (doors or state.doors):
                raise address_taken(address, other)
        key, certificate = tenant.make_tenant_certificate("azvmagent tenant")
        # One of this name may have been removed: this is another.
        removed = self.store.removed()
        new = f"{name} after {removed}" if removed else name
        first = GoalStateVersion(number=1, ticks=EPOCH_TICKS + int(self.clock.now() * 10_000_000))
        identity = Identity(
            vm=name,
            container_id=self.new_id(new),
            deployment_id=self.new_id(f"deployment {new}"),
            tenant_key_pem=key,
            tenant_certificate_pem=certificate,
        )
        self.store.add(VmState(identity=identity, tenant=of, address=address, mac=mac, doors=doors or {}, fabric=first))
        self._at = None
        self.changed(name)
        return Vm(self, name)

    def check_new(self, name: str, *, of: str) -> None:
        """Whether a VM of this tenant may be called so. Raises FabricError, Refused."""
        for what, word in (("VM", name), ("tenant", of)):
            if not NAME.fullmatch(word):
                raise FabricError(f"a {what} is called by letters, digits and dashes, not {word[:80]!r}")
        if of not in self.tenants:
            raise Unknown(f"there is no tenant {of!r} here; there are: {', '.join(self.tenants)}")
        if name in self.store.vms():
            raise Refused(409, f"there is a VM {name!r} already")

    def remove(self, name: str) -> None:
        """With all it told. Raises Unknown, Unwritable."""
        # What is on its way to the disk would come back after it.
        self.ledger.save()
        self.store.remove(name)
        self.ledger.forget(name)
        self._at = None
        self.changed(name)

    def new_id(self, after: str) -> str:
        """Nobody else's, but the same again when a recording is replayed."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.secret}/{after}"))

    def addresses_of(self, state: VmState) -> Addresses:
        if state.doors:
            return msgspec.convert(state.doors, Addresses)
        return self.tenants.get(state.tenant) or self.tenants[FIRST_TENANT]

    # -- news ------------------------------------------------------------------------------------------------------

    def changed(self, vm: str) -> None:
        """What is wanted of it changed, here."""
        self.changes.tell(vm)

    def settle_doors(self, vm: Vm, doors: dict[str, str]) -> None:
        """Its own servers are here now: its goal state names URLs."""
        if vm.state.doors == doors:
            return

        def edit(state: VmState) -> None:
            state.doors = doors
            if not self.replaying:
                wishes.deliver(state, state.handlers, fast_track=False, now=self.clock.now())

        vm.change(edit)

    def changed_elsewhere(self, vm: str) -> None:
        """Another worker changed what is wanted of it. Raises Unwritable."""
        self.store.forget(vm)
        self._at = None
        self.changes.tell(vm)

    def heard(self, vm: str) -> None:
        """It told something."""
        self.changes.tell(f"{vm}/told")

    def line(self, vm: str, endpoint: str, method: str, path: str, status: int, fault: str) -> None:
        """One request, answered."""
        line = Line(
            at=self.clock.now(), vm=vm, endpoint=endpoint, method=method, path=path[:200], status=status, fault=fault
        )
        self.ledger.request(line)
        self.changes.tell("transcript")

    async def pause(self, seconds: float) -> None:
        """Return when the time is up, or the host ends."""
        if not self.replaying:
            await self.changes.wait("pause", lambda: False, seconds)

    @property
    def closing(self) -> bool:
        return self.changes.closing

    async def close(self) -> None:
        """Wake everybody who waits."""
        self.changes.close()

    async def end(self) -> None:
        """Write down what is left. Raises Unwritable."""
        self.stage.stop()
        if self.recorder is not None:
            self.recorder.close()
        await self.ledger.end()
        self.store.close()

    # -- the repository --------------------------------------------------------------------------------------------

    def signed(self, path: str, base: str) -> str:
        """A blob's URL with a signature of ours; what a VM writes may be written, the rest is read."""
        permissions = "rw" if path.startswith(("/status/", "/output/")) else "r"
        return signed_url(base, path, permissions, self._signature(path, permissions))

    def publish(self, name: str, version: str, package: Unfinished) -> None:
        """Put a package into the repository. Blocking. Raises Unwritable."""
        self.blobs.take(_package(name, version), package)

    def published(self, name: str, version: str) -> bool:
        return version in self.versions(name)

    def versions(self, name: str) -> list[str]:
        """What the repository has of an extension."""
        prefix = _package(name, "").removesuffix(".zip")
        found = (path.removeprefix(prefix).removesuffix(".zip") for path in self.blobs.paths(prefix))
        # A.B_C is another handler than A.B, and its packages begin alike.
        return [version for version in found if is_version(version)]

    def publish_family(self, name: str, version: str, package: Unfinished) -> None:
        """Put a package of an agent family into the repository. Blocking. Raises Unwritable."""
        self.blobs.take(_agent_package(name, version), package)

    def withdraw_family(self, name: str, version: str) -> None:
        """Take a package of an agent family away, if it is there. Blocking. Raises Unwritable."""
        self.blobs.drop(_agent_package(name, version))

    def publish_layer(self, digest: str, file: Path) -> None:
        """Beside the packages of agent families: whoever has a package's URL finds its layers. Blocking."""
        self.blobs.copy(f"/agents/layers/{digest}.zip", file)

    def families(self) -> dict[str, list[str]]:
        """The versions the repository has of each agent family, oldest first."""
        matches = (_AGENT_PACKAGE.fullmatch(path) for path in self.blobs.paths("/agents/"))
        found: dict[str, list[str]] = {}
        for match in matches:
            if match and is_version(match["version"]):
                found.setdefault(match["name"], []).append(match["version"])
        return {name: sorted(versions, key=_order) for name, versions in found.items()}

    def family_names(self) -> list[str]:
        """Of which VMs are told."""
        return [FIRST_FAMILY, *(name for name in self.families() if name != FIRST_FAMILY)]

    def announce_families(self) -> None:
        """A goal state stays as it was read: the VMs need a new one to hear of another family."""
        for vm in self.vms():
            vm.want_all(lambda state: state.handlers, fast_track=False)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _made(self, path: str, base: str, replayed: bool) -> bytes | None:
        """A manifest: it names URLs, and these differ with where one asks."""
        folder, _, file = path.lstrip("/").partition("/")
        if not file.endswith(".xml"):
            return None
        name = file.removesuffix(".xml")
        if folder == "agents":
            package, versions = _agent_package, self.families().get(name, [])
        elif folder == "manifests":
            package, versions = _package, sorted(self.versions(name), key=_order)
        else:
            return None
        # No extension without a package; a family may be empty.
        if not versions and folder == "manifests":
            return None
        known = versions[:-1] if replayed else versions
        return documents.manifest([(one, self.signed(package(name, one), base)) for one in known])

    def _add_first(self) -> None:
        try:
            self.add(FIRST_VM)
        except Refused:
            # Another worker that starts just now was first.
            self.store.forget("")
            if not self.store.vms():
                raise

    def _settle(self) -> None:
        """At these addresses: goal states name URLs, and these may differ from the last run's."""
        before = msgspec.json.decode(self.store.value("addresses", lambda: "{}"), type=dict[str, str])
        now = {name: str(value) for name, value in msgspec.structs.asdict(self.endpoints).items() if name != "pid"}
        if before.get("blob", now["blob"]) != now["blob"]:
            for vm in self.vms():
                if vm.state.tenant == FIRST_TENANT:
                    vm.want_all(lambda state: state.handlers, fast_track=False)
        self.store.keep("addresses", msgspec.json.encode(now).decode())

    def _blob_written(self, path: str, content: bytes, channel: str) -> None:
        folder, _, file = path.lstrip("/").partition("/")
        name = file.removesuffix(".status")
        if folder == "status" and name != file and name in self.store.vms():
            Vm(self, name).told_status(content, channel)

    def _signature(self, path: str, permissions: str) -> str:
        return hmac.new(self.secret.encode(), f"{permissions}\n{path}".encode(), hashlib.sha256).hexdigest()


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall("[0-9]+", version))


def _package(name: str, version: str) -> str:
    return f"/packages/{name}_{version}.zip"


_AGENT_PACKAGE = re.compile(rf"/agents/(?P<name>{FAMILY.pattern})_(?P<version>[^/]+)\.zip")
"""No family has the line that stands before the version in its name."""


def _agent_package(name: str, version: str) -> str:
    return f"/agents/{name}_{version}.zip"
