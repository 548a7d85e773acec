"""The handler's folder that comes with the product, and what happens to it over its life."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestagent.builtin import LAUNCHER, lay_out, provides
from guestagent.handlermanifest import parse_handler_manifest
from guestagent.layout import HandlerFolder
from guestagent.runcommand.liveness import settle
from guestagent.runcommand.place import ACTION, MANAGED


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (ACTION, True),
        (MANAGED, True),
        (MANAGED.upper(), True),
        ("Microsoft.CPlat.Core.RunCommand", False),
        ("Microsoft.CPlat.Core.RunCommandHandlerLinuxTest", False),
        ("", False),
    ],
)
def test_which_handlers_come_with_the_product(name: str, wanted: bool) -> None:
    assert provides(name) is wanted


@pytest.mark.parametrize(("name", "several"), [(ACTION, False), (MANAGED, True), (MANAGED.lower(), True)])
def test_the_folder_is_a_handler_s(tmp_path: Path, name: str, several: bool) -> None:
    folder = HandlerFolder(tmp_path / "lib", tmp_path / "log", name, "1.2.3")
    manifest = lay_out(folder)
    assert manifest == parse_handler_manifest((folder.path / "HandlerManifest.json").read_bytes())
    assert manifest == folder.read_manifest()
    assert manifest.multi_config is several
    assert manifest.update_with_install
    assert not manifest.report_heartbeat
    assert os.access(folder.path / LAUNCHER, os.X_OK)
    assert [path.name for path in (tmp_path / "lib").iterdir()] == [f"{name}-1.2.3"], "nothing unfinished is left"


def test_laid_out_again_it_keeps_what_it_knows(managed: Any, script: Any) -> None:
    managed.run(script("true"))
    (managed.folder.path / LAUNCHER).write_text("#!/bin/false\n")
    before = managed.place().status_file.read_bytes()
    lay_out(managed.folder)
    assert managed.place().status_file.read_bytes() == before
    assert managed.place().mrseq.read_text() == "0"
    assert "already been processed" in managed.command("enable").stdout


def test_what_was_half_laid_out_is_done_over(tmp_path: Path) -> None:
    folder = HandlerFolder(tmp_path, tmp_path / "log", MANAGED, "1.0")
    left = tmp_path / f".{MANAGED}-1.0.staging"
    left.mkdir()
    (left / "rubbish").write_text("")
    lay_out(folder)
    assert not left.exists()
    assert not (folder.path / "rubbish").exists()


def test_the_launcher_finds_its_interpreter(managed: Any) -> None:
    """The one of whoever calls it; without that, the one it was written by. Never a module of the handler's folder."""
    (managed.folder.path / "guestagent").mkdir()
    (managed.folder.path / "guestagent" / "__init__.py").write_text("raise SystemExit('hijacked')")
    bare = {"PATH": "/usr/bin:/bin", "ConfigExtensionName": "job", "ConfigSequenceNumber": "0"}
    line = [str(managed.folder.path / LAUNCHER), "install"]
    for environment in (bare, {**bare, "AZVMAGENT_PYTHON": sys.executable}):
        done = subprocess.run(line, cwd=managed.folder.path, env=environment, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        line, cwd=managed.folder.path, env={**bare, "AZVMAGENT_PYTHON": "/bin/false"}, capture_output=True, timeout=60
    )
    assert done.returncode == 1


def test_install_makes_the_data_folders(managed: Any) -> None:
    assert managed.command("install").returncode == 0
    assert (managed.place().data / "download").is_dir()
    managed.place().data.rename(managed.place().data.with_name("away"))
    managed.place().data.write_text("in the way")
    assert managed.command("install").returncode == 52


def updated(make_handler: Callable[..., Any], old: Any, tmp_path: Path) -> Any:
    """The agent's order: unpack new, disable old (left out here), update, uninstall old."""
    new = make_handler(tmp_path, version="1.4.0")
    done = new.command("update", AZURE_GUEST_AGENT_UPDATING_FROM_VERSION="1.3.27", VERSION="1.4.0")
    assert done.returncode == 0, done.stderr
    assert old.command("uninstall", name="").returncode == 0
    return new


def test_an_update_forgets_nothing_and_runs_nothing_again(
    managed: Any, script: Any, make_handler: Callable[..., Any], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    managed.run(script(f"echo x >> {count}; echo out"), number=3)
    before = managed.view(3)
    new = updated(make_handler, managed, tmp_path)
    assert new.view(3) == before
    new.enable(script(f"echo x >> {count}"), number=3)
    assert count.read_text() == "x\n"
    new.run(script(f"echo x >> {count}"), number=4)
    assert count.read_text() == "x\nx\n"


def test_what_runs_during_an_update_goes_on_and_its_end_is_told_in_the_new_folder(
    managed: Any, script: Any, make_handler: Callable[..., Any], tmp_path: Path, until: Callable[..., Any]
) -> None:
    managed.enable(script("mkfifo fifo; echo up; read x < fifo; echo $x"))
    record = managed.started()
    new = updated(make_handler, managed, tmp_path)
    # As the agent does: the old folder is removed.
    shutil.rmtree(managed.folder.path)
    assert record.worker.alive()
    (new.place().work / "fifo").write_text("go\n")
    until(lambda: not record.worker.alive(), "the worker to end")
    assert settle(new.folder, "job", 0)
    assert (new.view()["executionState"], new.view()["output"]) == ("Succeeded", "up\ngo\n")


def test_a_number_without_a_status_gets_an_unknown_one(
    managed: Any, make_handler: Callable[..., Any], tmp_path: Path
) -> None:
    """As it may come from the handler's published package."""
    (managed.folder.path / "job.mrseq").write_text("5")
    (managed.folder.path / "bad.mrseq").write_text("five")
    (managed.folder.path / "told.mrseq").write_text("2")
    managed.place(2, "told").status_file.write_text('[{"status": {"status": "success", "name": "theirs"}}]')
    new = updated(make_handler, managed, tmp_path)
    assert new.status(2, "told") == {"status": "success", "name": "theirs"}
    assert new.status(5)["status"] == "success"
    assert new.view(5)["executionState"] == "Unknown"
    assert (new.folder.path / "job.mrseq").read_text() == "5"


def test_an_update_from_nowhere_is_no_failure(managed: Any) -> None:
    for version in ("", "9.9.9", "1.3.27", "../../etc"):
        assert managed.command("update", AZURE_GUEST_AGENT_UPDATING_FROM_VERSION=version).returncode == 0


def test_a_link_among_the_old_version_s_files_is_not_followed(
    managed: Any, make_handler: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("7")
    (managed.folder.path / "job.mrseq").symlink_to(tmp_path / "secret")
    new = updated(make_handler, managed, tmp_path)
    assert not (new.folder.path / "job.mrseq").exists()


def test_the_manifest_is_a_list_of_one(managed: Any) -> None:
    document = json.loads((managed.folder.path / "HandlerManifest.json").read_text())
    assert len(document) == 1
    assert document[0]["version"] == 1.0
