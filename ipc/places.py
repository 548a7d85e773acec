"""Where everything lies: one set of names for a checkout's root and for a VM."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ipc.errors import UnsafeDirectory

COMPONENTS = ("rdagent", "guestagent", "netagent", "telemetry")

# sockaddr_un.sun_path holds 108 bytes with its closing zero (unix(7)).
_SOCKET_PATH_LIMIT = 107


class Places(msgspec.Struct, frozen=True):
    """Every directory and file that more than one of us names. Built once per process and handed on."""

    config: Path
    """The TOML file; drop-ins lie beside it in a folder of the same name plus `.d`."""
    run: Path
    """Sockets and locks, 0700. Gone after a reboot or `agentctl down`."""
    state: Path
    """What each component remembers, in a folder of its own name."""
    log: Path
    """Agent logs, and one folder per extension handler (`/var/log/azure` on a VM)."""
    lib: Path
    """The library directory extensions know (`/var/lib/waagent` on a VM)."""
    installed: Path
    """Versions of the components and their layers, see docs/updates.md (`/opt/azvmagent` on a VM)."""

    @classmethod
    def under(cls, root: Path) -> "Places":
        """Everything below one directory: a checkout, a test."""
        root = root.absolute()
        return cls(
            config=root / "azvmagent.toml",
            run=root / "run",
            state=root / "state",
            log=root / "log" / "azure",
            lib=root / "lib" / "waagent",
            installed=root / "opt" / "azvmagent",
        )

    @classmethod
    def on_vm(cls) -> "Places":
        """The standard paths of an installed agent."""
        return cls(
            config=Path("/etc/azvmagent/azvmagent.toml"),
            run=Path("/run/azvmagent"),
            state=Path("/var/lib/azvmagent"),
            log=Path("/var/log/azure"),
            lib=Path("/var/lib/waagent"),
            installed=Path("/opt/azvmagent"),
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Places":
        """What `AZVMAGENT_ROOT` says; the standard paths when it says nothing."""
        root = environment.get("AZVMAGENT_ROOT", "")
        return cls.under(Path(root)) if root else cls.on_vm()

    def state_of(self, component: str) -> Path:
        """The folder only `component` writes to; others may read what its contract names."""
        return self.state / component

    @property
    def trust(self) -> Path:
        """Whom to believe: `*.pub`, keys of packages, and `root.json` of the repository. Written by the owner only."""
        return self.config.parent / "trust"

    def requests_socket(self, component: str) -> Path:
        return self.run / f"{component}.requests"

    def events_socket(self, component: str) -> Path:
        return self.run / f"{component}.events"

    def lock(self, name: str) -> Path:
        return self.run / f"{name}.lock"

    @property
    def sign_of_life(self) -> Path:
        """rdagent's, for watchdog.py: its pid, and CLOCK_MONOTONIC in seconds."""
        return self.run / "rdagent.alive"

    @property
    def waiting_trial(self) -> Path:
        """rdagent's, for watchdog.py; the same, of the last time it could not write the record of its own trial."""
        return self.run / "rdagent.waits"

    @property
    def watchdog_sign(self) -> Path:
        """The watchdog's, for rdagent; the same."""
        return self.run / "watchdog.alive"

    def restarting(self, component: str) -> Path:
        """Locked by who restarts it, and not empty until that is done, for watchdog.py: he may be killed before."""
        return self.run / f"{component}.restarting"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def supervisor_pid(self) -> Path:
        """supervisord's pid, which it writes before it starts anybody."""
        return self.run / "supervisord.pid"

    def check_socket_lengths(self) -> None:
        """Refuse a root whose socket paths the kernel would cut.

        Raises UnsafeDirectory, naming the way out.
        """
        longest = max((len(os.fsencode(self.requests_socket(name))) for name in COMPONENTS), default=0)
        # supervisord binds `<socket>.<pid>` first and links it into place.
        longest = max(longest, len(os.fsencode(self.supervisor_socket)) + 8)
        if longest > _SOCKET_PATH_LIMIT:
            raise UnsafeDirectory(
                self.run,
                f"socket paths of {longest} bytes, the kernel takes {_SOCKET_PATH_LIMIT}: choose a shorter --root",
            )
