"""Building: the same input gives the same bytes, and the compiled files are the ones that run."""

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from ipc.places import COMPONENTS
from release.build import Built, build
from release.compiled import cached
from release.errors import ReleaseError, Unfit
from release.layers import imported, reachable
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
        assert {"pyzmq", "msgpack", "msgspec"} <= names
        # Every layer is checked at every start: nobody carries what only another needs.
        for layer, carriers in {
            "requests": {"rdagent", "guestagent", "telemetry"},
            "defusedxml": {"rdagent", "guestagent", "telemetry"},
            "cryptography": {"rdagent", "guestagent"},
            "asn1crypto": {"guestagent"},
            "tuf": {"rdagent"},
            "jeepney": {"netagent"},
        }.items():
            assert (layer in names) == (component in carriers), (component, layer)
        assert not {"pytest", "supervisor", "rich", "fastapi"} & names


# In a process that sees nothing but the package and its layers.
ALL_MODULES = """
import importlib, pkgutil, sys
sys.path[:0] = sys.argv[3:]
package = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_finds_what_it_imports_in_its_layers(
    tmp_path: Path, ours: dict[str, Built], component: str
) -> None:
    """At the top of its modules or later; of `wire` it has what it reaches."""
    built = ours[component]
    for number, path in enumerate((built.path, *built.layers.values())):
        zipfile.ZipFile(path).extractall(tmp_path / str(number))
    folders = [str(tmp_path / str(number)) for number in range(len(built.layers) + 1)]
    sources = {path.relative_to(folders[0]).as_posix(): path.read_bytes() for path in Path(folders[0]).rglob("*.py")}
    packages = {component, "ipc", "wire", "release"}
    names = imported(reachable(sources, {component})) - packages
    assert {"zmq", "msgpack", "msgspec"} <= names
    command = [sys.executable, "-I", "-S", "-c", ALL_MODULES, component, ",".join(sorted(names)), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_reached_is_followed_to_the_end() -> None:
    sources = {
        "a/__init__.py": b"",
        "a/one.py": b"def later():\n    from w.first import x",
        "w/__init__.py": b"",
        "w/first.py": b"from w import second",
        "w/second.py": b"import w.deep.third",
        "w/deep/__init__.py": b"import inside",
        "w/deep/third.py": b"import third, w.first",
        "w/away.py": b"import away",
    }
    found = reachable(sources, {"a"})
    assert sources.keys() - found.keys() == {"w/away.py"}
    assert imported(found) - {"w"} == {"inside", "third"}
