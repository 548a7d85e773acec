"""Which agent a command is about: a checkout's root, or this VM."""

import os
import shlex
import sys
from pathlib import Path

import msgspec

from agentctl.errors import WrongUse
from ipc.places import Places

_CHECKOUT = Path(__file__).resolve().parent.parent
_CONFIGURATIONS = (
    _CHECKOUT / "supervisord.conf",
    Path(sys.prefix) / "share" / "azvmagent" / "supervisord.conf",
)


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's places; `root` is None for the VM's standard paths."""

    root: Path | None
    places: Places

    @property
    def up_lock(self) -> Path:
        return self.places.run / "up.lock"

    @property
    def endpoints_file(self) -> Path | None:
        """Where the local host writes its addresses; a VM has none."""
        return self.root / "fabric" / "endpoints.json" if self.root else None

    @property
    def up_command(self) -> str:
        """What starts this deployment."""
        if self.root is None:
            return "systemctl start azvmagent"
        return self.command("agentctl up")

    def command(self, words: str) -> str:
        """A command as a person types it for this deployment."""
        if self.root is None or self.root == default_root():
            return words
        return f"{words} --root {shlex.quote(str(self.root))}"

    def environment(self) -> dict[str, str]:
        """What supervisord.conf expects, over what we were started with."""
        return {**os.environ, **self._paths()}

    def _paths(self) -> dict[str, str]:
        return {
            "AZVMAGENT_ROOT": str(self.root or ""),
            "AZVMAGENT_RUN": str(self.places.run),
            "AZVMAGENT_LOG": str(self.places.log),
            "AZVMAGENT_PYTHON": sys.executable,
            "AZVMAGENT_BASE": str(supervisord_configuration().parent),
            "AZVMAGENT_INSTALLED": str(self.places.installed),
        }

    def check_names(self) -> None:
        """Raises WrongUse for a path that supervisord's configuration, which escapes nothing, cannot hold."""
        for value in self._paths().values():
            bad = sorted({one for one in value if one in '%"\\\x7f' or one < " "})
            if bad:
                raise WrongUse(
                    f"{value!r} cannot be used: supervisord cannot cope with {', '.join(map(repr, bad))} in a path. "
                    "Choose another folder (--root DIR)"
                )

    def launch(self, component: str, *arguments: str) -> list[str]:
        """What supervisord.conf runs: the version in force."""
        launcher = str(supervisord_configuration().with_name("launch.py"))
        return [sys.executable, "-I", "-S", launcher, str(self.places.installed), component, *arguments]


def default_root() -> Path | None:
    """`.azvmagent` of the checkout this code lies in; None if it is installed."""
    return _CHECKOUT / ".azvmagent" if (_CHECKOUT / "pyproject.toml").is_file() else None


def choose(root: Path | None) -> Deployment:
    """The deployment `--root` names, or the default one."""
    chosen = root.absolute() if root else default_root()
    return Deployment(root=chosen, places=Places.under(chosen) if chosen else Places.on_vm())


def supervisord_configuration() -> Path:
    """The file that describes the process group. Raises WrongUse if the installation lacks it."""
    for path in _CONFIGURATIONS:
        if path.is_file():
            return path
    raise WrongUse("supervisord.conf is missing, looked for in: " + ", ".join(str(path) for path in _CONFIGURATIONS))
