"""Where the host is found: base URLs, as whoever asks there sees them."""

import msgspec


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """What one VM, or all of a tenant, see of the host."""

    wireserver: str
    hostgaplugin: str
    imds: str
    blob: str


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the tenant `default`, and what is the operator's; written to endpoints.json."""

    pid: int
    wireserver: str
    hostgaplugin: str
    imds: str
    blob: str
    portal: str
    repository: str = ""
    """Of components: metadata and targets lie below it."""

    def addresses(self) -> Addresses:
        return Addresses(wireserver=self.wireserver, hostgaplugin=self.hostgaplugin, imds=self.imds, blob=self.blob)


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A set of servers, and whose requests come in there."""

    tenant: str
    vm: str = ""
    """Whoever asks here is this VM; empty: by its address."""
