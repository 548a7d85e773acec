"""Runs one command of an extension, beside guestagent: `python -I -S runner.py [OUTSIDE]`. Standard library only.
OUTSIDE is why it runs elsewhere than it was meant to.

guestagent may be killed, restarted or replaced meanwhile: this process goes on, enforces the time limit, and leaves
the outcome in the folder it was started in, for whoever is there. It owns that from the moment it has created
`started.json`; a second runner for the same folder finds that file and leaves.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time


def main(folder: str, outside: str = "") -> int:
    with open(f"{folder}/operation.json", "rb") as file:  # noqa: PTH123  # pathlib doubles the start of this process
        operation = json.load(file)
    if not _claim(folder):
        return 0
    outside = outside or _enter(operation.get("cgroup", ""))
    began = time.time()
    with open(f"{folder}/stdout", "wb") as out, open(f"{folder}/stderr", "wb") as err:  # noqa: PTH123
        try:
            # A session of its own: the limit ends all of it, and nothing of it ends with us.
            child = subprocess.Popen(  # noqa: S602  # manifests hold command lines for a shell
                operation["command"],
                shell=True,
                cwd=operation["folder"],
                env=operation["environment"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            _finish(folder, {"error": str(error), "code": None, "timed_out": False, "began": began, "outside": outside})
            return 0
    _write(f"{folder}/command.json", {"pid": child.pid})
    timed_out = not _wait(child.pid, operation["timeout_seconds"])
    if timed_out:
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    _finish(folder, {"error": "", "code": code, "timed_out": timed_out, "began": began, "outside": outside})
    return 0


def _enter(cgroup: str) -> str:
    """Move this process, and so all that it starts. Why it stays outside; empty if it does not."""
    if not cgroup:
        return ""
    try:
        descriptor = os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            # 0 is whoever writes it.
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"{cgroup} cannot be entered: {error.strerror}"
    return ""


def _wait(pid: int, seconds: float) -> bool:
    """Whether it ended in time. Sleeps in the kernel, whatever the limit."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _claim(folder: str) -> bool:
    """Whether this process is the one that runs the command; at most one ever is."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        boot = file.read().strip()
    mine = f"{folder}/.started.{os.getpid()}"
    _write(mine, {"pid": os.getpid(), "start_ticks": ticks, "boot": boot})
    try:
        # A link appears whole or not at all, and only if there is none yet.
        os.link(mine, f"{folder}/started.json")
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)  # noqa: PTH108
    # After a power cut it must still be known that the command was begun.
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return True


def _finish(folder: str, outcome: dict[str, object]) -> None:
    _write(f"{folder}/exit.json", {**outcome, "ended": time.time()})


def _write(path: str, value: dict[str, object]) -> None:
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main(os.getcwd(), *sys.argv[1:]))  # noqa: PTH109
