"""Names, modes and bytes in the library directory: what extensions were seen to stumble over."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.errors import PackageError
from guestagent.layout import HandlerFolder, Installed, installed_handlers, settings_bytes, usable_extension_name
from wire.extensions import Settings

NAME, VERSION = "Contoso.Tools.Greeter", "2.0.1"


@pytest.fixture
def folder(tmp_path: Path) -> HandlerFolder:
    folder = HandlerFolder(tmp_path / "lib", tmp_path / "log", NAME, VERSION)
    folder.path.mkdir(parents=True)
    return folder


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def environment_bytes(folder: HandlerFolder) -> bytes:
    folder.prepare()
    return (folder.path / "HandlerEnvironment.json").read_bytes()


def test_the_environment_is_a_list_of_one_with_all_folders(folder: HandlerFolder) -> None:
    (one,) = json.loads(environment_bytes(folder))
    assert one == {
        "name": NAME,
        "version": 1.0,
        "handlerEnvironment": {
            "logFolder": str(folder.log),
            "configFolder": str(folder.path / "config"),
            "statusFolder": str(folder.path / "status"),
            "heartbeatFile": str(folder.path / "heartbeat.log"),
            "eventsFolder": str(folder.log / "events"),
            "eventsFolder_preview": str(folder.log / "events"),
        },
    }


def test_the_environment_can_be_cut_by_text_as_a_widespread_shim_does(folder: HandlerFolder) -> None:
    data = environment_bytes(folder)
    assert data.startswith(b'[{"name": "')
    assert b'"version": 1.0,' in data
    # What stands between exactly this and the next quote and comma is taken for the folder.
    _, _, rest = data.partition(b'"logFolder": "')
    assert rest.partition(b'",')[0] == str(folder.log).encode()
    assert data.index(b"logFolder") < data.index(b"configFolder")
    assert re.findall(rb'"\s+:|":\S', data) == []
    assert b"\n" not in data


def test_folders_and_files_have_their_modes_whatever_the_umask(folder: HandlerFolder, umask: int) -> None:
    folder.prepare()
    folder.write_settings(None)
    folder.write_state("Enabled")
    folder.write_handler_status("Ready", 0, "Plugin enabled", multi_config=False)
    assert {path.name: mode(path) for path in (folder.config, folder.status, folder.events)} == {
        "config": 0o700,
        "status": 0o700,
        "events": 0o700,
    }
    assert mode(folder.log) == 0o755
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [
        "0.settings",
        "HandlerEnvironment.json",
        "HandlerState",
        "HandlerStatus",
    ]
    assert {mode(path) for path in files} == {0o600}


def test_folders_that_came_with_the_package_get_their_modes_too(folder: HandlerFolder) -> None:
    folder.config.mkdir(mode=0o755)
    folder.status.mkdir(mode=0o777)
    (folder.config / "from the package").touch()
    folder.prepare()
    folder.prepare()
    assert (mode(folder.config), mode(folder.status)) == (0o700, 0o700)
    assert (folder.config / "from the package").exists()


def test_settings_have_all_keys_and_one_blank_after_the_colon() -> None:
    settings = Settings(sequence_number=5, public={"who": "world"}, protected="MIIB", thumbprint="AB12")
    assert settings_bytes(settings) == (
        b'{"runtimeSettings": [{"handlerSettings": {"publicSettings": {"who": "world"},'
        b' "protectedSettings": "MIIB", "protectedSettingsCertThumbprint": "AB12"}}]}'
    )


def test_absent_settings_are_an_object_and_nulls_never_empty_text() -> None:
    assert settings_bytes(Settings(sequence_number=5)) == (
        b'{"runtimeSettings": [{"handlerSettings": {"publicSettings": {},'
        b' "protectedSettings": null, "protectedSettingsCertThumbprint": null}}]}'
    )
    assert settings_bytes(None) == b""


@given(st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))
def test_any_public_settings_arrive_as_they_are(value: Any) -> None:
    data = settings_bytes(Settings(sequence_number=0, public=value))
    (one,) = json.loads(data)["runtimeSettings"]
    assert one["handlerSettings"]["publicSettings"] == ({} if value is None else value)
    assert data.isascii()


@pytest.mark.parametrize(
    ("settings", "stem"),
    [
        (None, "0"),
        (Settings(sequence_number=0), "0"),
        (Settings(sequence_number=17), "17"),
        (Settings(sequence_number=3, name="first one"), "first one.3"),
    ],
)
def test_files_are_named_by_extension_and_sequence_number(
    folder: HandlerFolder, settings: Settings | None, stem: str
) -> None:
    folder.prepare()
    folder.write_settings(settings)
    assert [path.name for path in folder.config.iterdir()] == [f"{stem}.settings"]
    assert folder.settings_file(settings).read_bytes() == settings_bytes(settings)
    assert folder.status_file(settings) == folder.path / "status" / f"{stem}.status"


def test_command_logs_are_told_apart_by_extension(folder: HandlerFolder) -> None:
    names = [
        folder.command_log(one).name
        for one in (None, Settings(sequence_number=1), Settings(sequence_number=1, name="a"))
    ]
    assert names == ["CommandExecution.log", "CommandExecution.log", "CommandExecution_a.log"]


def test_scrubbed_settings_are_written_anew_and_no_others_are_touched(folder: HandlerFolder) -> None:
    folder.prepare()
    old, current = Settings(sequence_number=4, protected="OLD"), Settings(sequence_number=5, protected="NEW")
    for one in (old, current):
        folder.write_settings(one)
        folder.settings_file(one).write_bytes(b"")  # as the extension does once it has read them
    before = folder.settings_file(old).stat()
    folder.write_settings(current)
    assert folder.settings_file(current).read_bytes() == settings_bytes(current)
    assert folder.settings_file(old).stat() == before


@pytest.mark.parametrize("state", ["Installed", "Enabled", "FailedUpgrade", "NotInstalled"])
def test_states_come_back(folder: HandlerFolder, state: Any) -> None:
    folder.prepare()
    folder.write_state(state)
    assert folder.read_state() == state
    assert (folder.config / "HandlerState").read_bytes() == state.encode()


@pytest.mark.parametrize("content", [b"", b"enabled", b"Enabled?", b"\xff", b"\0" * 100, "Enabled\u00a0".encode()])
def test_a_state_nobody_wrote_is_not_installed(folder: HandlerFolder, content: bytes) -> None:
    folder.prepare()
    assert folder.read_state() == "NotInstalled"
    (folder.config / "HandlerState").write_bytes(content)
    assert folder.read_state() == "NotInstalled"
    assert installed_handlers(folder.path.parent) == {}


def test_a_folder_where_the_state_should_be_is_not_installed(folder: HandlerFolder) -> None:
    (folder.config / "HandlerState").mkdir(parents=True)
    assert folder.read_state() == "NotInstalled"
    assert installed_handlers(folder.path.parent) == {}


def test_the_handler_status_is_what_other_tools_read(folder: HandlerFolder) -> None:
    folder.prepare()
    folder.write_handler_status("NotReady", 1009, 'said "é"', multi_config=True)
    assert json.loads((folder.config / "HandlerStatus").read_bytes()) == {
        "name": NAME,
        "version": VERSION,
        "status": "NotReady",
        "code": 1009,
        "message": 'said "é"',
        "supports_multi_config": True,
        "extension_status": None,
    }


def test_the_manifest_on_disk_may_be_gone_or_spoilt(folder: HandlerFolder) -> None:
    with pytest.raises(
        PackageError, match=r"HandlerManifest.json of Contoso.Tools.Greeter 2.0.1 cannot be read"
    ) as caught:
        folder.read_manifest()
    assert caught.value.code == 1002
    (folder.path / "HandlerManifest.json").write_bytes(b"[{")
    with pytest.raises(PackageError, match="is not JSON") as caught:
        folder.read_manifest()
    assert caught.value.code == 1003


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("", VERSION),
        ("NoDot", VERSION),
        ("..", VERSION),
        ("../A.B", VERSION),
        ("A.B/C", VERSION),
        ("A-B.C", VERSION),
        ("A.B\n", VERSION),
        ("Ä.B", VERSION),
        ("A..B", VERSION),
        (NAME, ""),
        (NAME, "v1"),
        (NAME, "1/0"),
        (NAME, "1.0/.."),
        (NAME, "1.0\n"),
        (NAME, "1.0-rc1"),
        ("A." + "B" * 200, VERSION),
        (NAME, "1" * 200),
    ],
)
def test_a_name_that_must_not_become_a_path_is_refused(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(PackageError, match="cannot be a handler's name") as caught:
        HandlerFolder(tmp_path, tmp_path, name, version)
    assert len(str(caught.value)) < 300


@given(st.text("aB_.-/1\n\0") | st.text(), st.text("012.-/rc\0") | st.text())
def test_any_name_is_refused_or_a_folder_directly_below_that_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, version: str
) -> None:
    lib = tmp_path_factory.mktemp("lib")
    try:
        folder = HandlerFolder(lib, lib / "log", name, version)
    except PackageError:
        return
    assert folder.path.parent == folder.package.parent == lib
    assert folder.log.parent == lib / "log"
    folder.path.mkdir()
    folder.prepare()
    folder.write_state("Installed")
    assert installed_handlers(lib) == {name: [Installed(version=version, state="Installed")]}


def test_only_folders_of_installed_handlers_are_found(tmp_path: Path) -> None:
    lib = tmp_path / "lib"
    for name, version, state in (
        (NAME, "1.0", "FailedUpgrade"),
        (NAME, "1.1", "Enabled"),
        ("A.B", "2", "Installed"),
        ("A.C", "2", "NotInstalled"),
    ):
        folder = HandlerFolder(lib, tmp_path, name, version)
        folder.path.mkdir(parents=True)
        folder.prepare()
        folder.write_state(state)  # type: ignore[arg-type]  # a literal each
    for other in ("custom-script", "run-command-handler", "A.B-next", "nodot-1.0", "Ä.B-1.0"):
        (lib / other / "config").mkdir(parents=True)
        (lib / other / "config" / "HandlerState").write_text("Enabled")
    (lib / "A.D-1.0").write_text("a file")
    assert installed_handlers(lib) == {
        "A.B": [Installed(version="2", state="Installed")],
        NAME: [Installed(version="1.0", state="FailedUpgrade"), Installed(version="1.1", state="Enabled")],
    }
    assert installed_handlers(tmp_path / "absent") == {}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b", "x" * 101, "é" * 101, "\U0001f600" * 60])
def test_a_name_no_file_can_have_is_no_extension_s(name: str) -> None:
    assert not usable_extension_name(name)


@given(st.text(max_size=110) | st.text(st.sampled_from("a./\0é\U0001f600"), min_size=40, max_size=110))
def test_a_usable_extension_name_has_its_files(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if not usable_extension_name(name):
        return
    lib = tmp_path_factory.getbasetemp() / "named"
    folder = HandlerFolder(lib, lib / "log", NAME, VERSION)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.prepare()
    settings = Settings(sequence_number=2**31 - 1, name=name)
    folder.write_settings(settings)
    assert folder.settings_file(settings).parent == folder.config
    folder.settings_file(settings).unlink()
    for path in (folder.status_file(settings), folder.command_log(settings)):
        path.touch()
        path.unlink()
    assert list(folder.config.iterdir()) == []
