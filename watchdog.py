"""The third judge, an event listener of supervisord: `python -I -S watchdog.py INSTALLED RUN`.

launch.py sees a version that cannot start, rdagent's gate one that is not well. Neither sees a rdagent that hangs, a
rdagent that supervisord gave up, or a version that was well at first and then ends again and again. Part of the base
install, so it has the standard library only. Speaks http://supervisord.org/events.html on stdin and stdout.
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PROGRAMS = ("rdagent", "guestagent", "netagent", "telemetry")

# rdagent shows a sign of life with each of its looks, every 5 to 7 s.
HANG_SECONDS = 15.0
TRIAL_START_SECONDS = 20.0

# supervisord's ticks come every 5 s. After a longer gap all of us may have stood still, and who was away judges nobody:
# silence counts from then on. On waking two ticks come within milliseconds, and two looks are to be two moments.
GAP_SECONDS, SECOND_LOOK_SECONDS = 7.5, 2.5

# Before its first sign a version in force, or the base install, has longer: a slow machine boots. Whoever was ended so
# gives the next one twice the time, until one shows a sign: there is no loop of ends, however slow the machine is.
START_SECONDS, LONGEST_START_SECONDS = 60.0, 960.0
NO_SIGNS_BEFORE = [0, 2]

# Its own gate ends a trial of rdagent within `trial_limit`, which is less; a gate that does not is what is broken.
TRIAL_SECONDS = 600.0
# A rdagent that says why it cannot end it, the record cannot be written, has that long again each time.

# Each end counts one, and half of it is forgotten in two hours: four ends at once are too many, and so is one in 58
# minutes for ever. "Three in five minutes" would never see a version that ends every 151 s.
HAZARD_LIMIT = 3.5
HALF_LIFE = 7200.0

# Who restarts a component is done within 20 s. One that is stopped, as by Ctrl-Z, holds his lock for ever.
RESTART_SECONDS = 60.0

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


def say(text: str) -> None:
    # Standard output belongs to supervisord.
    sys.stderr.write(f"watchdog: {text}\n")
    sys.stderr.flush()


def launcher() -> ModuleType:
    """launch.py beside us, which knows the record. It takes memory, so it is loaded when it is needed."""
    if (folder := str(Path(__file__).resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)  # `-I` leaves it out
    import launch

    return launch


class Hazard:
    """How often a program ended, the older the less."""

    def __init__(self) -> None:
        self._score, self._at = 0.0, 0.0

    def count(self, now: float) -> bool:
        """One more end at `now` (CLOCK_BOOTTIME); whether that is too many."""
        self._score = self._score * 0.5 ** ((now - self._at) / HALF_LIFE) + 1.0
        self._at = now
        return self._score > HAZARD_LIMIT


class Life:
    """Signs of life of rdagent. By CLOCK_MONOTONIC: while the machine sleeps, nobody is silent."""

    def __init__(self) -> None:
        self._pid, self._seen_at, self._struck_at = 0, 0.0, 0.0
        self._looked_at, self._present_since = 0.0, 0.0
        self.patience = START_SECONDS
        """What a version in force may take to its first sign, seconds."""
        self.shown = False
        """Whether the process of the last look has ever shown one."""

    def look(self, pid: int, sign: tuple[int, float] | None, now: float, limit: Callable[[], float]) -> str:
        """Why it hangs, at a second look in a row that finds it so, seconds later; empty if it does not.

        `now`: CLOCK_MONOTONIC; `sign`: the pid that showed the last one, and when; `limit`: seconds to the first one.
        """
        if now - self._looked_at > GAP_SECONDS:
            self._present_since, self._struck_at = now, 0.0
        self._looked_at = now
        if pid != self._pid:
            self._pid, self._seen_at, self._struck_at = pid, now, 0.0
        reason = ""
        # One of the far future was shown before the machine started anew; a little ahead it is rounded, or just shown.
        self.shown = bool(sign and sign[0] == pid and sign[1] <= now + HANG_SECONDS)
        if sign and self.shown:
            self.patience = START_SECONDS
            if now - max(sign[1], self._present_since) > HANG_SECONDS:
                reason = f"no sign of life for {now - sign[1]:.0f} s"
        else:
            silent = now - max(self._seen_at, self._present_since)
            if silent > TRIAL_START_SECONDS and silent > limit():
                reason = f"no sign of life in its first {now - self._seen_at:.0f} s"
        if not reason:
            self._struck_at = 0.0
            return ""
        self._struck_at = self._struck_at or now
        if now - self._struck_at < SECOND_LOOK_SECONDS:
            return ""
        if not self.shown:
            self.patience = min(self.patience * 2, LONGEST_START_SECONDS)
        return reason


class Trial:
    """How long one version of rdagent has been on trial."""

    def __init__(self) -> None:
        self._target, self._since, self._looked_at = "", 0.0, 0.0

    def look(self, target: str, waited_at: float, now: float) -> bool:
        """Whether that is too long; `target`: empty if none is.

        `waited_at`: when rdagent said last that the record cannot be written; both CLOCK_MONOTONIC.
        """
        if waited_at <= now:  # else it is of an earlier start of the machine
            self._since = max(self._since, waited_at)
        if (gap := now - self._looked_at) > GAP_SECONDS:
            self._since += gap
        self._looked_at, self._since = now, min(self._since, now)
        if target != self._target:
            self._target, self._since = target, now
        return bool(target) and now - self._since > TRIAL_SECONDS


class Watchdog:
    """Acts on what supervisord tells."""

    def __init__(self, installed: str, run: str, *, start: Callable[[str], bool]) -> None:
        """`start`: has a program started, and says whether it had been already."""
        self._installed, self._run, self._start = installed, Path(run), start
        self._hazards = {name: Hazard() for name in PROGRAMS}
        self._life = Life()
        self._trial = Trial()
        self._noted_at: dict[str, float] = {}
        """By component: when its restart was seen to be under way, CLOCK_MONOTONIC."""
        self._slots: tuple[float, ...] = ()
        self._target = ""
        self._fatal_at: float | None = None
        self._pause = _FIRST_PAUSE
        self._told: set[tuple[str, int]] = set()
        self._signless = ""
        """Why no sign of life could be shown."""
        self._rejected = 0
        """The last process that we ended because its version has failed, or before its first sign of life: its end says
        nothing of the version in force. A good one on a slow machine must not be condemned for our impatience."""

    def event(self, name: str, payload: dict[str, str]) -> None:
        program = payload.get("processname", "")
        if name.startswith("TICK"):
            self._tick()
        elif program not in PROGRAMS or payload.get("pid") == str(self._rejected):
            return
        elif name == "PROCESS_STATE_FATAL":
            if program == "rdagent":
                self._fatal_at = time.monotonic()
        elif self._on_trial(program):
            # launch.py counts its tries; the version it would step back to has no part in that.
            return
        elif self._hazards[program].count(time.clock_gettime(time.CLOCK_BOOTTIME)):
            # If the record cannot be had now, the next end comes here again.
            self._step_back(program, "it ended again and again, though it was well at first")
            self._hazards[program] = Hazard()

    def _tick(self) -> None:
        now = time.monotonic()
        self._show_sign(now)
        if self._fatal_at is not None and now >= self._fatal_at + self._pause:
            self._fatal_at, self._pause = None, min(self._pause * 2, _LONGEST_PAUSE)
            say("rdagent was given up by supervisord and is started again")
            self._start("rdagent")
        self._finish_restarts(now)
        if not (pid := child("rdagent")):
            return
        if reason := self._life.look(pid, self._sign("rdagent.alive"), now, self._first_sign_limit):
            say(f"rdagent, process {pid}, hangs: {reason}")
            # First the record, so that the next start is another version; a hung one may hold it, then its end counts.
            try:
                if self._reject("rdagent", f"it hangs: {reason}") or not self._life.shown:
                    self._rejected = pid
            finally:
                os.kill(pid, signal.SIGKILL)
        elif self._trial.look(self._rdagent_on_trial(), self._waited_at(pid), now):
            say(f"rdagent, process {pid}, is on trial without an end")
            if self._reject("rdagent", f"its trial had no end within {TRIAL_SECONDS:g} s"):
                self._rejected = pid
                os.kill(pid, signal.SIGKILL)

    def _finish_restarts(self, now: float) -> None:
        """Of who was killed between stop and start, or is too long about it. As long as he lives, he holds the lock."""
        for name in PROGRAMS:
            note = self._run / f"{name}.restarting"
            if not _size(note):
                self._noted_at.pop(name, None)
                continue
            with note.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_ours = True
                except BlockingIOError:
                    is_ours = False
                    if now - self._noted_at.setdefault(name, now) < RESTART_SECONDS:
                        continue
                if self._start(name):
                    if is_ours:
                        file.truncate(0)
                else:
                    say(f"{name} was stopped for a restart that did not go on, and is started")

    def _show_sign(self, now: float) -> None:
        """Of our own life: rdagent has a watchdog that shows none any more started anew."""
        try:
            descriptor = os.open(self._run / "watchdog.alive", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # One call and always the same length: a reader sees the old one or the new.
                os.pwrite(descriptor, f"{os.getpid():<10d} {now:<20.1f}\n".encode(), 0)
            finally:
                os.close(descriptor)
            self._signless = ""
        except OSError as error:
            if str(error) != self._signless:
                say(f"no sign of life can be shown: {error}")
            self._signless = str(error)

    def _first_sign_limit(self) -> float:
        """Seconds from the start of rdagent to its first sign of life."""
        record = launcher().read_record(self._folder("rdagent"))
        if record["trial"]:
            return TRIAL_START_SECONDS
        # launch.py may have stepped back to the one before. The base install is of our release.
        versions = [one["version"] for one in (record["current"], record["previous"]) if one]
        is_older = any([int(part) for part in one.split(".") if part] < NO_SIGNS_BEFORE for one in versions)
        return float("inf") if is_older else self._life.patience

    def _rdagent_on_trial(self) -> str:
        """Which version; read when one of the slots is another."""
        slots = tuple(_changed_at(Path(self._folder("rdagent"), f"state.{number}")) for number in (0, 1))
        if slots != self._slots:
            trial = launcher().read_record(self._folder("rdagent"))["trial"] if any(slots) else None
            self._slots, self._target = slots, launcher().key(trial["target"]) if trial else ""
        return self._target

    def _on_trial(self, name: str) -> bool:
        return bool(launcher().read_record(self._folder(name))["trial"])

    def _reject(self, name: str, reason: str) -> bool:
        """Put the version on trial on the bad list; whether there was one."""
        if not self._on_trial(name):
            return False
        launch = launcher()
        with self._locked(name) as folder:
            record = launch.read_record(folder)
            if record["trial"]:
                bad = {launch.key(record["trial"]["target"]): {"reason": reason, "expires": None}, **record["bad"]}
                launch.write_record(folder, {**record, "trial": None, "bad": bad})
            return bool(record["trial"])

    def _step_back(self, name: str, reason: str) -> None:
        launch = launcher()
        if not launch.read_record(self._folder(name))["current"] or self._is_kept_out(name):
            return
        with self._locked(name) as folder:
            record = launch.read_record(folder)
            # One on trial has judges of its own; behind the base install there is nothing.
            if record["trial"] or not (current := record["current"]):
                return
            bad = {**record["bad"], launch.key(current): {"reason": reason, "expires": None}}
            previous = record["previous"] if record["previous"] and launch.key(record["previous"]) not in bad else None
            launch.write_record(folder, {**record, "current": previous, "previous": None, "bad": bad})
            to = previous["version"] if previous else "the base install"
            say(f"{name} goes back from {current['version']} to {to}: {reason}")
            if pid := child(name):
                os.kill(pid, signal.SIGTERM)  # supervisord may have started it once more

    def _is_kept_out(self, name: str) -> bool:
        """Whether a process holds its lock that is none of supervisord's: then no version could start."""
        found = holders(self._run / f"{name}.lock")
        if not found or not found.isdisjoint(children()):
            return False
        if not {(name, pid) for pid in found} <= self._told:
            self._told |= {(name, pid) for pid in found}
            pids = ", ".join(map(str, sorted(found)))
            say(f"{name}: no version is to blame, process {pids} holds the lock and is none of supervisord's")
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[str]:
        """The folder of the record, ours alone meanwhile. Raises OSError if somebody else holds it."""
        with Path(self._folder(name), "state.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield self._folder(name)

    def _waited_at(self, pid: int) -> float:
        """When this rdagent last could not write the record of its trial; it writes it before we judge it."""
        sign = self._sign("rdagent.waits")
        return sign[1] if sign and sign[0] == pid else 0.0

    def _sign(self, name: str) -> tuple[int, float] | None:
        """rdagent's last: its pid, and when."""
        try:
            pid, at = (self._run / name).read_text().split()
            return int(pid), float(at)
        except (OSError, ValueError):
            return None

    def _folder(self, name: str) -> str:
        return f"{self._installed}/components/{name}"


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def child(program: str) -> int:
    """The process supervisord, our parent, runs for it; 0 if there is none."""
    try:
        for pid in children():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            # launch.py INSTALLED PROGRAM, or from the base install -m PROGRAM
            if len(words) > 2 and words[-2] == program.encode():
                return pid
    except OSError:
        pass
    return 0


def children() -> set[int]:
    """Of supervisord, our parent. Raises OSError."""
    parent = os.getppid()
    return set(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))


def holders(lock: Path) -> set[int]:
    """The processes that hold this flock, as ipc/takeover.py finds them. To try it would keep a start out meanwhile."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(is_held(one, lock) for one in (entry / "fd").iterdir()):
                found.add(int(entry.name))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def is_held(descriptor: Path, lock: Path) -> bool:
    try:
        if str(descriptor.readlink()) != os.path.realpath(lock) or not descriptor.samefile(lock):
            return False
        return "FLOCK" in (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text()
    except OSError:
        return False


def start_process(socket_path: str) -> Callable[[str], bool]:
    """How supervisord is asked to start a program; it says whether that was so already.

    Its library takes memory, so it is loaded when it is needed.
    """

    def start(program: str) -> bool:
        import http.client
        import socket
        import xmlrpc.client

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(5.0)
                self.sock.connect(socket_path)

        class Transport(xmlrpc.client.Transport):
            def make_connection(self, host: object) -> http.client.HTTPConnection:  # noqa: ARG002
                return Connection("supervisord")

        try:
            supervisor = xmlrpc.client.ServerProxy("http://supervisord", Transport()).supervisor
            state = dict(supervisor.getProcessInfo(program))["statename"]  # type: ignore[arg-type]  # a struct
            if state in {"STARTING", "RUNNING", "BACKOFF"}:
                return True
            if state != "STOPPING":
                supervisor.startProcess(program, False)
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            say(f"{program} cannot be started: {error}")
        return False

    return start


def fields(line: str) -> dict[str, str]:
    """`key:value key:value`, as supervisord writes it."""
    return dict(word.split(":", 1) for word in line.split() if ":" in word)


def main() -> None:
    installed, run = sys.argv[1:]
    watchdog = Watchdog(installed, run, start=start_process(f"{run}/supervisor.sock"))
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        if not (header := fields(sys.stdin.readline())):
            return
        payload = sys.stdin.read(int(header["len"]))
        try:
            watchdog.event(header["eventname"], fields(payload.partition("\n")[0]))
        except OSError as error:
            say(f"{header['eventname']}: {error}")
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    main() if len(sys.argv) == 3 else sys.exit("usage: python -I -S watchdog.py INSTALLED RUN")
