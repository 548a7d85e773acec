"""The VM's certificates: asked for in our name, opened by the keysmith, kept while somebody may use them. Blocking."""

import logging
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from guestagent.keysmith import CERTIFICATE, Opened
from ipc.child import module_command
from ipc.errors import StateError
from ipc.statefile import read_state, write_state
from wire.certificates import CIPHERS, DOCUMENT
from wire.errors import DocumentError, WireError
from wire.extensions import ExtensionsGoalState
from wire.wireserver import Cipher, WireServer

_SECONDS = 90.0
_CHECK_SECONDS = 86400.0
GRACE = 7 * 86400.0
"""Seconds a certificate stays that neither the host nor a settings file names: programs may use it by its path."""

_NAMED = re.compile(rb'"protectedSettingsCertThumbprint"\s{0,8}:\s{0,8}"([0-9A-Fa-f]{40})"')

logger = logging.getLogger("guestagent")


class Certificates(msgspec.Struct, frozen=True, kw_only=True):
    """`certificates.json`."""

    listed: tuple[str, ...] = ()
    """Thumbprints the host listed last."""
    kept: dict[str, float] = {}
    """What we stored: 0 while the host lists it, else since when it does not."""


class Keyring:
    """The certificates of the VM's goal state. Blocking; what changes anything is called by one thread at a time."""

    def __init__(self, lib: Path, state: Path, clock: Callable[[], float] = time.time) -> None:
        """A damaged file is begun anew: what it named is then kept for ever."""
        self._lib = lib
        self._path = state / "certificates.json"
        self._clock = clock
        self._checked_at: float | None = None
        try:
            self._content = read_state(self._path, Certificates) or Certificates()
        except StateError as error:
            logger.warning("%s", error)
            self._content = Certificates()

    @property
    def thumbprints(self) -> tuple[str, ...]:
        """What the host listed last."""
        return self._content.listed

    def fetch(self, wireserver: WireServer, url: str) -> tuple[str, ...]:
        """Store all the host lists; what had to be left out, and why. Raises HostError, DocumentError, OSError."""
        opened = self._open(wireserver, url) if url else Opened()
        now = self._clock()
        retired = {name: since or now for name, since in self._content.kept.items()}
        self._write(Certificates(listed=opened.thumbprints, kept=retired | dict.fromkeys(opened.thumbprints, 0.0)))
        return opened.problems

    def is_whole(self) -> bool:
        """Whether all that the host listed last is on disk still."""
        return all((self._lib / f"{name}.crt").exists() for name in self.thumbprints)

    def has_key(self, thumbprint: str) -> bool:
        return (self._lib / f"{thumbprint}.prv").exists()

    def lacking(self, extensions: ExtensionsGoalState) -> list[str]:
        """Thumbprints that protected settings name and whose certificate or key is not on disk."""
        secret = (one for handler in extensions.handlers for one in handler.settings if one.protected)
        return sorted({one.thumbprint for one in secret if one.thumbprint and not self._is_there(one.thumbprint)})

    def remove_retired(self, goal_states: Iterable[ExtensionsGoalState]) -> list[str]:
        """Remove what was retired longer than `GRACE` ago and nobody names; which. Raises OSError.

        Extensions keep old settings files, and open them years later.
        """
        now = self._clock()
        due = {name for name, since in self._content.kept.items() if since and now - since > GRACE}
        if not due:
            return []
        for goal_state in goal_states:
            due -= {one.thumbprint for handler in goal_state.handlers for one in handler.settings if one.thumbprint}
        for path in self._lib.glob("*/config/*.settings"):
            # One that cannot be read may name any of them: the error ends this round.
            due -= {name.decode().upper() for name in _NAMED.findall(path.read_bytes())}
        for name in sorted(due):
            for end in ("crt", "prv"):
                (self._lib / f"{name}.{end}").unlink(missing_ok=True)
        left = {name: since for name, since in self._content.kept.items() if name not in due}
        self._write(Certificates(listed=self._content.listed, kept=left))
        return sorted(due)

    def _write(self, content: Certificates) -> None:
        """In force at once, also if the disk is full."""
        if content != self._content:
            self._content = content
            write_state(self._path, content)

    def _open(self, wireserver: WireServer, url: str) -> Opened:
        """Each cipher is tried."""
        self._have_transport_certificate()
        transport = _one_line((self._lib / CERTIFICATE).read_text(encoding="ascii"))
        ciphers: tuple[Cipher, ...] = CIPHERS
        for number, cipher in enumerate(ciphers, 1):
            try:
                document = wireserver.certificates(url, transport, cipher)
                return msgspec.json.decode(_keysmith("open", self._lib, document), type=Opened)
            except WireError as error:
                if number == len(ciphers):
                    # It may be ours that is damaged.
                    self._checked_at = None
                    raise
                logger.info("certificates with %s: %s", cipher, error)
        raise DocumentError(DOCUMENT, "no cipher is known")

    def _have_transport_certificate(self) -> None:
        """One that is whole and good for another month. Raises DocumentError with the keysmith's reason."""
        now = self._clock()
        if self._checked_at is None or not 0 <= now - self._checked_at < _CHECK_SECONDS:
            _keysmith("make", self._lib, b"")
            self._checked_at = now

    def _is_there(self, thumbprint: str) -> bool:
        return thumbprint.isalnum() and all((self._lib / f"{thumbprint}.{end}").exists() for end in ("crt", "prv"))


def _keysmith(action: str, lib: Path, document: bytes) -> bytes:
    command = module_command("guestagent.keysmith", action, str(lib))
    try:
        done = subprocess.run(command, input=document, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DocumentError(DOCUMENT, f"the keysmith cannot be run: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise DocumentError(DOCUMENT, reason[-1].removeprefix(f"{DOCUMENT}: "))
    return done.stdout


def _one_line(pem: str) -> str:
    """As it goes into a request header: the armour and the line breaks removed."""
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))
