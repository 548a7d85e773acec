"""The signature of a package: detached CMS over the zip (protocol: package signature).

Judged by guestagent/verifier.py in a child process, for the memory that cryptography takes. What follows from a bad
signature is the owner's choice: `signature_check` in the configuration, signatureRequired in the extension policy.
"""

import base64
import binascii
import subprocess
from pathlib import Path
from typing import Literal, get_args

from guestagent.errors import SignatureError, SignatureProblem
from guestagent.handlermanifest import HandlerManifest
from ipc.child import module_command
from ipc.statefile import write_atomically

Mode = Literal["off", "report", "require"]
Consequence = Literal["nothing", "tell", "refuse"]

ROOT = "microsoft_root_certificate.pem"
"""Microsoft Root Certificate Authority 2011, SHA-1 8F43288AD272F3103B6FB1428485EA3014C0BCFE; shipped with us."""

# What Microsoft sends is 10 KB, with the certificates and a time stamp.
_SIGNATURE_LIMIT = 256 * 1024
_SECONDS = 90.0


def consequence(mode: Mode, signature: str, *, required: bool) -> Consequence:
    """What a package whose signature is bad or missing leads to. The stricter of configuration and policy wins."""
    if required or mode == "require":
        return "refuse"
    # As with the reference agent, a package nobody signed is as good as any other.
    return "nothing" if mode == "off" or not signature else "tell"


def place_root(lib: Path) -> None:
    """Write the root where the reference agent has it. Raises OSError."""
    write_atomically(lib / ROOT, (Path(__file__).parent / ROOT).read_bytes(), 0o600)


def check_signature(
    package: Path, signature: str, handler: str, version: str, manifest: HandlerManifest, root: Path
) -> str:
    """Who signed this package of this handler and version; base64 `signature`. Blocking. Raises SignatureError."""
    if not signature.strip():
        raise SignatureError("unsigned", f"the host sent no signature for {handler} {version}")
    if len(signature) > _SIGNATURE_LIMIT:
        raise SignatureError("malformed", f"it is longer than {_SIGNATURE_LIMIT} characters")
    try:
        der = base64.b64decode("".join(signature.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("malformed", f"it is not base64: {error}") from error
    signers = _verify(package, root, der)
    check_signing_info(manifest, handler, version)
    return signers


def check_signing_info(manifest: HandlerManifest, handler: str, version: str) -> None:
    """That a package is the one asked for, not another that was signed as well. Raises SignatureError."""
    signing_info = manifest.signing_info
    if signing_info is None:
        raise SignatureError("identity", "HandlerManifest.json has no signingInfo")
    publisher, _, kind = handler.rpartition(".")
    for name, wanted, found in (
        ("publisher", publisher, signing_info.publisher),
        ("type", kind, signing_info.type),
        ("version", version, signing_info.version),
    ):
        if wanted.casefold() != found.casefold():
            raise SignatureError("identity", f"signingInfo.{name} is {found[:100]!r}, not {wanted!r}")


def _verify(package: Path, root: Path, der: bytes) -> str:
    command = module_command("guestagent.verifier", str(package), str(root))
    try:
        done = subprocess.run(command, input=der, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SignatureError("unverifiable", f"the verifier cannot be run: {error}") from error
    if done.returncode == 0:
        return ", ".join(done.stdout.decode("utf-8", "replace").splitlines())
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
    problem, _, text = lines[-1].partition(": ")
    for known in get_args(SignatureProblem):
        if problem == known:
            raise SignatureError(known, text)
    raise SignatureError("unverifiable", f"the verifier failed: {lines[-1]}")
