"""The Certificates document, its CMS envelope and the PFX inside (protocol: Certificates document)."""

import base64
import binascii
import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from wire import xml
from wire.errors import DocumentError

if TYPE_CHECKING:
    from asn1crypto.cms import EnvelopedData
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

DOCUMENT = "Certificates"
CIPHERS: tuple[Literal["AES128_CBC"], Literal["DES_EDE3_CBC"]] = ("AES128_CBC", "DES_EDE3_CBC")
"""In the order they are asked for."""


class TenantCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of the VM; the key is secret."""

    thumbprint: str
    """SHA-1 of the DER, upper-case hex."""
    certificate_pem: bytes
    key_pem: bytes | None
    """Unencrypted; None if the host sent no key for it."""

    def __repr__(self) -> str:
        return f"TenantCertificate({self.thumbprint}, {'with' if self.key_pem else 'without'} key)"


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


def open_pfx(pfx: bytes) -> tuple[TenantCertificate, ...]:
    """Certificates and keys of a PKCS#12 with an empty password, paired by public key. Raises DocumentError.

    A key without its certificate is left out: it has no name to be stored under.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
    from cryptography.x509 import InvalidVersion

    try:
        first, certificate, others = pkcs12.load_key_and_certificates(pfx, b"")
        keys = {_public(one): one for one in (*_keys(pfx), first) if one is not None}
        found = []
        for one in (certificate, *others):
            if one is None:
                continue
            key = keys.get(_public(one))
            found.append(
                TenantCertificate(
                    thumbprint=hashlib.sha1(one.public_bytes(Encoding.DER), usedforsecurity=False).hexdigest().upper(),
                    certificate_pem=one.public_bytes(Encoding.PEM),
                    key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) if key else None,
                )
            )
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidVersion) as error:
        raise DocumentError(DOCUMENT, f"holds no PFX we can open: {error}") from error
    return tuple(found)


def _keys(pfx: bytes) -> "Iterator[PrivateKeyTypes]":
    """Every key that can be read of a PFX that was opened already: cryptography hands out the first one only.

    Raises ValueError, TypeError, UnsupportedAlgorithm.
    """
    from asn1crypto.pkcs12 import Pfx, SafeContents
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    # Keys are encrypted one by one, if at all; a safe that is encrypted whole is for certificates.
    for safe in Pfx.load(pfx).authenticated_safe:
        if safe["content_type"].native != "data":
            continue
        for bag in SafeContents.load(safe["content"].native):
            der = bag["bag_value"].untag().dump()
            match bag["bag_id"].native:
                case "key_bag":
                    yield load_der_private_key(der, None)
                case "pkcs8_shrouded_key_bag":
                    # An empty password would be taken for none. Both key derivations pad with zeros: one is the same.
                    with contextlib.suppress(ValueError):
                        yield load_der_private_key(der, b"\0")


def _public(one: "PrivateKeyTypes | Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


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
