"""Manifests: one spelling, one error."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from release.errors import ManifestError
from release.manifest import (
    FILES_LIMIT,
    File,
    Layer,
    Listing,
    Manifest,
    Protocol,
    canonical,
    decode_listing,
    decode_manifest,
    version_key,
    why_unsafe,
)

HASH = "0" * 64
GOOD = Manifest(
    component="probe",
    version="1.0.0",
    min_python="3.11",
    protocol=Protocol((1, 0), (1, 2)),
    files={"probe/__init__.py": File(HASH, 0)},
)

numbers = st.integers(0, 999_999_999).map(str)
versions = st.lists(numbers, min_size=2, max_size=4).map(".".join)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
parts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join).filter(lambda path: not why_unsafe(path))
files = st.dictionaries(
    paths.map(lambda path: f"{path}.f"), st.builds(File, digests, st.integers(0, 40_000)), min_size=1
)
words = st.text(max_size=30)
manifests = st.builds(
    Manifest,
    component=st.from_regex(r"\A[a-z][a-z0-9_]{0,20}\Z"),
    version=versions,
    min_python=versions,
    protocol=st.builds(Protocol, st.just((1, 0)), st.tuples(st.integers(1, 9), st.integers(0, 99))),
    platform=words,
    abi=words,
    files=files,
    layers=st.lists(st.builds(Layer, words, words, digests)).map(tuple),
)


def clash(manifest: Manifest) -> bool:
    names = manifest.files.keys()
    return any(name.startswith(f"{other}/") for name in names for other in names)


@given(manifests)
def test_what_is_written_is_read_back(manifest: Manifest) -> None:
    written = canonical(manifest)
    if clash(manifest):
        with pytest.raises(ManifestError):
            decode_manifest(written)
    else:
        assert decode_manifest(written) == manifest
        assert canonical(decode_manifest(written)) == written


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(canonical))
@example(b"[" * 100_000)
@example(b'{"format":1e999}')
@example(b"9" * 5000)
@example(b'"\\ud800"')
def test_other_bytes_are_one_typed_error(data: bytes) -> None:
    for decode in (decode_manifest, decode_listing):
        with pytest.raises(ManifestError):
            decode(data)


@given(st.data())
def test_a_changed_byte_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    written = bytearray(canonical(GOOD))
    written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode_manifest(bytes(written))
    except ManifestError:
        return
    # An unknown field is left out when it is written again; nothing else may differ.
    again = json.loads(canonical(read))
    assert {name: value for name, value in json.loads(bytes(written)).items() if name in again}.items() <= again.items()


def changed(**fields: Any) -> bytes:
    return canonical({**json.loads(canonical(GOOD)), **fields})


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (b" " + canonical(GOOD), "one spelling"),
        (canonical(GOOD).replace(b'"abi":"any"', b'"abi":"x","abi":"any"'), "one spelling"),
        (canonical(GOOD).replace(b"probe/__init__.py", "probé".encode()), "one spelling"),
        (changed(format=2), "format"),
        (changed(version="1.0.0\n"), "version"),
        (changed(version="01.0"), "version"),
        (changed(version="1"), "version"),
        (changed(version="../../x"), "version"),
        (changed(component="../rdagent"), "component"),
        (changed(component="probe\n"), "component"),
        (changed(protocol={"min": [1, 3], "max": [1, 2]}), "upside down"),
        (changed(floor="1.0.1"), "below its own floor"),
        (changed(files={}), "0 files"),
        (changed(files={f"f{number}": {"sha256": HASH, "size": 0} for number in range(FILES_LIMIT + 1)}), "5001 files"),
        (changed(files={"f": {"sha256": HASH, "size": 300 << 20}}), "bytes in all"),
        (changed(files={"f": {"sha256": HASH, "size": -1}}), "size"),
        (changed(files={"f": {"sha256": HASH[1:], "size": 1}}), "sha256"),
        (changed(files={"f": {"sha256": HASH, "size": 1}, "f/g": {"sha256": HASH, "size": 1}}), "a file and a folder"),
        (changed(layers=[{"name": "x", "version": "1", "sha256": "../x"}]), "sha256"),
        (b" " * (2 << 20), "has 2097152 bytes, limit"),
        (b"junk", "is no manifest of ours: no JSON: "),
        (b"\xff", "is no manifest of ours: no JSON: "),
        (b'{"format":' + b"9" * 5000 + b"}", "is no manifest of ours: a number of too many digits$"),
        (b"[" * 100_000, "is no manifest of ours: nested too deeply$"),
    ],
)
def test_refused_with_its_reason(written: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        decode_manifest(written)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "",
        "..",
        "a\\b",
        "C:\\x",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * 201,
        "a/" * 600 + "b",
        ".manifest",
        ".signatures",
        ".layer",
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    assert why_unsafe(path)
    with pytest.raises(ManifestError):
        decode_manifest(changed(files={path: {"sha256": HASH, "size": 1}}))


def test_a_newer_manifest_with_more_fields_is_read() -> None:
    assert decode_manifest(changed(since="tomorrow")) == GOOD


@given(versions, versions)
def test_versions_compare_by_numbers(left: str, right: str) -> None:
    assert (version_key(left) < version_key(right)) == (version_key(right) > version_key(left))
    assert version_key("1.9.0") < version_key("1.10") < version_key("1.10.0.1")
    assert version_key("1.2") == version_key("1.2.0")


def test_a_layers_listing() -> None:
    listing = Listing(name="thing", version="1.0rc1", files={"thing.py": File(HASH, 1)})
    assert decode_listing(canonical(listing)) == listing
