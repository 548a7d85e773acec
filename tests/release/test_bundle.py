"""Bundles: what goes in comes out, and what an enemy could put in does not."""

import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release.build import Built, build
from release.bundle import Bundle, Entry, pack_bundle, unpack_bundle
from release.errors import BadPackage, ReleaseError
from release.manifest import BUNDLE, MANIFEST, File, Layer, canonical, digest
from tests.release.product import GOOD, KEY, NAME, checkout, probe, third_party

Content = dict[str, bytes]


def nowhere(_: Path, layer: Layer) -> Path:
    raise AssertionError(layer)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    numbers = itertools.count()

    def make() -> Path:
        folder = tmp_path / f"out-{next(numbers)}"
        folder.mkdir()
        return folder

    return make


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("layered")
    with third_party(folder / "site", "azvmprobelayer"):
        source = checkout(folder / "source", "2.0.0", f"import azvmprobelayer; {GOOD}")
        yield build(source, NAME, folder / "dist", [KEY])


def contents(bundle: bytes, path: Path) -> Content:
    path.write_bytes(bundle)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(found: Content, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    return path


def test_what_goes_in_comes_out(one: Built, two: Built, layered: Built, tmp_path: Path) -> None:
    def find(package: Path, layer: Layer) -> Path:
        assert package == layered.path
        return layered.layers[layer.sha256]

    data, bundle = pack_bundle([two.path, one.path, layered.path], find)
    assert data == pack_bundle([layered.path, one.path, two.path], find)[0]
    assert [(entry.component, entry.version) for entry in bundle.packages] == [
        (NAME, "1.0.0"),
        (NAME, "1.1.0"),
        (NAME, "2.0.0"),
    ]
    (tmp_path / "all.zip").write_bytes(data)
    out = tmp_path / "out"
    out.mkdir()
    assert unpack_bundle(tmp_path / "all.zip", out) == bundle
    for built in (one, two, layered):
        assert (out / "packages" / built.path.name).read_bytes() == built.path.read_bytes()
    (sha256,) = [layer.sha256 for layer in layered.manifest.layers]
    assert (out / "layers" / f"{sha256}.zip").read_bytes() == layered.layers[sha256].read_bytes()


def test_what_does_not_fit_together_is_no_bundle(one: Built, two: Built, layered: Built, tmp_path: Path) -> None:
    other = probe(tmp_path, "1.0.0", "pass")
    with pytest.raises(ReleaseError, match="another build of probe 1.0.0"):
        pack_bundle([one.path, other.path], nowhere)
    (layer,) = layered.layers.values()
    asked = msgspec.structs.replace(layered.manifest, layers=(Layer("azvmprobelayer", "1.0", "0" * 64),))
    with zipfile.ZipFile(layered.path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    of_another = written({**found, MANIFEST: canonical(asked)}, tmp_path / "of-another.zip")
    with pytest.raises(BadPackage, match="is not the layer azvmprobelayer 1.0"):
        pack_bundle([of_another], lambda _, __: layer)
    with pytest.raises(BadPackage, match=r"has no \.layer"):
        pack_bundle([layered.path], lambda _, __: two.path)
    (tmp_path / "junk.zip").write_bytes(b"junk")
    with pytest.raises(BadPackage, match="is no zip"):
        pack_bundle([tmp_path / "junk.zip"], nowhere)


SHA = "ab" * 32
BAD_FILES: dict[str, str] = {
    "../packages/probe-1.0.0.zip": "leads out",
    "/etc/passwd": "is absolute",
    "layers/../../x.zip": "leads out",
    f"layers/{SHA}.zip.zip": "neither a package it names nor a layer",
    f"layers/{SHA.upper()}.zip": "neither a package it names nor a layer",
    f"layers/x/{SHA}.zip": "neither a package it names nor a layer",
    "packages/probe-9.9.9.zip": "neither a package it names nor a layer",
    "packages/": "leads out",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_names_that_are_not_ours(name: str, one: Built, tmp_path: Path, fresh: Callable[[], Path]) -> None:
    data, bundle = pack_bundle([one.path], nowhere)
    found = contents(data, tmp_path / "good.zip")
    more = msgspec.structs.replace(bundle, files={**bundle.files, name: File(digest(b"x"), 1)})
    bad = written({**found, name: b"x", BUNDLE: canonical(more)}, tmp_path / "bad.zip")
    out = fresh()
    with pytest.raises(BadPackage, match=BAD_FILES[name]):
        unpack_bundle(bad, out)
    assert not list(out.rglob("*.zip"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "good.zip", out.name]


def test_contents_that_are_not_as_it_says(one: Built, tmp_path: Path, fresh: Callable[[], Path]) -> None:
    data, bundle = pack_bundle([one.path], nowhere)
    found = contents(data, tmp_path / "good.zip")
    (name,) = [each for each in found if each != BUNDLE]
    entry = bundle.packages[0]
    ghost = msgspec.structs.replace(entry, version="7.0")
    cases: dict[str, Content] = {
        "not the file": {**found, name: found[name][:-1] + b"?"},
        "not as long": {**found, name: found[name] + b"?"},
        "is missing": {BUNDLE: found[BUNDLE]},
        "not in its manifest": {**found, "more": b""},
        "no .bundle": {name: found[name]},
        "is not ours": {**found, BUNDLE: b"{"},
        "named and missing": {**found, BUNDLE: canonical(msgspec.structs.replace(bundle, packages=(entry, ghost)))},
        "length >= 1": {**found, BUNDLE: canonical(Bundle(packages=(), files=bundle.files))},
    }
    for reason, content in cases.items():
        with pytest.raises(BadPackage, match=reason):
            unpack_bundle(written(content, tmp_path / "bad.zip"), fresh())


def test_what_is_no_file(tmp_path: Path, fresh: Callable[[], Path]) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "is no file"), (tmp_path, "is no file"), (tmp_path / "no", "No such")):
        with pytest.raises(BadPackage, match=reason):
            unpack_bundle(path, fresh())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.floats(0, 1), flip=st.floats(0, 0.999), by=st.integers(1, 255))
def test_a_bundle_that_was_damaged_is_refused_or_whole(
    one: Built, fresh: Callable[[], Path], cut: float, flip: float, by: int
) -> None:
    data, bundle = pack_bundle([one.path], nowhere)
    at = int(flip * len(data))
    damaged = bytearray(data)
    damaged[at] ^= by
    for content in (bytes(damaged), data[: int(cut * len(data))]):
        out = fresh()
        path = out.with_suffix(".zip")
        path.write_bytes(content)
        try:
            found = unpack_bundle(path, out)
        except BadPackage:
            continue
        # The flipped bit was of no account, as a time in the zip's directory is.
        assert found == bundle
        assert (out / "packages" / one.path.name).read_bytes() == one.path.read_bytes()


def test_an_entry_names_its_file() -> None:
    assert Entry(component="probe", version="1.0", digest=SHA).file == "packages/probe-1.0.zip"


def test_a_package_is_no_bundle_and_says_what_it_is(one: Built, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadPackage, match="is a package and no bundle; make one of it: agentctl bundle export") as told:
        unpack_bundle(one.path, tmp_path / "out")
    assert str(told.value).endswith(f" --package {one.path}")


def test_a_zip_of_something_else_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(BadPackage, match="has no .bundle: it is no bundle of ours"):
        unpack_bundle(written({"readme.txt": b""}, tmp_path / "other.zip"), tmp_path / "out")
