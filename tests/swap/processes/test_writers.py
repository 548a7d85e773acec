"""Drill 48: several write one record at once, launch.py among them; nobody's word is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from release.record import Trial
from tests.release.product import CHECKOUT, LAUNCH, Installed, chosen, probe

WRITER = """
import pathlib, sys
import msgspec
from release import record
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
for number in range(10):
    with record.locked(folder):
        now = record.read(folder)
        bad = {**now.bad, f"{name}.{number}+{'0' * 64}": record.Bad("hangs")}
        record.write(folder, msgspec.structs.replace(now, bad=bad))
"""


def test_no_word_is_lost(tmp_path: Path) -> None:
    installed = Installed(tmp_path / "root")
    old, new = probe(tmp_path, "1.0.0"), probe(tmp_path, "1.1.0")
    installed.put(old)
    installed.put(new)
    before = installed.set(current=chosen(old), trial=Trial(chosen(new), 100))
    writers = [[sys.executable, "-c", WRITER, str(installed.folder), str(number)] for number in range(3)]
    starts = [[sys.executable, "-I", "-S", str(LAUNCH), str(installed.root), "probe"]] * 10
    children = [
        subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for command in writers + starts
    ]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 13
    assert said[3:] == ["probe 1.1.0\n"] * 10
    after = installed.record()
    assert after.trial == Trial(chosen(new), 90)
    assert sorted(key.partition("+")[0] for key in after.bad) == sorted(f"{a}.{b}" for a in range(3) for b in range(10))
    assert after.serial == before.serial + 40


def test_the_test_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock, words are lost or refused; sooner or later: a full machine may run one after the other."""
    built = probe(tmp_path, "1.0.0")
    unlocked = WRITER.replace("with record.locked(folder):", "if True:")

    def words_kept(root: Path) -> int:
        installed = Installed(root)
        installed.put(built)
        installed.set()
        commands = [[sys.executable, "-c", unlocked, str(installed.folder), str(number)] for number in range(3)]
        children = [subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE) for command in commands]
        for child in children:
            child.communicate(timeout=60)
        return len(installed.record().bad)

    assert any(words_kept(tmp_path / f"root{number}") < 30 for number in range(20))
