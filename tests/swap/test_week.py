"""A week of dead repository changes nothing but one line in `update status`: the week, look by look.

Real processes under a real supervisord. The wall clock of all of them goes through the week by libfaketime; only the
updater's pauses are skipped instead of waited for.
"""

import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from agentctl import group
from agentctl.asking import ask
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import CONFIGURATION, Versions
from agentctl.drill.variants import package
from agentctl.processes import wait_until
from ipc.contract.rdagent import UpdateView
from ipc.contract.telemetry import GetTimeline
from ipc.places import COMPONENTS
from release import record
from release.environment import fingerprint
from release.record import Bad, Record
from release.unpack import component_folder
from tests.rdagent.update.lying import LyingServer, Script, SignedRepository, reply, silent, soon
from tests.swap.faketime import Wall, fast

HOUR, DAY = 3600.0, 86400.0
PERIOD = 6 * HOUR
"""Between two looks; a VM has an hour. Each costs a child, so it says how long the test takes."""
LOOK_SECONDS = 8.0
"""So long a look may take; a VM's has 30 s."""
PATIENCE = 300.0
OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""

_GROWTH = 4 << 20
_LOOKS, _SOON = 8, 5.0
_LINES = 15
"""What a machine that is busy may make the processes say of each other meanwhile; looks are more than twice as many."""


def _most_looks(hours: float) -> float:
    """Each pause is three quarters of the period or more, but for the first ones."""
    return hours * HOUR / PERIOD / 0.75 + 14


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """All that a dead repository may change, or may not."""

    status: list[str]
    versions: list[tuple[Record, UpdateView]]
    pids: dict[str, int]
    log: list[str]
    journal: int
    """Entries."""
    files: dict[str, int]
    """Bytes by path, of what the updater, the journal and all logs keep."""
    resident: dict[str, int]
    """Bytes by component."""


class Week:
    """A stage with a repository of the test's, telemetry 7.0.0 in force, and 7.0.1 not yet published."""

    def __init__(self, stage: Stage, wall: Wall) -> None:
        self.stage, self.wall, self.versions = stage, wall, Versions(stage)
        self.hour = 0.0
        self.server = LyingServer()
        self.signed = SignedRepository(self.server.files)
        source, out = fast(stage.root / "sources", LOOK_SECONDS), stage.root / "packages"
        self.new = package(source, "telemetry", "7.0.1", out, stage.key)
        for component in COMPONENTS:
            stage.choose(component, stage.install(package(source, component, "7.0.0", out, stage.key)))

    def up(self) -> None:
        stage = self.stage
        drop_in = stage.places.config.with_name(stage.places.config.name + ".d") / "20-week.toml"
        drop_in.parent.mkdir()
        lines = ["[rdagent]", "heartbeat_period = 5.0", "look_period = 3.0", "[update]"]
        lines += [f'repository = "{self.server.url}"', f"check_period = {PERIOD}", ""]
        drop_in.write_text("\n".join(lines))
        stage.places.run.mkdir(mode=0o700, parents=True)
        group.prepare(stage.deployment)
        group.start_host(stage.deployment)
        (stage.places.trust / "root.json").write_bytes(self.signed.trust)
        group.start_supervisord(stage.deployment)
        stage.until_ready()
        assert wait_until(lambda: self.reached() is not None, PATIENCE), "the repository is there, and is not read"

    def reached(self) -> float | None:
        """When it answered last."""
        updates = self.versions.updates()
        return updates.repository.reached_at if updates else None

    def problem(self) -> str:
        updates = self.versions.updates()
        return updates.repository.problem if updates else ""

    def until_hour(self, hour: float) -> None:
        """Have it come, looks and all."""
        self.hour = hour
        self.wall.let_pass(hour * HOUR)
        assert wait_until(lambda: self.wall.has_passed(hour * HOUR), PATIENCE), f"hour {hour:g} does not come"

    def says(self, words: str) -> None:
        """`update status` does, of the repository: a machine that is busy may need more than one look to hear it."""
        self.sees(lambda: words in self.problem(), words)

    def sees(self, condition: Callable[[], bool], what: str) -> None:
        """With the next look, or one of those after it."""
        for _ in range(_LOOKS):
            if wait_until(condition, _SOON):
                return
            self.until_hour(self.hour + PERIOD / HOUR)
        raise AssertionError(f"{what}: {self.problem()}, {self.view('telemetry')}")

    def die(self) -> None:
        """Connections are refused."""
        self.server.close()

    def live(self) -> None:
        """At the address it had."""
        files, port = self.server.files, int(self.server.url.rpartition(":")[2])
        self.server = LyingServer(port)
        self.server.files = files
        self.signed.files = files

    def dead_for(self, hours: float, lie: Script, words: str) -> None:
        """It answers so; status says that word of it, and it is asked as often as it should be."""
        self.server.lies[""] = lie
        asked = len(self.server.asked)
        self.until_hour(self.hour + hours)
        self.says(words)
        requests = len(self.server.asked) - asked
        # A look is one request or two.
        assert hours * HOUR / PERIOD - 2 <= requests <= 2 * _most_looks(hours)

    def renew(self) -> None:
        """Its metadata is of today, and 7.0.1 is in it."""
        self.signed.timestamp.expires = soon(datetime.timedelta(seconds=self.wall.offset + DAY))
        self.signed.publish("7.0.1", self.new.path.read_bytes(), digest=self.new.digest)

    def block(self, version: str, seconds: float) -> None:
        """It failed here just now."""
        folder = component_folder(self.stage.places.installed, "telemetry")
        bad = Bad("it was slow", self.wall.time() + seconds, fingerprint())
        with record.locked(folder):
            found = self.versions.record("telemetry")
            record.write(folder, msgspec.structs.replace(found, bad={f"{version}+{'ab' * 32}": bad}))

    def view(self, component: str) -> UpdateView:
        return self.stage.until(lambda: self.versions.view(component), "an answer to GetUpdates", PATIENCE)

    def now(self) -> Now:
        places, pids = self.stage.places, self.versions.pids()
        kept = (*map(places.state_of, ("rdagent", "telemetry")), places.log, places.installed, places.trust)
        paths = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
        timeline = ask(self.stage.deployment, GetTimeline(limit=1000), within=10.0)
        return Now(
            status=self.stage.agentctl("update", "status").stdout.splitlines(),
            versions=[(self.versions.record(name), self.view(name)) for name in COMPONENTS],
            pids=pids,
            log=self.stage.log_of("rdagent").read_text().splitlines(),
            journal=len(timeline.entries),
            files={str(path): path.stat().st_size for path in paths},
            resident={name: _resident(pids[name]) for name in COMPONENTS},
        )

    def only_one_line_differs(self, before: Now) -> None:
        now = self.now()
        assert (now.versions, now.pids) == (before.versions, before.pids)
        assert len(now.status) == len(before.status)
        different = [line for line, old in zip(now.status, before.status, strict=True) if line != old]
        assert len(different) == 1, different
        assert different[0].startswith("Repository unreachable, last reached")
        said = now.log[len(before.log) :]
        assert sum("repository" in line for line in said) == 1, said
        assert len(said) < _LINES, said

    def nothing_piles_up(self, before: Now) -> None:
        now = self.now()
        assert now.journal - before.journal < _LINES
        assert not [path for path in now.files if "/downloads/" in path or "/staging/" in path]
        new = now.files.keys() - before.files.keys()
        assert len(new) < 5, new
        assert sum(now.files.values()) - sum(before.files.values()) < _GROWTH
        grown = {name: now.resident[name] - before.resident[name] for name in COMPONENTS}
        assert max(grown.values()) < _GROWTH, grown


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def week(monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    with Stage(CONFIGURATION) as stage:
        week = Week(stage, Wall(stage.root))
        try:
            with week.wall.environment() as environment:
                # As wide as it takes: one line of it is one line.
                for name, value in {**environment, "COLUMNS": "500"}.items():
                    monkeypatch.setenv(name, value)
                week.up()
                yield week
                # While the clock is still there.
                group.end_all(stage.deployment)
        finally:
            week.server.close()


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings(OUTLIVED)
def test_a_week_without_a_repository_changes_one_line(week: Week) -> None:
    """Neither a step of the clock nor metadata that is out of date when it returns keeps the next version away."""
    week.until_hour(4)
    before = week.now()
    waits = len(week.wall.waits)
    week.die()
    week.until_hour(52)
    week.says("refused")
    pauses = week.wall.waits[waits:]
    assert any(one < 6.0 for one in pauses), "soon at first"
    assert max(pauses) > PERIOD / 2
    # Host and repository, each with growing pauses.
    assert len(pauses) < 2 * _most_looks(48)

    week.live()
    week.dead_for(54, reply(b"", "403 Forbidden"), "403")
    week.dead_for(54, reply(b"\x00\xff no metadata"), "deserialize")
    week.dead_for(8, silent(week.server), "in time")
    assert week.wall.offset >= 7 * DAY - 1.0
    week.only_one_line_differs(before)
    week.nothing_piles_up(before)

    # It is back, with its metadata of a week ago.
    week.server.lies.clear()
    week.until_hour(week.hour + 8)
    week.says("expired")
    week.only_one_line_differs(before)

    # Somebody sets the clock.
    week.block("7.0.9", 30 * DAY)
    for days, held in ((-1, True), (8, False)):
        assert week.stage.agentctl("update", "hold", "netagent", "--for", "2h").returncode == 0
        week.wall.step(days * DAY)
        assert week.view("netagent").held is held
        asked = len(week.server.asked)
        week.until_hour(week.hour + 8)
        assert len(week.server.asked) > asked, f"after a step of {days} days nobody looks any more"
        assert not week.view("netagent").held
        (bad,) = week.view("telemetry").bad
        assert bad.expires is not None
        assert week.wall.time() < bad.expires < week.wall.time() + 30 * DAY + HOUR
        assert week.versions.pids() == before.pids

    # It is fresh again, with something new in it.
    week.renew()
    week.until_hour(week.hour + 8)
    week.sees(lambda: "7.0.1" in {week.view("telemetry").wanted, week.view("telemetry").running}, "7.0.1")
    assert week.problem() == ""
    assert wait_until(lambda: week.view("telemetry").current == "7.0.1", PATIENCE), week.view("telemetry")
    assert wait_until(lambda: week.view("telemetry").running == "7.0.1", PATIENCE), week.view("telemetry")
    assert {name: pid for name, pid in week.versions.pids().items() if name != "telemetry"} == {
        name: pid for name, pid in before.pids.items() if name != "telemetry"
    }
