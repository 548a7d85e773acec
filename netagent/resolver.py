"""Who owns /etc/resolv.conf, and what is in it (resolv.conf(5)). Pure but for one read."""

import ipaddress
import os
from pathlib import Path

from ipc.contract.netagent import Resolver
from netagent.files import read_regular

_SIZE_LIMIT = 64 * 1024
_HEAD = 512


def read_resolver(path: Path) -> Resolver:
    """Whatever the file is: unreadable is `none`, with nothing in it."""
    try:
        target = os.path.realpath(path)  # Path.resolve raises RuntimeError for links in a circle
        text = read_regular(path, _SIZE_LIMIT).decode("utf-8", "replace")
    except OSError:
        return Resolver(manager="none", nameservers=[], search=[])
    return parse_resolver(text, target)


def parse_resolver(text: str, target: str) -> Resolver:
    """`target` is where the path leads: systemd-resolved is known by it, the others by their first lines."""
    nameservers: list[str] = []
    search: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            nameservers.append(words[1])
        elif len(words) > 1 and words[0] in {"search", "domain"}:
            # Some clients write them with their final dot.
            search = [name for word in words[1:] if (name := word.rstrip("."))]
    return Resolver(manager=_manager(text[:_HEAD], target), nameservers=nameservers, search=search)


def _manager(head: str, target: str) -> str:
    if "/systemd/resolve/" in target:
        return "systemd-resolved"
    if "NetworkManager" in head:
        return "NetworkManager"
    return "resolvconf" if "resolvconf" in head.lower() else "file"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
