"""The VM's certificates: asked for in our name, opened by the keysmith. Blocking."""

import logging
import subprocess
import sys
from pathlib import Path

from guestagent.keysmith import CERTIFICATE
from wire.certificates import CIPHERS, DOCUMENT
from wire.errors import DocumentError, WireError
from wire.wireserver import Cipher, WireServer

_SECONDS = 60.0

logger = logging.getLogger("guestagent")


def make_transport_certificate(lib: Path) -> None:
    """Raises DocumentError, with the keysmith's reason."""
    _keysmith("make", lib, b"")


def fetch_certificates(wireserver: WireServer, url: str, lib: Path) -> list[str]:
    """Store all certificates; their thumbprints. Each cipher is tried. Raises the last HostError or DocumentError."""
    transport = _one_line((lib / CERTIFICATE).read_text(encoding="ascii"))
    ciphers: tuple[Cipher, ...] = CIPHERS
    for number, cipher in enumerate(ciphers, 1):
        try:
            return _open(wireserver.certificates(url, transport, cipher), lib)
        except WireError as error:
            if number == len(ciphers):
                raise
            logger.info("certificates with %s: %s", cipher, error)
    raise DocumentError(DOCUMENT, "no cipher is known")


def _open(document: bytes, lib: Path) -> list[str]:
    lines = _keysmith("open", lib, document).split("\n")
    return [line.partition(" ")[0] for line in lines if line]


def _keysmith(action: str, lib: Path, document: bytes) -> str:
    command = [sys.executable, "-P", "-m", "guestagent.keysmith", action, str(lib)]
    try:
        done = subprocess.run(command, input=document, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DocumentError(DOCUMENT, f"the keysmith cannot be run: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise DocumentError(DOCUMENT, reason[-1].removeprefix(f"{DOCUMENT}: "))
    return done.stdout.decode("ascii", "replace")


def _one_line(pem: str) -> str:
    """As it goes into a request header: the armour and the line breaks removed."""
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))
