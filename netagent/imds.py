"""The instance metadata service: which addresses this VM's NICs have in Azure (protocol: IMDS, network)."""

import http.client
import ipaddress
from urllib.parse import urlsplit

import msgspec

_PATH = "/metadata/instance/network?api-version=2021-02-01"
_PATIENCE = 3.0
_LIMIT = 256 * 1024
_NICS, _ADDRESSES = 64, 256


class ImdsError(Exception):
    """No answer, or one that cannot be used; the text says why."""


class NicAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """One NIC as Azure has it."""

    mac: str
    """`00:0d:3a:01:02:03`."""
    ipv4: tuple[str, ...]
    """With prefix length; the first is the one DHCP gives."""
    ipv6: tuple[str, ...]
    """With prefix length 128."""


class _Address(msgspec.Struct):
    address: str = msgspec.field(name="privateIpAddress", default="")


class _Subnet(msgspec.Struct):
    address: str = ""
    prefix: str = ""


class _Family(msgspec.Struct):
    addresses: list[_Address] = msgspec.field(name="ipAddress", default_factory=list)
    subnets: list[_Subnet] = msgspec.field(name="subnet", default_factory=list)


class _Interface(msgspec.Struct):
    mac: str = msgspec.field(name="macAddress", default="")
    ipv4: _Family = msgspec.field(default_factory=_Family)
    ipv6: _Family = msgspec.field(default_factory=_Family)


class _Network(msgspec.Struct):
    interfaces: list[_Interface] = msgspec.field(name="interface", default_factory=list)


def ask_imds(url: str) -> list[NicAddresses]:
    """Blocking, at most a few seconds. Raises ImdsError."""
    parts = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_PATIENCE)
        try:
            connection.request("GET", _PATH, headers={"Metadata": "true"})
            answer = connection.getresponse()
            body = answer.read(_LIMIT + 1)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImdsError(f"{url} does not answer: {error}") from error
    if answer.status != 200:
        raise ImdsError(f"{url} answers {answer.status}")
    if len(body) > _LIMIT:
        raise ImdsError(f"{url} answers with more than {_LIMIT} bytes")
    return parse_network(body)


def parse_network(body: bytes) -> list[NicAddresses]:
    """The `network` part of instance metadata. Raises ImdsError."""
    try:
        network = msgspec.json.decode(body, type=_Network)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImdsError(f"instance metadata is no network: {error}") from error
    try:
        return [_nic(one) for one in network.interfaces[:_NICS]]
    except ValueError as error:
        raise ImdsError(f"instance metadata names what is no address: {error}") from error


def _nic(interface: _Interface) -> NicAddresses:
    raw = bytes.fromhex(interface.mac.replace(":", "").replace("-", ""))
    if len(raw) != 6:
        raise ValueError(f"MAC {interface.mac[:40]!r}")
    prefix = interface.ipv4.subnets[0].prefix if interface.ipv4.subnets else "32"
    v4 = [one.address for one in interface.ipv4.addresses[:_ADDRESSES] if one.address]
    v6 = [one.address for one in interface.ipv6.addresses[:_ADDRESSES] if one.address]
    return NicAddresses(
        mac=":".join(f"{byte:02x}" for byte in raw),
        ipv4=tuple(ipaddress.IPv4Interface(f"{one}/{prefix}").with_prefixlen for one in v4),
        ipv6=tuple(ipaddress.IPv6Interface(f"{one}/128").with_prefixlen for one in v6),
    )
