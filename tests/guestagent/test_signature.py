"""Package signatures: made by `openssl cms -sign` under roots of the test's own, and every way to be wrong."""

import base64
import datetime
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from asn1crypto import algos, cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from guestagent.errors import SignatureError, SignatureProblem
from guestagent.handlermanifest import HandlerManifest, SigningInfo
from guestagent.signature import ROOT, Consequence, Mode, check_signature, consequence, place_root
from guestagent.verifier import check_chain, check_purpose, verify

HANDLER, VERSION = "Contoso.Tools.Greeter", "1.2.3"
INFO = SigningInfo(publisher="contoso.tools", type="GREETER", version="1.2.3")
NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def days(count: float) -> datetime.timedelta:
    return datetime.timedelta(days=count)


def manifest(info: SigningInfo | None = INFO) -> HandlerManifest:
    return HandlerManifest(install="a", enable="a", disable="a", update="a", uninstall="a", signing_info=info)


class Identity:
    """A certificate and its key."""

    def __init__(
        self,
        name: str,
        issuer: "Identity | None" = None,
        *extensions: x509.ExtensionType,
        key: Key | None = None,
        begins: float = -30,
        ends: float = 30,
        critical: bool = True,
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + days(begins))
            .not_valid_after(NOW + days(ends))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical)
        self.certificate: x509.Certificate = builder.sign(issuer.key if issuer else self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def write(self, folder: Path) -> Path:
        """Certificate and key in one file."""
        path = folder / f"{self.certificate.serial_number}.pem"
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(self.pem + key)
        return path


CA = x509.BasicConstraints(ca=True, path_length=None)
TREE = Identity("Root", None, CA, ends=3000, begins=-3000)
BRANCH = Identity("Branch", TREE, CA, begins=-1000, ends=1000)
SIGNER = Identity("Contoso", BRANCH, CODE)
RSA = rsa.generate_private_key(65537, 2048)


class Desk:
    """A package to be signed, and the pinned root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "package.zip"
        self.package.write_bytes(b"PK\3\4" + random.Random(1).randbytes(100_000))
        self.root = folder / "root.pem"
        self.root.write_bytes(TREE.pem)

    def sign(
        self,
        *signers: Identity,
        others: tuple[Identity, ...] = (BRANCH,),
        options: tuple[str, ...] = (),
        content: Path | None = None,
    ) -> bytes:
        """`openssl cms -sign`, detached unless the options say otherwise."""
        command: list[str | Path] = ["openssl", "cms", "-sign", "-binary", "-outform", "DER", "-in"]
        command += [content or self.package, *options]
        for one in signers:
            command += ["-signer", one.write(self.folder)]
            if isinstance(one.key, rsa.RSAPrivateKey) and "pss" in options:
                command += ["-keyopt", "rsa_padding_mode:pss"]
        chain = self.folder / "chain.pem"
        chain.write_bytes(b"".join(one.pem for one in others))
        if others:
            command += ["-certfile", chain]
        words = [word for word in command if word != "pss"]
        return subprocess.run(words, capture_output=True, check=True).stdout

    def check(self, signature: bytes, info: SigningInfo | None = INFO) -> str:
        text = base64.b64encode(signature).decode()
        return check_signature(self.package, text, HANDLER, VERSION, manifest(info), self.root)

    def problem(self, signature: bytes) -> SignatureProblem:
        """As `check`, without the cost of another interpreter."""
        with pytest.raises(SignatureError) as raised:
            verify(self.package, self.root, signature)
        return raised.value.problem


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_good_signature_names_its_signer(desk: Desk) -> None:
    assert desk.check(desk.sign(SIGNER)) == "CN=Contoso"


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (RSA, ()),
        (RSA, ("pss",)),
        (RSA, ("pss", "-md", "sha512")),
        (ec.generate_private_key(ec.SECP384R1()), ("-md", "sha384")),
        (ec.generate_private_key(ec.SECP256R1()), ("-keyid",)),
        (ec.generate_private_key(ec.SECP256R1()), ("-noattr",)),
    ],
    ids=["rsa", "rsa-pss", "rsa-pss-512", "ecdsa-384", "named by key id", "without attributes"],
)
def test_the_kinds_of_signature_openssl_makes(desk: Desk, key: Key, options: tuple[str, ...]) -> None:
    named = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signer = Identity("Contoso", BRANCH, CODE, named, key=key, critical=False)
    assert verify(desk.package, desk.root, desk.sign(signer, options=options)) == ["CN=Contoso"]


def test_a_pinned_file_may_hold_several_roots(desk: Desk) -> None:
    desk.root.write_bytes(Identity("Other", None, CA).pem + TREE.pem)
    assert verify(desk.package, desk.root, desk.sign(SIGNER)) == ["CN=Contoso"]


# What was signed


def test_a_package_changed_by_one_bit_is_refused(desk: Desk) -> None:
    signature = desk.sign(SIGNER)
    data = bytearray(desk.package.read_bytes())
    data[50_000] ^= 1
    desk.package.write_bytes(data)
    with pytest.raises(SignatureError, match="openssl: content verify error") as raised:
        desk.check(signature)
    assert raised.value.problem == "mismatch"


def test_the_signature_of_another_package_is_refused(desk: Desk) -> None:
    other = desk.folder / "other.zip"
    other.write_bytes(b"PK another")
    assert desk.problem(desk.sign(SIGNER, content=other)) == "mismatch"


def test_a_signature_that_brings_its_own_content_is_refused(desk: Desk) -> None:
    assert desk.problem(desk.sign(SIGNER, options=("-nodetach",))) == "malformed"


def test_another_signed_package_under_this_name_is_refused(desk: Desk) -> None:
    signature = desk.sign(SIGNER)
    for info, named in (
        (None, "has no signingInfo"),
        (SigningInfo(publisher="Contoso.Tools", type="Greeter"), "signingInfo.version is ''"),
        (SigningInfo(publisher="Contoso.Tools", type="Greeter", version="1.2.2"), "signingInfo.version is '1.2.2'"),
        (SigningInfo(publisher="Contoso", type="Tools.Greeter", version="1.2.3"), "signingInfo.publisher"),
        (SigningInfo(publisher="Contoso.Tools", type="Other", version="1.2.3"), "signingInfo.type"),
    ):
        with pytest.raises(SignatureError) as raised:
            desk.check(signature, info)
        assert raised.value.problem == "identity"
        assert named in str(raised.value)


# Who signed it


def test_a_chain_to_another_root_is_refused(desk: Desk) -> None:
    root = Identity("Root", None, CA)
    assert desk.problem(desk.sign(Identity("Contoso", root, CODE), others=(root,))) == "untrusted"


def test_a_chain_with_a_missing_link_is_refused(desk: Desk) -> None:
    assert desk.problem(desk.sign(SIGNER, others=())) == "untrusted"


def test_a_root_that_comes_with_the_signature_is_not_believed(desk: Desk) -> None:
    alone = Identity("Root", None, CA, CODE)
    assert desk.problem(desk.sign(alone, others=())) == "untrusted"
    desk.root.write_bytes(alone.pem)
    assert verify(desk.package, desk.root, desk.sign(alone, others=())) == ["CN=Root"]


@pytest.mark.parametrize(
    "purposes",
    [
        (),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.EMAIL_PROTECTION]),),
    ],
    ids=["none", "TLS server", "any", "others"],
)
def test_a_certificate_for_something_else_is_refused(desk: Desk, purposes: tuple[x509.ExtensionType, ...]) -> None:
    assert desk.problem(desk.sign(Identity("www.contoso.com", BRANCH, *purposes))) == "purpose"


def usage(*, sign: bool, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(sign, False, not (sign or certificates), False, False, certificates, False, False, False)


@pytest.mark.parametrize(
    "issuer",
    [
        (),
        (x509.BasicConstraints(ca=False, path_length=None),),
        (CA, usage(sign=True, certificates=False)),
        (CA, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        (CA, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
    ],
    ids=["says nothing", "is no authority", "may not sign certificates", "is for TLS", "says what we do not know"],
)
def test_an_issuer_that_may_not_issue_is_refused(desk: Desk, issuer: tuple[x509.ExtensionType, ...]) -> None:
    link = Identity("Link", BRANCH, *issuer)
    signature = desk.sign(Identity("Contoso", link, CODE), others=(link, BRANCH))
    assert desk.problem(signature) == "untrusted"


def test_an_issuer_may_be_limited_to_code_or_to_signing_certificates(desk: Desk) -> None:
    link = Identity("Link", BRANCH, CA, CODE, usage(sign=False, certificates=True))
    signer = Identity("Contoso", link, CODE, usage(sign=True, certificates=False))
    assert verify(desk.package, desk.root, desk.sign(signer, others=(link, BRANCH))) == ["CN=Contoso"]


def test_a_key_that_may_not_sign_content_is_refused(desk: Desk) -> None:
    signer = Identity("Contoso", BRANCH, CODE, usage(sign=False, certificates=True))
    assert desk.problem(desk.sign(signer)) == "untrusted"


def test_a_path_longer_than_an_issuer_allows_is_refused(desk: Desk) -> None:
    narrow = Identity("Narrow", TREE, x509.BasicConstraints(ca=True, path_length=0))
    link = Identity("Link", narrow, CA)
    assert desk.problem(desk.sign(Identity("Contoso", link, CODE), others=(link, narrow))) == "untrusted"


def test_every_one_of_several_signers_has_to_be_good(desk: Desk) -> None:
    second = Identity("Fabrikam", BRANCH, CODE)
    assert sorted(verify(desk.package, desk.root, desk.sign(SIGNER, second))) == ["CN=Contoso", "CN=Fabrikam"]
    assert desk.problem(desk.sign(SIGNER, Identity("TLS", BRANCH))) == "purpose"
    assert desk.problem(desk.sign(SIGNER, Identity("Stranger", None, CODE))) == "untrusted"


def test_short_keys_and_old_digests_are_refused(desk: Desk) -> None:
    short = Identity("Contoso", BRANCH, CODE, key=rsa.generate_private_key(65537, 1024))  # noqa: S505
    assert desk.problem(desk.sign(short)) == "weak"
    assert desk.problem(desk.sign(SIGNER, options=("-md", "sha1"))) == "weak"
    assert desk.problem(desk.sign(Identity("Contoso", BRANCH, CODE, key=RSA), options=("-md", "md5"))) == "weak"


# When it was signed


def signed_at(desk: Desk, signer: Identity, *times: datetime.datetime) -> bytes:
    """What openssl makes, with the stated time replaced and signed again."""
    info = cms.ContentInfo.load(desk.sign(signer))
    one = info["content"]["signer_infos"][0]
    kept = [attribute for attribute in one["signed_attrs"] if attribute["type"].native != "signing_time"]
    stated = [cms.Time({"utc_time": time}) for time in times]
    attributes = cms.CMSAttributes([*kept, *([cms.CMSAttribute({"type": "signing_time", "values": stated})])])
    one["signed_attrs"] = attributes
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    one["signature"] = signer.key.sign(attributes.untag().dump(), ec.ECDSA(hashes.SHA256()))
    return bytes(info.dump())


def test_an_expired_certificate_will_do_if_it_was_valid_when_it_signed(desk: Desk) -> None:
    # The root of the reference agent's world has signers of a year each, and packages live longer.
    expired = Identity("Contoso", BRANCH, CODE, begins=-400, ends=-35)
    signature = signed_at(desk, expired, NOW - days(100))
    assert verify(desk.package, desk.root, signature) == ["CN=Contoso"]


def test_a_certificate_that_had_expired_when_it_signed_is_refused(desk: Desk) -> None:
    expired = Identity("Contoso", BRANCH, CODE, begins=-400, ends=-35)
    assert desk.problem(desk.sign(expired)) == "time"
    assert desk.problem(signed_at(desk, expired, NOW - days(401))) == "time"


def test_an_issuer_that_was_not_valid_when_it_was_signed_is_refused(desk: Desk) -> None:
    expired = Identity("Link", BRANCH, CA, begins=-60, ends=-20)
    signer = Identity("Contoso", expired, CODE, begins=-30)
    assert desk.problem(desk.sign(signer, others=(expired, BRANCH))) == "untrusted"


def test_without_a_stated_time_the_certificates_beginning_counts(desk: Desk) -> None:
    expired = Identity("Contoso", BRANCH, CODE, begins=-400, ends=-35)
    assert verify(desk.package, desk.root, desk.sign(expired, options=("-noattr",))) == ["CN=Contoso"]
    old = Identity("Link", BRANCH, CA, begins=-60, ends=-40)
    late = Identity("Contoso", old, CODE, begins=-30)
    assert desk.problem(desk.sign(late, others=(old, BRANCH), options=("-noattr",))) == "untrusted"


def test_several_stated_times_are_refused(desk: Desk) -> None:
    assert desk.problem(signed_at(desk, SIGNER, NOW, NOW - days(1))) == "malformed"


# What is no signature


def test_no_signature_is_unsigned(desk: Desk) -> None:
    for text in ("", " \n"):
        with pytest.raises(SignatureError) as raised:
            check_signature(desk.package, text, HANDLER, VERSION, manifest(), desk.root)
        assert raised.value.problem == "unsigned"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("***", "not base64"),
        ("AA*A=", "not base64"),
        ("AAA", "not base64"),
        ("ünsigned", "not base64"),
        ("A" * 300_000, "longer than"),
        ("AAAA", "no CMS"),
        ("MIIB", "no CMS"),
    ],
)
def test_text_that_is_no_signature_is_malformed(desk: Desk, text: str, named: str) -> None:
    with pytest.raises(SignatureError, match=named) as raised:
        check_signature(desk.package, text, HANDLER, VERSION, manifest(), desk.root)
    assert raised.value.problem == "malformed"


def test_line_breaks_in_the_base64_do_not_matter(desk: Desk) -> None:
    text = base64.encodebytes(desk.sign(SIGNER)).decode()
    assert check_signature(desk.package, text, HANDLER, VERSION, manifest(), desk.root) == "CN=Contoso"


def nobody(desk: Desk) -> bytes:
    info = cms.ContentInfo.load(desk.sign(SIGNER))
    info["content"]["signer_infos"] = cms.SignerInfos([])
    return bytes(info.dump())


def sealed(desk: Desk) -> bytes:
    recipient = Identity("Recipient", None, key=RSA).write(desk.folder)
    command: list[str | Path] = ["openssl", "cms", "-encrypt", "-outform", "DER", "-in", desk.package, recipient]
    return subprocess.run(command, capture_output=True, check=True).stdout


def without_the_signers_certificate(desk: Desk) -> bytes:
    return desk.sign(SIGNER, options=("-nocerts",))


def with_something_behind(desk: Desk) -> bytes:
    return desk.sign(SIGNER) + b"\0"


def with_a_crowd(desk: Desk) -> bytes:
    return desk.sign(SIGNER, others=tuple(Identity(f"Other {number}", BRANCH) for number in range(25)))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (nobody, "nobody signed it"),
        (sealed, "enveloped_data, not signed data"),
        (with_something_behind, "trailing data"),
        (with_a_crowd, "more than 20 certificates"),
    ],
)
def test_cms_that_is_not_a_plain_signature_is_malformed(desk: Desk, made: Callable[[Desk], bytes], named: str) -> None:
    with pytest.raises(SignatureError, match=named) as raised:
        verify(desk.package, desk.root, made(desk))
    assert raised.value.problem == "malformed"


def test_a_signer_whose_certificate_is_not_there_is_refused(desk: Desk) -> None:
    assert desk.problem(without_the_signers_certificate(desk)) == "mismatch"


def test_a_truncated_signature_is_malformed_wherever_it_ends(desk: Desk) -> None:
    signature = desk.sign(SIGNER)
    dice = random.Random(3)
    for length in [0, 1, len(signature) - 1, *(dice.randrange(len(signature)) for _ in range(100))]:
        assert desk.problem(signature[:length]) == "malformed"


def resigned(original: bytes) -> bytes:
    """A digest algorithm that says one thing and a signature made with another."""
    info = cms.ContentInfo.load(original)
    one = info["content"]["signer_infos"][0]
    one["digest_algorithm"] = algos.DigestAlgorithm({"algorithm": "sha512"})
    one["signature"] = RSA.sign(one["signed_attrs"].untag().dump(), padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    return bytes(info.dump())


def test_a_signature_made_with_another_digest_than_it_says_is_refused(desk: Desk) -> None:
    assert desk.problem(resigned(desk.sign(Identity("Contoso", BRANCH, CODE, key=RSA)))) == "mismatch"


def test_mutated_signatures_are_never_accepted_for_a_wrong_package(desk: Desk) -> None:
    signature, dice = desk.sign(SIGNER), random.Random(11)
    desk.package.write_bytes(desk.package.read_bytes() + b"\0")
    seen = set()
    for _ in range(120):
        data = bytearray(signature)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        seen.add(desk.problem(bytes(data)))
    assert {"malformed", "mismatch"} <= seen


def test_mutated_signatures_end_in_a_signer_or_a_signature_error(desk: Desk) -> None:
    signature, dice = desk.sign(SIGNER), random.Random(12)
    refused = 0
    for _ in range(120):
        data = bytearray(signature)
        data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            verify(desk.package, desk.root, bytes(data))
        except SignatureError as error:
            refused += 1
            assert str(error).startswith(f"{error.problem}: ")
    assert refused > 90


# Our own side


def test_a_root_that_is_not_there_or_no_certificate_is_our_fault(desk: Desk) -> None:
    signature = desk.sign(SIGNER)
    desk.root.write_bytes(b"nothing")
    assert desk.problem(signature) == "unverifiable"
    desk.root.unlink()
    with pytest.raises(SignatureError, match="No such file") as raised:
        desk.check(signature)
    assert raised.value.problem == "unverifiable"


def test_a_package_that_is_not_there_is_our_fault(desk: Desk) -> None:
    signature = desk.sign(SIGNER)
    desk.package.unlink()
    assert desk.problem(signature) == "unverifiable"


def test_a_verifier_that_dies_or_never_starts_has_not_said_yes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = desk.sign(SIGNER)
    monkeypatch.setenv("PYTHONHOME", str(desk.folder))
    with pytest.raises(SignatureError, match="the verifier failed") as raised:
        desk.check(signature)
    assert raised.value.problem == "unverifiable"
    desk.root = Path("x" * 200_000)
    with pytest.raises(SignatureError, match="the verifier cannot be run") as raised:
        desk.check(signature)
    assert raised.value.problem == "unverifiable"


def test_the_root_we_ship_is_the_reference_agents(tmp_path: Path) -> None:
    place_root(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / ROOT).read_bytes())
    assert certificate.fingerprint(hashes.SHA1()).hex().upper() == "8F43288AD272F3103B6FB1428485EA3014C0BCFE"  # noqa: S303
    assert "CN=Microsoft Root Certificate Authority 2011" in certificate.subject.rfc4514_string()


def test_the_certificates_microsoft_signs_extensions_with_are_accepted(tmp_path: Path) -> None:
    """Those of VMAccessForLinux 1.7.0: the signer's ran out in 2025, its issuer's in 2026, and no time is stated."""
    place_root(tmp_path)
    root = x509.load_pem_x509_certificates((tmp_path / ROOT).read_bytes())
    signer, issuer = x509.load_pem_x509_certificates((Path(__file__).parent / "microsoft_signer.pem").read_bytes())
    check_purpose(signer)
    check_chain(signer, [issuer], root, None)
    with pytest.raises(SignatureError, match="time: "):
        check_chain(signer, [issuer], root, signer.not_valid_after_utc + days(1))


@pytest.mark.parametrize(
    ("mode", "signature", "required", "expected"),
    [
        ("off", "", False, "nothing"),
        ("off", "MII", False, "nothing"),
        ("off", "", True, "refuse"),
        ("off", "MII", True, "refuse"),
        ("report", "", False, "nothing"),
        ("report", "MII", False, "tell"),
        ("report", "", True, "refuse"),
        ("require", "", False, "refuse"),
        ("require", "MII", False, "refuse"),
    ],
)
def test_the_stricter_of_configuration_and_policy_wins(
    mode: Mode, signature: str, required: bool, expected: Consequence
) -> None:
    assert consequence(mode, signature, required=required) == expected
