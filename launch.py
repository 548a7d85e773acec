"""Start the chosen version of a component: `python -I -S launch.py ROOT COMPONENT [ARGUMENT...]`.

The first judge of a new version, and part of the base install: no update replaces it, so it has the standard library
only. It checks every file before it runs one, counts a start of a version on trial before the start, and steps back by
itself: from the version on trial to the current one, to the one before, to the base install, which is what a component
runs from as long as no version was ever put beside it. See release/record.py.
"""

import fcntl
import hashlib
import json
import os
import re
import runpy
import stat
import sys
import time
from pathlib import Path
from typing import Any

ODD = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
NOTHING: dict[str, Any] = {"serial": -1, "current": None, "previous": None, "trial": None, "bad": {}}


class RottenError(Exception):
    """A folder is not what its manifest says."""


def say(text: str) -> None:
    sys.stderr.write(f"launch: {text}\n")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: str, buffer: memoryview) -> str:
    """Of a file, read into one buffer that stays in the processor's cache: takes a third less than all at once."""
    found = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            found.update(buffer[:size])
    return found.hexdigest()


def key(chosen: dict[str, str]) -> str:
    return f"{chosen['version']}+{chosen['digest']}"


def read_record(folder: str) -> dict[str, Any]:
    """The newest whole slot, all its fields looked at; without one, NOTHING."""
    record = NOTHING
    for name in ("state.0", "state.1"):
        try:
            checksum, _, body = Path(folder, name).read_bytes().partition(b"\n")
            slot = {**NOTHING, **json.loads(body)}
            trial = slot["trial"] or {"target": None, "tries": 0}
            chosen = [one for one in (slot["current"], slot["previous"]) if one]
            chosen += [trial["target"]] if slot["trial"] else []
            plain = all(re.fullmatch(r"\d[\d.]*\+[0-9a-f]{64}", key(one)) for one in chosen)
            whole = sha256(body).encode() == checksum and slot["format"] == 1 and trial["tries"] >= 0
            if plain and whole and slot["serial"] > record["serial"]:
                record = {**slot, "bad": dict(slot["bad"])}
        except (OSError, *ODD):
            continue
    return record


def write_record(folder: str, record: dict[str, Any]) -> None:
    """On disk when this returns. Raises OSError."""
    record = {**record, "serial": record["serial"] + 1}
    body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    slot = f"{folder}/state.{record['serial'] % 2}"
    with open(
        f"{folder}/.state.launch", "wb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o600)
    ) as file:
        file.write(sha256(body).encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    Path(folder, ".state.launch").rename(slot)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


def check_version(root: str, tree: str, digest: str | None) -> list[str]:
    """Check a version and its layers, file by file. Gives the folders to import from. Raises RottenError."""
    try:
        layers = [layer["sha256"] for layer in check(tree, ".manifest", digest)["layers"]]
        for layer in layers:
            check(f"{root}/deps/{layer}", ".layer", layer)
    except (OSError, *ODD) as error:
        raise RottenError(f"{tree} cannot be checked: {error!r}") from error
    return [tree, *(f"{root}/deps/{layer}" for layer in layers)]


def check_private(folder: str) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise RottenError(f"{folder} is a link, or others could write to it")


def check(folder: str, name: str, digest: str | None) -> dict[str, Any]:
    check_private(folder)
    data = Path(folder, name).read_bytes()
    if sha256(data) != (digest or sha256(data)):
        raise RottenError(f"{folder}/{name} is not the one that was installed")
    listing: dict[str, Any] = json.loads(data)
    left = dict(listing["files"])
    folders = {path[: match.start()] for path in left for match in re.finditer("/", path)}
    waiting, buffer = [""], memoryview(bytearray(1 << 16))
    while waiting:
        inside = waiting.pop()
        for entry in os.scandir(f"{folder}/{inside}"):
            path = inside + entry.name
            if entry.is_dir(follow_symlinks=False) and path in folders:
                waiting.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False) and path in left:
                if sha256_of(entry.path, buffer) != left.pop(path)["sha256"]:
                    raise RottenError(f"{folder}: {path} has changed")
            elif path not in {name, ".signatures"}:
                raise RottenError(f"{folder}: {path} does not belong there")
    if left:
        raise RottenError(f"{folder}: {min(left)} is missing")
    return listing


def on_trial(root: str, folder: str) -> list[str] | None:
    """The version on trial, its try counted, or None. Raises OSError when the try cannot be counted."""
    with Path(folder, "state.lock").open("ab") as lock:
        for patience in range(100, -1, -1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not patience:
                    raise
                time.sleep(0.02)
        record = read_record(folder)
        if not (trial := record["trial"]):
            return None
        target, paths = trial["target"], None
        reason = "" if trial["tries"] > 0 else "all its tries are used up: it never lived long enough to be judged"
        try:
            paths = check_version(root, f"{folder}/versions/{target['version']}", target["digest"])
        except RottenError as error:
            reason = f"rotten: {error}"
        if reason or key(target) in record["bad"]:
            say(f"{target['version']} is on the bad list: {reason}")
            bad = {key(target): {"reason": reason, "expires": None}, **record["bad"]}
            paths, record = None, {**record, "bad": bad, "trial": None}
        else:
            record = {**record, "trial": {**trial, "tries": trial["tries"] - 1}}
        write_record(folder, record)
        return paths


def choose(root: str, folder: str, *, may_try: bool = True) -> list[str]:
    """The folders to import from, of the best version that is whole; none: the base install.

    Without a record the link `current` has to do.
    """
    try:
        check_private(folder)
    except FileNotFoundError:
        return []
    except (OSError, RottenError) as error:
        say(f"what it says of versions is not believed: {error}")
        return []
    try:
        if may_try and read_record(folder)["trial"] and (paths := on_trial(root, folder)):
            return paths
    except OSError as error:
        say(f"a try cannot be counted, so the version on trial is not run: {error}")
    record = read_record(folder)
    chosen = [one for one in (record["current"], record["previous"]) if one and key(one) not in record["bad"]]
    # Without a current version the base install is in force, whatever was there before it.
    trees: list[tuple[str, str | None]] = [(f"{folder}/versions/{one['version']}", one["digest"]) for one in chosen]
    trees = trees if record["current"] else []
    if record["serial"] < 0 and Path(folder, "current").is_symlink():
        trees.append((os.path.realpath(f"{folder}/current"), None))
    for tree, digest in trees:
        try:
            return check_version(root, tree, digest)
        except RottenError as error:
            say(f"stepping back: {error}")
    return []


def main() -> None:
    root, component, arguments = str(Path(sys.argv[1]).absolute()), sys.argv[2], sys.argv[3:]
    # With an argument it is asked something, and ends: no start that could prove anything.
    paths = choose(root, f"{root}/components/{component}", may_try=not arguments)
    digest = sha256(Path(paths[0], ".manifest").read_bytes()) if paths else ""
    # For ipc/child.py, and for Describe. Not PYTHONPATH: extensions in Python inherit our environment.
    os.environ.update(AZVMAGENT_IMPORTS=os.pathsep.join(paths), AZVMAGENT_DIGEST=digest)
    if not paths:
        os.execv(sys.executable, [sys.executable, "-P", "-m", component, *arguments])  # noqa: S606  # no shell wanted
    sys.argv = [component, *arguments]
    sys.path[:0] = paths
    sys.dont_write_bytecode = True  # nobody writes into a checked tree
    runpy.run_module(component, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main() if len(sys.argv) > 2 else sys.exit("usage: python -I -S launch.py ROOT COMPONENT [ARGUMENT...]")
