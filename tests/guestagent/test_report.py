"""The status blob: what of an extension's file and of the goal state reaches the host, and what does not."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from guestagent.layout import HandlerFolder, HandlerState
from guestagent.report import ExtensionReport, GoalStateOutcome, Known, look, status_blob
from guestagent.statusfile import parse_status
from wire.extensions import ExtensionsGoalState, Handler, Settings
from wire.extensionsconfig import parse_extensions_config

NOW = 1_700_000_000.0
WRITTEN = "2001-02-03T04:05:06Z"


def report(word: str = "success") -> ExtensionReport:
    status = {"name": "its own", "operation": "Enable", "status": word, "code": 7}
    status["formattedMessage"] = {"lang": "de", "message": "fertig"}
    written = json.dumps([{"version": "9.9", "timestampUTC": WRITTEN, "status": status}]).encode()
    return ExtensionReport(
        handler="Test.One",
        version="1.0.0",
        handler_status="Ready",
        code=0,
        message="Plugin enabled",
        settings=Settings(sequence_number=3),
        status=parse_status(written),
        step="",
        since=0.0,
    )


def blob(one: ExtensionReport, outcome: GoalStateOutcome | None = None) -> Any:
    told = status_blob([one], outcome, version="1", fast_track=False, system={}, clock=lambda: NOW)
    return json.loads(told)["aggregateStatus"]


def test_an_extension_cannot_say_when_it_wrote_nor_who_it_is() -> None:
    (handler,) = blob(report())["handlerAggregateStatus"]
    settings = handler["runtimeSettingsStatus"]["settingsStatus"]
    assert settings["timestampUTC"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW))
    assert WRITTEN not in json.dumps(handler)
    assert settings["version"] == 1.0
    assert settings["status"]["name"] == "Test.One"
    assert settings["status"]["formattedMessage"] == {"lang": "en-US", "message": "fertig"}


@pytest.mark.parametrize("named", [(), ("a", "b")])
@pytest.mark.parametrize(("state", "word"), [("Enabled", "Ready"), ("Installed", "NotReady")])
def test_a_handler_of_several_that_is_to_go_is_reported_before_its_turn_comes(
    tmp_path: Path, named: tuple[str, ...], state: HandlerState, word: str
) -> None:
    settings = tuple(Settings(sequence_number=1, name=name, state="disabled") for name in named)
    handler = Handler(name="Test.Several", version="1.0.0", state="uninstall", settings=settings)
    known = Known(applied={}, good={}, doing={}, waiting={}, booted_at=0.0, now=NOW)
    goal_state = ExtensionsGoalState(id="2", source="Fabric", handlers=(handler,))
    assert not look(goal_state, known, tmp_path, tmp_path)
    folder = HandlerFolder(tmp_path, tmp_path, "Test.Several", "1.0.0")
    (folder.path / "config").mkdir(parents=True)
    folder.write_state(state)
    (one,) = look(goal_state, known, tmp_path, tmp_path)
    assert (one.handler, one.version, one.handler_status, one.settings) == ("Test.Several", "1.0.0", word, None)


def test_the_goal_state_is_named_by_its_incarnation_whatever_its_metadata_says() -> None:
    document = b'<Extensions><InVMGoalStateMetaData inSvdSeqNo="77" createdOnTicks="639100000000000000"/></Extensions>'
    goal_state = parse_extensions_config(document, "4")
    outcome = GoalStateOutcome(in_svd_seq_no=goal_state.in_svd_seq_no, at=NOW)
    assert blob(report(), outcome)["vmArtifactsAggregateStatus"]["goalStateAggregateStatus"]["inSvdSeqNo"] == "4"


@pytest.mark.parametrize(("unsupported", "told"), [((), ("Success", 0)), (("Teleport",), ("Failed", 2001))])
def test_a_goal_state_with_a_failed_extension_was_processed_all_the_same(
    unsupported: tuple[str, ...], told: tuple[str, int]
) -> None:
    outcome = GoalStateOutcome(in_svd_seq_no="4", at=NOW, unsupported=unsupported)
    found = blob(report("error"), outcome)
    whole = found["vmArtifactsAggregateStatus"]["goalStateAggregateStatus"]
    assert (whole["status"], whole["code"]) == told
    assert found["handlerAggregateStatus"][0]["runtimeSettingsStatus"]["settingsStatus"]["status"]["status"] == "error"
