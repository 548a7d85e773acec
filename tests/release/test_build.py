"""Building: the same input gives the same bytes, and the compiled files are the ones that run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from release.build import Built, build
from release.compiled import cached
from release.errors import ReleaseError, Unfit
from release.signing import Trust
from release.unpack import read_manifest, verify_package
from tests.release.product import CHECKOUT, KEY, OTHER_KEY, TRUST, Installed, checkout, chosen, probe

# In a process of its own, with another order of sets and other objects alive.
AGAIN = """
import sys
from pathlib import Path
from release.build import build
from tests.release.product import KEY
build(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), [KEY])
"""


@pytest.mark.parametrize("component", ["probe", "telemetry"])
def test_same_input_same_bytes(tmp_path: Path, component: str) -> None:
    sources = [CHECKOUT] * 3 if component != "probe" else [checkout(tmp_path / name, "1.0.0") for name in "abc"]
    if component == "probe":
        os.utime(tmp_path / "b" / "probe" / "__main__.py", (1, 1))
        (tmp_path / "b" / "probe" / "__main__.py").chmod(0o700)
    built = [build(source, component, tmp_path / f"out{number}", [KEY]) for number, source in enumerate(sources[:2])]
    for seed in ("1", "77") if component == "probe" else ("77",):
        command = [sys.executable, "-c", AGAIN, str(sources[2]), component, str(tmp_path / f"out-{seed}")]
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    expected = {path.relative_to(tmp_path / "out0"): path.read_bytes() for path in (tmp_path / "out0").rglob("*.zip")}
    for out in (path.name for path in tmp_path.glob("out?*")):
        found = {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*.zip")}
        assert found == expected
    assert built[0].digest == built[1].digest


def test_a_package_says_what_it_is(tmp_path: Path) -> None:
    built = build(checkout(tmp_path, "2.3.4"), "probe", tmp_path / "out", [KEY, OTHER_KEY], floor="2.0.0")
    manifest = read_manifest(built.path)
    assert manifest == built.manifest
    assert (manifest.component, manifest.version, manifest.min_python) == ("probe", "2.3.4", "3.11")
    assert (manifest.protocol.min, manifest.protocol.max, manifest.floor) == ((1, 0), (1, 2), "2.0.0")
    assert {path.split("/")[0] for path in manifest.files} == {"probe", "ipc", "wire"}
    both = Trust((KEY.public(), OTHER_KEY.public()), threshold=2)
    assert verify_package(built.path, both).digest == built.digest


def test_the_compiled_file_is_the_one_that_runs(tmp_path: Path, installed: Installed) -> None:
    built = probe(tmp_path, "1.0.0", "import probe; print(probe.__cached__, probe.__spec__.loader.path)")
    package = installed.put(built)
    installed.set(current=chosen(built))
    source = installed.tree("1.0.0") / "probe" / "__init__.py"
    os.utime(source, (time.time() + 1000, time.time() + 1000))  # with a checked file this would mean: compile anew
    ran = installed.launch(PYTHONVERBOSE="")
    assert ran.returncode == 0, ran.stderr
    assert cached("probe/__init__.py") in package.manifest.files
    assert cached("probe/__init__.py") in ran.stdout
    verbose = subprocess.run(
        [sys.executable, "-v", "-P", "-c", "import probe"],
        env={"PYTHONPATH": str(installed.tree("1.0.0")), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert f"# code object from '{source.parent}/__pycache__" in verbose.stderr
    assert f"{source} matches" not in verbose.stderr.replace("__pycache__", "")


def test_layers_name_what_they_run_on(tmp_path: Path) -> None:
    source = checkout(tmp_path, "1.0.0", "import msgspec, click")
    built = build(source, "probe", tmp_path / "out", [KEY])
    assert [layer.name for layer in built.manifest.layers] == ["click", "msgspec"]
    assert built.manifest.platform.startswith("linux-")
    assert built.manifest.abi == sys.implementation.cache_tag
    assert sorted(built.layers) == sorted(layer.sha256 for layer in built.manifest.layers)


def test_a_source_that_cannot_be_packed(tmp_path: Path) -> None:
    source = checkout(tmp_path / "source", "1.0.0")
    with pytest.raises(Unfit, match="--source"):
        build(source, "other", tmp_path, [KEY])
    with pytest.raises(ReleaseError, match="keygen"):
        build(source, "probe", tmp_path, [])
    with pytest.raises(ReleaseError, match="below its own floor"):
        build(source, "probe", tmp_path, [KEY], floor="1.0.1")
    (source / "probe" / "link").symlink_to("/etc/passwd")
    with pytest.raises(Unfit, match="symbolic link"):
        build(source, "probe", tmp_path, [KEY])
    (source / "probe" / "link").unlink()
    (source / "probe" / "__main__.py").write_text("import nobody_has_this")
    with pytest.raises(ReleaseError, match="nobody_has_this is imported"):
        build(source, "probe", tmp_path, [KEY])
    (source / "probe" / "__main__.py").write_text("def (")
    with pytest.raises(ReleaseError, match="probe/__main__.py cannot be read"):
        build(source, "probe", tmp_path, [KEY])
    assert not list(tmp_path.glob("*.zip"))


def test_every_component_of_ours_is_a_package(ours: dict[str, Built]) -> None:
    for component, built in ours.items():
        package = verify_package(built.path, TRUST)
        assert package.manifest.component == component
        names = {layer.name for layer in package.manifest.layers}
        assert {"pyzmq", "msgpack", "msgspec", "requests", "cryptography", "defusedxml", "asn1crypto"} <= names
        assert ("jeepney" in names) == (component == "netagent")
        assert not {"pytest", "supervisor", "rich", "fastapi"} & names
