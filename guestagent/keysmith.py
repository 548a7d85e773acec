"""Cryptography in a process of its own: `python -m guestagent.keysmith make|open LIB`.

It is needed a few times a day and costs 16 MB of memory where it is imported; here that memory is given back.

`make` writes the transport key and certificate (protocol: transport certificate).
`open` reads a Certificates document from standard input, writes `<THUMBPRINT>.crt` and `.prv`, and prints `Opened` as
JSON. Exit status 1 with the reason on standard error.
"""

import datetime
import subprocess
import sys
from pathlib import Path

import msgspec

from ipc.statefile import write_atomically
from wire.certificates import DOCUMENT, decrypt, pair, parse_certificate_file
from wire.errors import DocumentError

KEY = "TransportPrivate.pem"
CERTIFICATE = "TransportCert.pem"
_VALID = datetime.timedelta(days=730)
_RENEW_BEFORE = datetime.timedelta(days=30)
_MODE = 0o400
_SECONDS = 20.0

# A MAC may be absent, or made with a password that is empty in another way; old hosts encrypt with what OpenSSL 3 keeps
# in its legacy provider.
_WAYS: tuple[tuple[str, ...], ...] = (("-nomacver",), (), ("-legacy", "-nomacver"), ("-legacy",))


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What a Certificates document brought."""

    thumbprints: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What was left out, and why."""


def make(lib: Path) -> None:
    """A new key and certificate, unless the ones there are good for another month."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    if _still_good(lib, now + _RENEW_BEFORE):
        return
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "LinuxTransport")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A VM's clock may be a little ahead when it first boots.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _VALID)
        .sign(key, hashes.SHA256())
    )
    write_atomically(lib / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), _MODE)
    write_atomically(lib / CERTIFICATE, certificate.public_bytes(Encoding.PEM), _MODE)


def open_document(lib: Path, document: bytes) -> Opened:
    """Certificates and keys on disk. Raises DocumentError, OSError."""
    envelope = parse_certificate_file(document)
    if envelope is None:
        return Opened()
    tenant = pair(open_pfx(decrypt(envelope, (lib / KEY).read_bytes())))
    for one in tenant.certificates:
        # The key first: whoever sees the certificate may use both.
        if one.key_pem is not None:
            _store(lib / f"{one.thumbprint}.prv", one.key_pem)
        _store(lib / f"{one.thumbprint}.crt", one.certificate_pem)
    return Opened(thumbprints=tuple(one.thumbprint for one in tenant.certificates), problems=tenant.problems)


def open_pfx(pfx: bytes) -> bytes:
    """Everything in a PKCS#12 with an empty password, as PEM. Raises DocumentError.

    By the openssl program, which extensions need on the VM anyway: the loader of `cryptography` takes one key only.
    """
    reason = ""
    for way in _WAYS:
        command = ["openssl", "pkcs12", "-nodes", "-passin", "pass:", *way]
        try:
            done = subprocess.run(command, input=pfx, capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DocumentError(DOCUMENT, f"openssl, which opens the PFX, cannot be run: {error}") from error
        if done.returncode == 0:
            return done.stdout
        reason = reason or " ".join(done.stderr.decode("utf-8", "replace").split())
    raise DocumentError(DOCUMENT, f"holds no PFX that openssl opens: {reason[:500]}")


def _store(path: Path, pem: bytes) -> None:
    """Unless it is there already: each new goal state lists all certificates again."""
    if not path.is_file() or path.read_bytes() != pem:
        write_atomically(path, pem, _MODE)


def _still_good(lib: Path, until: datetime.datetime) -> bool:
    """Whether both files are there, belong together and stay valid."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificate((lib / CERTIFICATE).read_bytes())
        key = load_pem_private_key((lib / KEY).read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return False
    return certificate.public_key() == key.public_key() and certificate.not_valid_after_utc > until


def main(arguments: list[str]) -> int:
    action, lib = arguments[0], Path(arguments[1])
    try:
        if action == "make":
            make(lib)
        else:
            sys.stdout.buffer.write(msgspec.json.encode(open_document(lib, sys.stdin.buffer.read())))
    except (DocumentError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
