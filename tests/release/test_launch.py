"""launch.py as a real process, with real packages."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from release import record as records
from release.build import Built, build
from release.record import Bad, Trial, show_current
from tests.release.product import CHECKOUT, KEY, LAUNCH, NAME, Installed, checkout, chosen, probe


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return probe(tmp_path_factory.mktemp("crashing"), "2.0.0", "import no_such_module_as_this if False else 1/0")


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Built:
    main = "import os, signal; print('dies', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    return probe(tmp_path_factory.mktemp("dying"), "2.0.0", main)


def test_it_is_short_and_its_own() -> None:
    lines = [line for line in LAUNCH.read_text().splitlines() if line.strip()]
    assert len(lines) < 180
    imports = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imports <= sys.stdlib_module_names


def test_the_current_version_with_its_arguments(installed: Installed, one: Built) -> None:
    installed.put(one)
    installed.set(current=chosen(one))
    ran = installed.launch("--check-settings", "x")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "probe 1.0.0 --check-settings x\n", "")


def test_what_it_exits_with_is_what_we_exit_with(installed: Installed, tmp_path: Path) -> None:
    built = probe(tmp_path, "1.0.0", "raise SystemExit(7)")
    installed.put(built)
    installed.set(current=chosen(built))
    assert installed.launch().returncode == 7


def test_a_try_is_counted_before_the_start(installed: Installed, one: Built, dying: Built) -> None:
    for built in (one, dying):
        installed.put(built)
    installed.set(current=chosen(one), trial=Trial(chosen(dying), 3))
    for left in (2, 1, 0):
        assert installed.launch().stdout == "dies\n"
        assert installed.record().trial == Trial(chosen(dying), left)
    back = installed.launch()
    assert back.stdout == "probe 1.0.0\n"
    assert "2.0.0 is on the bad list: all its tries are used up" in back.stderr
    record = installed.record()
    assert (record.current, record.trial) == (chosen(one), None)
    assert list(record.bad) == [chosen(dying).key]
    assert installed.launch().stderr == ""


def test_a_good_trial_stays_a_trial(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    installed.set(current=chosen(one), trial=Trial(chosen(two), 3))
    assert installed.launch().stdout == "probe 1.1.0\n"
    assert installed.record().trial == Trial(chosen(two), 2)  # whether it is good is for the gate to say


def test_on_the_bad_list_is_never_tried(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    bad = {chosen(two).key: Bad("hung", 5.0)}
    installed.set(current=chosen(one), trial=Trial(chosen(two), 3), bad=bad)
    assert installed.launch().stdout == "probe 1.0.0\n"
    assert (installed.record().trial, installed.record().bad) == (None, bad)


def swap(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


HARM: dict[str, Callable[[Path], object]] = {
    "changed": lambda tree: (tree / "probe" / "__main__.py").write_text("print('evil')"),
    "compiled file changed": lambda tree: next((tree / "probe" / "__pycache__").glob("__main__*")).write_bytes(b"x"),
    "missing": lambda tree: (tree / "wire" / "__init__.py").unlink(),
    "added": lambda tree: (tree / "probe" / "evil.py").touch(),
    "folder added": lambda tree: (tree / "json").mkdir(),
    "link": lambda tree: swap(tree / "wire" / "__init__.py", lambda path: path.symlink_to("/dev/null")),
    "pipe": lambda tree: swap(tree / "wire" / "__init__.py", os.mkfifo),
    "manifest changed": lambda tree: (tree / ".manifest").write_bytes((tree / ".manifest").read_bytes() + b" "),
    "manifest empty": lambda tree: (tree / ".manifest").write_bytes(b""),
    "manifest gone": lambda tree: (tree / ".manifest").unlink(),
    "writable by others": lambda tree: tree.chmod(0o777),
    "half extracted": lambda tree: shutil.rmtree(tree / "probe"),
    "gone": shutil.rmtree,
    "link to another": lambda tree: Path(f"{tree}").symlink_to(tree.rename(f"{tree}x")),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_rotten_current_version(installed: Installed, one: Built, two: Built, three: Built, harm: str) -> None:
    installed.put_base("0.9.0")
    for built in (two, three):
        installed.put(built)
    installed.set(current=chosen(three), previous=chosen(two))
    assert installed.launch().stdout == "probe 1.2.0\n"
    HARM[harm](installed.tree("1.2.0"))
    ran = installed.launch()
    assert ran.stdout == "probe 1.1.0\n"
    assert f"stepping back: {installed.tree('1.2.0')}" in ran.stderr
    HARM[harm](installed.tree("1.1.0"))
    assert installed.launch("x").stdout == "probe 0.9.0 x\n"


def test_a_rotten_trial_is_never_run(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    installed.set(current=chosen(one), trial=Trial(chosen(two), 3))
    HARM["changed"](installed.tree("1.1.0"))
    assert installed.launch().stdout == "probe 1.0.0\n"
    assert "__main__.py has changed" in installed.record().bad[chosen(two).key].reason


def test_a_bad_previous_version_is_passed_over(installed: Installed, one: Built, two: Built, three: Built) -> None:
    installed.put_base("0.9.0")
    for built in (two, three):
        installed.put(built)
    installed.set(current=chosen(three), previous=chosen(two), bad={chosen(two).key: Bad("leaks")})
    HARM["gone"](installed.tree("1.2.0"))
    assert installed.launch().stdout == "probe 0.9.0\n"


def test_back_at_the_base_install(installed: Installed, two: Built) -> None:
    """Whatever lies beside it, and whatever the link says that nobody has renewed yet."""
    installed.put_base("0.9.0")
    installed.put(two)
    installed.set(current=chosen(two))
    show_current(installed.folder, installed.record())
    with records.locked(installed.folder):
        records.write(installed.folder, records.step_back(installed.record(), "leaks"))
    ran = installed.launch(AZVMAGENT_IMPORTS="/old", AZVMAGENT_DIGEST="old")
    assert (ran.stdout, ran.stderr) == ("probe 0.9.0\n", "")
    show_current(installed.folder, installed.record())
    assert not (installed.folder / "current").is_symlink()


def test_a_question_is_no_try(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    before = installed.set(current=chosen(one), trial=Trial(chosen(two), 3))
    assert installed.launch("--check-settings").stdout == "probe 1.0.0 --check-settings\n"
    assert installed.record() == before


def test_both_slots_torn(installed: Installed, one: Built, two: Built) -> None:
    installed.put_base("0.9.0")
    installed.put(two)
    for _ in range(2):
        installed.set(current=chosen(two))
    show_current(installed.folder, installed.record())
    for slot in records.SLOTS:
        path = installed.folder / slot
        path.write_bytes(path.read_bytes()[:-1])
    assert installed.launch().stdout == "probe 1.1.0\n"
    (installed.folder / "current").unlink()
    assert installed.launch().stdout == "probe 0.9.0\n"


def test_somebody_holds_the_record(installed: Installed, one: Built, two: Built) -> None:
    for built in (one, two):
        installed.put(built)
    before = installed.set(current=chosen(one), trial=Trial(chosen(two), 3))
    with (installed.folder / records.LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = installed.launch()
    assert ran.stdout == "probe 1.0.0\n"
    assert "a try cannot be counted" in ran.stderr
    assert installed.record() == before


@pytest.mark.parametrize("harm", ["writable by others", "link to another"])
def test_a_folder_that_is_not_ours_alone(installed: Installed, one: Built, harm: str) -> None:
    """Drill 62: whoever can write a record there could choose the version."""
    installed.put_base("0.9.0")
    installed.put(one)
    installed.set(current=chosen(one))
    HARM[harm](installed.folder)
    ran = installed.launch()
    assert ran.stdout == "probe 0.9.0\n"
    assert "is not believed" in ran.stderr


def test_nothing_there(tmp_path: Path) -> None:
    ran = Installed(tmp_path / "root").launch()
    assert ran.returncode == 1
    assert "No module named probe" in ran.stderr
    usage = subprocess.run([sys.executable, "-I", "-S", LAUNCH], capture_output=True, text=True)
    assert usage.returncode == 1
    assert "usage" in usage.stderr


CHILDREN = """
import os, subprocess, sys, click, probe, ipc
print(os.path.dirname(probe.__file__), ipc.__file__, click.__file__, sys.argv[1:2], flush=True)
if len(sys.argv) < 3:
    from ipc.child import module_command
    subprocess.run(module_command('probe', *sys.argv[1:], 'child'), check=True)
    print(os.environ['AZVMAGENT_DIGEST'], os.environ.get('PYTHONPATH'))
"""


def test_children_are_of_the_same_version(installed: Installed, tmp_path: Path) -> None:
    source = checkout(tmp_path, "1.0.0", CHILDREN)
    shutil.copy(CHECKOUT / "ipc" / "child.py", source / "ipc")
    built = build(source, NAME, tmp_path / "out", [KEY])
    installed.put(built)
    installed.set(current=chosen(built))
    ran = installed.launch(PYTHONPATH="/the/owners")
    assert ran.returncode == 0, ran.stderr
    parent, child, grandchild, *environments = ran.stdout.splitlines()
    (layer,) = built.manifest.layers
    tree = installed.tree("1.0.0")
    from_there = f"{tree}/probe {tree}/ipc/__init__.py {installed.root}/deps/{layer.sha256}/click/__init__.py"
    assert parent == f"{from_there} []"
    assert child == grandchild == f"{from_there} ['child']"
    # What an extension would inherit is what the machine's owner set.
    assert environments == [f"{built.digest} /the/owners"] * 2
    assert installed.launch().returncode == 0  # nothing was written into the trees


def test_a_rotten_layer_is_a_rotten_version(installed: Installed, one: Built, tmp_path: Path) -> None:
    built = build(checkout(tmp_path, "1.1.0", "import click; print('with click')"), NAME, tmp_path / "out", [KEY])
    for each in (one, built):
        installed.put(each)
    installed.set(current=chosen(built), previous=chosen(one))
    assert installed.launch().stdout == "with click\n"
    (layer,) = built.manifest.layers
    (installed.root / "deps" / layer.sha256 / "click" / "core.py").write_text("evil")
    assert installed.launch().stdout == "probe 1.0.0\n"


@pytest.mark.parametrize("component", ["rdagent", "guestagent", "netagent", "telemetry"])
def test_our_components_from_their_packages(tmp_path: Path, ours: dict[str, Built], component: str) -> None:
    installed = Installed(tmp_path / "root", component)
    installed.put(ours[component])
    installed.set(current=chosen(ours[component]))
    agent = {"AZVMAGENT_ROOT": str(tmp_path / "agent")}
    ran = installed.launch("--check-settings", **agent)
    assert (ran.returncode, ran.stderr) == (0, "")
    # It did read the settings, with the code of the package.
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "azvmagent.toml").write_text(f"[{component}]\nno_such_setting = 1\n")
    ran = installed.launch("--check-settings", **agent)
    assert ran.returncode == 1
    assert "no_such_setting" in ran.stdout + ran.stderr
    assert str(CHECKOUT / component) not in ran.stdout + ran.stderr
    assert not list(installed.folder.rglob("*.tmp"))
