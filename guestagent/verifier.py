"""Judges a package's signature, in a process of its own: `python -m guestagent.verifier PACKAGE ROOT`.

The signature, DER, comes on standard input. Exit status 0 with the signers' names, one a line; 1 with
`<problem>: <text>` on standard error. What holds, and why, is written in docs/decisions (package signatures):
`openssl` checks the signature itself, `cryptography` the chain to the pinned root; nothing of either is our own.
"""

import datetime
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from guestagent.errors import SignatureError, SignatureProblem

if TYPE_CHECKING:
    from cryptography import x509

_SECONDS = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIGESTS = {"sha256", "sha384", "sha512"}
_CERTIFICATES = 20
_OPENSSL_SAYS_NO = 4


def verify(package: Path, root: Path, signature: bytes) -> list[str]:
    """Who signed the package. Raises SignatureError."""
    if not package.is_file():
        raise SignatureError("unverifiable", f"there is no package {package}")
    anchors = _read_root(root)
    stated = _read_statements(signature)
    signers, others = _check_content(package, signature)
    for signer, time in zip(signers, stated, strict=True):
        check_purpose(signer)
        check_chain(signer, others, anchors, time)
    return [signer.subject.rfc4514_string() for signer in signers]


def _read_root(root: Path) -> list["x509.Certificate"]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(root.read_bytes())
    except OSError as error:
        raise SignatureError("unverifiable", f"the root {root} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SignatureError("unverifiable", f"the root {root} is no certificate: {error}") from error


def _read_statements(signature: bytes) -> list[datetime.datetime | None]:
    """For each signer the time it says it signed at. Raises SignatureError for a form we do not take."""
    from asn1crypto import cms

    try:
        info = cms.ContentInfo.load(signature, strict=True)
        if info["content_type"].native != "signed_data":
            raise SignatureError("malformed", f"it is CMS {info['content_type'].native}, not signed data")
        signed = info["content"]
        if signed["encap_content_info"]["content"].native is not None:
            raise SignatureError("malformed", "it brings content of its own instead of signing the package")
        if len(signed["certificates"]) > _CERTIFICATES:
            raise SignatureError("malformed", f"it brings more than {_CERTIFICATES} certificates")
        found = []
        for one in signed["signer_infos"]:
            digest = one["digest_algorithm"]["algorithm"].native
            if digest not in _DIGESTS:
                raise SignatureError("weak", f"its digest is {digest}")
            found.append(_stated_time(one["signed_attrs"]))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise SignatureError("malformed", f"it is no CMS: {error}") from error
    if not found:
        # openssl finds nothing wrong with a signature by nobody.
        raise SignatureError("malformed", "nobody signed it")
    return found


def _stated_time(attributes: Any) -> datetime.datetime | None:
    times = [
        value.native for one in attributes or () if one["type"].native == "signing_time" for value in one["values"]
    ]
    if len(times) > 1:
        raise SignatureError("malformed", "a signer states several times")
    if times and not (isinstance(times[0], datetime.datetime) and times[0].tzinfo):
        raise SignatureError("malformed", "a signer states no usable time")
    return times[0] if times else None


def _check_content(package: Path, signature: bytes) -> tuple[list["x509.Certificate"], list["x509.Certificate"]]:
    """The certificates that signed, and all that came with the signature: every signer's signature fits the package."""
    from cryptography import x509

    with tempfile.TemporaryDirectory(prefix="azvmagent-") as folder:
        signers, others = Path(folder, "signers.pem"), Path(folder, "others.pem")
        command = ["openssl", "cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-content", str(package)]
        command += ["-signer", str(signers), "-certsout", str(others), "-out", "/dev/null"]
        try:
            done = subprocess.run(
                command,
                input=signature,
                env={"PATH": _PATH, "LC_ALL": "C"},
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SignatureError("unverifiable", f"openssl cannot be run: {error}") from error
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            problem: SignatureProblem = "mismatch" if done.returncode == _OPENSSL_SAYS_NO else "malformed"
            raise SignatureError(problem, f"openssl: {_reason(lines[-1])}")
        try:
            return (
                x509.load_pem_x509_certificates(signers.read_bytes()),
                x509.load_pem_x509_certificates(others.read_bytes()),
            )
        except ValueError as error:
            raise SignatureError("malformed", f"a certificate in it cannot be read: {error}") from error


def _reason(line: str) -> str:
    """`...:error:1700009E:CMS routines:CMS_verify:content verify error:../crypto/cms/...` in its own words."""
    parts = line.split(":")
    return parts[5] if len(parts) > 6 and parts[1] == "error" else line


def check_purpose(signer: "x509.Certificate") -> None:
    """Code signing, said in so many words: a server's certificate under the same root must not do."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID

    who = signer.subject.rfc4514_string()
    try:
        key = signer.public_key()
        extensions = signer.extensions
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise SignatureError("purpose", f"the certificate of {who} names no purpose") from error
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise SignatureError("malformed", f"the certificate of {who} cannot be read: {error}") from error
    if ExtendedKeyUsageOID.CODE_SIGNING not in usages:
        raise SignatureError("purpose", f"the certificate of {who} is not for signing code")
    if not (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048) and not (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size >= 256
    ):
        raise SignatureError("weak", f"the key of {who} is too short, or neither RSA nor elliptic")


def check_chain(
    signer: "x509.Certificate",
    others: list["x509.Certificate"],
    anchors: list["x509.Certificate"],
    stated: datetime.datetime | None,
) -> None:
    """A chain to the pinned root that was valid when the package was signed, whatever time it is now."""
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

    who = signer.subject.rfc4514_string()
    begins, ends = signer.not_valid_before_utc, signer.not_valid_after_utc
    time = stated or begins
    if not begins <= time <= ends:
        raise SignatureError("time", f"signed at {time}, when the certificate of {who} was not valid")
    anything = Criticality.AGNOSTIC
    ca = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, anything, _is_ca)
        .may_be_present(x509.KeyUsage, anything, _signs_certificates)
        .may_be_present(x509.ExtendedKeyUsage, anything, _allows_code)
    )
    leaf = ExtensionPolicy.permit_all().may_be_present(x509.KeyUsage, anything, _signs_content)
    verifier = (
        PolicyBuilder()
        .store(Store(anchors))
        .time(time.astimezone(datetime.UTC).replace(tzinfo=None))
        .extension_policies(ca_policy=ca, ee_policy=leaf)
        .build_client_verifier()
    )
    try:
        verifier.verify(signer, others)
    except VerificationError as error:
        text = str(error).partition(" (encountered processing")[0]
        raise SignatureError("untrusted", f"the certificate of {who} does not lead to our root: {text}") from error


def _is_ca(_policy: object, _certificate: object, constraints: "x509.BasicConstraints") -> None:
    if not constraints.ca:
        raise ValueError("an issuer is no authority")


def _signs_certificates(_policy: object, _certificate: object, usage: "x509.KeyUsage | None") -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer may not sign certificates")


def _allows_code(_policy: object, _certificate: object, usages: "x509.ExtendedKeyUsage | None") -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    allowing = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usages is not None and not allowing & set(usages):
        raise ValueError("an issuer may not issue certificates for signing code")


def _signs_content(_policy: object, _certificate: object, usage: "x509.KeyUsage | None") -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the certificate may not sign anything but certificates")


def main(arguments: list[str]) -> int:
    try:
        names = verify(Path(arguments[0]), Path(arguments[1]), sys.stdin.buffer.read())
    except SignatureError as error:
        _print(sys.stderr.buffer, str(error))
        return 1
    for name in names:
        _print(sys.stdout.buffer, name)
    return 0


def _print(stream: BinaryIO, text: str) -> None:
    """One line, whatever a certificate calls itself."""
    stream.write(" ".join(text.split()).encode("utf-8", "backslashreplace") + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
