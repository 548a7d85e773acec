"""`agentctl package` as an operator types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ipc.places import Places
from tests.release.product import CHECKOUT, checkout


def agentctl(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "agentctl"), "package", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def small_checkout(folder: Path) -> None:
    """Of a telemetry that does nothing."""
    checkout(folder, "1.2.3", main="pass")
    (folder / "probe").rename(folder / "telemetry")


def test_from_a_key_to_a_checked_package(tmp_path: Path) -> None:
    small_checkout(tmp_path)
    assert agentctl(tmp_path, "keygen", "release.key").returncode == 0
    built = json.loads(agentctl(tmp_path, "build", "telemetry", "--key", "release.key", "--json").stdout)
    assert built["package"] == "dist/telemetry-1.2.3.zip"
    assert built["bytes"] == (tmp_path / built["package"]).stat().st_size
    verified = agentctl(tmp_path, "verify", built["package"], "--trust", "release.key.pub", "--json")
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["digest"] == built["digest"]
    shown = json.loads(agentctl(tmp_path, "show", built["package"], "--json").stdout)
    assert (shown["component"], shown["version"]) == ("telemetry", "1.2.3")
    assert "telemetry 1.2.3 (not checked" in agentctl(tmp_path, "show", built["package"]).stdout
    said = agentctl(tmp_path, "verify", built["package"], "--trust", "release.key.pub").stdout
    assert "good: telemetry 1.2.3" in said


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    small_checkout(tmp_path)
    for name in ("a.key", "b.key"):
        agentctl(tmp_path, "keygen", name)
    missing = agentctl(tmp_path, "build", "telemetry", "--key", "c.key")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "make one: agentctl package keygen c.key" in missing.stderr
    elsewhere = agentctl(tmp_path, "build", "rdagent", "--key", "a.key")
    assert "give a checkout of the product with --source" in elsewhere.stderr
    assert "is there already" in agentctl(tmp_path, "keygen", "a.key").stderr
    assert agentctl(tmp_path, "build", "telemetry", "--key", "a.key").returncode == 0
    words = ["verify", "dist/telemetry-1.2.3.zip", "--trust", "b.key.pub"]
    refused = agentctl(tmp_path, *words)
    assert refused.returncode == 1
    assert "signed by 0 of the keys we know" in refused.stderr
    as_json = agentctl(tmp_path, *words, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["good"] is False
    both = agentctl(tmp_path, *words, "--trust", "a.key.pub", "--threshold", "2")
    assert "2 are needed" in both.stderr
    (tmp_path / "junk.zip").write_bytes(b"junk")
    for verb in (["verify", "junk.zip", "--trust", "a.key.pub"], ["show", "junk.zip"]):
        junk = agentctl(tmp_path, *verb)
        assert junk.returncode == 1
        assert "junk.zip: is no zip" in junk.stderr
        assert "Traceback" not in junk.stderr


def test_a_key_that_cannot_have_its_public_half_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "k.pub").write_text("of another key")
    refused = agentctl(tmp_path, "keygen", "k")
    assert (refused.returncode, "k.pub: is there already" in refused.stderr) == (1, True)
    assert not (tmp_path / "k").exists()


def test_what_is_no_version_is_said_so(tmp_path: Path) -> None:
    agentctl(tmp_path, "keygen", "k")
    for words in (("--as-version", "1.x"), ("--floor", "junk")):
        refused = agentctl(tmp_path, "build", "telemetry", "--key", "k", "--source", str(CHECKOUT), *words)
        said = f"agentctl: {words[1]!r} is no version: write two to four numbers, e.g. 0.2.0\n"
        assert (refused.returncode, refused.stderr) == (1, said)


def test_what_is_no_component_is_said_so(tmp_path: Path) -> None:
    agentctl(tmp_path, "keygen", "k")
    for name in ("fabric", "nosuch", "../telemetry"):
        refused = agentctl(tmp_path, "build", name, "--key", "k", "--source", str(CHECKOUT))
        said = f"agentctl: {name!r} is none of rdagent, guestagent, netagent, telemetry\n"
        assert (refused.returncode, refused.stderr) == (2, said)
        assert not (tmp_path / "dist").exists()


def test_trust_that_is_not_ours_to_give_says_whose(tmp_path: Path) -> None:
    agentctl(tmp_path, "keygen", "k")
    trust = Places.under(tmp_path).trust
    trust.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(trust, 65534, 65534)
    else:
        trust.rmdir()
        trust.symlink_to("/")
    refused = agentctl(tmp_path, "trust", "k.pub", "--root", str(tmp_path))
    why = "belongs to uid 65534, we are 0: run it as its owner" if os.geteuid() == 0 else "is not a directory"
    assert (refused.returncode, refused.stderr) == (1, f"agentctl: {trust}: {why}\n")
