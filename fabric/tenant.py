"""The VM's certificates: made once, delivered in an envelope only the asking agent can open."""

import base64
import datetime
import os
import subprocess
import tempfile
from typing import Any

from asn1crypto import cms, core, keys
from asn1crypto import pkcs12 as asn1_pkcs12
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from fabric.errors import FabricError
from fabric.state import Identity, KeyPair

CIPHERS = {"AES128_CBC": ("aes128_cbc", 16, 16), "DES_EDE3_CBC": ("tripledes_3key", 24, 8)}
"""Name in the request header: (ASN.1 name, key bytes, block bytes)."""


def make_tenant_certificate(name: str, *, elliptic: bool = False) -> tuple[str, str]:
    """Key and self-signed certificate, PEM."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = rsa.generate_private_key(65537, 2048)
    if elliptic:
        key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key_pem.decode(), certificate.public_bytes(Encoding.PEM).decode()


def thumbprint(identity: Identity) -> str:
    """SHA-1 of the certificate's DER, upper-case hex: the name extensions find it under."""
    return thumbprint_of(identity.tenant_certificate_pem)


def thumbprint_of(certificate_pem: str) -> str:
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303  # the protocol's naming, no security in it


def certificates_envelope(identity: Identity, transport_certificate: str, cipher: str) -> bytes:
    """The PFX, encrypted to the certificate of this very request. Raises FabricError if that is none."""
    own = KeyPair(key_pem=identity.tenant_key_pem, certificate_pem=identity.tenant_certificate_pem)
    pfx = _pfx([own, *identity.more_certificates])
    try:
        der = base64.b64decode(transport_certificate, validate=True)
        return encrypt(pfx, x509.load_der_x509_certificate(der), cipher)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise FabricError(f"x-ms-guest-agent-public-x509-cert is no certificate to encrypt to: {error}") from error


def protect(identity: Identity, plaintext: bytes) -> str:
    """Protected settings: base64 CMS for the tenant certificate."""
    pem = identity.tenant_certificate_pem.encode()
    recipient = x509.load_pem_x509_certificate(pem)
    if isinstance(recipient.public_key(), rsa.RSAPublicKey):
        return base64.b64encode(encrypt(plaintext, recipient, "AES128_CBC")).decode()
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        # Key agreement instead of key transport: more than is worth writing by hand.
        command = ["openssl", "cms", "-encrypt", "-binary", "-aes128", "-outform", "DER", file.name]
        done = subprocess.run(command, input=plaintext, capture_output=True, check=False)
    if done.returncode != 0:
        raise FabricError(f"openssl does not encrypt for the tenant certificate: {done.stderr.decode()}")
    return base64.b64encode(done.stdout).decode()


def _pfx(pairs: list[KeyPair]) -> bytes:
    """A PKCS#12 with an empty password; with several keys as the library cannot write it: in the clear, without MAC."""
    if len(pairs) == 1:
        key = load_pem_private_key(pairs[0].key_pem.encode(), None)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise FabricError("the tenant key is neither RSA nor EC")
        certificate = x509.load_pem_x509_certificate(pairs[0].certificate_pem.encode())
        return pkcs12.serialize_key_and_certificates(None, key, certificate, None, NoEncryption())
    bags: list[dict[str, Any]] = []
    for pair in pairs:
        key = load_pem_private_key(pair.key_pem.encode(), None)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        certificate = x509.load_pem_x509_certificate(pair.certificate_pem.encode())
        theirs = asn1_x509.Certificate.load(certificate.public_bytes(Encoding.DER))
        bags.append({"bag_id": "key_bag", "bag_value": keys.PrivateKeyInfo.load(der)})
        bags.append({"bag_id": "cert_bag", "bag_value": {"cert_id": "x509", "cert_value": theirs}})
    safe = _data(asn1_pkcs12.AuthenticatedSafe([_data(asn1_pkcs12.SafeContents(bags))]))
    pfx: bytes = asn1_pkcs12.Pfx({"version": 3, "auth_safe": safe}).dump()
    return pfx


def _data(content: Any) -> cms.ContentInfo:
    return cms.ContentInfo({"content_type": "data", "content": core.OctetString(content.dump())})


def encrypt(plaintext: bytes, recipient: x509.Certificate, cipher: str) -> bytes:
    """A DER EnvelopedData with one RSA recipient (RFC 5652 section 6).

    Raises FabricError, ValueError, InvalidVersion or UnsupportedAlgorithm for a key nobody can encrypt to.
    """
    public = recipient.public_key()
    if not isinstance(public, rsa.RSAPublicKey):
        raise FabricError("the recipient's key is not RSA")
    name, key_bytes, block_bytes = CIPHERS[cipher]
    key, vector = os.urandom(key_bytes), os.urandom(block_bytes)
    algorithm: Any = algorithms.AES(key) if cipher == "AES128_CBC" else TripleDES(key)
    padder = PKCS7(block_bytes * 8).padder()
    encryptor = Cipher(algorithm, modes.CBC(vector)).encryptor()
    sealed = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    theirs = asn1_x509.Certificate.load(recipient.public_bytes(Encoding.DER))
    envelope = cms.EnvelopedData(
        {
            "version": "v0",
            "recipient_infos": [
                cms.RecipientInfo(
                    name="ktri",
                    value={
                        "version": "v0",
                        "rid": cms.RecipientIdentifier(
                            name="issuer_and_serial_number",
                            value={"issuer": theirs.issuer, "serial_number": theirs.serial_number},
                        ),
                        "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
                        "encrypted_key": public.encrypt(key, padding.PKCS1v15()),
                    },
                )
            ],
            "encrypted_content_info": {
                "content_type": "data",
                "content_encryption_algorithm": {"algorithm": name, "parameters": core.OctetString(vector)},
                "encrypted_content": sealed,
            },
        }
    )
    wrapped: bytes = cms.ContentInfo({"content_type": "enveloped_data", "content": envelope}).dump()
    return wrapped
