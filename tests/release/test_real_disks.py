"""Disks that really are full, out of inodes or read-only: small tmpfs mounts in a namespace of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from release.build import Built
from tests.release.product import CHECKOUT, probe, third_party

# Root in a user namespace may mount as well, so this needs none outside.
UNSHARE = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
SETUP = """
import json, os, shutil, subprocess, sys
from pathlib import Path
from release.build import layer_file
from release.collect import Keep, collect, make_room
from release.disk import Disk
from release.errors import DiskTrouble
from release.record import Chosen, Record, Trial, locked, read, show_current, write
from release.signing import write_key
from release.tree import check_layer, check_version
from release.unpack import read_manifest, this_machine, unpack
from tests.release.product import KEY, LAUNCH, TRUST, Installed
mount, one, two = map(Path, sys.argv[1:])

def tmpfs(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755," + options, "probe", mount], check=True)

def put(package, disk=None):
    return unpack(package, mount, "probe", TRUST, this_machine(), disk)

def fill(step, path):
    "Another program takes the last bytes just now."
    if step == "write" and path.name == "__main__.py":
        with open(mount / "ballast", "wb") as ballast:
            try:
                while ballast.write(bytes(4096)) and not ballast.flush():
                    pass
            except OSError:
                pass
            try:
                ballast.close()
            except OSError:
                pass

def refused(act):
    try:
        act()
    except DiskTrouble as trouble:
        print(trouble.errno, trouble)
    else:
        print("not refused")
installed = Installed(mount)
"""
FULL = """
tmpfs("size=8m")
put(one)
refused(lambda: put(two, Disk(fill)))
check_version(installed.tree("1.0.0"))
print(sorted(path.name for path in (installed.folder / "versions").iterdir()), os.listdir(installed.folder / "staging"))
fill("write", Path("__main__.py"))
refused(lambda: write(installed.folder, Record(component="probe")))
print(read(installed.folder))
(mount / "ballast").unlink()
put(two)
check_version(installed.tree("1.1.0"))
"""
SMALL = """
tmpfs("size=4m")
refused(lambda: put(one))
print(sorted(path.name for path in mount.rglob("*")))
"""
SHORT = """
tmpfs("size=6m")
old = put(one)
installed.set(current=Chosen(old.manifest.version, old.digest))
(installed.folder / "downloads").mkdir()
(installed.folder / "downloads" / "old.zip").write_bytes(bytes(2 << 20))
refused(lambda: put(two))
files = read_manifest(two).files
print([path.name for path in make_room(mount, "probe", files, Keep()).downloads])
put(two)
check_version(installed.tree("1.1.0"))
(mount / "ballast").write_bytes(bytes(2 << 20))
refused(lambda: make_room(mount, "probe", files, Keep()))
print(sorted(path.name for path in (installed.folder / "versions").iterdir()))
"""
STAGED = """
tmpfs("size=7m")
old = put(one)
installed.set(current=Chosen(old.manifest.version, old.digest))
downloads = installed.folder / "downloads"
downloads.mkdir()
package = Path(shutil.copy(two, downloads))
(layer,) = read_manifest(package).layers
fetched = shutil.copy(layer_file(two.parent / "layers", layer), downloads)
(downloads / "old.zip").write_bytes(bytes(3 << 20))
write_key(mount / "release", KEY)
(mount / "trust").mkdir()
(mount / "release.pub").rename(mount / "trust" / "release.pub")
order = {
    "component": "probe", "version": "1.1.0", "package": str(package), "root": str(mount),
    "trust": str(mount / "trust"), "layers": {layer.sha256: fetched},
}
command = [sys.executable, "-P", "-m", "rdagent.update.stager"]
answer = subprocess.run(command, input=json.dumps(order).encode(), capture_output=True, check=True).stdout
print(json.loads(answer)["reason"])
print(sorted(path.name for path in downloads.iterdir()) == sorted([package.name, Path(fetched).name]))
check_layer(mount / "deps" / layer.sha256, layer)
check_version(installed.tree("1.1.0"))
"""
INODES = """
tmpfs("size=8m,nr_inodes=30")
refused(lambda: put(one))
print(sorted(path.name for path in mount.rglob("*") if path.is_file()))
"""
READ_ONLY = """
tmpfs("size=16m")
old, new = put(one), put(two)
choose = lambda package: Chosen(package.manifest.version, package.digest)
before = installed.set(current=choose(old), trial=Trial(choose(new), 3))
subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
ran = installed.launch()
print(ran.stdout.strip(), "a try cannot be counted" in ran.stderr, installed.record() == before)
refused(lambda: write(installed.folder, before))
subprocess.run(["mount", "-o", "remount,rw", mount], check=True)
print(installed.launch().stdout.strip(), installed.record().trial.tries)
"""
NO_UPDATE = """
tmpfs("size=16m")
old = put(one)
before = installed.set(current=Chosen(old.manifest.version, old.digest))
(installed.folder / "downloads").mkdir()
(installed.folder / "downloads" / "old.zip").touch()
subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
refused(lambda: put(two))
refused(lambda: collect(mount, "probe", Keep()))
refused(lambda: write(installed.folder, before))
refused(lambda: show_current(installed.folder, before))
print(installed.launch().stdout.strip(), installed.record() == before)
subprocess.run(["mount", "-o", "remount,rw", mount], check=True)
put(two)
collect(mount, "probe", Keep(versions=frozenset({"1.1.0"})))
check_version(installed.tree("1.1.0"))
"""
LAUNCH_FULL = """
tmpfs("size=8m")
old, new = put(one), put(two)
choose = lambda package: Chosen(package.manifest.version, package.digest)
before = installed.set(current=choose(old), trial=Trial(choose(new), 3))
fill("write", Path("__main__.py"))
ran = installed.launch()
print(ran.stdout.strip(), "a try cannot be counted" in ran.stderr, installed.record() == before)
(mount / "ballast").unlink()
print(installed.launch().stdout.strip(), installed.record().trial.tries)
"""


def on_a_disk(tmp_path: Path, one: Built, two: Built, story: str) -> list[str]:
    mount = tmp_path / "mount"
    mount.mkdir()
    command = [*UNSHARE, sys.executable, "-c", SETUP + story, str(mount), str(one.path), str(two.path)]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not list(mount.iterdir()), "the mount was the test's own"
    return ran.stdout.splitlines()


def test_the_disk_fills_up_in_the_middle(tmp_path: Path, one: Built, two: Built) -> None:
    said = on_a_disk(tmp_path, one, two, FULL)
    assert said[0].startswith("28 ")
    assert "No space left on device" in said[0]
    assert said[1] == "['1.0.0'] []"
    assert said[2].startswith("28 ")
    assert said[3] == "None"


def test_too_little_room_is_seen_before_the_first_byte(tmp_path: Path, one: Built, two: Built) -> None:
    said = on_a_disk(tmp_path, one, two, SMALL)
    assert said[0].startswith("28 ")
    assert "make room" in said[0]
    assert said[1] == "['components', 'probe', 'staging', 'versions']"


def test_drill_57_room_is_made_when_it_is_short(tmp_path: Path, one: Built, two: Built) -> None:
    said = on_a_disk(tmp_path, one, two, SHORT)
    assert "make room" in said[0]
    assert said[1] == "['old.zip']"
    assert "make room" in said[2]
    assert said[3] == "['1.0.0']"


def test_drill_57_what_was_fetched_for_it_is_not_what_goes(tmp_path: Path, one: Built) -> None:
    with third_party(tmp_path / "site", "aalayer"):
        layered = probe(tmp_path, "1.1.0", "import aalayer")
    said = on_a_disk(tmp_path, one, layered, STAGED)
    assert said == ["", "True"]


def test_drill_59_read_only(tmp_path: Path, one: Built, two: Built) -> None:
    said = on_a_disk(tmp_path, one, two, NO_UPDATE)
    assert [line[:3] for line in said[:4]] == ["30 "] * 4
    assert all("Read-only file system" in line for line in said[:4])
    assert said[4] == "probe 1.0.0 True"


def test_out_of_inodes(tmp_path: Path, one: Built, two: Built) -> None:
    said = on_a_disk(tmp_path, one, two, INODES)
    assert "inodes free" in said[0]
    assert said[1] == "[]"


@pytest.mark.parametrize("story", [READ_ONLY, LAUNCH_FULL], ids=["read-only", "full"])
def test_a_try_that_cannot_be_counted_is_not_made(tmp_path: Path, one: Built, two: Built, story: str) -> None:
    said = on_a_disk(tmp_path, one, two, story)
    assert said[0] == "probe 1.0.0 True True"
    assert said[-1] == "probe 1.1.0 2"
    if story == READ_ONLY:
        assert "Read-only file system" in said[1]
