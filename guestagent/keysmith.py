"""Cryptography in a process of its own: `python -m guestagent.keysmith make|open LIB`.

It is needed a few times a day and costs 16 MB of memory where it is imported; here that memory is given back.

`make` writes the transport key and certificate (protocol: transport certificate).
`open` reads a Certificates document from standard input, writes `<THUMBPRINT>.crt` and `.prv`, and prints the
thumbprints, one a line, with `key` or `-` behind each. Exit status 1 with the reason on standard error.
"""

import datetime
import sys
from pathlib import Path

from ipc.statefile import write_atomically
from wire.certificates import decrypt, open_pfx, parse_certificate_file
from wire.errors import DocumentError

KEY = "TransportPrivate.pem"
CERTIFICATE = "TransportCert.pem"
_VALID = datetime.timedelta(days=730)
_RENEW_BEFORE = datetime.timedelta(days=30)


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
    write_atomically(lib / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    write_atomically(lib / CERTIFICATE, certificate.public_bytes(Encoding.PEM), 0o600)


def open_document(lib: Path, document: bytes) -> list[str]:
    """Certificates and keys on disk; what to print. Raises DocumentError, OSError."""
    envelope = parse_certificate_file(document)
    if envelope is None:
        return []
    lines = []
    for one in open_pfx(decrypt(envelope, (lib / KEY).read_bytes())):
        if one.key_pem is not None:
            write_atomically(lib / f"{one.thumbprint}.prv", one.key_pem, 0o600)
        write_atomically(lib / f"{one.thumbprint}.crt", one.certificate_pem, 0o600)
        lines.append(f"{one.thumbprint} {'key' if one.key_pem else '-'}")
    return lines


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
            sys.stdout.write("".join(f"{line}\n" for line in open_document(lib, sys.stdin.buffer.read())))
    except (DocumentError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
