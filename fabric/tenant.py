"""The VM's certificates: made once, delivered in an envelope only the asking agent can open."""

import base64
import datetime
from typing import Any

from asn1crypto import cms, core, keys
from asn1crypto import pkcs12 as asn1_pkcs12
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from fabric.envelope import encrypt
from fabric.errors import FabricError
from fabric.state import Identity, KeyPair


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
    recipient = x509.load_pem_x509_certificate(identity.tenant_certificate_pem.encode())
    return base64.b64encode(encrypt(plaintext, recipient, "AES128_CBC")).decode()


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
