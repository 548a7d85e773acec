"""What real extensions do and an agent must survive: one stand-in each, in the order of the list they come from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestagent.layout import HandlerFolder
from telemetry.extensionevents import Collected, bound_agent_events, collect, remove
from wire.extensions import Settings

StandIn = Callable[..., bytes]


def one(life: Any, zipped: bytes, **settings: Any) -> None:
    life.want(zipped, settings=settings)


def test_01_a_detached_child_keeps_the_output_open(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(1))
    life.ready()
    assert life.calls("end enable")
    life.go.touch()


def test_02_work_left_in_the_commands_group_goes_on_also_through_a_restart(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(2))
    life.says("transitioning", "begun")
    life.kill_agent()
    life.start_agent()
    life.go.touch()
    life.says("success", "finished long after enable")


def test_03_an_uninstall_that_goes_on_afterwards(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(3))
    life.ready()
    life.remove()
    life.gone()


def test_04_nobody_of_ours_is_killed_by_the_extensions_name(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(4))
    life.ready()
    killed = life.root / f"{life.name}.killed"
    assert not killed.exists(), killed.read_text()


def test_05_slow_ones_are_told_while_they_run(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(5))
    life.says("transitioning", "slow")
    life.go.touch()
    life.says("success", "slow and steady")


def test_06_meddling_with_the_agents_folders(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(6))
    life.ready()
    one(life, make_stand_in(6))
    life.ready(sequence=1)
    assert {"custom-script", "Not-A-Handler"} <= {path.name for path in life.lib.iterdir()}


@pytest.mark.parametrize("number", [7, 8])
def test_07_08_settings_are_whole_before_every_enable(life: Any, make_stand_in: StandIn, number: int) -> None:
    life.want(make_stand_in(number), settings={"who": "whole"}, protected={"secret": "s"})
    life.failed()
    life.go.touch()
    # Asked for the same again: the file the extension scrubbed is written anew.
    assert life.agentctl("ext", "retry", life.name).returncode == 0
    life.ready()


def test_09_the_same_number_is_not_run_again(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(9))
    life.says("success", "sequence number 0")
    life.kill_agent()
    life.start_agent()
    life.want(make_stand_in(9), name=life.other)
    life.ready(name=life.other)
    assert len(life.calls("begin enable")) == 1


def test_10_numbers_may_go_down(life: Any, make_stand_in: StandIn) -> None:
    life.publish(make_stand_in(10))
    life.goal({"sequence_number": 7, "settings": {}})
    life.says("success", "took 7")
    life.goal({"sequence_number": 5, "settings": {}})
    life.says("success", "took 5")
    assert life.handler()["runtimeSettingsStatus"]["sequenceNumber"] == 5


def test_11_what_it_remembers_is_its_own_and_goes_along_in_an_update(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(11))
    life.says("transitioning", "in the middle")
    life.kill_agent()
    life.start_agent()
    life.go.touch()
    life.says("success", "done once")
    life.publish(make_stand_in(11), "1.1.0")
    life.goal({"version": "1.1.0", "settings": {}})
    life.says("success", "seen before")


def test_12_how_it_ends_and_what_it_says_are_two_things(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(12), case="silent")
    life.says("transitioning", "has not written a status")
    one(life, make_stand_in(12), case="dies")
    assert "no status from me" in life.says("error", "ended with 3")["formattedMessage"]["message"]
    one(life, make_stand_in(12), case="wrong")
    life.says("error", "ends well, says it failed")
    assert life.handler()["status"] == "Ready"
    one(life, make_stand_in(12), case="both")
    life.says("error", "fails and says so")
    assert (life.handler()["status"], life.handler()["code"]) == ("NotReady", 1009)


def test_13_words_outside_the_contract(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(13), case="top")
    life.says("error", "went wrong")
    one(life, make_stand_in(13), case="sub")
    assert life.says("success", "fine")["substatus"][0]["status"] == "error"


def test_14_odd_fields(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(14))
    told = life.says("success", "odd")
    assert (told["code"], told["substatus"][0]["code"], told["name"]) == ("7", -21, life.name)


def test_15_the_object_alone_and_nulls(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(15))
    life.says("success", '{"inner": "json"}')


def test_16_only_the_exact_name_counts(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(16))
    life.says("success", "this one")


def test_17_control_characters_come_through_and_secrets_do_not(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(17))
    message = life.says("success", "文字")["formattedMessage"]["message"]
    assert "\0" not in message
    assert "CANARYSECRET" not in json.dumps(life.told())
    assert "CANARYSECRET" not in life.machine.log()
    log = life.root / "log" / "azure" / life.name / "CommandExecution.log"
    assert "CANARYSECRET" not in log.read_text(errors="replace")


def test_18_disable_overwrites_the_status_of_enable(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(18))
    life.says("error", "enable failed")
    life.goal({"state": "disabled", "settings": {}})
    life.until(lambda: life.handler().get("formattedMessage", {}).get("message") == "Plugin disabled", "disabled")
    assert life.handler()["status"] == "NotReady"
    assert life.calls("begin disable")
    life.goal({"settings": {}})
    life.says("error", "enable failed")
    assert [line.split()[1] for line in life.calls("begin")] == ["install", "enable", "disable", "enable"]


def test_19_half_written_then_large(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(19))
    # Its command goes on: what it has not written to the end is no word of it yet.
    life.says("transitioning")
    life.go.touch()
    told = life.says("success", "[TRUNCATED]")
    assert len(told["formattedMessage"]["message"]) == 1024
    assert 10 < len(told["substatus"]) < 100


@pytest.mark.parametrize("code", [51, 52, 53, 88, 100, 123, 126, 127])
def test_20_known_exits_are_told(life: Any, make_stand_in: StandIn, code: int) -> None:
    one(life, make_stand_in(20), exit=code)
    told = life.failed()
    assert (told["status"], told["code"]) == ("NotReady", 1009)
    assert f"ended with {code}" in told["formattedMessage"]["message"]


def test_21_a_handler_that_cannot_even_leave_is_removed(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(21))
    life.ready()
    life.remove()
    life.gone()
    assert list(life.lib.glob(f"{life.name}-*")) == []


def test_22_a_disable_that_fails_stops_the_update_and_the_old_version_goes_on(
    life: Any, make_stand_in: StandIn
) -> None:
    one(life, make_stand_in(22))
    life.ready()
    life.want(make_stand_in(22), "1.1.0")
    told = life.failed()
    assert (told["handlerVersion"], told["status"], told["code"]) == ("1.0.0", "Ready", 1008)
    life.want(make_stand_in(22, continueOnUpdateFailure=True), "1.2.0")
    life.ready("1.2.0")


def test_23_noise_is_no_failure_and_an_edited_manifest_is_put_back(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(23))
    life.ready()
    assert (life.lib / f"{life.name}-1.0.0" / "HandlerManifest.json").read_bytes() == b""
    one(life, make_stand_in(23))
    life.ready(sequence=1)
    life.remove()
    life.gone()
    assert life.calls("end uninstall")


def events(life: Any) -> Collected:
    (found,) = (one for one in collect(life.root / "log" / "azure") if one.handler == life.name)
    return found


def test_24_events_of_many_shapes(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(24))
    life.ready()
    found = events(life)
    told = {(entry.message, entry.ok, entry.pid, entry.thread) for entry in found.entries}
    assert told == {("one object", True, 12, "1"), ("in a list", True, 0, "1"), ("any case", False, 1, "1")}
    assert found.dropped == {"empty message": 1, "message is missing": 1}
    # What is no JSON may still be written to; the next pass takes it.
    assert {path.name for path in found.files} == {"1001.json", "1002.json", "1003.json", "1004.json"}
    remove(found)
    folder = life.root / "log" / "azure" / life.name / "events"
    assert {path.name for path in folder.iterdir()} == {"Temp", "1005.json"}


def test_25_a_flood_of_events_is_bounded(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(25))
    life.ready()
    found = events(life)
    assert len(found.entries) == 360
    assert found.entries[0].message.startswith("long xxx")
    assert len(found.entries[0].message) == 3072
    assert found.dropped == {"file name": 1, "file too large": 1, "too many events": 641}
    remove(found)
    assert not list((life.root / "log" / "azure" / life.name / "events").iterdir())


def test_26_events_in_the_agents_own_folder_are_bounded(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(26))
    life.ready()
    folder = life.lib / "events"
    assert bound_agent_events(folder) == 0
    for number in range(1010):
        (folder / f"{number:06}.tld").touch()
    bound_agent_events(folder)
    assert len(list(folder.iterdir())) == 1000
    assert (folder / "001009.tld").exists()


def test_27_the_execute_bit_is_the_agents_to_give(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(27))
    life.says("success", "helped")


def test_28_an_untidy_package(life: Any, make_stand_in: StandIn) -> None:
    one(life, make_stand_in(28))
    life.says("success", "tidy enough")
    life.remove()
    life.gone()


def test_29_each_form_of_heartbeat(life: Any, make_stand_in: StandIn) -> None:
    beating = make_stand_in(29, reportHeartbeat=True)

    def told(case: str, status: str, text: str) -> None:
        one(life, beating, case=case)
        life.until(
            lambda: life.handler().get("status") == status and text in life.handler()["formattedMessage"]["message"],
            f"{status} {text}",
        )

    told("ready", "Ready", "alive")
    told("notready", "NotReady", "ill")
    told("broken", "NotReady", "heartbeat.log is not what it should be")
    told("old", "Ready", "Plugin enabled")


def test_30_one_handler_with_several_extensions(life: Any, make_stand_in: StandIn) -> None:
    life.publish(make_stand_in(30, supportsMultipleExtensions="true"))
    life.goal({"instances": [{"name": name, "settings": {}} for name in ("a", "bad", "b")]})
    life.says("success", "I am a", extension="a")
    life.says("success", "I am b", extension="b")
    assert "ended with 4" in life.says("error", extension="bad")["formattedMessage"]["message"]
    assert len(life.calls("begin install")) == 1
    folder = life.lib / f"{life.name}-1.0.0"
    assert (folder / "config" / "a.HandlerState").read_text() == "enabled"
    # One is disabled: only its own files and its own report go.
    life.goal({"instances": [{"name": "a", "state": "disabled", "settings": {}}, {"name": "b", "settings": {}}]})
    life.until(lambda: not life.status(extension="a"), "a to be gone")
    life.until(lambda: not list((folder / "config").glob("a.*")), "its files to go")
    life.says("success", "I am b", extension="b")
    assert len(life.calls("begin enable")) == 3
    life.remove()
    life.gone()
    assert [line.split()[1] for line in life.calls("begin")][-3:] == ["disable", "disable", "uninstall"]


def test_30_a_handler_whose_extensions_are_all_disabled_is_uninstalled_by_its_command(
    life: Any, make_stand_in: StandIn
) -> None:
    life.publish(make_stand_in(30, supportsMultipleExtensions="true"))
    life.goal({"instances": [{"name": "a", "settings": {}}]})
    life.says("success", "I am a", extension="a")
    life.goal({"instances": [{"name": "a", "state": "disabled", "settings": {}}]})
    life.until(lambda: not life.status(extension="a"), "a to be gone")
    life.until(lambda: len(life.calls("end disable")) == 1, "a to be disabled")
    # No more is known of it than what lies on the disk; the host must not take it for uninstalled.
    life.remove()
    life.until(lambda: life.calls("begin uninstall"), "its uninstall")
    life.gone()


def test_30_several_extensions_of_a_handler_that_knows_only_one(life: Any, make_stand_in: StandIn) -> None:
    life.publish(make_stand_in(30))
    life.goal({"instances": [{"name": "a", "settings": {}}, {"name": "b", "settings": {}}]})
    assert "supportsMultipleExtensions" in life.says("error", extension="a")["formattedMessage"]["message"]
    assert life.says("error", extension="b")
    assert not life.calls()


def test_30_an_extension_waits_for_the_one_it_names(life: Any, make_stand_in: StandIn, make_package: StandIn) -> None:
    life.publish(make_stand_in(5))
    life.publish(make_package(), name=life.other)
    life.goal(
        {"settings": {}},
        {"name": life.other, "settings": {}, "dependency_level": 1, "depends_on": [life.name]},
    )
    life.says("transitioning", "slow")
    life.until(lambda: life.handler(life.other).get("status") == "Installing", "the other one to wait")
    assert not life.calls(name=life.other)
    life.go.touch()
    life.ready(name=life.other)


def test_31_special_characters_come_through_to_the_letter(life: Any, make_stand_in: StandIn) -> None:
    text = "äöü ß 文字 \u2028 \"quoted\" <tag> & ]]> 'single' $HOME `id` %s \\ \t"
    special = {"text": text, "deep": [None, 1.5, {"": True}]}
    copy = life.root / f"{life.name}.settings"
    for fast_track in (False, True):
        life.want(make_stand_in(31), settings=special, fast_track=fast_track)
        life.until(copy.exists, "the settings")
        copied = json.loads(copy.read_text())
        assert copied["runtimeSettings"][0]["handlerSettings"]["publicSettings"] == special
        life.ready()


def test_a_higher_numbered_settings_file_goes_when_the_number_goes_down(tmp_path: Path) -> None:
    folder = HandlerFolder(tmp_path, tmp_path, "Test.One", "1.0.0")
    folder.prepare()
    for settings in (
        Settings(sequence_number=7),
        Settings(name="a", sequence_number=9),
        Settings(sequence_number=5),
        Settings(name="a", sequence_number=10),
    ):
        folder.write_settings(settings)
    left = sorted(path.name for path in folder.config.glob("*.settings"))
    assert left == ["5.settings", "a.10.settings", "a.9.settings"]


@pytest.mark.parametrize(("make", "told"), [("mkfifo", "not a regular file"), ("ln -s /etc/hostname", "is a link")])
def test_a_pipe_or_a_link_for_a_status_holds_up_no_report(
    life: Any, make_package: StandIn, make: str, told: str
) -> None:
    life.want(make_package({"enable": f'{make} "$here/status/$ConfigSequenceNumber.status"'}))
    life.says("error", told)
    life.want(make_package(), name=life.other)
    life.ready(name=life.other)


def test_32_nothing_final_is_told_before_enable_has_ended(life: Any, make_stand_in: StandIn) -> None:
    def go(sequence: int) -> None:
        life.go.with_name(f"{life.go.name}{sequence}").touch()

    one(life, make_stand_in(32))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    life.says("transitioning", "has not written a status")
    go(0)
    life.says("error", "the first fails")
    # The failure is of the settings before, not of these.
    one(life, make_stand_in(32))
    life.until(lambda: life.handler().get("runtimeSettingsStatus", {}).get("sequenceNumber") == 1, "the second")
    life.says("transitioning", "has not written a status")
    go(1)
    life.ready(sequence=1)
