"""Configuration, places and state files: bad ones are told apart, named, and never half written."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.netagent import WireServerState
from ipc.errors import StateError, UnsafeDirectory
from ipc.hostaddress import find_host, wireserver_state
from ipc.places import Places
from ipc.settings import HostSettings, SettingsError, load_settings
from ipc.statefile import read_state, write_atomically, write_state


class Sample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    period_seconds: int = 6
    upload: bool = True


def configure(places: Places, text: str, drop_in: str = "") -> None:
    places.config.write_text(text)
    if drop_in:
        folder = places.config.with_name(places.config.name + ".d")
        folder.mkdir()
        (folder / "50-more.toml").write_text(drop_in)


def test_without_a_file_the_defaults_hold(places: Places) -> None:
    assert load_settings(places, "telemetry", Sample) == Sample()


def test_a_drop_in_is_laid_over_the_file_key_by_key(places: Places) -> None:
    configure(places, "[telemetry]\nperiod_seconds = 9\nupload = false\n", "[telemetry]\nupload = true\n")
    assert load_settings(places, "telemetry", Sample) == Sample(period_seconds=9, upload=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[telemetry]\nperiod_second = 9\n",
            "unknown key in .telemetry.: 'period_second'; did you mean period_seconds?",
        ),
        ("[telemetri]\n", "unknown table: 'telemetri'; did you mean telemetry?"),
        ("telemetry = 3\n", "telemetry must be a table"),
        ("[telemetry]\nperiod_seconds = 'nine'\n", "Expected `int`, got `str`.*period_seconds"),
        ("[telemetry\n", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_file_key_and_reason(places: Places, text: str, complaint: str) -> None:
    configure(places, text)
    with pytest.raises(SettingsError, match=complaint) as caught:
        load_settings(places, "telemetry", Sample)
    assert str(places.config) in str(caught.value)


def test_what_a_newer_release_has_is_passed_over_at_a_start(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    configure(places, "later = 3\n[newer]\nx = 1\n[telemetry]\nperiod_seconds = 9\nperiod_minutes = 1\n")
    assert load_settings(places, "telemetry", Sample, strict=False) == Sample(period_seconds=9)
    for name in ("later", "newer", "period_minutes"):
        assert f"unknown {'table' if name != 'period_minutes' else 'key in [telemetry]'}: {name!r}" in caplog.text
    configure(places, "[telemetry]\nperiod_seconds = 'nine'\n")
    with pytest.raises(SettingsError, match="Expected `int`"):
        load_settings(places, "telemetry", Sample, strict=False)


@given(st.binary(max_size=100))
def test_arbitrary_configuration_bytes_are_settings_or_a_settings_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    places = Places.under(tmp_path_factory.getbasetemp())
    places.config.write_bytes(data)
    try:
        load_settings(places, "telemetry", Sample)
    except SettingsError as error:
        assert error.path == places.config


def test_state_comes_back_and_a_newer_version_s_fields_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a" / "state.json"
    assert read_state(path, Sample) is None
    write_state(path, Sample(period_seconds=7))
    assert read_state(path, Sample) == Sample(period_seconds=7)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"url": "http://h", "found_in": "lease", "detail": "", "colour": "new"}')
    assert read_state(path, WireServerState) == WireServerState(url="http://h", found_in="lease")
    path.write_text('{"url": "http://h", "found_in": "dream"}')
    assert read_state(path, WireServerState) == WireServerState(url="http://h", found_in="default")


@given(st.binary(max_size=60))
def test_arbitrary_state_bytes_are_state_or_a_state_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "arbitrary.json"
    path.write_bytes(data)
    try:
        read_state(path, WireServerState)
    except StateError as error:
        assert error.path == path


def test_a_write_that_fails_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    in_the_way = tmp_path / "folder"
    (in_the_way / "not empty").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomically(in_the_way, b"new")
    assert path.read_bytes() == b"old"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["folder", "state.json"]


def test_a_root_too_deep_for_sockets_is_refused_with_the_way_out() -> None:
    Places.under(Path("/tmp")).check_socket_lengths()
    with pytest.raises(UnsafeDirectory, match="choose a shorter --root"):
        Places.under(Path("/tmp") / ("d" * 90)).check_socket_lengths()


def test_the_host_is_where_configuration_netagent_or_the_protocol_say(places: Places) -> None:
    assert find_host(places, HostSettings()).wireserver == "http://168.63.129.16"
    write_state(wireserver_state(places), WireServerState(url="http://10.0.0.9", found_in="lease"))
    assert find_host(places, HostSettings()).hostgaplugin == "http://10.0.0.9:32526"
    configured = HostSettings(wireserver="http://127.0.0.1:8080/", hostgaplugin="http://127.0.0.1:8081")
    assert find_host(places, configured).wireserver == "http://127.0.0.1:8080"
    wireserver_state(places).write_bytes(b"{half")
    assert find_host(places, HostSettings()).wireserver == "http://168.63.129.16"
