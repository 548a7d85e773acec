"""systemd-resolved over D-Bus (org.freedesktop.resolve1(5)), or networkd where it owns the link."""

import ipaddress
import socket
from typing import Any

import msgspec

from netagent.dns.errors import Absent, DnsError
from netagent.dns.wanted import DnsWanted, Old

_SECONDS = 5.0
_BUSY = "org.freedesktop.resolve1.LinkBusy"
_NOBODY = {"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"}
_NOT_STARTED = "org.freedesktop.DBus.Error.Spawn."
_DENIED = {"org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"}


class _Service(msgspec.Struct, frozen=True):
    name: str
    path: str
    interface: str
    revert: str


_RESOLVED = _Service(
    "org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager", "RevertLink"
)
_NETWORKD = _Service(
    "org.freedesktop.network1", "/org/freedesktop/network1", "org.freedesktop.network1.Manager", "RevertLinkDNS"
)


class _Refused(Exception):
    """The service's own error; `name` is D-Bus's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Resolved:
    """`bus`: `SYSTEM`, or a D-Bus address."""

    def __init__(self, bus: str = "SYSTEM", seconds: float = _SECONDS) -> None:
        self._bus = bus
        self._seconds = seconds

    def apply(self, wanted: DnsWanted, old: Old = ()) -> None:
        """Raises DnsError."""
        index = _index(wanted.link)
        if index is None:
            raise DnsError(f"there is no link {wanted.link}: look at ip link")
        servers = [_wire(one) for one in wanted.nameservers]
        domains = [(name, False) for name in wanted.search]
        self._ask([("SetLinkDNS", "ia(iay)", (index, servers)), ("SetLinkDomains", "ia(sb)", (index, domains))])
        for one in old:
            if one.link != wanted.link:
                self.undo(one)

    def undo(self, given: DnsWanted) -> None:
        """With the link, what was given is gone too. Raises DnsError."""
        index = _index(given.link)
        if index is not None:
            self._ask([("", "i", (index,))])

    def _ask(self, calls: list[tuple[str, str, tuple[Any, ...]]]) -> None:
        """Call methods of resolved or, where it may not touch the link, of networkd; "" is the one that reverts."""
        # Loaded when there is somebody to talk to.
        from jeepney.io.blocking import open_dbus_connection

        try:
            with open_dbus_connection(self._bus, auth_timeout=self._seconds) as connection:
                try:
                    _call(connection, _RESOLVED, calls, self._seconds)
                except _Refused as refused:
                    if refused.name != _BUSY:
                        raise
                    _call(connection, _NETWORKD, calls, self._seconds)
        except _Refused as refused:
            raise _told(refused) from refused
        except TimeoutError as error:
            raise DnsError(
                f"systemd-resolved did not answer within {self._seconds:g} s: look at its service"
            ) from error
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise Absent(f"the system bus does not answer ({error}): start dbus, or set DNS off") from error


def _call(connection: Any, service: _Service, calls: list[tuple[str, str, tuple[Any, ...]]], seconds: float) -> None:
    from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

    address = DBusAddress(service.path, bus_name=service.name, interface=service.interface)
    for method, signature, body in calls:
        message = new_method_call(address, method or service.revert, signature, body)
        reply = connection.send_and_get_reply(message, timeout=seconds)
        if reply.header.message_type == MessageType.error:
            text = " ".join(str(one) for one in reply.body)[:300]
            raise _Refused(str(reply.header.fields.get(HeaderFields.error_name)), text)


def _told(refused: _Refused) -> DnsError:
    if refused.name in _NOBODY or refused.name.startswith(_NOT_STARTED):
        return Absent(f"systemd-resolved owns the resolver and does not run ({refused}): start it, or set DNS off")
    if refused.name in _DENIED:
        return DnsError(f"systemd-resolved refused ({refused}): run netagent as root, or allow it in polkit")
    return DnsError(f"systemd-resolved refused ({refused.name}: {refused}): look at resolvectl status")


def _index(link: str) -> int | None:
    try:
        return socket.if_nametoindex(link)
    except OSError:
        return None


def _wire(text: str) -> tuple[int, bytes]:
    """Family and bytes. Of a link-local address the link is known anyway."""
    address = ipaddress.ip_address(text)
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), address.packed
