"""Certificates and protected settings, opened by the openssl program as agents and extensions open them."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fabric.conftest import NAME, RunningHost, Transport, Vm, kept, make_transport, parsed, vm_of

CIPHERS = {"AES128_CBC": b"aes-128-cbc", "DES_EDE3_CBC": b"des-ede3-cbc"}


def asked(host: RunningHost, certificate: str, cipher: str, url: str = "") -> requests.Response:
    headers = {**Vm.WIRE, "x-ms-cipher-name": cipher, "x-ms-guest-agent-public-x509-cert": certificate}
    return host.call("wireserver", "GET", url or vm_of(host).urls["Certificates"], headers=headers)


def envelope(answer: requests.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    root = parsed(answer.content)
    assert root.tag == "CertificateFile"
    assert root.findtext("Version") == "2012-11-30"
    assert root.findtext("Format") == "Pkcs7BlobWithPfxContents"
    data = root.findtext("Data") or ""
    assert max(len(line) for line in data.splitlines()) <= 64
    return base64.b64decode(data)


def openssl(*command: str | Path, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *command], input=given, capture_output=True, check=True).stdout


def tenant(host: RunningHost, transport: Transport, folder: Path) -> Transport:
    """The tenant's key and certificate as the reference agent splits them."""
    pfx = folder / "Certificates.pfx"
    pfx.write_bytes(transport.opens(envelope(asked(host, transport.header, "AES128_CBC"))))
    pem = openssl("pkcs12", "-in", pfx, "-nodes", "-password", "pass:").decode()
    made = Transport(folder / "tenant.key", folder / "tenant.pem")
    for path, word in ((made.key, "PRIVATE KEY"), (made.certificate, "CERTIFICATE")):
        (found,) = re.findall(f"-----BEGIN {word}-----.+?-----END {word}-----\n", pem, re.DOTALL)
        path.write_text(found)
    return made


@pytest.mark.parametrize("cipher", CIPHERS)
def test_both_ciphers_open_and_the_key_fits_the_certificate(
    host: RunningHost, transport: Transport, tmp_path: Path, cipher: str
) -> None:
    sealed = envelope(asked(host, transport.header, cipher))
    printed = openssl("cms", "-cmsout", "-print", "-inform", "DER", given=sealed)
    assert CIPHERS[cipher] in printed
    assert b"rsaEncryption" in printed
    pfx = tmp_path / "Certificates.pfx"
    pfx.write_bytes(transport.opens(sealed))
    # The two ways of the reference agent, the empty password in both.
    for option in (["-nomacver"], []):
        pem = openssl("pkcs12", "-in", pfx, "-nodes", "-password", "pass:", *option)
        of_key = openssl("pkey", "-pubout", given=pem)
        of_certificate = openssl("x509", "-pubkey", "-noout", given=pem)
        assert of_key == of_certificate


def test_each_answer_is_for_the_certificate_of_that_request(
    host: RunningHost, transport: Transport, tmp_path: Path
) -> None:
    other = make_transport(tmp_path, "other")
    for_other = envelope(asked(host, other.header, "AES128_CBC"))
    for_first = envelope(asked(host, transport.header, "AES128_CBC"))
    assert other.opens(for_other)[:2] == transport.opens(for_first)[:2] == b"0\x82"
    for wrong, sealed in ((transport, for_other), (other, for_first)):
        with pytest.raises(subprocess.CalledProcessError):
            wrong.opens(sealed)


@pytest.mark.parametrize("fast_track", [False, True])
def test_protected_settings_open_with_the_certificate_they_name(
    host: RunningHost, transport: Transport, tmp_path: Path, fast_track: bool
) -> None:
    secret = {"password": "\u00e4 <&> \U0001f600", "deep": [{"a": [1]}]}
    host.add(settings={"a": 1}, protected=secret, fast_track=fast_track)
    vm = vm_of(host)
    if fast_track:
        (entry,) = vm.vm_settings()["extensionGoalStates"]
        (one,) = entry["settings"]
    else:
        (plugin,) = vm.config().findall("PluginSettings/Plugin")
        one = json.loads(plugin.findtext("RuntimeSettings") or "")["runtimeSettings"][0]["handlerSettings"]
    found = tenant(host, transport, tmp_path)
    der = openssl("x509", "-outform", "DER", "-in", found.certificate)
    assert one["protectedSettingsCertThumbprint"] == hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()
    assert "\n" not in one["protectedSettings"]
    assert json.loads(found.opens(base64.b64decode(one["protectedSettings"]))) == secret
    # Nowhere in the clear, not even to the operator.
    assert "password" not in json.dumps(host.api("GET", "/api/extensions"))
    assert b"password" not in kept(host)


def test_the_tenant_certificate_is_the_same_for_every_order(
    host: RunningHost, transport: Transport, tmp_path: Path
) -> None:
    host.add(protected={"a": 1})
    before = tenant(host, transport, tmp_path).certificate.read_text()
    host.add(NAME, "1.0.1", protected={"a": 2})
    assert tenant(host, transport, tmp_path).certificate.read_text() == before


@pytest.mark.parametrize("cipher", ["", "AES256_CBC", "aes128_cbc", "AES128_CBC, DES_EDE3_CBC"])
def test_an_unknown_cipher_is_refused_with_the_known_ones(host: RunningHost, transport: Transport, cipher: str) -> None:
    answer = asked(host, transport.header, cipher)
    assert answer.status_code == 400
    assert all(name in answer.text for name in CIPHERS)


def test_a_missing_cipher_or_certificate_is_refused(host: RunningHost, transport: Transport) -> None:
    whole = {"x-ms-cipher-name": "AES128_CBC", "x-ms-guest-agent-public-x509-cert": transport.header}
    url = vm_of(host).urls["Certificates"]
    for name in whole:
        headers = {**Vm.WIRE, **{key: value for key, value in whole.items() if key != name}}
        answer = host.call("wireserver", "GET", url, headers=headers)
        assert answer.status_code == 400
        assert name in answer.text


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
@pytest.mark.parametrize("cipher", CIPHERS)
def test_an_elliptic_certificate_is_encrypted_to_as_well(
    host: RunningHost, tmp_path: Path, cipher: str, curve: str
) -> None:
    made = make_transport(tmp_path, curve, "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}")
    sealed = envelope(asked(host, made.header, cipher))
    printed = openssl("cms", "-cmsout", "-print", "-inform", "DER", given=sealed)
    assert CIPHERS[cipher] in printed
    assert b"dhSinglePass-stdDH-sha256kdf-scheme" in printed
    pem = openssl("pkcs12", "-nodes", "-password", "pass:", given=made.opens(sealed))
    assert openssl("pkey", "-pubout", given=pem) == openssl("x509", "-pubkey", "-noout", given=pem)


def test_a_certificate_nobody_can_encrypt_to_is_refused(host: RunningHost, tmp_path: Path) -> None:
    signing = ["-newkey", "ed25519"]
    tiny = ["-newkey", "rsa:512"]
    for number, options in enumerate((signing, tiny)):
        made = make_transport(tmp_path, str(number), *options)
        answer = asked(host, made.header, "AES128_CBC")
        assert answer.status_code == 400 or made.opens(envelope(answer))
        if answer.status_code == 400:
            assert "RSA" in answer.text or "certificate" in answer.text


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_certificates_are_refused_or_answered_and_never_end_in_500(
    host: RunningHost, vm: Vm, transport: Transport, data: st.DataObject
) -> None:
    der = bytearray(base64.b64decode(transport.header))
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(der)), st.integers(0, len(der))))
    answer = asked(host, base64.b64encode(der[:cut]).decode(), "AES128_CBC", vm.urls["Certificates"])
    assert answer.status_code in {200, 400}, answer.text
