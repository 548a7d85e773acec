"""The group at rest beside Debian's reference agent: memory, CPU, wake-ups, requests, time to Ready. Ratios in one run.

make bench                      (as root: the reference agent gets namespaces of its own)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "tests" / "lab"
SECONDS = 60.0
COMPONENTS = ("rdagent", "guestagent", "netagent", "telemetry")

Figures = dict[str, float]


def ours(root: Path) -> Figures:
    """Up without sample, left alone, measured."""
    began = time.monotonic()
    agentctl = [sys.executable, "-m", "agentctl"]
    subprocess.run([*agentctl, "up", "--detach", "--no-sample", "--root", root], check=True, stdout=subprocess.DEVNULL)
    try:
        ready = time.monotonic() - began
        status = json.loads(
            subprocess.run([*agentctl, "status", "--json", "--root", root], capture_output=True, check=False).stdout
        )
        pids = [one["pid"] for one in status["components"]]
        pids.append(parent(pids[0]))
        return {"processes": len(pids), "ready_s": ready, **at_rest(pids, lambda: told(root, []))}
    finally:
        subprocess.run([*agentctl, "down", "--root", root], check=True, stdout=subprocess.DEVNULL)


def reference(root: Path) -> Figures:
    """Debian's waagent in namespaces of its own, against the same host."""
    cache = ROOT / ".cache" / "waagent"
    subprocess.run([LAB / "fetch_waagent.sh", cache], check=True)
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--mount-proc", "--propagation", "private"]
    command: list[str | Path] = [
        "unshare",
        *namespaces,
        "--fork",
        "--kill-child",
        LAB / "waagent_vm.sh",
        root,
        cache,
        sys.executable,
    ]
    vm = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        first = wait(lambda: children(vm.pid))[0]
        enter = ["nsenter", "--target", str(first), "--net", "--"]
        daemon = wait(lambda: [pid for pid in descendants(first) if "-daemon" in command_line(pid)])[0]
        began = time.monotonic()
        wait(lambda: told(root, enter).get("ready"))
        ready = time.monotonic() - began
        wait(lambda: told(root, enter).get("status"))
        pids = [daemon, *descendants(daemon)]
        return {"processes": len(pids), "ready_s": ready, **at_rest(pids, lambda: told(root, enter))}
    finally:
        vm.kill()
        vm.wait()


def at_rest(pids: list[int], ask: Any) -> Figures:
    """Memory now; CPU, context switches and requests over a minute."""
    time.sleep(10)
    requests = sum(ask()["requests"].values())
    before = [(cpu(pid), switches(pid)) for pid in pids]
    time.sleep(SECONDS)
    after = [(cpu(pid), switches(pid)) for pid in pids]
    asked = sum(ask()["requests"].values()) - requests
    pairs = list(zip(before, after, strict=True))
    return {
        "pss_mb": sum(pss(pid) for pid in pids) / 1024,
        "cpu_ms_per_min": sum(new[0] - old[0] for old, new in pairs) * 1000,
        "switches_per_s": sum(new[1] - old[1] for old, new in pairs) / SECONDS,
        "requests_per_min": asked,
    }


def told(root: Path, enter: list[str]) -> dict[str, Any]:
    command = [*enter, sys.executable, "-P", "-m", "fabric", "told", "--json", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, cwd="/", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def wait(look: Any) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.02)
    raise TimeoutError


def parent(pid: int) -> int:
    """supervisord, of a component."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []  # it has ended


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return [*found, *(deeper for one in found for deeper in descendants(one))]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu(pid: int) -> float:
    """Seconds, from the scheduler's nanoseconds of every thread."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def switches(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        mine, theirs = ours(Path(one)), reference(Path(other)) if os.geteuid() == 0 else {}
    print(f"{'':18}{'azvmagent':>12}{'waagent':>12}{'ratio':>8}")
    for name, value in mine.items():
        peer = theirs.get(name)
        ratio = f"{value / peer:8.2f}" if peer else ""
        print(f"{name:18}{value:12.2f}{peer if peer is not None else float('nan'):12.2f}{ratio}")


if __name__ == "__main__":
    main()
