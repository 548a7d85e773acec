"""The VMs' root folder: Debian with systemd and all three network managers, made once by debootstrap and kept.

`python tests/vm/rootfs.py` prints where it is. Boots never write to it: each lays a layer of its own over it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "vm"
PACKAGES = (
    "dbus",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    "isc-dhcp-client",
    "libpam-systemd",  # polkit wants a logind
    "network-manager",
    "nftables",
    "polkitd",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
)
FETCHED = ("openresolv",)
"""Not installed, since they exclude one of the others; a VM that wants one unpacks it."""
CHOSEN = (
    "NetworkManager.service",
    "networking.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
)
"""Not enabled: who boots a VM says which of them it wants."""
NEVER = (
    "NetworkManager-dispatcher.service",
    "NetworkManager-wait-online.service",
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "systemd-pstore.service",
)
"""Nothing to do in a VM that lives for seconds."""
MAKE = r"""
set -eu
base=$1 suite=$2 packages=$3 mirror=$4 made=$5
# dpkg syncs after each package: in memory that costs nothing. The machine sees none of these mounts.
mount -t tmpfs -o mode=0755,size=2g tmpfs "$base"
debootstrap --variant=minbase --include="$packages" "$suite" "$base/root" "$mirror"
shift 5
mkdir "$base/root/opt/fetched"
cd "$base/root/opt/fetched"
apt-get download -qq "$@" || { apt-get update -qq; apt-get download -qq "$@"; }
for file in *.deb; do mv "$file" "${file%%_*}.deb"; done
cd /
rm -rf "$base/root/var/cache/apt/archives" "$base/root/var/lib/apt/lists"
cp -a "$base/root" "$made"
"""


class RootError(Exception):
    """The root folder cannot be made; the text says why."""


def place() -> Path:
    """Where the root folder is, or would be: another one if what goes into it changes."""
    stamp = "\n".join((SUITE, *packages(), *FETCHED, *CHOSEN, *NEVER, MAKE))
    return CACHE / f"{SUITE}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"


def ensure() -> Path:
    """The root folder, made if it is not there. Raises RootError."""
    folder = place()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in CACHE.glob("*-*"):
                shutil.rmtree(old)
            _make(folder)
    return folder


def packages() -> list[str]:
    """What is installed. A Python of the machine's own packages cannot be shown to a VM: then the VM has one, too."""
    return [*PACKAGES, *(["python3"] if sys.base_prefix == "/usr" else [])]


def _make(folder: Path) -> None:
    if os.geteuid() != 0:
        raise RootError("only root can make the VMs' root folder")
    half = folder.with_name(f"{folder.name}-half")
    with tempfile.TemporaryDirectory(prefix="azvmagent-vm-") as base:
        words = ["unshare", "--mount", "sh", "-c", MAKE, "make"]
        words += [base, SUITE, ",".join(packages()), mirror(), str(half), *FETCHED]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise RootError(f"debootstrap:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for order, units in (("disable", CHOSEN), ("mask", NEVER)):
        subprocess.run(["systemctl", f"--root={half}", "--quiet", order, *units], check=True, capture_output=True)
    half.rename(folder)


def mirror() -> str:
    """Where this machine's own apt finds Debian. Raises RootError."""
    words = ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"]
    for line in subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines():
        origin, codename, component, address = line.split("|", 3)
        if (origin, codename, component) == ("Debian", SUITE, "main"):
            return address
    raise RootError(f"apt on this machine knows no Debian {SUITE}: add it to its sources and run apt-get update")


if __name__ == "__main__":
    try:
        print(ensure())  # noqa: T201
    except RootError as error:
        sys.exit(str(error))
