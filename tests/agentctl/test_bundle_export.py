"""`agentctl bundle export` of files that every machine would refuse."""

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentctl.bundle import bundle
from release.archive import pack
from release.manifest import SIGNATURES
from tests.release.product import probe

WRONG = {
    "no signatures": ({SIGNATURES: None}, f"has no {SIGNATURES}"),
    "nobody's signatures": ({SIGNATURES: b'{"signatures":{}}'}, "nobody signed it"),
    "junk signatures": ({SIGNATURES: b"junk"}, "the signatures cannot be read"),
    "a file changed": ({"probe/__init__.py": b"x"}, "probe/__init__.py is not"),
    "a file added": ({"probe/added.py": b"x"}, "probe/added.py is not in its manifest"),
}


def exported(package: Path, out: Path) -> str:
    """What it says on standard error."""
    done = CliRunner().invoke(bundle, ["export", "--out", str(out), "--package", str(package)])
    assert done.exit_code == 0, done.stderr
    assert out.exists()
    return done.stderr


@pytest.mark.parametrize(("changes", "why"), WRONG.values(), ids=WRONG)
def test_what_no_machine_takes_is_told(tmp_path: Path, changes: dict[str, bytes | None], why: str) -> None:
    package = probe(tmp_path, "1.2.3").path
    assert exported(package, tmp_path / "good.zip") == ""
    with zipfile.ZipFile(package) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | changes
    package.write_bytes(pack({name: data for name, data in contents.items() if data is not None}))
    said = exported(package, tmp_path / "bad.zip")
    assert said.startswith(f"Warning: no machine takes {package.name}: {why}")
