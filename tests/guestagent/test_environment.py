"""What a command finds in its environment."""

import json
from pathlib import Path
from typing import Any

import pytest

from guestagent.environment import Codes, command_environment
from guestagent.layout import HandlerFolder
from guestagent.operation import Kind
from wire.extensions import Settings

KINDS: list[Kind] = ["install", "enable", "disable", "update", "uninstall"]


def environment(kind: Kind, settings: Settings | None = None, **changed: Any) -> dict[str, str]:
    folder = HandlerFolder(Path("/lib"), Path("/log"), "A.B", "2.0")
    codes = Codes(updating_from="1.0", disable="3")
    told = {"codes": codes, "version": "2.0", "inherited": {}, **changed}
    return command_environment(kind, folder, settings, wireserver="168.63.129.16", **told)


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_knows_where_it_is_and_what_can_be_used(kind: Kind) -> None:
    found = environment(kind, Settings(sequence_number=7))
    assert found["AZURE_GUEST_AGENT_EXTENSION_PATH"] == "/lib/A.B-2.0"
    assert found["AZURE_GUEST_AGENT_EXTENSION_VERSION"] == "2.0"
    assert found["AZURE_GUEST_AGENT_WIRE_PROTOCOL_ADDRESS"] == "168.63.129.16"
    features = json.loads(found["AZURE_GUEST_AGENT_EXTENSION_SUPPORTED_FEATURES"])
    assert features == [{"Key": "ExtensionTelemetryPipeline", "Value": "1.0"}]
    assert found["ConfigSequenceNumber"] == "7"
    assert "/usr/bin" in found["PATH"].split(":")
    assert Path(found["HOME"]).is_dir()
    assert "ConfigExtensionName" not in found


def test_without_settings_the_sequence_number_is_0() -> None:
    assert environment("enable")["ConfigSequenceNumber"] == "0"


def test_one_of_several_is_told_its_name() -> None:
    assert environment("enable", Settings(sequence_number=1, name="first"))["ConfigExtensionName"] == "first"


@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_the_old_version_are_told_to_whom_they_concern(kind: Kind) -> None:
    found = environment(kind, codes=Codes(uninstall="5", disable="3", updating_from="1.0"))
    assert found.get("AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE") == ("5" if kind in {"install", "enable"} else None)
    update = {
        "VERSION": "2.0",
        "AZURE_GUEST_AGENT_UPDATING_FROM_VERSION": "1.0",
        "AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE": "3",
    }
    for name, value in update.items():
        assert found.get(name) == (value if kind == "update" else None)


def test_what_the_machine_s_owner_set_wins() -> None:
    found = environment("install", inherited={"PATH": "/opt/bin", "VERSION": "theirs", "http_proxy": "http://p"})
    assert (found["PATH"], found["VERSION"], found["http_proxy"]) == ("/opt/bin", "theirs", "http://p")


def test_our_own_environment_is_inherited_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET_BY_THE_OWNER", "yes")
    folder = HandlerFolder(Path("/lib"), Path("/log"), "A.B", "2.0")
    found = command_environment("enable", folder, None, wireserver="", codes=Codes(), version="2.0")
    assert found["SET_BY_THE_OWNER"] == "yes"


def test_codes_of_several_extensions_are_a_list() -> None:
    found = environment("update", codes=Codes(updating_from="1.0", disables={"first": "0", "second": "7"}))
    told = json.loads(found["AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODES_MULTIPLE_EXTENSIONS"])
    assert told == [{"extensionName": "first", "exitCode": "0"}, {"extensionName": "second", "exitCode": "7"}]
    assert "AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE" not in found


def test_what_was_not_run_is_told_as_the_reference_agent_tells_it() -> None:
    assert environment("update", codes=Codes())["AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE"] == "None"
    assert environment("install", codes=Codes())["AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE"] == "NOT_RUN"
