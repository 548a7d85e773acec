"""Install, update, downgrade and the way back, told by the commands that ran and by what the host heard."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

Make = Callable[..., bytes]


def test_a_fresh_install_and_new_settings(life: Any, make_package: Make) -> None:
    life.want(make_package())
    told = life.ready()
    assert told["formattedMessage"]["message"] == "Plugin enabled"
    life.want(None, settings={"changed": True})
    life.ready(sequence=1)
    assert life.calls("begin") == ["begin install 1.0.0 seq=0", "begin enable 1.0.0 seq=0", "begin enable 1.0.0 seq=1"]


def test_an_update_runs_its_commands_in_order_and_passes_the_codes_on(life: Any, make_package: Make) -> None:
    life.want(make_package({"disable": "exit 0"}))
    life.ready()
    report = (
        'echo "from=$AZURE_GUEST_AGENT_UPDATING_FROM_VERSION to=$VERSION'
        ' disable=$AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE" >> "$calls"'
    )
    install = 'echo "uninstall=$AZURE_GUEST_AGENT_UNINSTALL_CMD_EXIT_CODE" >> "$calls"'
    life.want(make_package({"update": report, "install": install}), "1.1.0")
    life.ready("1.1.0")
    assert [line for line in life.calls() if not line.startswith("end")][2:] == [
        "begin disable 1.0.0 seq=1",
        "begin update 1.1.0 seq=1",
        "from=1.0.0 to=1.1.0 disable=0",
        "begin uninstall 1.0.0 seq=1",
        "begin install 1.1.0 seq=1",
        "uninstall=0",
        "begin enable 1.1.0 seq=1",
    ]
    assert [path.name for path in life.lib.glob(f"{life.name}-*")] == [f"{life.name}-1.1.0"]


def test_update_without_install_and_a_disable_that_may_fail(life: Any, make_package: Make) -> None:
    life.want(make_package({"disable": "exit 7"}))
    life.ready()
    report = 'echo "disable=$AZURE_GUEST_AGENT_DISABLE_CMD_EXIT_CODE" >> "$calls"'
    manifest = {"updateMode": "UpdateWithoutInstall", "continueOnUpdateFailure": "true"}
    life.want(make_package({"update": report}, **manifest), "1.1.0")
    life.ready("1.1.0")
    assert "disable=7" in life.calls()
    assert not life.calls("install 1.1.0")


def test_a_downgrade_runs_the_leaving_versions_update(life: Any, make_package: Make) -> None:
    report = 'echo "from=$AZURE_GUEST_AGENT_UPDATING_FROM_VERSION to=$VERSION" >> "$calls"'
    life.want(make_package({"update": report}), "2.0.0")
    life.ready("2.0.0")
    life.want(make_package(), "1.0.0")
    life.ready("1.0.0")
    assert "begin update 2.0.0 seq=1" in life.calls()
    assert "from=1.0.0 to=1.0.0" in life.calls()


def test_an_update_whose_update_fails_ends_with_the_old_version_enabled(life: Any, make_package: Make) -> None:
    life.want(make_package(), settings={"who": "old"})
    life.ready()
    life.want(make_package({"update": "echo no luck >&2; exit 3"}), "1.0.1", settings={"who": "new"})
    told = life.failed()
    assert (told["handlerVersion"], told["status"], told["code"]) == ("1.0.0", "Ready", 1008)
    assert "update to 1.0.1 failed, 1.0.0 is enabled again" in told["formattedMessage"]["message"]
    assert "no luck" in told["formattedMessage"]["message"]
    assert told["runtimeSettingsStatus"]["sequenceNumber"] == 0
    assert life.calls("begin")[-1] == "begin enable 1.0.0 seq=0"
    settings = (life.lib / f"{life.name}-1.0.0/config/0.settings").read_text()
    assert '"who": "old"' in settings


def test_an_update_whose_enable_fails_installs_and_enables_the_old_version(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.want(make_package({"enable": "exit 4"}), "1.0.1")
    told = life.failed()
    assert (told["handlerVersion"], told["status"], told["code"]) == ("1.0.0", "Ready", 1009)
    assert [line.removeprefix("begin ") for line in life.calls("begin")][-4:] == [
        "enable 1.0.1 seq=1",
        "uninstall 1.0.1 seq=1",
        "install 1.0.0 seq=0",
        "enable 1.0.0 seq=0",
    ]
    # The host asks for another new version: that one gets its chance.
    life.want(make_package(), "1.0.2")
    life.ready("1.0.2")


def test_the_manifest_or_the_configuration_may_forbid_the_way_back(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.want(make_package({"update": "exit 3"}, rollbackOnUpdateFailure=False), "1.0.1")
    told = life.failed()
    assert (told["handlerVersion"], told["status"], told["code"]) == ("1.0.1", "NotReady", 1008)
    assert life.calls("begin")[-1] == "begin update 1.0.1 seq=1"


def test_uninstall_goes_on_whatever_fails_and_a_vanished_handler_goes_without_a_command(
    life: Any, make_package: Make
) -> None:
    life.want(make_package({"disable": "exit 51", "uninstall": "exit 52"}))
    life.want(make_package(), name=life.other)
    life.ready()
    life.ready(name=life.other)
    life.remove()
    life.gone()
    assert life.calls("begin uninstall 1.0.0")
    life.remove(life.other, now="true")
    life.gone(life.other)
    assert list(life.lib.glob(f"{life.name}*-*")) == []
    assert not life.calls("uninstall", life.other)


def test_the_same_extension_after_an_uninstall_is_installed_anew(life: Any, make_package: Make) -> None:
    for _ in range(2):
        life.want(make_package())
        life.ready()
        life.remove()
        life.gone()
    assert len(life.calls("begin install")) == 2
    assert len(life.calls("begin enable")) == 2


def test_a_second_extension_runs_nothing_of_the_first(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    before = life.calls()
    life.want(make_package(), name=life.other)
    life.ready(name=life.other)
    assert life.calls() == before
    assert len(life.calls("begin", life.other)) == 2


def test_a_failed_update_is_not_run_again_for_another_extensions_sake(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.want(make_package({"update": "exit 7"}), "1.0.1")
    life.until(lambda: life.handler().get("code") == 1008, "the failed update to be told")
    calls = life.calls()
    for number in range(2):
        life.want(make_package(), name=life.other, settings={"number": number})
        life.ready(name=life.other, sequence=number)
    assert life.calls() == calls
    assert life.handler()["code"] == 1008


def test_a_failed_extension_is_tried_again_when_it_is_asked_for_anew(life: Any, make_package: Make) -> None:
    flag = life.root / "flag"
    life.want(make_package({"enable": f'test -f {flag} || exit 9; status success "at last"'}))
    told = life.failed()
    assert (told["status"], told["code"]) == ("NotReady", 1009)
    flag.touch()
    life.want(make_package(), name=life.other)
    life.ready(name=life.other)
    assert life.handler()["code"] == 1009
    life.want(None, settings={"again": True})
    life.ready(sequence=1)


def test_whoever_waits_at_the_host_hears_of_a_failed_update_at_once(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    zipped = life.root / f"{life.name}-1.0.1.zip"
    zipped.write_bytes(make_package({"update": "exit 3"}))
    command = [sys.executable, "-m", "fabric", "ext", "add", zipped, "--wait", "60", "--root", life.root]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 1
    assert "error: update to 1.0.1 failed, 1.0.0 is enabled again" in done.stdout
    manifest = [*(life.lib / "history").glob(f"*/{life.name}.manifest.xml")]
    assert manifest
