"""A week of dead repository changes nothing but one line in `update status`: the week, hour by hour.

Real processes under a real supervisord. The wall clock of all of them goes through the week by libfaketime; only the
updater's pauses are skipped instead of waited for.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl import group
from agentctl.drill.stage import Stage
from agentctl.drill.updates import CONFIGURATION, Versions
from agentctl.drill.variants import package
from agentctl.processes import wait_until
from ipc.contract.rdagent import UpdateView
from ipc.places import COMPONENTS
from release.build import Built
from tests.rdagent.update.lying import DAY, LyingServer, SignedRepository, reply, silent, soon
from tests.swap.faketime import FOLDER, Wall, fast

HOUR, MIB = 3600.0, 1 << 20
PERIOD = 2 * HOUR
"""Between two looks; a VM has an hour. Each costs a child, so it says how long the test takes."""
PATIENCE = 240.0
LOOK_SECONDS = 3.0
"""A source may take so long where it is slow; a VM's has 30 s."""
GROWTH = 4 * MIB
OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""


class Week:
    """A stage with a repository of the test's, telemetry 7.0.0 in force, and 7.0.1 not yet published."""

    def __init__(self, stage: Stage, wall: Wall) -> None:
        self.stage, self.wall, self.versions = stage, wall, Versions(stage)
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
        drop_in.write_text(f'[update]\nrepository = "{self.server.url}"\ncheck_period = {PERIOD}\n')
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
        self.wall.let_pass(hour * HOUR)
        assert wait_until(lambda: self.wall.has_passed(hour * HOUR), PATIENCE), f"hour {hour:g} does not come"

    def says(self, words: str) -> None:
        """`update status` does, of the repository."""
        assert wait_until(lambda: words in self.problem(), PATIENCE), self.problem()

    def die(self) -> None:
        """Connections are refused."""
        self.server.close()

    def live(self) -> None:
        """At the address it had."""
        files, port = self.server.files, int(self.server.url.rpartition(":")[2])
        self.server = LyingServer(port)
        self.server.files = files
        self.signed.files = files

    def status(self) -> list[str]:
        return self.stage.agentctl("update", "status").stdout.splitlines()

    def view(self) -> UpdateView:
        view = self.versions.view("telemetry")
        assert view is not None
        return view

    def in_force(self) -> dict[str, object]:
        """Records, versions and processes: what may not change."""
        updates = self.versions.updates()
        assert updates is not None
        pids = self.versions.pids()
        views = {one.component: one for one in updates.components}
        return {name: (self.versions.record(name), views[name], pids[name]) for name in COMPONENTS}

    def files(self) -> dict[str, int]:
        """Bytes by path, of all that the agent keeps."""
        places = self.stage.places
        folders = (places.state, places.log, places.installed, places.trust, places.lib)
        return {
            str(path.relative_to(self.stage.root)): path.stat().st_size
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file()
        }

    def resident(self) -> dict[str, int]:
        """Bytes by component."""
        pids = self.versions.pids()
        pages = {name: Path(f"/proc/{pids[name]}/statm").read_text().split()[1] for name in COMPONENTS}
        return {name: int(count) * 4096 for name, count in pages.items()}

    def log(self) -> list[str]:
        return self.stage.log_of("rdagent").read_text().splitlines()

    def publish(self, built: Built) -> None:
        self.signed.publish(built.manifest.version, built.path.read_bytes(), digest=built.digest)


@pytest.fixture
def week(monkeypatch: pytest.MonkeyPatch) -> Iterator[Week]:
    with Stage(CONFIGURATION) as stage:
        week = Week(stage, Wall(stage.root))
        try:
            with week.wall.environment() as environment:
                for name, value in environment.items():
                    monkeypatch.setenv(name, value)
                week.up()
                yield week
                # While the clock is still there.
                group.end_all(stage.deployment)
        finally:
            week.server.close()


@pytest.mark.timeout(500)
@pytest.mark.filterwarnings(OUTLIVED)
def test_week(week: Week) -> None:
    import time
    t = time.monotonic()
    def say(*a): print(f"{time.monotonic()-t:.1f}", *a, flush=True)
    week.until_hour(4)
    log = week.log(); before, status, files, resident = week.in_force(), week.status(), week.files(), week.resident()
    say(resident)
    week.die()
    week.until_hour(28)
    day = week.resident()
    f2=week.files()
    say(day, {k: (files.get(k), v) for k, v in f2.items() if v != files.get(k)}, set(files)-set(f2))
    week.until_hour(52)
    week.says("refused")
    week.live()
    week.server.lies[""] = reply(b"", "403 Forbidden")
    week.until_hour(100)
    week.says("403")
    say(len(week.server.asked), Counter(week.server.asked))
    week.server.lies[""] = reply(b"\x00\xff garbage" * 100)
    week.until_hour(148)
    say(week.problem(), len(week.server.asked), Counter(week.server.asked))
    week.server.lies[""] = silent(week.server)
    week.until_hour(154)
    say(week.problem(), len(week.server.asked), Counter(week.server.asked))
    week.until_hour(168)
    f2=week.files()
    say(week.problem(), len(week.server.asked), Counter(week.server.asked))
    say(week.resident(), {k: (files.get(k), v) for k, v in f2.items() if v != files.get(k)}, set(files)-set(f2))
    say("\n".join(status), "\n".join(week.status()))
    say(before == week.in_force())
    say("\n".join(week.log()))
    say(week.wall.offset)
