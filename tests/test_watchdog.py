"""watchdog.py: its rules with a clock, and the real thing under a real supervisord."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentctl.processes import Process, end, process, wait_until
from ipc.lock import Lock
from ipc.places import Places
from ipc.supervisord import Supervisord
from rdagent.life import SignOfLife
from release.build import Built, build
from release.record import Bad, Chosen, Record, Trial
from tests.release.product import CHECKOUT, KEY, Installed, chosen

WATCHDOG = CHECKOUT / "watchdog.py"


@pytest.fixture(scope="module")
def watchdog() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watchdog", WATCHDOG)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_the_standard_library_only() -> None:
    lines = [line.split() for line in WATCHDOG.read_text().splitlines()]
    imports = {words[1].split(".")[0] for words in lines if words and words[0] in {"import", "from"}}
    assert imports - {"launch"} <= sys.stdlib_module_names


@pytest.mark.parametrize(("period", "ends"), [(0.0, 4), (60.0, 4), (151.0, 4), (301.0, 4), (1800.0, 5)])
def test_a_slow_crash_loop_is_seen(watchdog: ModuleType, period: float, ends: int) -> None:
    """Drill 34: one that ends every 151 s outlives any rule of "three in five minutes"."""
    hazard = watchdog.Hazard()
    seen = next(number for number in range(1, 100) if hazard.count(number * period))
    assert seen == ends


@given(st.floats(3600, 1e6))
def test_an_end_an_hour_is_no_crash_loop(watchdog: ModuleType, period: float) -> None:
    hazard = watchdog.Hazard()
    assert not any(hazard.count(number * period) for number in range(200))


@pytest.mark.parametrize(("limit", "ended"), [(20.0, [1030.0, 1035.0]), (60.0, [1070.0, 1075.0]), (float("inf"), [])])
def test_signs_of_life(watchdog: ModuleType, limit: float, ended: list[float]) -> None:
    def looks(signs: dict[float, tuple[int, float] | None], pid: int = 7) -> list[float]:
        life = watchdog.Life()
        return [at for at, sign in signs.items() if life.look(pid, sign, at, lambda: limit)]

    ticks = [1000.0 + 5 * number for number in range(16)]
    assert looks({at: (7, at - 2) for at in ticks}) == []
    # Signs are rounded, and one may come between our clock and our look.
    assert looks({at: (7, at + 0.05) for at in ticks}) == []
    # Its last one is from 1002: at 1020 for the first time too old, at 1025 for the second.
    assert looks({at: (7, min(at, 1002.0)) for at in ticks}) == ticks[5:]
    # One that never showed any; a sign of another process, or of another start of the machine, is none.
    assert looks(dict.fromkeys(ticks))[:2] == ended
    assert looks({at: (6, at) for at in ticks})[:2] == ended
    assert looks(dict.fromkeys(ticks, (7, 9000.0)))[:2] == ended


def test_a_new_process_begins_anew(watchdog: ModuleType) -> None:
    life = watchdog.Life()
    assert not life.look(7, (7, 1.0), 1000.0, lambda: 20.0)
    assert not life.look(8, (7, 1.0), 1005.0, lambda: 20.0)
    assert not life.look(8, (8, 1009.0), 1010.0, lambda: 20.0)


def test_a_slow_machine_gets_more_time_with_each_end(watchdog: ModuleType) -> None:
    """Whatever a start takes, up to a quarter of an hour: it is ended a few times at most, then it may go on."""
    life, now, lasted = watchdog.Life(), 1000.0, list[float]()
    for pid in range(1, 8):
        began = now
        while not life.look(pid, None, now, lambda: float(life.patience)):
            now += 5.0
        lasted.append(now - began)
    assert lasted == [70.0, 130.0, 250.0, 490.0, 970.0, 970.0, 970.0]
    assert not life.look(9, (9, now), now, lambda: float(life.patience))
    assert life.patience == watchdog.START_SECONDS


@pytest.mark.parametrize(
    ("current", "previous", "trial", "limit"),
    [
        ("", "", "", 60.0),
        ("0.2.0", "", "", 60.0),
        ("1.0", "0.2.0", "", 60.0),
        ("0.2.0", "", "0.3.0", 20.0),
        ("0.1.9", "", "0.2.0", 20.0),
        ("0.1.9", "", "", float("inf")),
        ("0.2.0", "0.1.0", "", float("inf")),
    ],
)
def test_who_shows_signs_of_life(
    watchdog: ModuleType, tmp_path: Path, current: str, previous: str, trial: str, limit: float
) -> None:
    """Every rdagent since 0.2.0. One before it is left alone, also where launch.py may have stepped back to it."""
    installed = Installed(tmp_path / "root", "rdagent")
    installed.folder.mkdir(parents=True)

    def one(version: str) -> Chosen | None:
        return Chosen(version, "7" * 64) if version else None

    on_trial = Trial(Chosen(trial, "8" * 64), 3) if trial else None
    installed.set(current=one(current), previous=one(previous), trial=on_trial)
    dog = watchdog.Watchdog(str(installed.root), str(tmp_path), start=lambda _: True)
    assert dog._first_sign_limit() == limit


def test_the_ends_of_a_version_on_trial_are_not_those_of_the_one_in_force(watchdog: ModuleType, tmp_path: Path) -> None:
    """launch.py counts its tries. One end more of the version it went back to must not take that away, too."""
    installed = Installed(tmp_path / "root", "telemetry")
    installed.folder.mkdir(parents=True)
    before, now, new = (Chosen(f"{number}.0.0", str(number) * 64) for number in (1, 2, 3))
    dog = watchdog.Watchdog(str(installed.root), str(tmp_path), start=lambda _: True)

    def ends(times: int) -> None:
        for _ in range(times):
            dog.event("PROCESS_STATE_EXITED", {"processname": "telemetry"})

    installed.set(current=now, previous=before, trial=Trial(new, 3))
    ends(3)
    installed.set(current=now, previous=before, bad={new.key: Bad("all its tries are used up")})
    ends(1)
    assert installed.record().current == now
    ends(3)
    assert installed.record().current == before
    assert installed.record().bad.keys() == {now.key, new.key}


@pytest.mark.parametrize(("ours", "ends"), [(True, 4), (False, 8)])
def test_a_version_that_is_kept_out_is_not_to_blame(
    watchdog: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], ours: bool, ends: int
) -> None:
    """Its lock is held: by the process supervisord runs, or by one that an earlier supervisord left behind."""
    installed = Installed(tmp_path / "root", "telemetry")
    installed.folder.mkdir(parents=True)
    before, now = (Chosen(f"{number}.0.0", str(number) * 64) for number in (1, 2))
    installed.set(current=now, previous=before)
    # "Our" supervisord is whoever started this process, so a brother is its own child, and a child of ours is not.
    holds = (
        "import fcntl, os, sys\nfile = open(sys.argv[1], 'a')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(os.getpid(), flush=True)\nsys.stdin.read()"
    )
    drive = (
        f"import sys\nsys.path.insert(0, {str(CHECKOUT)!r})\nimport watchdog\n"
        "dog = watchdog.Watchdog(sys.argv[1], sys.argv[2], start=lambda _: True)\n"
        f"for _ in range({ends}):\n    dog.event('PROCESS_STATE_EXITED', dict(processname='telemetry'))"
    )
    lock = [sys.executable, "-c", holds, str(tmp_path / "telemetry.lock")]
    run = [sys.executable, "-c", drive, str(installed.root), str(tmp_path)]
    if not ours:
        run = ["sh", "-c", '"$@"; exit $?', "sh", *run]  # its parent is another one then
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert int(holder.stdout.readline()) == holder.pid
        subprocess.run(run, check=True, timeout=20)
        holder.communicate()
    said = capfd.readouterr().err
    assert said.count(f"no version is to blame, process {holder.pid} holds the lock") == (0 if ours else 1)
    assert installed.record().current == (before if ours else now)


SUPERVISORD = """
[unix_http_server]
file={run}/supervisor.sock
[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:rdagent]
command={python} -I -S {launch} {root} rdagent
autorestart=true
startsecs={startsecs}
startretries={startretries}
[eventlistener:watchdog]
command={python} -I -S {watchdog} {root} {run}
events=TICK_5,PROCESS_STATE_EXITED,PROCESS_STATE_BACKOFF,PROCESS_STATE_FATAL
stderr_logfile={run}/watchdog.log
buffer_size=100
"""

MAIN = """
import os, pathlib, signal, sys, time
run = pathlib.Path(os.environ["RUN"])
(run / "started").open("a").write(VERSION + "\\n")
def alive():
    (run / "rdagent.alive").write_text(f"{os.getpid()} {time.monotonic()}")
"""
WELL = "while True:\n    alive()\n    time.sleep(1)\n"
HANGS = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nalive()\nwhile True:\n    time.sleep(9)\n"
ENDS = "alive()\ntime.sleep(1.2)\n"
WAITS = """
for _ in range(32):
    alive()
    (run / "rdagent.waits").write_text(f"{os.getpid()} {time.monotonic()}")
    time.sleep(0.5)
(run / "started").open("a").write("waited\\n")
"""


def rdagent(folder: Path, version: str, main: str) -> Built:
    """A rdagent that does just this."""
    source = folder / f"source-{version}"
    for path, text in {
        "rdagent/__init__.py": f"__version__ = '{version}'\n",
        "rdagent/__main__.py": MAIN.replace("VERSION", repr(version)) + main,
        "ipc/__init__.py": "",
        "ipc/contract/__init__.py": "PROTOCOL = (1, 3)\n",
        "wire/__init__.py": "",
        "release/__init__.py": "",
        "pyproject.toml": "[project]\nrequires-python = '>=3.11'\n",
    }.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    return build(source, "rdagent", folder / "dist", [KEY])


class Group:
    """supervisord with a rdagent and the watchdog."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir()
        self.installed = Installed(folder / "root", "rdagent")
        self._supervisord: Process | None = None

    def put(self, version: str, main: str) -> Built:
        built = rdagent(self.folder, version, main)
        self.installed.put(built)
        return built

    def start(self, startsecs: int = 1, startretries: int = 100, watchdog: Path = WATCHDOG) -> None:
        text = SUPERVISORD.format(
            run=self.run,
            root=self.installed.root,
            python=sys.executable,
            launch=CHECKOUT / "launch.py",
            watchdog=watchdog,
            startsecs=startsecs,
            startretries=startretries,
        )
        (self.folder / "supervisord.conf").write_text(text)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.folder / "supervisord.conf")]
        pid = os.posix_spawn(
            sys.executable,
            command,
            {**os.environ, "RUN": str(self.run)},
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, str(self.run / "out"), os.O_WRONLY | os.O_CREAT, 0o600)],
        )
        self._supervisord = process(pid)

    def changed(self, words: dict[str, str]) -> Path:
        """A watchdog of less patience, with launch.py beside it."""
        text = WATCHDOG.read_text()
        for old, new in words.items():
            assert old in text
            text = text.replace(old, new)
        (self.folder / "watchdog.py").write_text(text)
        (self.folder / "launch.py").write_bytes((CHECKOUT / "launch.py").read_bytes())
        return self.folder / "watchdog.py"

    @property
    def started(self) -> list[str]:
        path = self.run / "started"
        return path.read_text().split() if path.exists() else []

    def record(self) -> Record:
        return self.installed.record()

    def child(self, word: bytes) -> int:
        """The process of supervisord with that at the end of a word of its command line; 0 if there is none."""
        assert self._supervisord
        pid = self._supervisord.pid
        for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            words = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
            if any(other.endswith(word) for other in words):
                return int(one)
        return 0

    def ticks(self) -> float:
        """CLOCK_MONOTONIC of the last one that the watchdog saw."""
        sign = self.run / "watchdog.alive"
        return float(sign.read_text().split()[1]) if sign.exists() else 0.0

    def said(self) -> str:
        return (self.run / "watchdog.log").read_text()

    def stop(self) -> None:
        if self._supervisord:
            end([self._supervisord], 15.0)
            os.waitpid(self._supervisord.pid, 0)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.stop()


def test_a_rdagent_that_hangs_after_its_update(group: Group) -> None:
    """Drill 44: nobody lends a hand."""
    old, new = group.put("1.0.0", WELL), group.put("2.0.0", HANGS)
    group.installed.set(current=chosen(old), trial=Trial(chosen(new), 3))
    group.start()
    assert wait_until(lambda: group.started == ["2.0.0", "1.0.0"], 60), (group.started, group.said())
    record = group.record()
    assert (record.current, record.trial) == (chosen(old), None)
    assert "it hangs: no sign of life" in record.bad[chosen(new).key].reason
    assert "hangs" in group.said()


def test_a_rdagent_in_force_that_hangs_before_its_first_sign(group: Group) -> None:
    """It is ended and started anew, and not condemned for it, though here one end that counted would do that."""
    main = "if not (run / 'mended').exists(): time.sleep(9999)\n" + WELL
    old, new = group.put("1.0.0", WELL), group.put("2.0.0", main)
    group.installed.set(current=chosen(new), previous=chosen(old))
    slow = "\nSTART_SECONDS, LONGEST_START_SECONDS = "
    impatient = {f"{slow}60.0, 960.0": f"{slow}1.0, 1.0", "LIMIT = 3.5": "LIMIT = 0.5"}
    impatient["\nTRIAL_START_SECONDS = 20.0"] = "\nTRIAL_START_SECONDS = 1.0"
    group.start(watchdog=group.changed(impatient))
    assert wait_until(lambda: group.started.count("2.0.0") > 1, 60), group.said()
    (group.run / "mended").touch()
    assert wait_until((group.run / "rdagent.alive").exists, 60), group.said()
    assert set(group.started) == {"2.0.0"}
    assert (group.record().current, group.record().bad) == (chosen(new), {}), group.said()
    assert "hangs: no sign of life in its first" in group.said()


def test_a_committed_version_that_ends_again_and_again(group: Group) -> None:
    old, new = group.put("1.0.0", WELL), group.put("2.0.0", ENDS)
    group.installed.set(current=chosen(new), previous=chosen(old))
    group.start()
    assert wait_until(lambda: group.started[-1:] == ["1.0.0"], 60), (group.started, group.said())
    assert group.started.count("2.0.0") in {4, 5}
    record = group.record()
    assert (record.current, record.previous) == (chosen(old), None)
    assert "ended again and again" in record.bad[chosen(new).key].reason


def test_ends_of_versions_on_trial_are_not_held_against_the_one_in_force(group: Group) -> None:
    """Four ends in a short time, at the swaps and of the versions tried: one crashes, one hangs."""
    old, crashes, hangs = group.put("1.0.0", WELL), group.put("2.0.0", ENDS), group.put("3.0.0", HANGS)
    group.installed.set(current=chosen(old))
    group.start()
    for tried in (chosen(crashes), chosen(hangs)):
        assert wait_until(lambda: group.started[-1:] == ["1.0.0"], 60), (group.started, group.said())
        group.installed.set(current=chosen(old), trial=Trial(tried, 1))
        os.kill(group.child(b"rdagent"), signal.SIGTERM)
        assert wait_until(lambda key=tried.key: key in group.record().bad, 60), group.said()  # type: ignore[misc]
    assert wait_until(lambda: group.started[-1:] == ["1.0.0"], 60), (group.started, group.said())
    assert group.started == ["1.0.0", "2.0.0", "1.0.0", "3.0.0", "1.0.0"]
    assert group.record().current == chosen(old), group.said()


def test_one_that_supervisord_gave_up(group: Group) -> None:
    main = "if not (run / 'mended').exists(): raise SystemExit(3)\n" + WELL
    group.installed.set(current=chosen(group.put("1.0.0", main)))
    # However slow the machine is, what ends at once has not started well: then supervisord gives up.
    group.start(startsecs=20, startretries=0)
    log = group.run / "supervisord.log"
    assert wait_until(lambda: log.exists() and "entered FATAL state" in log.read_text(), 30)
    (group.run / "mended").touch()
    began = len(group.started)
    assert wait_until(lambda: len(group.started) > began, 40), group.said()
    assert "given up by supervisord and is started again" in group.said()


def test_a_restart_whose_doer_is_killed_is_finished(group: Group) -> None:
    """As long as he lives it is his; what runs already is left alone."""
    group.installed.set(current=chosen(group.put("1.0.0", WELL)))
    group.start()
    assert wait_until(lambda: len(group.started) == 1, 30)
    places = Places(*(group.run for _ in range(6)))
    note, supervisord = places.restarting("rdagent"), Supervisord(places)
    lock = Lock(note, "a restart")
    supervisord.stop("rdagent")
    ticks = group.ticks()
    assert wait_until(lambda: group.ticks() > ticks + 10, 40)
    assert not group.child(b"rdagent")
    lock.release()
    assert wait_until(lambda: len(group.started) == 2, 40), group.said()
    assert wait_until(lambda: note.stat().st_size == 0, 40), group.said()
    assert "rdagent was stopped for a restart that did not go on" in group.said()
    pid = group.child(b"rdagent")
    note.write_bytes(b"1")
    assert wait_until(lambda: note.stat().st_size == 0, 40), group.said()
    assert group.child(b"rdagent") == pid
    assert len(group.started) == 2


def test_a_restart_whose_doer_is_stopped_is_finished_too(group: Group) -> None:
    """As by Ctrl-Z: he lives, and holds the lock for ever."""
    group.installed.set(current=chosen(group.put("1.0.0", WELL)))
    group.start(watchdog=group.changed({"RESTART_SECONDS = 60.0": "RESTART_SECONDS = 8.0"}))
    assert wait_until(lambda: len(group.started) == 1, 30)
    places = Places(*(group.run for _ in range(6)))
    lock = Lock(places.restarting("rdagent"), "a restart")
    Supervisord(places).stop("rdagent")
    assert wait_until(lambda: len(group.started) == 2, 60), group.said()
    pid, ticks = group.child(b"rdagent"), group.ticks()
    assert wait_until(lambda: group.ticks() > ticks + 10, 40)
    assert group.child(b"rdagent") == pid
    lock.release()


def test_a_watchdog_that_is_killed_comes_back(group: Group) -> None:
    group.installed.set(current=chosen(group.put("1.0.0", WELL)))
    group.start()

    assert wait_until(lambda: bool(group.child(b"watchdog.py")), 20)
    first = group.child(b"watchdog.py")
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: group.child(b"watchdog.py") not in {0, first}, 20)


def test_it_shows_signs_of_life_of_its_own(
    watchdog: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """rdagent looks at them. One that cannot be written is told once, and ends nothing."""
    dog = watchdog.Watchdog(str(tmp_path / "root"), str(tmp_path / "run"), start=lambda _: True)
    for _ in range(2):
        dog.event("TICK_5", {})
    assert capfd.readouterr().err.count("no sign of life can be shown") == 1
    (tmp_path / "run").mkdir()
    for _ in range(2):
        before = time.monotonic()
        dog.event("TICK_5", {})
        pid, at = (tmp_path / "run" / "watchdog.alive").read_text().split()
        assert int(pid) == os.getpid()
        assert before - 0.1 <= float(at) <= time.monotonic() + 0.1
    assert not capfd.readouterr().err


def test_a_trial_without_an_end(watchdog: ModuleType) -> None:
    trial, limit = watchdog.Trial(), watchdog.TRIAL_SECONDS

    def ended(begin: float, seconds: float, target: str, waits: float = 0.0) -> float:
        """When it is found to be too long, counted from its first look; 0 for never. `waits`: until then it says so."""
        looks = [begin + 5 * number for number in range(int(seconds / 5) + 1)]
        return next((now - begin for now in looks if trial.look(target, min(now - 3.0, waits), now)), 0.0)

    assert ended(1000.0, limit + 5, "2.0.0+a") == limit + 5
    # Another one, or none in between, begins anew.
    assert not ended(2000.0, limit, "2.0.0+b")
    assert not ended(3000.0, 5, "")
    assert not ended(3010.0, limit, "2.0.0+b")
    # While the whole machine stood still, nobody could end it.
    assert ended(3610.0 + 10 * limit, 10, "2.0.0+b") == 5
    # It waits for the disk, as whoever would end it has to; when it says so no more, it has its time from then on.
    assert not ended(20000.0, 10 * limit, "2.0.0+c", waits=1e9)
    assert ended(40000.0, 2 * limit + 5, "2.0.0+d", waits=40000.0 + limit) == 2 * limit + 5
    # All stood still while it waited.
    assert not ended(60000.0, 2 * limit, "2.0.0+e", waits=1e9)
    assert not ended(60000.0 + 4 * limit, limit, "2.0.0+e", waits=60000.0 + 2 * limit)
    # A word of an earlier start of the machine.
    looks = [80000.0 + 5 * number for number in range(200)]
    assert next(now for now in looks if trial.look("2.0.0+f", 1e9, now)) == 80000.0 + limit + 5


def test_only_the_process_on_trial_says_that_it_waits(watchdog: ModuleType, tmp_path: Path) -> None:
    """Written by rdagent's own writer. One of an older release writes nothing."""
    places = Places.under(tmp_path)
    places.run.mkdir()
    dog = watchdog.Watchdog(str(tmp_path / "opt"), str(places.run), start=lambda _: True)
    assert dog._waited_at(os.getpid()) == 0.0
    before = time.monotonic()
    SignOfLife(places.waiting_trial).show()
    assert before - 0.1 <= dog._waited_at(os.getpid()) <= time.monotonic() + 0.1
    assert dog._waited_at(os.getpid() + 1) == 0.0
    places.waiting_trial.write_text("junk")
    assert dog._waited_at(os.getpid()) == 0.0


@given(st.floats(0, 7), st.floats(0, 600), st.floats(0, 5), st.floats(0, 6), st.booleans())
def test_who_was_away_himself_judges_nobody(
    watchdog: ModuleType, age: float, away: float, phase: float, late: float, has_shown: bool
) -> None:
    """All of the machine stands still for a time: then two looks come at once, before rdagent has its own."""
    life, stops = watchdog.Life(), 1000.0 + phase
    for number in range(8):
        now = 965.0 + 5 * number
        assert not life.look(7, (7, now - age) if has_shown else None, now, lambda: 50.0)
    last, wakes = stops - age, stops + away
    boundary = wakes + 5 - wakes % 5
    for now in (wakes, wakes + 1e-6, boundary, boundary + 5):
        at = last if now < wakes + late else now
        assert not life.look(7, (7, at) if has_shown else None, now, lambda: 50.0), now


def test_a_rdagent_whose_trial_has_no_end_is_replaced(
    group: Group,
) -> None:
    """It shows signs of life, and never judges itself; not while it waits for the disk. With little patience."""
    old, new = group.put("1.0.0", WELL), group.put("2.0.0", WAITS + WELL)
    group.installed.set(current=chosen(old), trial=Trial(chosen(new), 3))
    group.start(watchdog=group.changed({"TRIAL_SECONDS = 600.0": "TRIAL_SECONDS = 6.0"}))
    assert wait_until(lambda: group.started == ["2.0.0", "waited", "1.0.0"], 90), (group.started, group.said())
    record = group.record()
    assert (record.current, record.trial) == (chosen(old), None)
    assert "no end within 6 s" in record.bad[chosen(new).key].reason
