"""Where the owner asks for signatures, what is signed is installed and marked, and the rest told with a way out."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., bytes]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root and somebody who signs code, both in files of that name."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "ca.cnf").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    (folder / "signer.cnf").write_text("basicConstraints=CA:FALSE\nextendedKeyUsage=codeSigning\n")
    for name, words in (("root", ["-key", "root.key"]), ("signer", ["-CA", "root.pem", "-CAkey", "root.key"])):
        openssl(folder, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", f"{name}.key")
        openssl(folder, "req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        cnf = "ca.cnf" if name == "root" else "signer.cnf"
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", *words, "-extfile", cnf, "-days", "9", "-out", f"{name}.pem"
        )
    return folder


def openssl(folder: Path, *words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], cwd=folder, input=stdin, capture_output=True, check=True).stdout


def signature(keys: Path, zipped: bytes) -> str:
    words = ["cms", "-sign", "-binary", "-outform", "DER", "-signer", "signer.pem", "-inkey", "signer.key"]
    return base64.b64encode(openssl(keys, *words, stdin=zipped)).decode()


@pytest.fixture(scope="module")
def machine(make_machine: Callable[[], Any], keys: Path) -> Iterator[Any]:
    machine = make_machine()
    machine.configure(f'[guestagent]\nsignature_check = "require"\nsignature_root = "{keys / "root.pem"}"\n')
    machine.start_agent()
    yield machine
    machine.close()


def signed(life: Any, make_package: Make, version: str = "1.0.0") -> bytes:
    """A package that says of itself what it has to."""
    publisher, _, kind = life.name.rpartition(".")
    return make_package(signing_info={"publisher": publisher, "type": kind, "version": version})


def test_an_unsigned_package_is_a_matter_of_configuration_and_is_not_tried_in_a_circle(
    life: Any, make_package: Make
) -> None:
    life.want(make_package())
    found = life.verdict("configuration", "unsigned", "signature_check", "signatureRequired")
    assert "agentctl ext retry" in found["next_step"]
    listed = json.loads(life.agentctl("ext", "list", "--json").stdout)
    (one,) = (one for one in listed if one["name"] == life.name)
    # Its owner may change his mind, but not within a minute.
    assert one["retry_at"] - one["since"] > 60
    assert not life.calls()


@pytest.mark.parametrize("fast_track", [False, True])
def test_a_signed_package_is_installed_and_marked(life: Any, make_package: Make, keys: Path, fast_track: bool) -> None:
    zipped = signed(life, make_package)
    life.publish(zipped)
    life.goal({"settings": {}, "signature": signature(keys, zipped)}, fast_track=fast_track)
    life.ready()
    assert (life.lib / f"{life.name}-1.0.0" / "package_validated").read_bytes() == b""


def test_the_signature_of_other_bytes_is_the_platforms_fault(life: Any, make_package: Make, keys: Path) -> None:
    life.publish(signed(life, make_package))
    life.goal({"settings": {}, "signature": signature(keys, b"others")})
    life.verdict("platform", "mismatch")
    assert not life.calls()
