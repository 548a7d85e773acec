"""What is taken for an extension package: decided from bytes alone."""

import io
import json
import zipfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric import packages
from fabric.errors import BadPackage
from fabric.packages import PackageName, is_version, sample_package

MANIFEST: dict[str, Any] = {"handlerManifest": {"enableCommand": "x"}}
SIGNED = {**MANIFEST, "signingInfo": {"publisher": "Contoso.Tools", "type": "Greeter", "version": "1.2.3"}}


def identify(data: bytes, **said: str) -> PackageName:
    return packages.identify(io.BytesIO(data), **said)


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_manifest(document: object) -> bytes:
    return zipped(("HandlerManifest.json", json.dumps(document).encode()))


def test_the_sample_says_its_name_and_is_the_same_each_time() -> None:
    assert identify(sample_package()) == PackageName(name="Azvmagent.Samples.Hello", version="1.0.0")
    assert sample_package() == sample_package()


def test_what_was_said_wins_then_the_signing_info_then_the_file_name() -> None:
    file_name = "Fabrikam.Other-9.9.zip"
    assert identify(with_manifest([SIGNED]), file_name=file_name) == PackageName(
        name="Contoso.Tools.Greeter", version="1.2.3"
    )
    assert identify(with_manifest([MANIFEST]), file_name=file_name) == PackageName(name="Fabrikam.Other", version="9.9")
    assert identify(with_manifest([SIGNED]), name="A.B", version="2.0", file_name=file_name) == PackageName(
        name="A.B", version="2.0"
    )


def image(*, publisher: str = "Fabrikam.Tools", kind: str = "Mender", version: str = "2.5.1") -> bytes:
    return (
        "<?xml version='1.0' encoding='utf-8' ?>"
        f'<ExtensionImage xmlns="urn:some"><ProviderNameSpace>{publisher}</ProviderNameSpace>'
        f"<Type> {kind} </Type><Version>{version}</Version></ExtensionImage>"
    ).encode()


def with_image(document: object, data: bytes, folder: str = "") -> bytes:
    return zipped((folder + "HandlerManifest.json", json.dumps(document).encode()), (folder + "manifest.xml", data))


@pytest.mark.parametrize("folder", ["", "folder/"])
def test_manifest_xml_says_the_name(folder: str) -> None:
    data = with_image(MANIFEST, image(), folder)
    called = PackageName(name="Fabrikam.Tools.Mender", version="2.5.1")
    assert identify(data) == called
    # Published file names lack the publisher.
    assert identify(data, file_name="Mender-9.9.zip") == called
    assert identify(with_image([SIGNED], image())).name == "Contoso.Tools.Greeter"
    assert identify(data, name="A.B", version="2.0") == PackageName(name="A.B", version="2.0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<ExtensionImage",
        b"\xff\xfe\x00",
        b"<?xml version='1.0' encoding='nonsense'?><a/>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        image(publisher="", version=""),
    ],
)
def test_a_manifest_xml_that_says_nothing_is_passed_over(data: bytes) -> None:
    name = PackageName(name="Fabrikam.Other", version="9.9")
    assert identify(with_image(MANIFEST, data), file_name="Fabrikam.Other-9.9.zip") == name


@pytest.mark.parametrize(
    ("file_name", "name", "version"),
    [
        ("Contoso.Greeter_Linux-1.0.0.zip", "Contoso.Greeter_Linux", "1.0.0"),
        ("Contoso.Greeter__1.0.0.zip", "Contoso.Greeter", "1.0.0"),
        ("Contoso.Greeter-1.0.0rc1.zip", "Contoso.Greeter", "1.0.0rc1"),
    ],
)
def test_file_names(file_name: str, name: str, version: str) -> None:
    assert identify(with_manifest(MANIFEST), file_name=file_name) == PackageName(name=name, version=version)


def test_a_single_object_a_byte_order_mark_and_a_folder_are_taken() -> None:
    data = b"\xef\xbb\xbf" + json.dumps(SIGNED).encode()
    assert identify(zipped(("folder/HandlerManifest.json", data))).version == "1.2.3"


def test_the_manifest_nearest_to_the_root_counts() -> None:
    other = json.dumps({**SIGNED, "signingInfo": {"publisher": "A.B", "type": "C", "version": "9"}}).encode()
    data = zipped(("examples/HandlerManifest.json", other), ("HandlerManifest.json", json.dumps(SIGNED).encode()))
    assert identify(data).name == "Contoso.Tools.Greeter"


@pytest.mark.parametrize("text", ["1", "1.0", "1.2.3.4", "2.0.0-rc1", "2.0.0.beta", "1.0alpha2"])
def test_versions(text: str) -> None:
    assert is_version(text)


@pytest.mark.parametrize("text", ["", "v1", "1.", ".1", "1..2", "1_0", "1.0\n", "\u0661", "1.0-gamma", "1.2.3.4.5.6"])
def test_what_is_no_version(text: str) -> None:
    assert not is_version(text)


def too_short() -> bytes:
    """A manifest that would go on behind the end of the file."""
    data = bytearray(zipped(("HandlerManifest.json", b"{}"), method=zipfile.ZIP_STORED))
    # Both sizes in the directory, behind its signature and four other fields.
    at = data.index(b"PK\x01\x02") + 20
    data[at : at + 8] = (100_000).to_bytes(4, "little") * 2
    return bytes(data)


BAD = {
    "nothing": (b"", "no usable zip"),
    "no zip": (b"hello", "no usable zip"),
    "half a zip": (with_manifest(SIGNED)[:-30], "no usable zip"),
    "too short": (too_short(), "no usable zip"),
    "no manifest": (zipped(("readme.txt", b"")), "holds no HandlerManifest.json"),
    "manifest is a folder": (zipped(("HandlerManifest.json/", b"")), "holds no HandlerManifest.json"),
    "no JSON": (zipped(("HandlerManifest.json", b"{")), "is not JSON"),
    "not UTF-8": (zipped(("HandlerManifest.json", b"\xff\xfe{}")), "no usable zip"),
    "deep JSON": (zipped(("HandlerManifest.json", b"[" * 200_000)), "is not JSON"),
    "huge number": (zipped(("HandlerManifest.json", b"9" * 10_000)), "is not JSON"),
    "empty list": (with_manifest([]), "no handlerManifest object"),
    "no object": (with_manifest(["x"]), "no handlerManifest object"),
    "no handlerManifest": (with_manifest([{}]), "no handlerManifest object"),
    "handlerManifest is none": (with_manifest([{"handlerManifest": 1}]), "no handlerManifest object"),
    "a bomb": (zipped(("HandlerManifest.json", b" " * 50_000_000)), "is larger than"),
    "bzip2": (zipped(("HandlerManifest.json", b" " * 1_000_000), method=zipfile.ZIP_BZIP2), "neither stored nor"),
    "lzma": (zipped(("HandlerManifest.json", b" " * 1_000_000), method=zipfile.ZIP_LZMA), "neither stored nor"),
}


@pytest.mark.parametrize(("data", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_no_package_is_refused_with_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPackage, match=reason) as refused:
        identify(data, name="A.B", version="1.0")
    assert len(str(refused.value)) < 300


def test_names_that_are_huge_are_not_repeated_whole() -> None:
    signing = {"publisher": "a" * 500_000, "type": ["x"], "version": "v" * 500_000}
    with pytest.raises(BadPackage) as refused:
        identify(with_manifest({**MANIFEST, "signingInfo": signing}))
    assert len(str(refused.value)) < 300


def test_a_directory_without_end_is_refused_before_it_is_read() -> None:
    entry = b"PK\x01\x02" + bytes(42)
    count = 200_000
    end = b"PK\x05\x06" + bytes(8) + (len(entry) * count).to_bytes(4, "little") + bytes(6)
    with pytest.raises(BadPackage, match="directory is larger"):
        identify(entry * count + end)


def test_a_manifest_that_lies_about_its_size_is_read_only_so_far() -> None:
    data = bytearray(zipped(("HandlerManifest.json", json.dumps(SIGNED).encode() + b" " * 50_000_000)))
    # The size in the directory, behind its signature and five other fields.
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(BadPackage, match="no usable zip"):
        identify(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(BadPackage):
        identify(data, name="A.B", version="1.0")


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damaged_packages_are_refused_or_named(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    content = json.dumps(SIGNED).encode()
    damaged = bytearray(zipped(("a", b"x" * 50), ("HandlerManifest.json", content), method=method))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = identify(bytes(damaged))
    except BadPackage:
        return
    assert is_version(found.version)
