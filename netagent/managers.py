"""Who configures which NIC: systemd-networkd, NetworkManager, or a bare DHCP client (ifupdown starts dhclient)."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from ipc.contract.netagent import Link

CLIENTS = frozenset({"dhclient", "dhcpcd", "udhcpc"})
NETWORKD, NETWORK_MANAGER = "systemd-networkd", "NetworkManager"
_SIZE_LIMIT = 64 * 1024
# The kernel keeps fifteen characters of a program's name.
_PROGRAMS = frozenset({NETWORKD[:15], NETWORK_MANAGER[:15], *CLIENTS})
_MANAGED = re.compile(r"^ADMIN_STATE=(?:configured|configuring|degraded|pending)\s*$", re.MULTILINE)
_CONNECTED = re.compile(r"^(?:connection-uuid=.+|managed=true)\s*$", re.MULTILINE)


def find_managers(nics: Sequence[Link], *, root: Path = Path("/")) -> dict[str, str]:
    """By NIC, in words. Reads /proc and /run; what cannot be read is passed over. Blocking, a few milliseconds."""
    programs = _running(root)
    found: dict[str, str] = {}
    for nic in nics:
        if NETWORKD[:15] in programs and _says(root / f"run/systemd/netif/links/{nic.index}", _MANAGED):
            found[nic.name] = NETWORKD
        elif NETWORK_MANAGER in programs and _says(root / f"run/NetworkManager/devices/{nic.index}", _CONNECTED):
            found[nic.name] = NETWORK_MANAGER
        else:
            for client in sorted(CLIENTS & programs.keys()):
                # dhcpcd without a name takes every NIC.
                if any(nic.name in words or (client == "dhcpcd" and len(words) < 2) for words in programs[client]):
                    found[nic.name] = client
                    break
    return found


def _running(root: Path) -> dict[str, list[list[str]]]:
    """Command lines of the programs we know, in our own network namespace."""
    ours = _namespace(root / "proc/self")
    found: dict[str, list[list[str]]] = {}
    for process in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text(errors="replace").strip()
            if name in _PROGRAMS and _namespace(process) in {ours, None}:
                words = (process / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
                found.setdefault(name, []).append(words)
    return found


def _namespace(process: Path) -> Path | None:
    try:
        return (process / "ns/net").readlink()
    except OSError:
        # Who may not look takes it for its own: rather one manager too many than a fight.
        return None


def _says(path: Path, pattern: re.Pattern[str]) -> bool:
    try:
        with path.open("rb") as file:
            return bool(pattern.search(file.read(_SIZE_LIMIT).decode("utf-8", "replace")))
    except OSError:
        return False
