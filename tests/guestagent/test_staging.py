"""Unpacking that is killed at any line, by several at once, over whatever lies there."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pytest

from guestagent import staging
from guestagent.errors import PackageError
from guestagent.package import mend, unpack

COMMANDS = {f"{name}Command": f"bin/run {name}" for name in ("install", "enable", "disable", "update", "uninstall")}
MANIFEST = json.dumps([{"version": 1.0, "handlerManifest": COMMANDS}]).encode()
NEW = {"HandlerManifest.json": MANIFEST, "bin/run": b"new", "bin/lib/deep": b"d" * 3000, "data": b"new data"}
OLD = {"HandlerManifest.json": b"old", "bin/run": b"old", "config/HandlerState": b"Enabled", "mrseq": b"7"}


def zipped(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def lay(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    lib = tmp_path / "lib"
    lib.mkdir()
    return lib


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "package.zip"
    package.write_bytes(zipped(NEW))
    return package


# Forks a child for each line of ours that unpacking passes, and kills it there.
_KILLER = """
    import json, os, shutil, signal, sys
    from pathlib import Path
    from guestagent import staging
    from guestagent.package import mend, unpack

    act = {"unpack": unpack, "mend": mend}[sys.argv[1]]
    root, package, before = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    mine = {"package.py", "staging.py"}

    def killed_at(number, lib):
        seen = 0

        def trace(frame, event, argument):
            nonlocal seen
            if os.path.basename(frame.f_code.co_filename) not in mine:
                return None
            if event == "line":
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        child = os.fork()
        if child == 0:
            sys.settrace(trace)
            act(package, lib / "A.B-1.0")
            os._exit(0)
        return os.waitpid(child, 0)[1] != 0

    number, killed = 0, True
    while killed:
        number += 1
        lib = root / str(number)
        lib.mkdir()
        for name, data in before.items():
            path = lib / "A.B-1.0" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(data)
        killed = killed_at(number, lib)
        staging.clean(lib)
        if not killed:
            staging.clean(lib)
    print(number)
    """


def outcomes(act: str, tmp_path: Path, package: Path, before: dict[str, bytes]) -> list[Path]:
    """A library for each line at which it was killed, after `clean`; in the last one it came to its end."""
    texts = json.dumps({name: data.decode() for name, data in before.items()})
    root = tmp_path / "killed"
    root.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(_KILLER), act, str(root), str(package), texts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    found = sorted(root.iterdir(), key=lambda path: int(path.name))
    assert len(found) > 100
    return found


@pytest.mark.parametrize("before", [{}, OLD], ids=["nothing", "another"])
def test_killed_anywhere_it_leaves_the_old_or_the_new(tmp_path: Path, package: Path, before: dict[str, bytes]) -> None:
    seen = set()
    for lib in outcomes("unpack", tmp_path, package, before):
        names = [path.name for path in lib.iterdir()]
        assert names in ([], ["A.B-1.0"]), lib.name
        now = files(lib / "A.B-1.0")
        assert now in (before, NEW), lib.name
        seen.add(now == NEW)
    assert seen == {False, True}


def test_killed_anywhere_mending_leaves_each_file_old_or_new_and_the_handlers_own(
    tmp_path: Path, package: Path
) -> None:
    libs = outcomes("mend", tmp_path, package, OLD)
    for lib in libs:
        assert [path.name for path in lib.iterdir()] == ["A.B-1.0"], lib.name
        now = files(lib / "A.B-1.0")
        assert {"config/HandlerState", "mrseq"} <= set(now)
        assert all(data in (OLD.get(name), NEW.get(name)) for name, data in now.items()), lib.name
        assert set(OLD) <= set(now)
    assert files(libs[-1] / "A.B-1.0") == {**OLD, **NEW}


def test_mending_puts_back_what_was_damaged_and_touches_nothing_else(lib: Path, package: Path) -> None:
    target = lib / "A.B-1.0"
    unpack(package, target)
    lay(target, {"config/HandlerState": b"Enabled", "status/0.status": b"[]", "bin/own": b"kept"})
    (target / "bin/run").unlink()
    (target / "bin/run").mkdir()
    (target / "bin/run/x").write_bytes(b"")
    (target / "HandlerManifest.json").write_bytes(b"\0")
    (target / "data").unlink()
    inode = target.stat().st_ino
    mend(package, target)
    assert target.stat().st_ino == inode, "a command that runs in it is not disturbed"
    kept = {"config/HandlerState": b"Enabled", "status/0.status": b"[]", "bin/own": b"kept"}
    assert files(target) == {**NEW, **kept}
    assert os.access(target / "bin/run", os.X_OK)
    assert list(lib.iterdir()) == [target]


def test_mending_what_is_gone_unpacks_it(lib: Path, package: Path) -> None:
    mend(package, lib / "A.B-1.0")
    assert files(lib / "A.B-1.0") == NEW


def test_a_link_in_the_folder_leads_nowhere(lib: Path, package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    lay(elsewhere, {"run": b"theirs", "lib/deep": b"theirs"})
    target = lib / "A.B-1.0"
    target.mkdir()
    (target / "bin").symlink_to(elsewhere)
    (target / "data").symlink_to(elsewhere / "run")
    mend(package, target)
    assert files(target) == NEW
    assert files(elsewhere) == {"run": b"theirs", "lib/deep": b"theirs"}


def test_a_bad_package_mends_nothing(lib: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.zip"
    bad.write_bytes(zipped({"bin/run": b"no manifest"}))
    lay(lib / "A.B-1.0", OLD)
    with pytest.raises(PackageError):
        mend(bad, lib / "A.B-1.0")
    assert files(lib / "A.B-1.0") == OLD
    assert len(list(lib.iterdir())) == 1


def test_an_open_file_is_as_good_as_a_path(lib: Path, package: Path) -> None:
    with package.open("rb") as file:
        unpack(file, lib / "A.B-1.0")
        assert not file.closed
    assert files(lib / "A.B-1.0") == NEW
    with Path("/dev/null").open("rb") as file, pytest.raises(PackageError, match="the zip is no usable zip"):
        unpack(file, lib / "A.B-2.0")


def test_cleaning_leaves_alone_what_is_being_worked_on_and_what_is_not_ours(lib: Path) -> None:
    lay(lib, {".A.B-1.0.staging/half": b"", "A.B-3.0/run": b"new"})
    lay(lib, {".A.B-2.0.01234567-old/run": b"2", ".A.B-3.0.01234567-old/run": b"3"})
    others = {".bashrc": b"", ".x.staging": b"", "A.B-4.0/run": b"", ".A.B-5.0.staging.d/x": b""}
    lay(lib, others)
    with staging.claimed(lib / "A.B-6.0") as folder:
        (folder / "half").write_bytes(b"")
        lay(lib, {".A.B-6.0.89abcdef-old/run": b"6"})
        staging.clean(lib)
        assert (folder / "half").exists()
        assert (lib / ".A.B-6.0.89abcdef-old").exists(), "the one who works on it is between two renames"
    staging.clean(lib)
    assert files(lib) == {"A.B-2.0/run": b"2", "A.B-3.0/run": b"new", "A.B-6.0/run": b"6", **others}


def test_a_process_that_holds_it_is_waited_for_and_a_killed_one_is_not(lib: Path, package: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from guestagent import staging

        with staging.claimed(Path(sys.argv[1])) as folder:
            (folder / "half").write_bytes(b"")
            print("claimed", flush=True)
            sys.stdin.read()
        """
    target = lib / "A.B-1.0"
    command = [sys.executable, "-c", textwrap.dedent(script), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"claimed\n"
        staging.clean(lib)
        assert (lib / ".A.B-1.0.staging" / "half").exists()
        waiting = threading.Thread(target=unpack, args=(package, target))
        waiting.start()
        child.send_signal(signal.SIGKILL)
    waiting.join()
    assert files(target) == NEW
    assert list(lib.iterdir()) == [target]


def test_several_at_once_on_one_target_and_on_others(lib: Path, tmp_path: Path) -> None:
    packages = []
    for number in range(3):
        packages.append(tmp_path / f"{number}.zip")
        packages[-1].write_bytes(zipped({**NEW, "data": b"%d" % number * 1000}))
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(15):
                unpack(packages[number % 3], lib / f"A.B-{turn % 2}.0")
                staging.clean(lib)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(path.name for path in lib.iterdir()) == ["A.B-0.0", "A.B-1.0"]
    for path in lib.iterdir():
        assert files(path) in [{**NEW, "data": b"%d" % number * 1000} for number in range(3)]
