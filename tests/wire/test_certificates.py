"""Envelopes made by openssl: both ciphers, RSA and EC tenant keys, and every way to be wrong."""

import random
import subprocess
from pathlib import Path

import pytest

from wire.certificates import decrypt, open_pfx
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


def pfx(folder: Path, name: str) -> bytes:
    return openssl(
        "pkcs12", "-export", "-inkey", folder / f"{name}.key", "-in", folder / f"{name}.crt", "-passout", "pass:"
    )


def envelope(folder: Path, plaintext: bytes, cipher: str, recipient: str = "transport") -> bytes:
    (folder / "plain").write_bytes(plaintext)
    return openssl(
        "cms", "-encrypt", "-binary", cipher, "-outform", "DER", "-in", folder / "plain", folder / f"{recipient}.crt"
    )


@pytest.mark.parametrize("cipher", ["-aes128", "-aes256", "-des3"])
@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_an_envelope_of_openssl_is_opened(folder: Path, cipher: str, name: str) -> None:
    key = (folder / "transport.key").read_bytes()
    (found,) = open_pfx(decrypt(envelope(folder, pfx(folder, name), cipher), key))
    shown = openssl("x509", "-noout", "-fingerprint", "-sha1", "-in", folder / f"{name}.crt").decode()
    assert found.thumbprint == shown.partition("=")[2].strip().replace(":", "")
    assert found.key_pem is not None
    assert openssl("pkey", "-pubout", stdin=found.key_pem) == openssl("pkey", "-pubout", "-in", folder / f"{name}.key")
    assert "PRIVATE" not in repr(found)


def test_a_certificate_without_a_key_is_kept(folder: Path) -> None:
    alone = openssl("pkcs12", "-export", "-nokeys", "-in", folder / "rsa.crt", "-passout", "pass:")
    (found,) = open_pfx(alone)
    assert found.key_pem is None


def test_an_envelope_for_somebody_else_says_so(folder: Path) -> None:
    other = envelope(folder, pfx(folder, "rsa"), "-aes128", recipient="rsa")
    with pytest.raises(DocumentError, match="was not encrypted for our transport certificate"):
        decrypt(other, (folder / "transport.key").read_bytes())


def test_mutated_envelopes_and_pfx_are_opened_or_a_document_error(folder: Path) -> None:
    key, dice = (folder / "transport.key").read_bytes(), random.Random(7)
    plain = pfx(folder, "rsa")
    sealed = envelope(folder, plain, "-aes128")
    for _ in range(300):
        for original, work in ((sealed, lambda data: decrypt(data, key)), (plain, open_pfx)):
            data = bytearray(original)
            for _ in range(dice.randint(1, 3)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            try:
                work(bytes(data[: dice.choice([len(data), dice.randrange(len(data))])]))
            except DocumentError as error:
                assert error.document == "Certificates"
