"""The artifact repository is away, or lies, in every way of the catalogue: what is installed goes on."""

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., bytes]

LIES = [("status", 403), ("status", 404), ("status", 409), ("status", 500), ("reset", None), ("wrong-bytes", None)]


def blackout(life: Any, fault: str, value: float | None) -> None:
    for endpoint in ("manifest", "package", "artifact"):
        life.fault(endpoint, fault, value)


@pytest.mark.parametrize(("fault", "value"), LIES)
def test_what_is_installed_lives_a_whole_life_without_the_repository(
    life: Any, make_package: Make, fault: str, value: float | None
) -> None:
    life.want(make_package())
    life.ready()
    blackout(life, fault, value)
    # A new goal state for the installed version, an agent that starts anew, new settings.
    life.want(None, settings={"again": 1})
    life.ready(sequence=1)
    life.kill_agent()
    life.start_agent()
    life.want(None, settings={"again": 2})
    life.ready(sequence=2)
    # Disabled and enabled again.
    life.goal({"state": "disabled", "settings": {}, "sequence_number": 2})
    life.until(lambda: life.calls("end disable"), "disable to end")
    life.goal({"settings": {"again": 3}, "sequence_number": 3})
    life.ready(sequence=3)
    life.remove()
    life.gone()
    assert life.calls("end uninstall")
    assert not list(life.lib.glob(f"{life.name}-*"))


@pytest.mark.parametrize(("fault", "value"), LIES)
def test_an_update_that_cannot_be_had_leaves_the_old_version_running_and_comes_with_the_repository(
    life: Any, make_package: Make, fault: str, value: float | None
) -> None:
    life.want(make_package())
    life.ready()
    blackout(life, fault, value)
    life.want(make_package(), "1.1.0")
    told = life.failed()
    assert (told["handlerVersion"], told["status"]) == ("1.0.0", "Ready")
    message = told["formattedMessage"]["message"]
    assert "degraded: artifacts unreachable since" in message or "1.0.0 goes on" in message
    assert not life.calls("disable")
    life.no_faults()
    life.want(make_package(), name=life.other)
    life.ready("1.1.0")


def test_a_slow_repository_is_not_waited_for_with_what_is_here(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    blackout(life, "slow", 3600)
    life.want(None, settings={"again": 1})
    life.ready(sequence=1)
    life.remove()
    life.gone()


def test_a_version_that_was_here_once_is_installed_from_our_copy(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.remove()
    life.gone()
    blackout(life, "status", 403)
    life.want(None)
    life.ready()
    assert len(life.calls("begin install")) == 2


def test_a_damaged_folder_is_put_back_from_our_copy(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    folder = life.lib / f"{life.name}-1.0.0"
    (folder / "HandlerManifest.json").unlink()
    (folder / "enable.sh").unlink()
    blackout(life, "status", 404)
    life.want(None, settings={"again": 1})
    life.ready(sequence=1)


def test_a_failed_update_goes_back_without_the_repository(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.want(make_package({"enable": "exit 4"}), "1.1.0")
    # The way back installs the old version again, and must not need anybody for that.
    life.until(lambda: life.calls("begin"), "the update to begin")
    blackout(life, "status", 403)
    life.until(lambda: life.handler().get("code") or life.calls("begin install 1.0.0 seq=0")[1:], "it to fail")
    life.no_faults()


def test_the_same_version_published_anew_brings_the_new_bytes(life: Any, make_package: Make) -> None:
    life.want(make_package())
    life.ready()
    life.remove()
    life.gone()
    life.want(make_package({"enable": 'status success "the new bytes"'}))
    life.says("success", "the new bytes")
