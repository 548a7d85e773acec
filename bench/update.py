"""What an update costs: silence of a swap, launch, disk, memory; how long a bad build lives.

python -m bench.update [--times 100] [--rollback FILE]

The peer of a swap is a plain restart, by supervisord's autorestart; of a launch `python -P -m`; of a version on disk
one that brings its layers along; of rdagent's memory the same rdagent without its updater. FILE: a report of
`agentctl drill rollback --json`; without one the drill is run.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from agentctl.drill.findings import Findings
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import Versions, until
from agentctl.drill.progress import steps
from agentctl.drill.report import Case, Report
from agentctl.drill.swap.drill import CONFIGURATION, build, run
from agentctl.drill.swap.load import Load
from agentctl.drill.variants import changed, checkout, package
from bench import procfs
from bench.table import Figures, show
from ipc.places import COMPONENTS

ROUNDS = 15
RESTARTS = 6
"""Of the peer: each takes a look of supervisord's, once a second, after five seconds of rest."""
SETTLING = 20.0
_PATIENCE = 60.0

_WITHOUT_UPDATER = (
    (r"^from rdagent\.update\..*\n", ""),
    (r"^        updater = Updater\((?s:.*?)^        answer_orders\(.*\n", ""),
    (r" updater\.run\(\),", ""),
    (r"return updater\.reborn", "return False"),
    (r"^            exec_anew\(\)", "            pass"),
)


def silence(component: str, times: int) -> tuple[Figures, Figures]:
    """Of swaps, milliseconds, by a process that asks each 10 ms: ours, and a plain restart of the base install."""
    with Stage(CONFIGURATION) as stage, steps(Console(stderr=True), times) as progress:
        found_out = Findings("swap")
        run(stage, component, build(stage, component), times, progress, found_out, full=False)
        report = found_out.report()
        if report.failed:
            raise RuntimeError(f"swaps of {component}: {report.failed[0].problem}")
        restarts = _restarts(stage, component)
    found = {case.name.rpartition(" a ")[2]: case for case in report.cases if case.kind == "silence"}
    best = found.get("plain swap") or found["swap through the updater"]
    return _silence(best), restarts


def _silence(case: Case) -> Figures:
    found = case.measured
    return {"p50, ms": found["p50_ms"], "p99, ms": found["p99_ms"], "lost per swap": found["lost"] / found["count"]}


def _restarts(stage: Stage, component: str) -> Figures:
    stage.stop(component)
    stage.choose(component, None)
    stage.supervisord.start(component)
    versions, spans = Versions(stage), list[tuple[float, float]]()
    with Load(stage, component, full=False) as load:
        for _ in range(RESTARTS):
            # One that ends before would be held back by supervisord.
            until(lambda: "" if stage.program(component).statename == "RUNNING" else "it does not run", _PATIENCE)
            before, began = stage.program(component).pid, time.monotonic()
            os.kill(before, signal.SIGTERM)
            until(lambda: _is_not_another(versions, component, before), _PATIENCE)  # noqa: B023  # awaited here
            there = time.monotonic()
            until(lambda: "" if load.hears(there) else "it is not heard", _PATIENCE)  # noqa: B023
            spans.append((began, time.monotonic()))
    silences = sorted(load.silence(began, ended) * 1000 for began, ended in spans)
    during = [one for one in load.questions if any(began <= one.asked <= ended for began, ended in spans)]
    lost = sum(one.answered is None for one in during)
    # Of so few the last one is the worst.
    return {"p50, ms": statistics.median(silences), "p99, ms": silences[-1], "lost per swap": lost / len(spans)}


def _is_not_another(versions: Versions, component: str, pid: int) -> str:
    said = versions.describe(component)
    return "" if said is not None and said.pid != pid else "it does not answer"


def at_rest() -> None:
    """Launch, disk and memory: none of them needs a swap."""
    with Stage() as stage:
        source = checkout(stage.root / "sources")
        out = stage.root / "packages"
        sizes: dict[str, tuple[Figures, Figures]] = {}
        for name in COMPONENTS:
            stage.choose(name, stage.install(package(source, name, "1.0.0", out, stage.key)))
            tree = stage.places.installed / "components" / name / "versions" / "1.0.0"
            own, layers = _disk(tree), _disk(stage.places.installed / "deps")
            sizes[name] = ({"kB": own}, {"kB": own + layers})
        launch = _launch(stage)
        stage.up()
        with_updater = _pss(stage)
        bare = changed(checkout(stage.root / "bare"), {"rdagent/__main__.py": _without_updater})
        stage.swap("rdagent", package(bare, "rdagent", "1.0.1", out, stage.key))
        until(lambda: "" if stage.truth() else "rdagent does not answer", _PATIENCE)
        without = _pss(stage)
    show("launch to settings checked, ms", *_peer("python -P -m", launch))
    for name, pair in sizes.items():
        show(f"disk, {name}", *_peer("with layers", pair))
    show("memory of rdagent, MB", {"pss": with_updater}, {"without updater": {"pss": without}})


def _without_updater(text: str) -> str:
    for pattern, by in _WITHOUT_UPDATER:
        text, count = re.subn(pattern, by, text, flags=re.MULTILINE)
        if not count:
            raise RuntimeError(f"rdagent/__main__.py is no longer as the bench expects it: {pattern}")
    return text


def _launch(stage: Stage) -> tuple[Figures, Figures]:
    """By turns. Milliseconds."""
    launched = stage.deployment.launch("telemetry", "--check-settings")
    plain = [sys.executable, "-P", "-m", "telemetry", "--check-settings"]
    environment = stage.deployment.environment()
    rounds = [(_timed(launched, environment), _timed(plain, environment)) for _ in range(ROUNDS)]
    ours, theirs = zip(*rounds, strict=True)
    return ({"p50": statistics.median(ours), "fastest": min(ours)},
            {"p50": statistics.median(theirs), "fastest": min(theirs)})  # fmt: skip


def _timed(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def _disk(folder: Path) -> float:
    """Blocks it takes, kB."""
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*"))) / 1000


def _pss(stage: Stage) -> float:
    """Of rdagent, once it has done what it does at the start."""
    time.sleep(SETTLING)
    return procfs.pss_mb(stage.program("rdagent").pid)


def _peer(name: str, pair: tuple[Figures, Figures]) -> tuple[Figures, dict[str, Figures]]:
    return pair[0], {name: pair[1]}


def bad_builds(read: Callable[[], bytes]) -> None:
    """Seconds until each is found out, and until the one before answers again."""
    report = msgspec.json.decode(read(), type=Report)
    print(f"\n{'bad build':36}{'detect, s':>12}{'restore, s':>12}")
    for case in report.cases:
        figures = (case.measured.get(name) for name in ("detect_s", "restore_s"))
        print(f"{case.name:36}" + "".join(f"{'-' if one is None else f'{one:.2f}':>12}" for one in figures))


def _drill() -> bytes:
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "rollback", "--json"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description="What an update costs.")
    parser.add_argument("--times", type=int, default=100, help="Swaps of each component.")
    parser.add_argument("--rollback", type=Path, help="A report of `agentctl drill rollback --json`.")
    chosen = parser.parse_args()
    at_rest()
    for component in COMPONENTS:
        show(f"silence, {component}", *_peer("autorestart", silence(component, chosen.times)))
    bad_builds(chosen.rollback.read_bytes if chosen.rollback else _drill)


if __name__ == "__main__":
    main()
