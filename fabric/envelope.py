"""CMS envelopes (RFC 5652 section 6): what only one certificate's key opens."""

import os
from typing import Any

from asn1crypto import cms, core
from asn1crypto import keys as asn1_keys
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fabric.errors import FabricError

CIPHERS = {"AES128_CBC": ("aes128_cbc", 16, 16), "DES_EDE3_CBC": ("tripledes_3key", 24, 8)}
"""Name in the request header: (ASN.1 name, key bytes, block bytes)."""
_AGREEMENT = "1.3.132.1.11.1"
"""dhSinglePass-stdDH-sha256kdf-scheme."""
_WRAP_BYTES = 16


class _SharedInfo(core.Sequence):  # type: ignore[misc]  # asn1crypto has no types
    """ECC-CMS-SharedInfo, RFC 5753 section 7.2."""

    _fields = [("key_info", cms.KeyEncryptionAlgorithm), ("supp_pub_info", core.OctetString, {"explicit": 2})]


def encrypt(plaintext: bytes, recipient: x509.Certificate, cipher: str) -> bytes:
    """A DER EnvelopedData with one recipient, RSA or EC.

    Raises FabricError, ValueError, InvalidVersion or UnsupportedAlgorithm for a key nobody can encrypt to.
    """
    name, key_bytes, block_bytes = CIPHERS[cipher]
    key, vector = os.urandom(key_bytes), os.urandom(block_bytes)
    version, information = _recipient(key, recipient)
    algorithm: Any = algorithms.AES(key) if cipher == "AES128_CBC" else TripleDES(key)
    padder = PKCS7(block_bytes * 8).padder()
    encryptor = Cipher(algorithm, modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    envelope = cms.EnvelopedData(
        {
            "version": version,
            "recipient_infos": [information],
            "encrypted_content_info": {
                "content_type": "data",
                "content_encryption_algorithm": {"algorithm": name, "parameters": core.OctetString(vector)},
                "encrypted_content": sealed,
            },
        }
    )
    wrapped: bytes = cms.ContentInfo({"content_type": "enveloped_data", "content": envelope}).dump()
    return wrapped


def _recipient(key: bytes, recipient: x509.Certificate) -> tuple[str, cms.RecipientInfo]:
    """The version of the envelope that this needs, and the key as the recipient alone can have it."""
    theirs = asn1_x509.Certificate.load(recipient.public_bytes(Encoding.DER))
    known_as = {"issuer": theirs.issuer, "serial_number": theirs.serial_number}
    public = recipient.public_key()
    match public:
        case rsa.RSAPublicKey():
            return "v0", cms.RecipientInfo(
                name="ktri",
                value={
                    "version": "v0",
                    "rid": cms.RecipientIdentifier(name="issuer_and_serial_number", value=known_as),
                    "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
                    "encrypted_key": public.encrypt(key, padding.PKCS1v15()),
                },
            )
        case ec.EllipticCurvePublicKey():
            return "v2", _agreed(key, public, known_as)
    raise FabricError("the recipient's key is neither RSA nor EC")


def _agreed(key: bytes, public: ec.EllipticCurvePublicKey, known_as: dict[str, Any]) -> cms.RecipientInfo:
    """Wrapped by what an ephemeral key and the recipient's agree upon (RFC 5753 section 3.1)."""
    ephemeral = ec.generate_private_key(public.curve)
    wrap = cms.KeyEncryptionAlgorithm({"algorithm": "aes128_wrap"})
    about = _SharedInfo({"key_info": wrap, "supp_pub_info": (_WRAP_BYTES * 8).to_bytes(4, "big")}).dump()
    shared = ephemeral.exchange(ec.ECDH(), public)
    wrapping = X963KDF(hashes.SHA256(), _WRAP_BYTES, about).derive(shared)
    ours = ephemeral.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    recipient = cms.KeyAgreementRecipientIdentifier(name="issuer_and_serial_number", value=known_as)
    return cms.RecipientInfo(
        name="kari",
        value={
            "version": "v3",
            "originator": cms.OriginatorIdentifierOrKey(
                name="originator_key", value=asn1_keys.PublicKeyInfo.load(ours)
            ),
            "key_encryption_algorithm": {"algorithm": _AGREEMENT, "parameters": wrap},
            "recipient_encrypted_keys": [{"rid": recipient, "encrypted_key": aes_key_wrap(wrapping, key)}],
        },
    )
