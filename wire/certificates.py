"""The Certificates document, its CMS envelope, and what is in the PFX inside (protocol: Certificates document)."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from wire import xml
from wire.errors import DocumentError

if TYPE_CHECKING:
    from asn1crypto.cms import EnvelopedData
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

DOCUMENT = "Certificates"
CIPHERS: tuple[Literal["AES128_CBC"], Literal["DES_EDE3_CBC"]] = ("AES128_CBC", "DES_EDE3_CBC")
"""In the order they are asked for."""

_CERTIFICATE = rb"CERTIFICATE"
_KEY = rb"(?:[A-Z]+ )?PRIVATE KEY"


class TenantCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of the VM; the key is secret."""

    thumbprint: str
    """SHA-1 of the DER, upper-case hex."""
    certificate_pem: bytes
    key_pem: bytes | None
    """Unencrypted; None if the host sent no key for it."""

    def __repr__(self) -> str:
        return f"TenantCertificate({self.thumbprint}, {'with' if self.key_pem else 'without'} key)"


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """All that one PFX holds."""

    certificates: tuple[TenantCertificate, ...]
    problems: tuple[str, ...] = ()
    """What was left out, and why."""


def parse_certificate_file(data: bytes) -> bytes | None:
    """The DER CMS envelope; None if the document carries none. Raises DocumentError."""
    root = xml.parse(DOCUMENT, data)
    form = xml.text_of(root, "Format").strip()
    body = "".join(xml.text_of(root, "Data").split())
    if not body or form not in {"", "Pkcs7BlobWithPfxContents"}:
        return None
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DocumentError(DOCUMENT, f"Data is not base64: {error}") from error


def decrypt(envelope: bytes, transport_key_pem: bytes) -> bytes:
    """The plaintext of an EnvelopedData addressed to our RSA key, AES-CBC or DES-EDE3-CBC (RFC 5652 section 6).

    Raises DocumentError.
    """
    from asn1crypto.cms import ContentInfo
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(transport_key_pem, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise DocumentError(DOCUMENT, "the transport key is not RSA")
    try:
        enveloped: EnvelopedData = ContentInfo.load(envelope, strict=True)["content"]
        content = enveloped["encrypted_content_info"]
        algorithm = content["content_encryption_algorithm"]
        cipher, mode, vector = algorithm.encryption_cipher, algorithm.encryption_mode, algorithm.encryption_iv
        secrets = [bytes(one.chosen["encrypted_key"].native) for one in enveloped["recipient_infos"]]
        sealed = bytes(content["encrypted_content"].native)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError) as error:
        # asn1crypto parses as it is asked, and each of its complaints is one of these.
        raise DocumentError(DOCUMENT, f"Data is no CMS envelope: {error}") from error
    if mode != "cbc" or not isinstance(vector, bytes):
        raise DocumentError(DOCUMENT, f"is encrypted with {cipher}-{mode}, we read AES-CBC and DES-EDE3-CBC")
    for secret in secrets:
        try:
            content_key = key.decrypt(secret, padding.PKCS1v15())
            return _decrypt_cbc(str(cipher), content_key, vector, sealed)
        except ValueError:
            continue  # addressed to somebody else: the wrong key gives no padding, or one of the wrong length
    raise DocumentError(DOCUMENT, "was not encrypted for our transport certificate")


def pair(pem: bytes) -> Tenant:
    """Certificates and the keys that belong to them, by public key, from what `openssl pkcs12` prints.

    One that cannot be used costs the others nothing (the reference agent gives up on all of them).
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    keys: dict[bytes, bytes] = {}
    problems: list[str] = []
    for block in _blocks(pem, _KEY):
        try:
            keys[_public(load_pem_private_key(block, None).public_key())] = block
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            problems.append(f"a private key is left out: {error}")
    found: dict[str, TenantCertificate] = {}
    owned = set()
    for block in _blocks(pem, _CERTIFICATE):
        try:
            der = _der(block)
            thumbprint = hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
            public = _public(load_pem_x509_certificate(block).public_key())
        except binascii.Error as error:
            problems.append(f"a certificate is left out: {error}")
            continue
        except (ValueError, InvalidVersion, UnsupportedAlgorithm) as error:
            # What we cannot read others may.
            problems.append(f"{thumbprint} is stored without a key: {error}")
            public = b""
        owned.add(public)
        found[thumbprint] = TenantCertificate(thumbprint=thumbprint, certificate_pem=block, key_pem=keys.get(public))
    if nameless := len(keys.keys() - owned):
        problems.append(f"{nameless} private key{'s' if nameless > 1 else ''} without a certificate left out")
    return Tenant(certificates=tuple(found.values()), problems=tuple(problems))


def _blocks(pem: bytes, label: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"^-----BEGIN (%s)-----\n[^-]+^-----END \1-----$" % label, pem, re.MULTILINE):
        yield match[0] + b"\n"


def _der(block: bytes) -> bytes:
    return base64.b64decode(b"".join(block.split(b"\n")[1:-2]), validate=True)


def _public(key: "PublicKeyTypes") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _decrypt_cbc(cipher: str, key: bytes, vector: bytes, sealed: bytes) -> bytes:
    """Raises ValueError for a key, vector or padding that does not fit."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    algorithm: algorithms.AES | TripleDES
    if cipher == "aes":
        algorithm = algorithms.AES(key)
    elif cipher == "tripledes":
        algorithm = TripleDES(key)
    else:
        raise DocumentError(DOCUMENT, f"is encrypted with {cipher}, we read AES-CBC and DES-EDE3-CBC")
    decryptor = Cipher(algorithm, modes.CBC(vector)).decryptor()
    unpadder = PKCS7(algorithm.block_size).unpadder()
    padded = decryptor.update(sealed) + decryptor.finalize()
    return unpadder.update(padded) + unpadder.finalize()
