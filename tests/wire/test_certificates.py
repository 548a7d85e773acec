"""Envelopes made by openssl: both ciphers, RSA and EC tenant keys, and every way to be wrong."""

import random
import subprocess
from pathlib import Path

import pytest

from wire.certificates import decrypt, pair
from wire.errors import DocumentError


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transport key and certificate, and two tenant keys with theirs."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, kind in (
        ("transport", ["rsa:2048"]),
        ("rsa", ["rsa:2048"]),
        ("ec", ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ):
        out: list[str | Path] = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
        openssl("req", "-x509", "-nodes", "-newkey", *kind, "-subj", f"/CN={name}", "-days", "30", *out)
    return folder


def pem(folder: Path, *names: str) -> bytes:
    """Files one behind the other, as `openssl pkcs12` prints them."""
    return b"Bag Attributes: <No Attributes>\n".join((folder / name).read_bytes() for name in names)


def envelope(folder: Path, plaintext: bytes, cipher: str, recipient: str = "transport") -> bytes:
    (folder / "plain").write_bytes(plaintext)
    return openssl(
        "cms", "-encrypt", "-binary", cipher, "-outform", "DER", "-in", folder / "plain", folder / f"{recipient}.crt"
    )


@pytest.mark.parametrize("cipher", ["-aes128", "-aes256", "-des3"])
def test_an_envelope_of_openssl_is_opened(folder: Path, cipher: str) -> None:
    key = (folder / "transport.key").read_bytes()
    assert decrypt(envelope(folder, b"what is inside", cipher), key) == b"what is inside"


def test_keys_and_certificates_are_paired_by_public_key_whatever_their_order(folder: Path) -> None:
    found = pair(pem(folder, "ec.key", "rsa.key", "rsa.crt", "transport.crt", "ec.crt"))
    assert not found.problems
    keys = {one.thumbprint: one.key_pem for one in found.certificates}
    for name, has_key in (("rsa", True), ("ec", True), ("transport", False)):
        shown = openssl("x509", "-noout", "-fingerprint", "-sha1", "-in", folder / f"{name}.crt").decode()
        key = keys.pop(shown.partition("=")[2].strip().replace(":", ""))
        assert key == ((folder / f"{name}.key").read_bytes() if has_key else None)
    assert not keys
    assert "PRIVATE" not in repr(found)


def test_what_cannot_be_used_is_told_and_costs_the_others_nothing(folder: Path) -> None:
    rubbish = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    odd = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"
    found = pair(pem(folder, "rsa.key", "ec.key", "ec.crt") + rubbish % b"MAA=" + rubbish % b"?" + odd)
    assert [one.key_pem is not None for one in found.certificates] == [True, False]
    assert len(found.problems) == 4
    for told in ("a private key is left out", "a certificate is left out", "is stored without a key"):
        assert any(told in one for one in found.problems)
    assert "1 private key without a certificate left out" in found.problems


def test_a_certificate_listed_twice_is_one(folder: Path) -> None:
    assert len(pair(pem(folder, "rsa.crt", "rsa.crt")).certificates) == 1


def test_an_envelope_for_somebody_else_says_so(folder: Path) -> None:
    other = envelope(folder, b"secret", "-aes128", recipient="rsa")
    with pytest.raises(DocumentError, match="was not encrypted for our transport certificate"):
        decrypt(other, (folder / "transport.key").read_bytes())


def test_mutated_envelopes_are_opened_or_a_document_error(folder: Path) -> None:
    key, dice = (folder / "transport.key").read_bytes(), random.Random(7)
    sealed = envelope(folder, b"what is inside" * 50, "-aes128")
    for _ in range(50):
        try:
            decrypt(mutated(sealed, dice), key)
        except DocumentError as error:
            assert error.document == "Certificates"


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_mutated_keys_and_certificates_are_paired_or_told(folder: Path) -> None:
    dice = random.Random(8)
    whole = pem(folder, "rsa.key", "ec.key", "rsa.crt", "ec.crt")
    for _ in range(60):
        found = pair(mutated(whole, dice))
        assert len(found.certificates) <= 2


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 3)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed[: dice.choice([len(changed), dice.randrange(len(changed))])])
