"""What follows from a moment's facts: tables and properties of the plan."""

from typing import Any, Literal

from hypothesis import given
from hypothesis import strategies as st

from guestagent.layout import Installed
from guestagent.plan import DEPENDENCY_SECONDS, Facts, Plan, Work, plan, way_back
from guestagent.record import Applied, Good, digest, key
from guestagent.retry import next_try
from wire.extensions import ExtensionsGoalState, Handler, Settings

NAME = "Test.One"


def one(name: str = "", sequence: int = 0, **what: Any) -> Settings:
    return Settings(name=name, sequence_number=sequence, **what)


def handler(
    *settings: Settings,
    name: str = NAME,
    version: str = "1.0.0",
    state: Literal["enabled", "disabled", "uninstall"] = "enabled",
    **what: Any,
) -> Handler:
    return Handler(name=name, version=version, state=state, settings=settings, **what)


def wanted(*handlers: Handler, number: int = 1, **what: Any) -> ExtensionsGoalState:
    return ExtensionsGoalState(id=f"incarnation_{number}", source="Fabric", handlers=handlers, **what)


def enabled(version: str = "1.0.0", *extensions: str) -> list[Installed]:
    return [Installed(version=version, state="Enabled", enabled_extensions=frozenset(extensions))]


def applied(what: Handler, settings: Settings | None = None, **more: Any) -> dict[str, Applied]:
    record: dict[str, Any] = {"version": what.version, "digest": digest(what, settings)}
    record |= {"ok": True, "goal_state": "incarnation_1"}
    return {key(what.name, settings): Applied(**(record | more))}


def actions(work: Work) -> list[str]:
    return [step.action for step in work.steps]


def only(decided: Plan) -> Work:
    (work,) = decided.works
    return work


def test_a_fresh_handler_is_fetched_installed_and_enabled() -> None:
    for settings in ((one(),), ()):
        work = only(plan(wanted(handler(*settings)), Facts(found={}, applied={})))
        assert actions(work) == ["fetch", "install", "enable", "commit"]


def test_nothing_changed_is_nothing_to_do_whatever_the_incarnation() -> None:
    what = handler(one())
    facts = Facts(found={NAME: enabled()}, applied=applied(what, what.settings[0]))
    for number in (1, 2):
        decided = plan(wanted(what, number=number), facts)
        assert (decided.works, decided.settled) == ((), True)


def test_new_settings_enable_a_new_version_updates() -> None:
    before = handler(one())
    facts = Facts(found={NAME: enabled()}, applied=applied(before, before.settings[0]))
    assert actions(only(plan(wanted(handler(one(sequence=1))), facts))) == ["enable", "commit"]
    work = only(plan(wanted(handler(one(sequence=1), version="1.1.0")), facts))
    assert actions(work) == [
        "fetch", "disable-old", "copy", "update", "uninstall-old", "install", "enable", "commit",
    ]  # fmt: skip
    assert work.old_version == "1.0.0"


def test_a_version_asked_for_by_its_first_parts_stays_what_was_chosen() -> None:
    what = handler(one(), version="1")
    record = applied(what, what.settings[0], version="1.4.0")
    facts = Facts(found={NAME: enabled("1.4.0")}, applied=record)
    assert not plan(wanted(what), facts).works
    work = only(plan(wanted(handler(one(sequence=1), version="1")), facts))
    assert (actions(work), work.version) == (["enable", "commit"], "1.4.0")


def test_secrets_encrypted_anew_are_written_and_nothing_is_run() -> None:
    before, after = one(protected="old", thumbprint="A"), one(protected="new", thumbprint="B")
    facts = Facts(
        found={NAME: enabled()},
        applied=applied(handler(before), before),
        good={NAME: Good(version="1.0.0", settings=(before,))},
    )
    assert actions(only(plan(wanted(handler(after)), facts))) == ["rewrite", "commit"]


def test_a_folder_removed_behind_our_back_is_installed_again() -> None:
    what = handler(one())
    work = only(plan(wanted(what), Facts(found={}, applied=applied(what, what.settings[0]))))
    assert actions(work) == ["fetch", "install", "enable", "commit"]


def test_failures_come_back_by_their_own_rules() -> None:
    what = handler(one())

    def due(kind: str, number: int, now: float = 0.0, retry_at: float | None = None) -> bool:
        record = applied(what, what.settings[0], ok=False, kind=kind, retry_at=retry_at)
        facts = Facts(found={}, applied=record, now=now)
        return bool(plan(wanted(what, number=number), facts).works)

    assert not any(due(kind, 1) for kind in ("transient", "extension", "configuration", "interrupted"))
    assert all(due(kind, 2) for kind in ("transient", "package"))
    # What has run is not run again for the sake of another extension.
    kinds = ("extension", "platform", "configuration", "unsupported", "interrupted")
    assert not any(due(kind, 2) for kind in kinds)
    assert due("transient", 1, now=10.0, retry_at=10.0)
    assert not due("transient", 1, now=9.0, retry_at=10.0)
    record = applied(what, what.settings[0], ok=False, kind="transient", retry_at=10.0)
    assert plan(wanted(what), Facts(found={}, applied=record, now=9.0)).look_again_at == 10.0


@given(st.integers(0, 200), st.floats(0, 1))
def test_pauses_grow_are_spread_and_bounded(tries: int, fraction: float) -> None:
    at = next_try("transient", tries, now=0.0, fraction=lambda: fraction)
    assert at is not None
    whole = min(30.0 * 2 ** min(tries, 30), 3600.0)
    assert whole / 2 <= at <= whole
    assert next_try("configuration", tries, now=0.0) is None


def test_an_update_that_could_not_be_had_is_not_tried_in_a_circle() -> None:
    what = handler(one(), version="1.1.0")
    record = applied(what, what.settings[0], version="1.0.0", ok=False, kind="package", wanted="1.1.0")
    facts = Facts(found={NAME: enabled()}, applied=record)
    assert not plan(wanted(what), facts).works
    assert actions(only(plan(wanted(what, number=2), facts)))[0] == "fetch"
    # Going back to what runs is an enable, not an update.
    assert actions(only(plan(wanted(handler(one(), version="1.0.0")), facts))) == ["enable", "commit"]


def test_each_kind_of_ending() -> None:
    found = {NAME: enabled()}
    gone = plan(wanted(handler(state="uninstall")), Facts(found=found, applied={}))
    assert actions(only(gone)) == ["disable", "uninstall", "remove"]
    off = handler(one(), state="disabled")
    assert actions(only(plan(wanted(off), Facts(found=found, applied={})))) == ["disable"]
    stopped = {NAME: [Installed(version="1.0.0", state="Installed")]}
    assert not plan(wanted(off), Facts(found=stopped, applied=applied(off))).works
    assert not plan(wanted(handler(state="uninstall")), Facts(found={}, applied={})).works
    failed = {NAME: [Installed(version="1.0.0", state="FailedUpgrade")]}
    assert actions(only(plan(wanted(handler(state="uninstall")), Facts(found=failed, applied={})))) == ["remove"]


def test_an_uninstall_has_the_settings_the_goal_state_gives_it_and_none_otherwise() -> None:
    found = {NAME: enabled()}
    for settings in ((one(sequence=4),), ()):
        work = only(plan(wanted(handler(*settings, state="uninstall")), Facts(found=found, applied={})))
        told = [step.settings for step in work.steps if step.action in {"disable", "uninstall"}]
        assert told == [*settings, *settings] if settings else [None, None]


def test_one_of_several_extensions_is_disabled_and_the_others_stay() -> None:
    first, second = one("a"), one("b", state="disabled")
    what = handler(first, second, multi_config=True)
    facts = Facts(found={NAME: enabled("1.0.0", "a", "b")}, applied=applied(what, first))
    work = only(plan(wanted(what), facts))
    assert [(step.action, step.settings.name if step.settings else "") for step in work.steps] == [
        ("disable", "b"),
        ("commit", ""),
    ]


def test_every_enabled_extension_of_the_old_version_is_disabled_in_an_update() -> None:
    what = handler(one("a", 5), one("b", 6), version="2.0.0", multi_config=True)
    facts = Facts(found={NAME: enabled("1.0.0", "a", "c")}, applied={})
    work = only(plan(wanted(what), facts))
    disabled = [step.settings.name for step in work.steps if step.action == "disable-old" and step.settings]
    assert disabled == ["a", "c"]
    assert actions(work)[-3:] == ["enable", "enable", "commit"]


def test_a_handler_without_a_name_may_be_any_of_those_on_disk() -> None:
    facts = Facts(found={NAME: enabled(), "Test.Other": enabled()}, applied={})
    decided = plan(wanted(handler(one()), handler(name="", error="has no name")), facts)
    assert decided.vanished == ()
    assert [work.handler.name for work in decided.works if not work.error] == [NAME]


def test_on_hold_or_with_a_feature_we_lack_nothing_is_touched() -> None:
    facts = Facts(found={"Test.Other": enabled()}, applied={})
    for what in ({"on_hold": True}, {"required_features": ("Teleport",)}, {"withheld": "it is older"}):
        state = wanted(handler(one()), **what)
        decided = plan(state, facts)
        assert (decided.works, decided.vanished) == ((), ())
    assert plan(wanted(handler(one())), facts).vanished == ("Test.Other",)


def test_who_names_its_dependencies_waits_for_those_alone() -> None:
    base = handler(one(), name="Test.Base")
    slow = handler(one(), name="Test.Slow")
    named = handler(one(dependency_level=1, depends_on=("Test.Base",)), name="Test.Named")
    unnamed = handler(one(dependency_level=1), name="Test.Unnamed")
    state = wanted(base, slow, named, unnamed)
    found = {name: enabled() for name in ("Test.Base", "Test.Slow")}
    records = applied(base, base.settings[0]) | applied(slow, slow.settings[0])
    states: dict[str, Any] = {"Test.Base": "success", "Test.Slow": "pending"}
    decided = plan(state, Facts(found=found, applied=records, states=states))
    assert [work.handler.name for work in decided.works] == ["Test.Named"]
    assert decided.waiting["Test.Unnamed"].reason == "waits for Test.Slow"
    assert not decided.settled
    states["Test.Slow"] = "error"
    decided = plan(state, Facts(found=found, applied=records, states=states))
    assert decided.waiting["Test.Unnamed"].failed
    states["Test.Slow"] = "pending"
    late = plan(state, Facts(found=found, applied=records, states=states, now=DEPENDENCY_SECONDS + 1))
    assert late.waiting["Test.Unnamed"].failed


def test_an_extension_may_wait_for_another_of_its_own_handler() -> None:
    first, second = one("a"), one("b", dependency_level=1, depends_on=(f"{NAME}/a",))
    what = handler(first, second, multi_config=True)
    decided = plan(wanted(what), Facts(found={}, applied={}))
    assert [step.settings.name for step in only(decided).steps if step.action == "enable" and step.settings] == ["a"]
    assert decided.waiting[f"{NAME}/b"].reason == f"waits for {NAME}/a"


def test_a_circle_of_dependencies_is_told_and_the_others_go_on() -> None:
    a = handler(one(dependency_level=1, depends_on=("Test.B",)), name="Test.A")
    b = handler(one(dependency_level=2, depends_on=("Test.A",)), name="Test.B")
    free = handler(one(), name="Test.Free")
    decided = plan(wanted(a, b, free), Facts(found={}, applied={}))
    assert [work.handler.name for work in decided.works] == ["Test.Free"]
    blocked = [decided.waiting[name] for name in ("Test.A", "Test.B")]
    assert all(one.failed and "circle" in one.reason for one in blocked)


def test_what_ends_comes_first_the_uppermost_before_what_it_stands_on() -> None:
    up = handler(one(dependency_level=1), name="Test.Up", state="uninstall")
    down = handler(one(), name="Test.Down", state="uninstall")
    new = handler(one(), name="Test.New")
    state = wanted(down, up, new)
    found = {"Test.Up": enabled(), "Test.Down": enabled()}
    decided = plan(state, Facts(found=found, applied={}))
    assert [work.handler.name for work in decided.works] == ["Test.Up"]
    assert "Test.New" in decided.waiting
    decided = plan(state, Facts(found=found, applied={}, busy=frozenset({"Test.Up"})))
    assert not decided.works
    decided = plan(state, Facts(found={"Test.Down": enabled()}, applied={}))
    assert [work.handler.name for work in decided.works] == ["Test.Down"]
    assert [work.handler.name for work in plan(state, Facts(found={}, applied={})).works] == ["Test.New"]


def test_what_is_wrong_with_a_request_is_told_once() -> None:
    broken = handler(error="settings for version 2")
    work = only(plan(wanted(broken), Facts(found={}, applied={})))
    assert work.error == "settings for version 2"
    record = applied(broken, ok=False, kind="configuration", message=work.error)
    assert not plan(wanted(broken), Facts(found={}, applied=record)).works
    refused = plan(wanted(handler(one())), Facts(found={}, applied={}, refused={NAME: "not on the list"}))
    assert only(refused).error == "not on the list"


def test_the_way_back_goes_as_far_as_the_update_came() -> None:
    good = Good(version="1.0.0", settings=(one(sequence=3),))

    def back(*begun: Any, was_enabled: bool = True) -> list[str]:
        steps = way_back(frozenset(begun), one(sequence=4), good, was_enabled=was_enabled)
        return [step.action for step in steps]

    assert back("fetch") == []
    assert back("fetch", "disable-old") == ["enable-old"]
    assert back("fetch", "disable-old", "copy", "update") == ["enable-old"]
    reached = ("fetch", "disable-old", "copy", "update", "uninstall-old")
    assert back(*reached) == ["install-old", "enable-old"]
    assert back(*reached, "install", "enable") == ["uninstall-new", "install-old", "enable-old"]
    assert back("fetch", "copy", "update", was_enabled=False) == []


_NAMES = ("Test.A", "Test.B", "Test.C")
_VERSIONS = ("1.0.0", "2.0.0")
_SETTINGS = st.builds(
    one,
    sequence=st.integers(0, 3),
    dependency_level=st.integers(0, 2),
    depends_on=st.lists(st.sampled_from(_NAMES), max_size=2).map(tuple),
)


@given(
    st.dictionaries(
        st.sampled_from(_NAMES),
        st.tuples(st.sampled_from(_VERSIONS), st.sampled_from(["enabled", "disabled", "uninstall"]), _SETTINGS),
    ),
    st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(_VERSIONS)),
)
def test_every_goal_state_is_reached_in_a_bounded_number_of_plans(asked: Any, there: dict[str, str]) -> None:
    """Carrying plans out, one after the other, ends with what was asked for, circles of dependencies apart."""
    handlers = [handler(own, name=name, version=version, state=state) for name, (version, state, own) in asked.items()]
    state = wanted(*handlers)
    found = {name: enabled(version) for name, version in there.items()}
    records: dict[str, Applied] = {}
    for _ in range(20):
        states: dict[str, Any] = dict.fromkeys(records, "success")
        decided = plan(state, Facts(found=found, applied=records, states=states))
        for name in decided.vanished:
            found.pop(name)
        for work in decided.works:
            name = work.handler.name
            if work.handler.state == "enabled":
                found[name] = enabled(work.handler.version)
                records |= applied(work.handler, work.handler.settings[0])
            elif work.handler.state == "disabled":
                found[name] = [Installed(version=work.version, state="Installed")]
            else:
                found.pop(name, None)
        if decided.settled and not decided.vanished:
            break
    else:
        raise AssertionError(f"not settled: {decided}")
    for what in handlers:
        if what.state == "uninstall":
            assert what.name not in found
        elif what.state == "enabled" and not any(one.failed for one in decided.waiting.values()):
            assert [(one.version, one.state) for one in found[what.name]] == [(what.version, "Enabled")]
