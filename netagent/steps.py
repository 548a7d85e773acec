"""Changes made in the kernel, one at a time."""

import contextlib
import errno
import time
from collections.abc import Callable, Collection
from pathlib import Path

from ipc.contract.netagent import Link
from netagent import requests
from netagent.kernel import act
from netagent.netlink import NetlinkError
from netagent.plan import (
    AddAddress,
    AddRoute,
    AddRule,
    BringUp,
    Change,
    DeleteAddress,
    DeleteRoute,
    DeleteRule,
    SetMtu,
)

_IPV4_SETTINGS = Path("/proc/sys/net/ipv4/conf")
# Somebody was faster: what was wanted is there, or what was to go has gone.
_ALREADY = frozenset({errno.EEXIST, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT})


def make(change: Change, links: dict[str, Link], *, crowded: Collection[str] = ()) -> None:
    """Raises NetlinkError (refused by the kernel, or the link has gone), OSError. Blocking, less than a millisecond.

    Links with several addresses are `crowded`.
    """
    request = _request(change, links)
    if isinstance(change, DeleteAddress) and change.address.link in crowded:
        _keep_neighbours(change.address.link)
    elif isinstance(change, AddAddress) and change.address.link in crowded:
        # The first may pass by itself before this one does.
        with contextlib.suppress(NetlinkError):
            _keep_neighbours(change.address.link)
    try:
        act(request)
    except NetlinkError as error:
        if error.number not in _ALREADY:
            raise


def _keep_neighbours(link: str) -> None:
    """Else the kernel drops all other addresses of the same network with the first of them. Raises NetlinkError."""
    setting = _IPV4_SETTINGS / link / "promote_secondaries"
    try:
        if setting.read_text().strip() != "1":
            setting.write_text("1")
    except FileNotFoundError:
        return  # so is the link
    except OSError as error:
        raise NetlinkError(f"{setting} must be 1 and cannot be written: {error.strerror}") from error


def _request(change: Change, links: dict[str, Link]) -> Callable[[int], bytes]:
    def index(name: str) -> int:
        if name not in links:
            raise NetlinkError(f"{name} is gone")
        return links[name].index

    match change:
        case AddRoute(route=route):
            return lambda sequence: requests.add_route(route, index(route.link), sequence)
        case DeleteRoute(route=route):
            return lambda sequence: requests.delete_route(route, index(route.link), sequence)
        case AddAddress(address=address, passes=passes):
            left = (
                requests.FOR_EVER if passes is None else max(1, round(passes - time.clock_gettime(time.CLOCK_BOOTTIME)))
            )
            return lambda sequence: requests.add_address(address, index(address.link), sequence, lifetime=left)
        case DeleteAddress(address=address):
            return lambda sequence: requests.delete_address(address, index(address.link), sequence)
        case AddRule(rule=rule):
            return lambda sequence: requests.add_rule(rule, sequence)
        case DeleteRule(rule=rule):
            return lambda sequence: requests.delete_rule(rule, sequence)
        case SetMtu(link=link, mtu=mtu):
            return lambda sequence: requests.set_mtu(index(link), mtu, sequence)
        case BringUp(link=link):
            return lambda sequence: requests.set_up(index(link), sequence)
