"""The keysmith as a process: the transport certificate, and every PFX a host may send."""

import base64
import random
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asn1crypto import cms, core, keys, pem, pkcs12, x509

from guestagent.keysmith import Opened, open_pfx
from wire.errors import DocumentError


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def keysmith(
    action: str, lib: Path, document: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "guestagent.keysmith", action, str(lib)]
    return subprocess.run(command, input=document, capture_output=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs and their thumbprints: an authority, what it signed, and one of elliptic curve."""
    folder = tmp_path_factory.mktemp("pairs")
    kinds = {"root": "rsa:2048", "leaf": "rsa:2048", "ec": "ec -pkeyopt ec_paramgen_curve:P-384"}
    for name, kind in kinds.items():
        out: list[str | Path] = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
        if name == "leaf":
            out += ["-CA", folder / "root.crt", "-CAkey", folder / "root.key"]
        openssl("req", "-x509", "-nodes", "-newkey", *kind.split(), "-subj", f"/CN={name}", "-days", "30", *out)
    return folder


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library directory with a transport certificate."""
    lib = tmp_path_factory.mktemp("transport")
    assert keysmith("make", lib).returncode == 0
    return lib


@pytest.fixture
def lib(transport: Path, tmp_path: Path) -> Path:
    for path in transport.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def thumbprint(folder: Path, name: str) -> str:
    shown = openssl("x509", "-noout", "-fingerprint", "-sha1", "-in", folder / f"{name}.crt").decode()
    return shown.partition("=")[2].strip().replace(":", "")


def der(path: Path) -> bytes:
    unarmored: bytes = pem.unarmor(path.read_bytes())[2]
    return unarmored


def pfx_of_several(folder: Path, *names: str) -> bytes:
    """What no command writes and hosts send: several keys in one file."""
    bags: list[dict[str, Any]] = []
    for name in names:
        path = folder / name
        if path.suffix == ".key":
            bags.append({"bag_id": "key_bag", "bag_value": keys.PrivateKeyInfo.load(der(path))})
        else:
            value = {"cert_id": "x509", "cert_value": x509.Certificate.load(der(path))}
            bags.append({"bag_id": "cert_bag", "bag_value": value})
    safe = data(pkcs12.AuthenticatedSafe([data(pkcs12.SafeContents(bags))]))
    pfx: bytes = pkcs12.Pfx({"version": 3, "auth_safe": safe}).dump()
    return pfx


def data(content: Any) -> cms.ContentInfo:
    return cms.ContentInfo({"content_type": "data", "content": core.OctetString(content.dump())})


def exported(folder: Path, *options: str | Path) -> bytes:
    return openssl("pkcs12", "-export", "-passout", "pass:", *options)


def document(lib: Path, plaintext: bytes, cipher: str = "-aes128") -> bytes:
    (lib / "plain").write_bytes(plaintext)
    options = ("-encrypt", "-binary", cipher, "-outform", "DER", "-in", lib / "plain")
    envelope = base64.b64encode(openssl("cms", *options, lib / "TransportCert.pem"))
    return b"<CertificateFile><Data>" + envelope + b"</Data></CertificateFile>"


def opened(lib: Path, pfx: bytes, cipher: str = "-aes128") -> Opened:
    done = keysmith("open", lib, document(lib, pfx, cipher))
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Opened)


def modes(lib: Path, *names: str) -> set[int]:
    return {stat.S_IMODE((lib / name).stat().st_mode) for name in names}


def test_the_transport_certificate_is_made_kept_and_made_anew_when_it_is_damaged(lib: Path) -> None:
    key, certificate = lib / "TransportPrivate.pem", lib / "TransportCert.pem"
    before = (key.read_bytes(), certificate.read_bytes())
    assert keysmith("make", lib).returncode == 0
    assert (key.read_bytes(), certificate.read_bytes()) == before
    shown = openssl("x509", "-noout", "-subject", "-in", certificate).decode()
    assert "LinuxTransport" in shown
    for damaged in (key, certificate):
        damaged.write_bytes(damaged.read_bytes()[:200])
        assert keysmith("make", lib).returncode == 0
        assert openssl("x509", "-noout", "-pubkey", "-in", certificate) == openssl("pkey", "-pubout", "-in", key)
        assert modes(lib, key.name, certificate.name) == {0o400}
    # One that is about to expire is as good as none.
    openssl("req", "-x509", "-new", "-key", key, "-subj", "/CN=LinuxTransport", "-days", "5", "-out", lib / "short")
    (lib / "short").replace(certificate)
    assert keysmith("make", lib).returncode == 0
    openssl("x509", "-noout", "-checkend", str(700 * 86400), "-in", certificate)


@pytest.mark.parametrize("cipher", ["-aes128", "-des3"])
def test_several_keys_and_certificates_of_both_kinds(folder: Path, lib: Path, cipher: str) -> None:
    names = ("ec.key", "leaf.key", "leaf.crt", "root.crt", "ec.crt")
    found = opened(lib, pfx_of_several(folder, *names), cipher)
    assert found.problems == ()
    assert set(found.thumbprints) == {thumbprint(folder, name) for name in ("leaf", "root", "ec")}
    for name in ("leaf", "ec"):
        stored = lib / f"{thumbprint(folder, name)}.prv"
        assert openssl("pkey", "-pubout", "-in", stored) == openssl("pkey", "-pubout", "-in", folder / f"{name}.key")
        assert modes(lib, stored.name, stored.with_suffix(".crt").name) == {0o400}
    # An authority's certificate comes without a key.
    assert (lib / f"{thumbprint(folder, 'root')}.crt").exists()
    assert not (lib / f"{thumbprint(folder, 'root')}.prv").exists()


def test_a_key_without_its_certificate_is_told_and_the_others_are_stored(folder: Path, lib: Path) -> None:
    found = opened(lib, pfx_of_several(folder, "root.key", "ec.key", "ec.crt"))
    assert found.thumbprints == (thumbprint(folder, "ec"),)
    assert found.problems == ("1 private key without a certificate left out",)


@pytest.mark.parametrize(
    "way",
    [
        [],
        ["-legacy"],
        ["-legacy", "-descert"],
        ["-nomac"],
        ["-keypbe", "NONE", "-certpbe", "NONE"],
        ["-keypbe", "AES-256-CBC", "-certpbe", "AES-256-CBC", "-macalg", "sha256"],
    ],
)
def test_every_way_of_encryption_inside_the_pfx(folder: Path, way: list[str]) -> None:
    pfx = exported(folder, "-inkey", folder / "leaf.key", "-in", folder / "leaf.crt", *way)
    pem_text = open_pfx(pfx)
    assert pem_text.count(b"-----BEGIN CERTIFICATE-----") == 1
    assert pem_text.count(b"-----BEGIN PRIVATE KEY-----") == 1


def test_a_chain_comes_whole(folder: Path, lib: Path) -> None:
    pfx = exported(folder, "-inkey", folder / "leaf.key", "-in", folder / "leaf.crt", "-certfile", folder / "root.crt")
    found = opened(lib, pfx)
    assert set(found.thumbprints) == {thumbprint(folder, name) for name in ("leaf", "root")}


def test_what_is_stored_already_is_left_alone_and_a_damaged_file_is_mended(folder: Path, lib: Path) -> None:
    pfx = pfx_of_several(folder, "ec.key", "ec.crt")
    (name,) = opened(lib, pfx).thumbprints
    certificate, key = lib / f"{name}.crt", lib / f"{name}.prv"
    before, whole = certificate.stat().st_ino, key.read_bytes()
    key.write_bytes(whole[:100])
    assert opened(lib, pfx).thumbprints == (name,)
    assert certificate.stat().st_ino == before
    assert key.read_bytes() == whole


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda _: b"<CertificateFile><Data>!</Data></CertificateFile>", "Data is not base64"),
        (lambda lib: document(lib, b"no PFX at all"), "holds no PFX that openssl opens"),
        (lambda _: b"rubbish", "is not well-formed XML"),
    ],
)
def test_what_cannot_be_opened_ends_with_its_reason_on_one_line(lib: Path, make: Any, complaint: str) -> None:
    done = keysmith("open", lib, make(lib))
    assert done.returncode == 1
    assert complaint in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_without_openssl_is_told_so(folder: Path, lib: Path) -> None:
    sealed = document(lib, pfx_of_several(folder, "ec.key", "ec.crt"))
    done = keysmith("open", lib, sealed, environment={"PATH": str(lib)})
    assert done.returncode == 1
    assert "openssl, which opens the PFX, cannot be run" in done.stderr.decode()


def test_no_certificates_are_none(lib: Path) -> None:
    done = keysmith("open", lib, b"<CertificateFile/>")
    assert msgspec.json.decode(done.stdout, type=Opened) == Opened()


def test_mutated_pfx_are_opened_or_a_document_error(folder: Path) -> None:
    dice = random.Random(7)
    original = exported(folder, "-inkey", folder / "ec.key", "-in", folder / "ec.crt")
    for _ in range(40):
        changed = bytearray(original)
        for _ in range(dice.randint(1, 3)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        try:
            open_pfx(bytes(changed[: dice.choice([len(changed), dice.randrange(len(changed))])]))
        except DocumentError as error:
            assert error.document == "Certificates"
