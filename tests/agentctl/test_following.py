"""How far an update is, from what rdagent says."""

import msgspec

from agentctl.following import Progress, judge
from ipc.contract.rdagent import (
    BadVersion,
    PlannedUpdate,
    RepositoryView,
    TrialView,
    UpdateEvent,
    UpdatePlan,
    Updates,
    UpdateView,
)

SINCE = 1000.0
VIEW = UpdateView(component="telemetry", running="0.1.0")


def seen(
    view: UpdateView = VIEW,
    *,
    version: str = "",
    looked_at: float = SINCE,
    step: PlannedUpdate | None = None,
    events: tuple[UpdateEvent, ...] = (),
    problem: str = "",
) -> Progress:
    updates = Updates(components=[view], repository=RepositoryView(problem=problem), looked_at=looked_at)
    return judge(view, version, updates, UpdatePlan(steps=[step] if step else []), events, SINCE)


def changed(**fields: object) -> UpdateView:
    return msgspec.structs.replace(VIEW, **fields)


def event(phase: str, at: float = SINCE + 1, version: str = "0.2.0", message: str = "") -> UpdateEvent:
    return UpdateEvent(at=at, component="telemetry", phase=phase, version=version, message=message, seconds=20.2)


def test_on_the_way() -> None:
    assert seen(changed(state="refused"), looked_at=SINCE - 1).state == "looking"
    assert seen(changed(state="fetching", wanted="0.2.0")).state == "fetching"
    trial = TrialView(version="0.2.0", digest="", tries_left=2, well_seconds=12.3, needed_seconds=20)
    found = seen(changed(state="on trial", trial=trial))
    assert (found.state, found.text, found.over) == ("on trial", "0.2.0: well for 12 s of 20 s", False)
    just_begun = TrialView(version="0.2.0", digest="", tries_left=3)
    assert seen(changed(state="on trial", trial=just_begun)).text == "0.2.0: it begins"
    assert seen(changed(state="waiting", wanted="0.2.0")).text == "0.2.0 is next"
    behind = PlannedUpdate(component="telemetry", from_version="0.1.0", blocked="netagent is on trial")
    found = seen(changed(state="waiting", why="a version of netagent is on trial"), step=behind)
    assert (found.state, found.over) == ("waiting", False)
    ring = PlannedUpdate(component="telemetry", from_version="0.1.0", blocked="up to ring 0", lift="agentctl x")
    found = seen(changed(state="waiting", wanted="0.2.0", why="up to ring 0", lift="agentctl x"), step=ring)
    assert (found.state, found.over, found.lift) == ("not now", True, "agentctl x")


def test_what_failed_is_coming_back_until_it_is_back() -> None:
    """Not next, nor looked for: that was said between its trial and its end."""
    why = "0.2.0 failed: it ended; the version before is started"
    for version in ("", "0.2.0"):
        for looked_at in (SINCE - 1, SINCE + 1):
            view = changed(state="on trial", wanted="0.2.0", why=why)
            found = seen(view, version=version, looked_at=looked_at, events=(event("trial"),))
            assert (found.state, found.text, found.over) == ("coming back", why, False)
    assert seen(changed(), events=(event("trial"), event("roll back"))).state == "rolled back"


def test_ends() -> None:
    found = seen(events=(event("stage"), event("trial"), event("commit")))
    assert (found.over, found.ok, found.text) == (True, True, "0.2.0 runs and is in force, after 20 s on trial")
    found = seen(events=(event("trial"), event("roll back", message="degraded")))
    assert (found.over, found.ok, found.text) == (True, False, "0.2.0 came back: degraded")
    assert found.lift == "agentctl update unblock telemetry 0.2.0"
    found = seen(events=(event("refuse", message="not for us"),), version="0.2.0")
    assert (found.state, found.ok, found.text) == ("refused", False, "0.2.0: not for us")
    unsigned = msgspec.structs.replace(event("refuse"), lift="agentctl package trust KEY.pub")
    assert seen(events=(unsigned,), version="0.2.0").lift == "agentctl package trust KEY.pub"
    assert seen(events=(event("commit"),), version="0.2").ok  # 0.2 and 0.2.0 are one version
    assert seen().text == "nothing to do, 0.1.0 runs"
    # One that came back before, and nobody wants another.
    assert seen(changed(state="rolled back", why="0.2.0 was rolled back")).ok
    found = seen(changed(state="refused", wanted="0.2.0", why="pinned", lift="agentctl x"))
    assert (found.over, found.ok, found.lift) == (True, False, "agentctl x")


def test_who_went_back_is_told_what_keeps_him_there() -> None:
    def back(version: str = "0.1.0", pinned: str = "", from_version: str = "0.2.0", began: float = SINCE) -> Progress:
        trial = msgspec.structs.replace(event("trial", began, version), from_version=from_version)
        # By then rdagent knows what runs now.
        commit = msgspec.structs.replace(event("commit", version=version), from_version=version)
        return seen(changed(running=version, pinned=pinned), version=version, events=(trial, commit))

    runs = "0.1.0 runs and is in force, after 20 s on trial"
    assert (back().text, back().ok) == (f"{runs}, until a newer one is taken; a pin keeps it", True)
    assert back().lift == "agentctl update pin telemetry 0.1.0"
    for kept in (back(pinned="0.1.0"), back(from_version="0.0.9"), back(from_version=""), back(began=SINCE - 1)):
        assert (kept.text, kept.lift) == (runs, "")


def test_nothing_to_do_is_not_said_of_a_repository_that_could_not_be_asked() -> None:
    found = seen(problem="nobody answers")
    assert (found.state, found.over, found.ok) == ("not now", True, False)
    assert found.text == "0.1.0 runs; the repository could not be asked: nobody answers"
    # This needs no repository, and is told all the same.
    for found in (
        seen(problem="nobody answers", version="0.1.0"),
        seen(changed(wanted="0.1.0", wanted_by="host"), problem="nobody answers"),
    ):
        assert (found.ok, found.text) == (True, "0.1.0 runs; the repository could not be asked: nobody answers")


def test_what_will_come_but_not_now_is_told_and_not_waited_for() -> None:
    step = PlannedUpdate(component="telemetry", from_version="0.1.0", at=SINCE + 30, blocked="cannot be had")
    found = seen(changed(state="waiting", wanted="0.2.0", why="cannot be had"), step=step)
    assert (found.state, found.over, found.ok) == ("not now", True, False)
    assert "1970-01-01 00:17:10Z" in found.text


def test_the_end_of_another_update_is_not_that_of_this_one() -> None:
    older, other = event("commit", at=SINCE - 1), event("commit", version="0.3.0")
    fetching = changed(state="fetching", wanted="0.2.0")
    assert seen(fetching, version="0.2.0", events=(older, other)).state == "fetching"
    assert seen(fetching, events=(event("trial", version="0.3.0"), other)).ok


def test_who_names_no_version_is_not_told_of_an_older_wish() -> None:
    began = event("trial", at=SINCE - 1, version="0.3.0")
    back, refused = event("roll back", version="0.3.0", message="hangs"), event("refuse", version="0.3.0")
    for events in ((began, back), (refused,)):
        assert seen(events=events).text == "nothing to do, 0.1.0 runs"
        assert seen(changed(state="fetching", wanted="0.2.0"), events=events).state == "fetching"
    # Asked for by its number, that is the answer.
    assert seen(version="0.3.0", events=(began, back)).state == "rolled back"
    # What is wanted and refused is told by the view, with its version.
    unsigned = changed(state="refused", wanted="0.2.0", why="not for us: no key", lift="agentctl x")
    assert seen(unsigned, events=(refused,)).text == "0.2.0: not for us: no key"
    pinned = changed(state="refused", wanted="0.2.0", why="telemetry 0.2.0 is on the bad list")
    assert seen(pinned).text == "telemetry 0.2.0 is on the bad list"


def test_what_was_given_up_and_runs_on_is_not_as_it_should_be() -> None:
    """Its process has yet to be replaced; the word that asked for it may be forgotten by then."""
    bad = [BadVersion(version="0.1.0", digest="ab", reason="hangs")]
    gone = changed(state="rolled back", why="0.1.0 was rolled back: hangs", lift="agentctl x", bad=bad)
    for view in (gone, msgspec.structs.replace(gone, wanted="0.1.0", wanted_by="operator")):
        found = seen(view, version="0.1.0")
        assert (found.state, found.lift) == ("refused", "agentctl x")
        text = "0.1.0 is on the bad list and runs on only until telemetry is started anew: 0.1.0 was rolled back: hangs"
        assert found.text == text
    assert seen(msgspec.structs.replace(gone, wanted="0.1.0", wanted_by="host")).state == "refused"
    assert seen(gone).state == "runs"  # nobody wants anything
    assert seen(msgspec.structs.replace(gone, current="0.1"), version="0.1.0").state == "runs"


def test_a_version_that_was_named_is_not_answered_by_what_else_is_wanted() -> None:
    for view in (
        VIEW,
        changed(running=""),
        changed(state="refused", wanted="0.2.0", wanted_by="channel", why="pinned"),
        changed(state="waiting", wanted="0.2.0", wanted_by="channel", why="outside the window"),
    ):
        found = seen(view, version="0.3.0")
        assert (found.state, found.over, found.ok) == ("refused", True, False)
        assert found.text.startswith("0.3.0 was not begun")
        assert found.lift == "agentctl update now telemetry 0.3.0"
    assert seen(version="0.1.0").text == "nothing to do, 0.1.0 runs"
    assert seen(changed(state="refused", wanted="0.3.0", why="pinned"), version="0.3").text == "0.3.0: pinned"
