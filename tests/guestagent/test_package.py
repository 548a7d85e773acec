"""Unpacking: a zip of any make is a handler's folder or a PackageError, and nothing is written outside."""

import io
import json
import random
import stat
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.errors import PackageError
from guestagent.layout import installed_handlers
from guestagent.package import Limits, unpack

COMMANDS = {f"{name}Command": f"bin/run {name}" for name in ("install", "enable", "disable", "update", "uninstall")}
MANIFEST = json.dumps([{"version": 1.0, "handlerManifest": COMMANDS}]).encode()

Entry = tuple[str | zipfile.ZipInfo, bytes]


def zipped(*entries: Entry, manifest: bytes | None = MANIFEST, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names given twice
        if manifest is not None:
            archive.writestr("HandlerManifest.json", manifest, zipfile.ZIP_DEFLATED)
        for name, content in entries:
            archive.writestr(name if isinstance(name, zipfile.ZipInfo) else kind(name, 0), content, method)
    return buffer.getvalue()


def kind(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def patched(data: bytes, entry: str, central: int, local: int, value: bytes) -> bytes:
    """`value` at these offsets of an entry's two headers (APPNOTE 4.3.7, 4.3.12)."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo(entry)
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(entry.encode()))
    changed[at + central : at + central + len(value)] = value
    start = info.header_offset + local
    changed[start : start + len(value)] = value
    return bytes(changed)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    lib = tmp_path / "lib"
    lib.mkdir()
    return lib


def unpacked(lib: Path, data: bytes, limits: Limits | None = None) -> Path:
    package = lib / "C.Greeter__1.0.zip"
    package.write_bytes(data)
    target = lib / "C.Greeter-1.0"
    unpack(package, target, limits)
    return target


def refused(lib: Path, data: bytes, limits: Limits | None = None) -> PackageError:
    """The error; an earlier folder stays as it was, and nothing else is there."""
    earlier = lib / "C.Greeter-1.0"
    earlier.mkdir(exist_ok=True)
    (earlier / "kept").write_bytes(b"as it was")
    with pytest.raises(PackageError) as caught:
        unpacked(lib, data, limits)
    assert files(earlier) == {"kept": b"as it was"}
    assert sorted(path.name for path in lib.iterdir()) == ["C.Greeter-1.0", "C.Greeter__1.0.zip"]
    assert sorted(path.name for path in lib.parent.iterdir()) == ["lib"]
    return caught.value


def test_a_package_becomes_a_folder_of_files_that_can_be_run(lib: Path) -> None:
    data = zipped((kind("bin/run", stat.S_IFREG | 0o644), b"#!/bin/sh\n"), ("empty/", b""), ("deep/er/x", b"\0" * 99))
    package = lib / "C.Greeter__1.0.zip"
    package.write_bytes(data)
    target = lib / "C.Greeter-1.0"
    assert unpack(package, target).enable == "bin/run enable"
    assert files(target) == {"HandlerManifest.json": MANIFEST, "bin/run": b"#!/bin/sh\n", "deep/er/x": b"\0" * 99}
    assert (target / "empty").is_dir()
    assert {path.stat().st_mode & 0o100 for path in target.rglob("*") if path.is_file()} == {0o100}
    assert target.stat().st_mode & 0o777 == 0o700
    assert sorted(lib.iterdir()) == [target, package]


def test_an_existing_folder_is_replaced_whole(lib: Path) -> None:
    target = unpacked(lib, zipped(("old", b"1"), ("both", b"1")))
    (lib / ".C.Greeter-1.0.staging").mkdir()
    (lib / ".C.Greeter-1.0.staging" / "left by a crash").write_bytes(b"")
    assert unpacked(lib, zipped(("both", b"2"))) == target
    assert files(target) == {"HandlerManifest.json": MANIFEST, "both": b"2"}


def test_a_package_cannot_say_that_it_is_installed(lib: Path) -> None:
    entries = [("config/HandlerState", b"Enabled"), ("config\\HandlerStatus", b"{}"), ("config/other", b"x")]
    entries.append(("package_validated", b""))
    assert sorted(files(unpacked(lib, zipped(*entries)))) == ["HandlerManifest.json", "config/other"]
    assert installed_handlers(lib) == {}


def test_a_zip_of_windows_making_has_folders_too(lib: Path) -> None:
    target = unpacked(lib, zipped(("bin\\", b""), ("bin\\run", b"x")))
    assert files(target) == {"HandlerManifest.json": MANIFEST, "bin/run": b"x"}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "//x",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "\\x",
        "..\\x",
        "a\\..\\..\\x",
        "C:\\x",
        "c:x",
        "../C.Greeter-1.0.evil/x",
    ],
)
def test_a_path_that_leads_out_is_named(lib: Path, name: str) -> None:
    assert "a path that leads out of it" in str(refused(lib, zipped(("fine", b""), (name, b"x"))))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "a name no file can have"),
        (".", "a name no file can have"),
        ("a\nb", "a name no file can have"),
        ("a\x7fb", "a name no file can have"),
        ("x" * 256, "a name no file can have"),
        ("é" * 128, "a name no file can have"),
        ("/".join(["d" * 200] * 6), "a path too long"),
    ],
)
def test_a_name_no_file_can_have_is_refused(lib: Path, name: str, complaint: str) -> None:
    error = refused(lib, zipped((name, b"x")))
    assert complaint in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(lib: Path, mode: int) -> None:
    error = refused(lib, zipped((kind("bin/run", mode | 0o777), b"/etc/passwd")))
    assert "'bin/run', which is a link or a device" in str(error)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("a/b", "a//b"), ("a", "./a"), ("a/b", "a\\b"), ("HandlerManifest.json", "HandlerManifest.json")],
)
def test_a_name_twice_is_refused(lib: Path, first: str, second: str) -> None:
    assert "twice" in str(refused(lib, zipped((first, b"1"), (second, b"2"), manifest=None)))


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a/"), ("a/", "a")])
def test_a_file_that_is_also_a_folder_is_refused(lib: Path, names: Iterable[str]) -> None:
    refused(lib, zipped(*((name, b"") for name in names)))


def test_a_folder_may_be_listed_twice(lib: Path) -> None:
    assert "a/b" in files(unpacked(lib, zipped(("a/", b""), ("a/", b""), ("a/b", b""))))


def test_encrypted_entries_are_refused(lib: Path) -> None:
    data = zipped(("secret", b"x"))
    assert "'secret' encrypted" in str(refused(lib, patched(data, "secret", 8, 6, b"\x01\x00")))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_what_is_unpacked_in_bounded_memory_is_unpacked(lib: Path, method: int) -> None:
    error = refused(lib, zipped(("big", b"x" * 9999), method=method))
    assert f"'big', compressed by method {method}" in str(error)


@pytest.mark.parametrize("method", [1, 9, 93, 99, 65535])
def test_unknown_compression_is_refused(lib: Path, method: int) -> None:
    data = patched(zipped(("big", b"x" * 999)), "big", 10, 8, struct.pack("<H", method))
    assert f"'big', compressed by method {method}" in str(refused(lib, data))


def test_a_directory_is_not_read_whatever_its_size(lib: Path) -> None:
    limit = 8 * 1024 * 1024
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0x21, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    directory = entry * (limit // len(entry) + 1)
    data = directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, len(directory), 0, 0)
    assert f"a directory of more than {limit} bytes" in str(refused(lib, data))


def test_limits_hold_for_entries_bytes_and_ratio(lib: Path) -> None:
    many = zipped(*((f"f{number}", b"") for number in range(30)))
    assert "31 entries, limit 30" in str(refused(lib, many, Limits(entries=30)))
    big = zipped(("zeros", bytes(1 << 20)))
    assert "limit 1000000" in str(refused(lib, big, Limits(unpacked=1_000_000)))
    assert "a bomb" in str(refused(lib, big, Limits(ratio=200, ratio_matters_from=1 << 16)))
    assert (unpacked(lib, big, Limits(ratio=200)) / "zeros").stat().st_size == 1 << 20


def test_a_bomb_cannot_hide_behind_a_large_size_it_does_not_have(lib: Path) -> None:
    data = zipped(("zeros", bytes(1 << 20)), ("pretext", b""))
    data = patched(data, "pretext", 20, 18, struct.pack("<I", 1 << 30))
    assert "a bomb" in str(refused(lib, data, Limits(ratio_matters_from=1 << 16)))


@pytest.mark.parametrize("size", [0, 10, 99_999, 100_001, 1 << 31])
def test_an_entry_of_another_size_than_it_says_is_refused_or_harmless(lib: Path, size: int) -> None:
    data = patched(zipped(("lies", b"x" * 100_000)), "lies", 24, 22, struct.pack("<I", size))
    if size < 100_000:
        assert "C.Greeter__1.0.zip is no usable zip" in str(refused(lib, data))
    else:
        assert files(unpacked(lib, data, Limits(ratio_matters_from=1 << 40)))["lies"] == b"x" * 100_000


def test_a_wrong_checksum_is_refused(lib: Path) -> None:
    data = patched(zipped(("file", b"content")), "file", 16, 14, struct.pack("<I", zlib.crc32(b"other")))
    assert "Bad CRC-32" in str(refused(lib, data))


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"no zip at all" * 100, zipped(("x", b""))[:-22] + b"PK\x05\x06" + bytes(18)]
)
def test_what_is_no_zip_is_refused(lib: Path, data: bytes) -> None:
    refused(lib, data)


def test_a_zip_that_lost_its_beginning_is_refused(lib: Path) -> None:
    data = zipped(("bin/run", b"#!/bin/sh\n" * 9))
    for start in range(1, len(data)):
        with pytest.raises(PackageError):
            unpacked(lib, data[start:])


@pytest.mark.parametrize("offset", [1 << 31, (1 << 32) - 2, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("field", [40, 48])
def test_a_directory_where_no_file_can_have_one_is_refused(lib: Path, field: int, offset: int) -> None:
    """The zip64 end of the directory (APPNOTE 4.3.14): its size, its offset."""
    data = zipped(("x", b"y"))
    end = bytearray(struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 2, 2, 99, 0))
    struct.pack_into("<Q", end, field, offset)
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(data) - 22, 1)
    refused(lib, data[:-22] + end + locator + data[-22:])


def test_a_huge_manifest_is_not_read_into_memory(lib: Path) -> None:
    data = zipped(("HandlerManifest.json", bytes(40 << 20)), manifest=None)
    tracemalloc.start()
    try:
        assert refused(lib, data).code == 1003
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_disk_is_not_the_package_s_fault(lib: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unpack(lib / "absent.zip", lib / "C.Greeter-1.0")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_cut_anywhere_is_refused(lib: Path, method: int) -> None:
    data = zipped(("bin/run", b"#!/bin/sh\nexit 0\n" * 4), ("empty/", b""), ("x", b"y"), method=method)
    assert len(files(unpacked(lib, data))) == 3
    for length in range(len(data)):
        with pytest.raises(PackageError):
            unpacked(lib, data[:length])


def test_the_manifest_is_found_deeper_and_its_mark_removed(lib: Path) -> None:
    mark = b"\xef\xbb\xbf"
    other = MANIFEST.replace(b"bin/run enable", b"other")
    data = zipped(("b/a/HandlerManifest.json", other), ("z/HandlerManifest.json", mark + MANIFEST), manifest=None)
    target = unpacked(lib, data)
    assert (target / "HandlerManifest.json").read_bytes() == MANIFEST


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("x", b"")], 1002),
        ([("HandlerManifest.json/", b"")], 1002),
        ([("HandlerManifest.json/x", b"")], 1002),
        ([("HandlerManifest.json/", b""), ("a/HandlerManifest.json", MANIFEST)], 1002),
        ([("handlermanifest.json", MANIFEST)], 1002),
        ([("HandlerManifest.json", b"")], 1003),
        ([("HandlerManifest.json", b"{half")], 1003),
        ([("HandlerManifest.json", b" " * 3_000_000)], 1003),
    ],
)
def test_a_missing_or_bad_manifest_has_its_code(lib: Path, entries: list[Entry], code: int) -> None:
    error = refused(lib, zipped(*entries, manifest=None))
    assert error.code == code
    assert "HandlerManifest.json" in str(error)


NAMES = st.lists(
    st.text(st.sampled_from("ab./\\:é\x00\n") | st.characters(codec="utf-8"), max_size=6)
    | st.sampled_from(["..", "."]),
    max_size=5,
).map("/".join)


@given(st.lists(st.tuples(NAMES, st.sampled_from([0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK])), max_size=5))
def test_whatever_the_names_files_stay_inside_or_the_package_is_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, int]]
) -> None:
    lib = tmp_path_factory.mktemp("names") / "lib"
    lib.mkdir()
    content = {f"content {number}".encode() for number in range(len(names))}
    data = zipped(
        *((kind(name, mode | 0o600), f"content {number}".encode()) for number, (name, mode) in enumerate(names))
    )
    try:
        found = files(unpacked(lib, data))
    except PackageError:
        found = {}
    assert set(found.values()) <= {*content, MANIFEST}
    assert [path for path in lib.rglob("*") if path.is_symlink()] == []
    assert {path.name for path in lib.iterdir()} <= {"C.Greeter-1.0", "C.Greeter__1.0.zip"}
    assert [path.name for path in lib.parent.iterdir()] == ["lib"]


def test_mutated_zips_are_unpacked_inside_or_refused(lib: Path) -> None:
    dice = random.Random(11)
    seeds = [
        zipped(("bin/run", b"#!/bin/sh\n" * 9), ("d/", b""), ("d/x", bytes(300))),
        zipped(("bin/run", b"#!/bin/sh\n" * 9), method=zipfile.ZIP_STORED),
        _with_zip64(),
    ]
    unpacked_whole = 0
    for round_ in range(1500):
        data = bytearray(seeds[round_ % len(seeds)])
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(len(data))
            match dice.randrange(5):
                case 0:
                    data[at] = dice.randrange(256)
                case 1:
                    data[at : at + 4] = struct.pack("<I", dice.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                case 2:
                    del data[at : at + dice.randrange(1, 20)]
                case 3:
                    data[at:at] = data[at : at + dice.randrange(1, 60)]
                case _:
                    # Headers are where it hurts.
                    data[min(max(data.rfind(b"PK", 0, at), 0) + dice.randrange(4, 46), len(data) - 1)] = dice.randrange(
                        256
                    )
            data = data or bytearray(b"PK")
        try:
            unpacked(lib, bytes(data), Limits(unpacked=1 << 24))
            unpacked_whole += 1
        except PackageError as error:
            assert error.code in {-1, 1002, 1003}
        assert {path.name for path in lib.iterdir()} <= {"C.Greeter-1.0", "C.Greeter__1.0.zip"}
    assert unpacked_whole > 30
    assert [path.name for path in lib.parent.iterdir()] == ["lib"]


def _with_zip64() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", MANIFEST)
        with archive.open("large", "w", force_zip64=True) as file:
            file.write(b"x" * 200)
    return buffer.getvalue()
