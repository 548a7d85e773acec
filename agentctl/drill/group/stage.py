"""Where a drill plays: a root of its own with a local host, supervisord and the four, gone afterwards."""

import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from agentctl import group
from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.drill.group.belonging import of_root
from agentctl.errors import CommandError
from agentctl.holding import ENDINGS, handled, interrupted, passed_over
from agentctl.processes import end, wait_until
from ipc.contract.rdagent import GetTruth, Truth
from ipc.errors import UnsafeDirectory
from ipc.lock import make_private_directory
from ipc.places import Places
from ipc.supervisord import ProgramState, Supervisord
from release import record
from release.build import Built
from release.errors import ReleaseError
from release.signing import SecretKey, Trust, new_key, write_key
from release.unpack import component_folder, this_machine, unpack, unpack_layer

V = TypeVar("V")

_READY_PATIENCE = 60.0
_END_PATIENCE = 15.0
_STRAY_PATIENCE = 2.0
_WORDS_PATIENCE = 60.0
_WRITTEN = ("run", "state", "log", "lib", "opt", "fabric")
"""Folders of a root that host and group write to."""
_RUNS = {"STARTING", "RUNNING", "BACKOFF", "STOPPING"}


class Stage:
    """A `with` block: `up` brings host and group up, the end takes everything away, also after a failure."""

    def __init__(self, configuration: str = "", *, keep: bool = False) -> None:
        """`configuration`: lines of azvmagent.toml. `keep`: leave the folder for who wants to look at its logs.

        Raises CommandError.
        """
        self.root = Path(tempfile.mkdtemp(prefix="azvmagent-drill."))
        self.deployment = Deployment(root=self.root, places=Places.under(self.root))
        self.places = self.deployment.places
        try:
            self.places.check_socket_lengths()
        except UnsafeDirectory as error:
            self.root.rmdir()
            raise CommandError(f"{self.root} lies too deep for sockets: set TMPDIR to a shorter path") from error
        self.supervisord = Supervisord(self.places)
        self.key: SecretKey = new_key()
        """Packages signed with it are trusted here."""
        self.key_file = self.root / "drill.key"
        self.trust = Trust((self.key.public(),))
        self._configuration = configuration
        self._keep = keep

    def __enter__(self) -> "Stage":
        make_private_directory(self.places.trust)
        self.places.installed.mkdir(mode=0o755, parents=True)
        write_key(self.key_file, self.key).replace(self.places.trust / "drill.pub")
        self.places.config.write_text(self._configuration)
        # Whatever ends us, we still take everything away; Ctrl-C is KeyboardInterrupt as it is.
        self._handled = contextlib.ExitStack()
        self._handled.enter_context(handled(interrupted, ENDINGS[1:]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who is impatient and presses Ctrl-C again must not leave a group behind.
        with self._handled, passed_over():
            try:
                group.end_all(self.deployment)
                # Also what threw away the variable by which the others are known.
                end(of_root(self.root), _STRAY_PATIENCE)
            finally:
                if not self._keep:
                    shutil.rmtree(self.root, ignore_errors=True)

    # -- host and group ------------------------------------------------------------------------------------------------

    def up(self, *, sample: bool = False) -> None:
        """Start host and group; return when everybody is well and the host was told Ready. Raises CommandError.

        `sample`: the host asks for the sample extension.
        """
        make_private_directory(self.places.run)
        group.prepare(self.deployment)
        group.start_host(self.deployment)
        group.start_supervisord(self.deployment)
        if sample and (done := self.azfabric("ext", "add", "--sample")).returncode != 0:
            raise CommandError(f"the sample extension could not be added:\n{done.stderr or done.stdout}")
        self.until_ready()

    def clear(self) -> None:
        """End host and group, and put away all they ever wrote: sources, packages, keys and settings are left.

        Kept stages keep it, in `before-NUMBER`. Raises CommandError.
        """
        group.end_all(self.deployment)
        away = next(one for number in itertools.count(1) if not (one := self.root / f"before-{number}").exists())
        away.mkdir()
        for name in _WRITTEN:
            if (folder := self.root / name).exists():
                folder.rename(away / name)
        if not self._keep:
            shutil.rmtree(away, ignore_errors=True)
        self.places.installed.mkdir(mode=0o755, parents=True)

    def until_ready(self, patience: float = _READY_PATIENCE) -> Truth:
        """The truth, once everybody is well and the host knows. Raises CommandError with what is missing."""
        return self.until(self._ready, "everybody to be well and the host to be told Ready", patience)

    def _ready(self) -> Truth | None:
        truth = self.truth()
        well = truth is not None and truth.host.ready and all(one.state in {"ok", "busy"} for one in truth.components)
        return truth if well else None

    def truth(self) -> Truth | None:
        """As rdagent sees it; None while it does not answer."""
        try:
            return ask(self.deployment, GetTruth(), within=2.0)
        except CommandError:
            return None

    def until(self, look: Callable[[], V | None], what: str, patience: float) -> V:
        """The first true value of `look`. Raises CommandError when there is none in `patience` seconds."""
        found: list[V] = []

        def seen() -> bool:
            value = look()
            found[:] = [value] if value else []
            return bool(found)

        if not wait_until(seen, patience):
            raise CommandError(f"waited {patience:g} s in vain for {what}")
        return found[0]

    # -- versions ------------------------------------------------------------------------------------------------------

    def install(self, built: Built) -> record.Chosen:
        """Unpack a package and its layers beside the other versions; nothing is started. Raises CommandError."""
        manifest, installed = built.manifest, self.places.installed
        try:
            for layer in manifest.layers:
                unpack_layer(built.layers[layer.sha256], installed, layer)
            unpack(built.path, installed, manifest.component, self.trust, this_machine())
        except ReleaseError as error:
            raise CommandError(f"{built.path.name} cannot be installed: {error}") from error
        return record.Chosen(manifest.version, built.digest)

    def choose(self, component: str, chosen: record.Chosen | None, *, previous: record.Chosen | None = None) -> None:
        """Put a version in force without a trial, or the base install; it runs from its next start on.

        `previous`: what there is to go back to; None: the base install. Neither is on the bad list any more.

        Raises CommandError.
        """
        folder = component_folder(self.places.installed, component)
        try:
            for path in (folder.parent, folder):
                path.mkdir(mode=0o755, exist_ok=True)
            with record.locked(folder):
                before = record.read(folder) or record.Record(component=component)
                free = {one.key for one in (chosen, previous) if one}
                bad = {key: one for key, one in before.bad.items() if key not in free}
                after = msgspec.structs.replace(before, current=chosen, previous=previous, trial=None, bad=bad)
                record.write(folder, after)
        except (OSError, ReleaseError) as error:
            raise CommandError(f"the record of {component} cannot be written: {error}") from error

    def swap(self, component: str, built: Built | None) -> None:
        """Stop one component and start it as another version (None: the base install). Raises CommandError.

        Returns once it was started: what it then does is the drill's business.
        """
        chosen = self.install(built) if built else None
        self.stop(component)
        self.choose(component, chosen)
        self.supervisord.start(component)

    def stop(self, component: str) -> None:
        """Returns when its process has ended; a hung one is killed by supervisord. Raises CommandError."""
        self.supervisord.stop(component)
        if not wait_until(lambda: self.program(component).statename not in _RUNS, _END_PATIENCE):
            raise CommandError(f"{component} does not end; supervisord says {self.program(component).statename}")

    def program(self, component: str) -> ProgramState:
        """As supervisord sees it. Raises SupervisordError."""
        return next(one for one in self.supervisord.programs() if one.name == component)

    def forgive(self, component: str) -> None:
        """Empty its bad list. Raises CommandError."""
        folder = component_folder(self.places.installed, component)
        try:
            with record.locked(folder):
                before = record.read(folder)
                if before is not None and before.bad:
                    record.write(folder, msgspec.structs.replace(before, bad={}))
        except ReleaseError as error:
            raise CommandError(f"the record of {component} cannot be written: {error}") from error

    # -- words ---------------------------------------------------------------------------------------------------------

    def agentctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`agentctl WORDS --root ...`, whatever its exit status."""
        return self._command("agentctl", words)

    def azfabric(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`azfabric WORDS --root ...`, whatever its exit status."""
        return self._command("fabric", words)

    def log_of(self, component: str) -> Path:
        """Where its output goes."""
        return Path(self.program(component).stdout_logfile)

    def _command(self, module: str, words: Iterable[str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", module, *words, "--root", str(self.root)]
        environment = self.deployment.environment()
        # Else it would count as a part of the group, and be ended with it.
        del environment["AZVMAGENT_ROOT"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=_WORDS_PATIENCE
        )
