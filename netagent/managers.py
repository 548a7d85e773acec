"""Who configures which NIC: systemd-networkd, NetworkManager, or a bare DHCP client (ifupdown starts dhclient)."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from ipc.contract.netagent import Link
from netagent.files import read_regular
from netagent.platform import network_of

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
    names = {nic.name for nic in nics}
    found: dict[str, str] = {}
    for nic in nics:
        if NETWORKD[:15] in programs and _says(root / f"run/systemd/netif/links/{nic.index}", _MANAGED):
            found[nic.name] = NETWORKD
        elif NETWORK_MANAGER in programs and _says(root / f"run/NetworkManager/devices/{nic.index}", _CONNECTED):
            found[nic.name] = NETWORK_MANAGER
        else:
            for client in sorted(CLIENTS & programs.keys()):
                # dhcpcd that names none takes every NIC.
                all_of_them = client == "dhcpcd" and any(not names & words for words in programs[client])
                if all_of_them or any(nic.name in words for words in programs[client]):
                    found[nic.name] = client
                    break
    return found


def _running(root: Path) -> dict[str, list[set[str]]]:
    """The words of the command lines of the programs we know, in our own network namespace."""
    ours = network_of(root / "proc/self")
    found: dict[str, list[set[str]]] = {}
    for process in (root / "proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (process / "comm").read_text(errors="replace").strip()
            if name in _PROGRAMS and network_of(process) == ours:
                # Some write a title of their own there, with blanks.
                line = (process / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
                found.setdefault(name, []).append(set(line.split()))
    return found


def _says(path: Path, pattern: re.Pattern[str]) -> bool:
    try:
        return bool(pattern.search(read_regular(path, _SIZE_LIMIT).decode("utf-8", "replace")))
    except OSError:
        return False
