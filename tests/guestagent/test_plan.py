"""What is decided, whatever is wanted, found and remembered."""

from hypothesis import given
from hypothesis import strategies as st

from guestagent.layout import Installed
from guestagent.plan import plan, vanished
from guestagent.record import Applied, digest, key
from wire.extensions import ExtensionsGoalState, Handler, Settings

NAMES = ["A.One", "A.Two", "A.Three"]
VERSIONS = st.sampled_from(["1.0", "1.0.1", "1.2", "2.0.0-rc1", "no version"])
SETTINGS = st.builds(
    Settings,
    name=st.sampled_from(["", "first", "second"]),
    sequence_number=st.integers(0, 3),
    state=st.sampled_from(["enabled", "disabled"]),
    public=st.sampled_from([None, {"a": 1}]),
    dependency_level=st.integers(0, 3),
)
FOUND = st.dictionaries(
    st.sampled_from([*NAMES, "A.Other"]),
    st.lists(
        st.builds(Installed, version=VERSIONS, state=st.sampled_from(["Installed", "Enabled", "FailedUpgrade"])),
        min_size=1,
        max_size=2,
    ),
)
APPLIED = st.dictionaries(
    st.sampled_from([*NAMES, "A.One/first", "A.Other"]),
    st.builds(Applied, version=VERSIONS, digest=st.just("d"), ok=st.booleans(), goal_state=st.just("incarnation_1")),
)


@st.composite
def goal_states(draw: st.DrawFn) -> ExtensionsGoalState:
    handlers = [
        Handler(
            name=name,
            version=draw(VERSIONS),
            state=draw(st.sampled_from(["enabled", "disabled", "uninstall"])),
            settings=tuple(draw(st.lists(SETTINGS, max_size=3, unique_by=lambda one: one.name))),
            error=draw(st.sampled_from(["", "", "cannot be processed"])),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]
    return ExtensionsGoalState(id="incarnation_2", source="Fabric", handlers=tuple(handlers))


@given(goal_states(), FOUND, APPLIED)
def test_each_handler_is_worked_on_once_ending_before_beginning_and_by_rising_level(
    goal_state: ExtensionsGoalState, found: dict[str, list[Installed]], applied: dict[str, Applied]
) -> None:
    planned = plan(goal_state, found, applied)
    works = [work for level in planned for work in level]
    assert len({work.handler.name for work in works}) == len(works)
    assert [work.level for work in works] == sorted(work.level for work in works)
    assert all(len({work.level for work in level}) == 1 for level in planned)
    for work in works:
        assert bool(work.steps) != bool(work.error)
        if work.handler.state != "enabled" and not work.error:
            assert work.level < 0
            assert {step.action for step in work.steps} <= {"disable", "uninstall", "remove"}
        if work.handler.error:
            assert work.error == work.handler.error
    wanted = {handler.name for handler in goal_state.handlers}
    assert vanished(goal_state, found) == sorted(set(found) - wanted)


@given(goal_states())
def test_what_was_done_is_not_done_again(goal_state: ExtensionsGoalState) -> None:
    """Also after a restart, when the same goal state is read anew."""
    found, applied = {}, {}
    for handler in goal_state.handlers:
        if handler.state == "enabled":
            found[handler.name] = [Installed(version=handler.version, state="Enabled")]
        elif handler.state == "disabled":
            found[handler.name] = [Installed(version=handler.version, state="Installed")]
        if handler.state == "uninstall" and not handler.error:
            continue
        message = handler.error or "Plugin enabled"
        for settings in (None, *handler.settings) if handler.error else (handler.settings or (None,)):
            applied[key(handler.name, settings)] = Applied(
                version=handler.version,
                digest=digest(handler, settings),
                ok=not handler.error,
                goal_state=goal_state.id,
                message=message,
            )
    assert plan(goal_state, found, applied) == []
