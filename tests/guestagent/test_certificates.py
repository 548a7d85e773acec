"""The VM's certificates: made, asked for, opened and stored; openssl is the second opinion."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core, keys, pkcs12

from fabric.state import Identity
from fabric.tenant import certificates_envelope, make_tenant_certificate, protect, thumbprint
from guestagent.certificates import Keyring
from guestagent.keysmith import CERTIFICATE, KEY, make, open_document
from wire.errors import DocumentError, Refused
from wire.http import HttpClient
from wire.wireserver import WireServer

OpenSsl = Callable[..., bytes]
CIPHERS = ["AES128_CBC", "DES_EDE3_CBC"]


@pytest.fixture(scope="module")
def identity() -> Identity:
    key, certificate = make_tenant_certificate("tenant")
    return Identity(
        vm="vm1", container_id="c", deployment_id="d", tenant_key_pem=key, tenant_certificate_pem=certificate
    )


@pytest.fixture(scope="module")
def transport(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    lib = tmp_path_factory.mktemp("transport")
    make(lib)
    return (lib / KEY).read_bytes(), (lib / CERTIFICATE).read_bytes()


@pytest.fixture
def lib(tmp_path: Path, transport: tuple[bytes, bytes]) -> Path:
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / KEY).write_bytes(transport[0])
    (lib / CERTIFICATE).write_bytes(transport[1])
    return lib


def one_line(pem: bytes) -> str:
    return "".join(line for line in pem.decode().splitlines() if not line.startswith("-----"))


def document(envelope: bytes) -> bytes:
    data = base64.encodebytes(envelope).decode()
    form = "<Format>Pkcs7BlobWithPfxContents</Format>"
    return f"<CertificateFile><Version>2012-11-30</Version>{form}<Data>{data}</Data></CertificateFile>".encode()


def sealed(lib: Path, openssl: OpenSsl, pfx: bytes) -> bytes:
    """A Certificates document made by openssl."""
    options = ["-encrypt", "-binary", "-aes128", "-outform", "DER"]
    return document(openssl("cms", *options, lib / CERTIFICATE, stdin=pfx))


def stored(lib: Path) -> list[str]:
    return sorted(path.name for path in lib.iterdir() if path.name not in {KEY, CERTIFICATE})


# -- the transport certificate ---------------------------------------------------------------------------------------


def test_the_transport_certificate_is_what_the_protocol_says(tmp_path: Path, openssl: OpenSsl) -> None:
    make(tmp_path)
    shown = openssl("x509", "-in", tmp_path / CERTIFICATE, "-noout", "-text").decode()
    assert "Subject: CN = LinuxTransport" in shown
    assert "Public-Key: (2048 bit)" in shown
    assert "Signature Algorithm: sha256WithRSAEncryption" in shown
    openssl("x509", "-in", tmp_path / CERTIFICATE, "-noout", "-checkend", str(729 * 86400))
    openssl("verify", "-CAfile", tmp_path / CERTIFICATE, tmp_path / CERTIFICATE)
    public = openssl("pkey", "-in", tmp_path / KEY, "-pubout")
    assert public == openssl("x509", "-in", tmp_path / CERTIFICATE, "-noout", "-pubkey")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o400}


def test_a_good_transport_certificate_is_kept(lib: Path, transport: tuple[bytes, bytes]) -> None:
    make(lib)
    assert ((lib / KEY).read_bytes(), (lib / CERTIFICATE).read_bytes()) == transport


@pytest.mark.parametrize(
    "spoilt", ["key gone", "certificate gone", "key empty", "certificate garbage", "other key", "soon over"]
)
def test_one_that_cannot_be_used_is_made_anew(lib: Path, openssl: OpenSsl, spoilt: str, identity: Identity) -> None:
    match spoilt:
        case "key gone":
            (lib / KEY).unlink()
        case "certificate gone":
            (lib / CERTIFICATE).unlink()
        case "key empty":
            (lib / KEY).write_bytes(b"")
        case "certificate garbage":
            (lib / CERTIFICATE).write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        case "other key":
            (lib / KEY).write_text(identity.tenant_key_pem)
        case "soon over":
            options = ["req", "-x509", "-key", lib / KEY, "-subj", "/CN=LinuxTransport", "-days", "29"]
            (lib / CERTIFICATE).write_bytes(openssl(*options))
    before = [path.read_bytes() for path in sorted(lib.iterdir())]
    make(lib)
    assert [path.read_bytes() for path in sorted(lib.iterdir())] != before
    public = openssl("pkey", "-in", lib / KEY, "-pubout")
    assert public == openssl("x509", "-in", lib / CERTIFICATE, "-noout", "-pubkey")


# -- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cipher", CIPHERS)
def test_the_local_host_s_envelope_becomes_files_extensions_decrypt_with(
    lib: Path, openssl: OpenSsl, identity: Identity, cipher: str
) -> None:
    envelope = certificates_envelope(identity, one_line((lib / CERTIFICATE).read_bytes()), cipher)
    thumb = thumbprint(identity)
    assert open_document(lib, document(envelope)).thumbprints == (thumb,)
    assert stored(lib) == [f"{thumb}.crt", f"{thumb}.prv"]
    assert {(lib / name).stat().st_mode & 0o777 for name in stored(lib)} == {0o400}
    shown = openssl("x509", "-in", lib / f"{thumb}.crt", "-noout", "-fingerprint", "-sha1").decode()
    assert shown.strip().partition("=")[2].replace(":", "") == thumb
    secret = {"password": "é"}
    protected = base64.b64decode(protect(identity, json.dumps(secret).encode()))
    pair: list[str | Path] = ["-recip", lib / f"{thumb}.crt", "-inkey", lib / f"{thumb}.prv"]
    for program in ("cms", "smime"):
        assert json.loads(openssl(program, "-inform", "DER", "-decrypt", *pair, stdin=protected)) == secret
    # Openssl opens the envelope itself to the same certificate.
    transport_pair: list[str | Path] = ["-recip", lib / CERTIFICATE, "-inkey", lib / KEY]
    pfx = openssl("cms", "-inform", "DER", "-decrypt", *transport_pair, stdin=envelope)
    theirs = openssl("pkcs12", "-nokeys", "-passin", "pass:", stdin=pfx)
    assert openssl("x509", stdin=theirs) == openssl("x509", "-in", lib / f"{thumb}.crt")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, openssl: OpenSsl) -> dict[str, tuple[Path, Path, str]]:
    """Key, certificate and thumbprint, of several makes."""
    folder, found = tmp_path_factory.mktemp("pairs"), {}
    for name, kind in (
        ("rsa", ["rsa:2048"]),
        ("other", ["rsa:3072"]),
        ("ec", ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
    ):
        key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
        openssl("req", "-x509", "-nodes", "-newkey", *kind, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
        shown = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha1").decode()
        found[name] = (key, certificate, shown.strip().partition("=")[2].replace(":", ""))
    return found


Pairs = dict[str, tuple[Path, Path, str]]
LEGACY = ["-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"]


def pfx_of(openssl: OpenSsl, pair: tuple[Path, Path, str], *options: str | Path) -> bytes:
    return openssl("pkcs12", "-export", "-inkey", pair[0], "-in", pair[1], "-passout", "pass:", *options)


def joined(pfxs: list[bytes]) -> bytes:
    """One PFX with all their safes, as the host sends for several certificates, and its MAC (RFC 7292 appendix B)."""
    safes = [safe for pfx in pfxs for safe in pkcs12.Pfx.load(pfx).authenticated_safe]
    content = pkcs12.AuthenticatedSafe(safes).dump()
    salt = b"saltsalt"
    key = hashlib.sha1(b"\3" * 64 + salt * 8 + bytes(64), usedforsecurity=False).digest()
    digest = {"digest_algorithm": {"algorithm": "sha1"}, "digest": hmac.digest(key, content, "sha1")}
    outer = {"content_type": "data", "content": core.OctetString(content)}
    mac = {"mac": digest, "mac_salt": salt, "iterations": 1}
    data: bytes = pkcs12.Pfx({"version": "v3", "auth_safe": outer, "mac_data": mac}).dump()
    return data


def in_one_safe(openssl: OpenSsl, pairs: Pairs) -> bytes:
    """All keys and certificates side by side, in the clear: the envelope around it is what protects them."""
    bags: list[Any] = []
    for key, certificate, _ in pairs.values():
        der = openssl("pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", key)
        bags.append({"bag_id": "key_bag", "bag_value": keys.PrivateKeyInfo.load(der)})
        value = core.ParsableOctetString(openssl("x509", "-outform", "DER", "-in", certificate))
        bags.insert(0, {"bag_id": "cert_bag", "bag_value": {"cert_id": "x509", "cert_value": value}})
    inner = core.OctetString(pkcs12.SafeContents(bags).dump())
    safe = pkcs12.AuthenticatedSafe([{"content_type": "data", "content": inner}])
    outer = {"content_type": "data", "content": core.OctetString(safe.dump())}
    data: bytes = pkcs12.Pfx({"version": "v3", "auth_safe": outer}).dump()
    return data


@pytest.mark.parametrize("options", [[], LEGACY, ["-keypbe", "NONE", "-certpbe", "NONE"]])
def test_several_keys_and_certificates_are_all_stored_and_paired(
    lib: Path, openssl: OpenSsl, pairs: Pairs, options: list[str]
) -> None:
    pfx = joined([pfx_of(openssl, pair, *options) for pair in pairs.values()])
    check_all_pairs(lib, openssl, pairs, pfx)


def test_keys_and_certificates_in_any_order_are_paired_by_public_key(lib: Path, openssl: OpenSsl, pairs: Pairs) -> None:
    check_all_pairs(lib, openssl, pairs, in_one_safe(openssl, pairs), "-nomacver")


def check_all_pairs(lib: Path, openssl: OpenSsl, pairs: Pairs, pfx: bytes, *options: str) -> None:
    shown = openssl("pkcs12", "-nodes", *options, "-passin", "pass:", stdin=pfx)
    assert (shown.count(b"BEGIN CERTIFICATE"), shown.count(b"BEGIN PRIVATE KEY")) == (3, 3)
    opened = open_document(lib, sealed(lib, openssl, pfx))
    assert sorted(opened.thumbprints) == sorted(thumb for _, _, thumb in pairs.values())
    assert opened.problems == ()
    for key, _, thumb in pairs.values():
        public = openssl("pkey", "-in", lib / f"{thumb}.prv", "-pubout")
        assert public == openssl("pkey", "-in", key, "-pubout")
        assert public == openssl("x509", "-in", lib / f"{thumb}.crt", "-noout", "-pubkey")


def test_a_chain_without_keys_of_its_own_is_stored_beside_the_key(lib: Path, openssl: OpenSsl, pairs: Pairs) -> None:
    pfx = pfx_of(openssl, pairs["rsa"], "-certfile", pairs["ec"][1])
    opened = open_document(lib, sealed(lib, openssl, pfx))
    assert sorted(opened.thumbprints) == sorted([pairs["rsa"][2], pairs["ec"][2]])
    assert not (lib / f"{pairs['ec'][2]}.prv").exists()


def test_a_key_without_its_certificate_is_left_out(lib: Path, openssl: OpenSsl, pairs: Pairs) -> None:
    alone = openssl("pkcs12", "-export", "-nocerts", "-inkey", pairs["ec"][0], "-passout", "pass:")
    pfx = joined([pfx_of(openssl, pairs["rsa"]), alone])
    opened = open_document(lib, sealed(lib, openssl, pfx))
    assert opened.thumbprints == (pairs["rsa"][2],)
    assert "without a certificate" in opened.problems[0]


@pytest.mark.parametrize(
    "data",
    [
        b"<CertificateFile/>",
        b"<CertificateFile><Data> \n </Data></CertificateFile>",
        b"<CertificateFile><Format>Other</Format><Data>!</Data></CertificateFile>",
    ],
)
def test_a_document_without_certificates_stores_none(lib: Path, data: bytes) -> None:
    assert open_document(lib, data).thumbprints == ()
    assert stored(lib) == []


def test_garbage_of_every_layer_is_a_document_error_and_stores_nothing(
    lib: Path, openssl: OpenSsl, pairs: Pairs
) -> None:
    pfx = pfx_of(openssl, pairs["rsa"])
    with_password = openssl(
        "pkcs12", "-export", "-inkey", pairs["rsa"][0], "-in", pairs["rsa"][1], "-passout", "pass:x"
    )
    elsewhere = openssl("cms", "-encrypt", "-binary", "-outform", "DER", pairs["other"][1], stdin=pfx)
    signed = openssl(
        "cms", "-sign", "-outform", "DER", "-signer", pairs["rsa"][1], "-inkey", pairs["rsa"][0], stdin=pfx
    )
    for data in (
        b"",
        b"<half",
        b"<CertificateFile><Data>!!!</Data></CertificateFile>",
        document(b"\x30\x03abc"),
        document(pfx),
        document(signed),
        document(elsewhere),
        sealed(lib, openssl, b""),
        sealed(lib, openssl, b"no PFX"),
        sealed(lib, openssl, with_password),
    ):
        with pytest.raises(DocumentError) as caught:
            open_document(lib, data)
        assert caught.value.document == "Certificates"
        assert "PRIVATE" not in str(caught.value)
    assert stored(lib) == []


# -- the keysmith as a process, and the real host --------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"<half", document(b"garbage")])
def test_the_keysmith_says_in_one_line_what_is_wrong(lib: Path, data: bytes) -> None:
    command = [sys.executable, "-P", "-m", "guestagent.keysmith", "open", str(lib)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Certificates: ")
    assert done.stderr.count(b"\n") == 1


def test_the_keysmith_without_a_usable_key_says_so(lib: Path, openssl: OpenSsl, pairs: Pairs) -> None:
    data = sealed(lib, openssl, pfx_of(openssl, pairs["rsa"]))
    command = [sys.executable, "-P", "-m", "guestagent.keysmith", "open", str(lib)]
    for content in (None, b"", b"no key", pairs["ec"][0].read_bytes()):
        (lib / KEY).unlink(missing_ok=True)
        if content is not None:
            (lib / KEY).write_bytes(content)
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_certificates_come_from_the_host_with_whichever_cipher_works(lib: Path, fabric: Any) -> None:
    client = HttpClient("test")
    base = fabric.client.get("/api/vms") and json.loads((fabric.root / "fabric" / "endpoints.json").read_bytes())
    wireserver = WireServer(client, base["wireserver"])
    url = wireserver.goal_state().certificates_url
    assert url
    keyring = Keyring(lib, lib.parent / "state")
    for spoilt in (0, 1):
        if spoilt:
            fabric.client.post("/api/faults", {"endpoint": "certificates", "fault": "wrong-bytes", "count": 1})
        assert keyring.fetch(wireserver, url) == ()
        (thumb,) = keyring.thumbprints
        assert stored(lib) == [f"{thumb}.crt", f"{thumb}.prv"]
        for name in stored(lib):
            (lib / name).unlink()
    fabric.client.post("/api/faults", {"endpoint": "certificates", "fault": "wrong-bytes", "count": 2})
    with pytest.raises(DocumentError, match="^Certificates: is not well-formed"):
        keyring.fetch(wireserver, url)
    fabric.client.post("/api/faults", {"endpoint": "certificates", "fault": "status", "value": 500, "count": 2})
    with pytest.raises(Refused, match="HTTP 500"):
        keyring.fetch(wireserver, url)
    assert stored(lib) == []
    client.close()
