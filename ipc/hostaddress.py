"""Where the host is. Components that disagreed about it would talk to two hosts."""

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ipc.contract.netagent import WireServerState
from ipc.errors import StateError
from ipc.places import Places
from ipc.settings import HostSettings
from ipc.statefile import read_state

WELL_KNOWN_WIRESERVER = "http://168.63.129.16"
HOSTGAPLUGIN_PORT = 32526


class HostAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Base URLs, no trailing slash."""

    wireserver: str
    hostgaplugin: str
    imds: str


def find_host(places: Places, settings: HostSettings) -> HostAddress:
    """What the configuration says, else what netagent last found, else the well-known address.

    Cheap enough to be called before each conversation; netagent may be stopped or not yet have run.
    """
    wireserver = settings.wireserver or _found_by_netagent(places) or WELL_KNOWN_WIRESERVER
    hostname = urlsplit(wireserver).hostname or "168.63.129.16"
    bracketed = f"[{hostname}]" if ":" in hostname else hostname
    return HostAddress(
        wireserver=wireserver.rstrip("/"),
        hostgaplugin=(settings.hostgaplugin or f"http://{bracketed}:{HOSTGAPLUGIN_PORT}").rstrip("/"),
        imds=settings.imds.rstrip("/"),
    )


def wireserver_state(places: Places) -> Path:
    """The state file in which netagent keeps what it found."""
    return places.state_of("netagent") / "wireserver.json"


def _found_by_netagent(places: Places) -> str:
    try:
        found = read_state(wireserver_state(places), WireServerState)
    except StateError:
        # netagent writes it anew at its next start; until then we do without.
        return ""
    return found.url if found else ""
