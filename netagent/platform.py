"""What the machine itself says of where it is, and what the kernel lets us do."""

import contextlib
import os
import re
from pathlib import Path

_CAP_NET_ADMIN = 12
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def _release() -> tuple[int, int]:
    found = _RELEASE.match(os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


KEEPS_GIVERS = _release() >= (5, 18)
"""Whether the kernel keeps who gave an address (IFA_PROTO)."""


def asset_tag(root: Path = Path("/")) -> str:
    """Of the chassis (SMBIOS); Azure's is the same on every VM. Empty if there is none."""
    with contextlib.suppress(OSError):
        return (root / "sys/class/dmi/id/chassis_asset_tag").read_text(errors="replace")[:64]
    return ""


def network_of(process: Path) -> int:
    """A number of the network namespace a process is in (`/proc/PID`). Raises OSError.

    `ns/net` would say it too, but only to who may trace the process; this file is one for each namespace.
    """
    return (process / "net/dev").stat().st_ino


def may_write() -> bool:
    """Whether this process has CAP_NET_ADMIN (capabilities(7))."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def synthetic_nics(root: Path = Path("/")) -> frozenset[str]:
    """Links driven by hv_netvsc: an accelerated NIC has the MAC of one of them."""
    found = set()
    with contextlib.suppress(OSError):
        for link in (root / "sys/class/net").iterdir():
            with contextlib.suppress(OSError):
                if (link / "device/driver").resolve().name == "hv_netvsc":
                    found.add(link.name)
    return frozenset(found)
