"""The gate: format, lint, types, import direction, shell scripts, and documents that must not go stale."""

import importlib
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from ipc.settings import HostSettings

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
COMPONENTS = ("rdagent", "guestagent", "netagent", "telemetry", "agentctl", "fabric")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_format() -> None:
    run(BIN / "ruff", "format", "--check")


def test_lint() -> None:
    run(BIN / "ruff", "check")


@pytest.mark.timeout(600)
def test_types() -> None:
    run(BIN / "mypy")


def test_import_direction() -> None:
    run(BIN / "lint-imports")


def test_plans_decide_without_acting() -> None:
    forbidden = ("asyncio", "subprocess", "socket", "zmq", "requests")
    plans = [path for name in COMPONENTS for path in (ROOT / name).rglob("plan.py")]
    assert plans
    for path in plans:
        words = path.read_text().split("\n")
        imported = [line for line in words if line.startswith(("import ", "from ")) and line.split()[1] in forbidden]
        assert not imported, f"{path} imports {imported}"


@pytest.mark.parametrize(
    ("component", "spared"),
    [
        ("rdagent", {"sqlite3", "tempfile"}),
        ("guestagent", {"sqlite3", "xmlrpc"}),
        ("netagent", {"sqlite3", "xml", "xmlrpc", "zipfile"}),
        ("telemetry", {"http.client", "tempfile", "xml", "xmlrpc", "zipfile"}),
    ],
)
def test_a_start_imports_what_the_first_answer_needs(component: str, spared: set[str]) -> None:
    """What is for later comes later, or in a child: each of these costs milliseconds and megabytes at every start."""
    never = {"requests", "urllib3", "cryptography", "asn1crypto", "defusedxml", "lxml", "jeepney", "tuf", "packaging",
             "zmq.asyncio", "multiprocessing", "unittest", "argparse"}  # fmt: skip
    code = f"import sys, {component}.__main__; print(*sys.modules)"
    # Without site-packages' own start-up files, as a version in force runs.
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {paths}; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & (never | spared) == set()


def test_two_broad_handlers_in_the_whole_code_base() -> None:
    """A bug in one answer must not end a component, a bug in one update must not end the heartbeat."""
    broad = [
        str(path.relative_to(ROOT))
        for name in ("ipc", "wire", "release", *COMPONENTS)
        for path in sorted((ROOT / name).rglob("*.py"))
        for line in path.read_text().splitlines()
        if line.strip().startswith(("except Exception", "except BaseException", "except:"))
    ]
    assert broad == ["ipc/component.py", "rdagent/update/updater.py"]


def test_shell_scripts() -> None:
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "make packages installs it"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    scripts = [
        name for name in tracked if (ROOT / name).read_bytes()[:20].startswith((b"#!/bin/sh", b"#!/usr/bin/env bash"))
    ]
    assert scripts
    run(shellcheck, *scripts)


def test_the_messages_page_is_current() -> None:
    document = runpy.run_path(str(ROOT / "docs" / "write_messages.py"))["document"]()
    assert (ROOT / "docs" / "messages.md").read_text() == document, "run: make messages"


def test_the_configuration_page_names_every_key_and_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    tables: dict[str, type[msgspec.Struct]] = {"host": HostSettings}
    for name in ("rdagent", "guestagent", "netagent", "telemetry"):
        tables[name] = importlib.import_module(f"{name}.config").Settings
    for table, kind in tables.items():
        for field in msgspec.structs.fields(kind):
            default = msgspec.json.encode(field.default).decode()
            assert f"| `{table}` | `{field.name}` | `{default}` |" in page


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in COMPONENTS:
        assert importlib.import_module(name).__version__ == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    names = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    for requirement in names:
        name = requirement.split(">")[0].split("[")[0]
        assert name == "azvmagent" or f"| `{name}`" in reasons, f"docs/dependencies.md gives no reason for {name}"


def test_no_merge_is_left_undone() -> None:
    # Whatever is there, tracked or not; a match is a failure, and so is a command that does not work.
    found = subprocess.run(
        ["grep", "-rnE", "^(<{7}|>{7}) ", *sorted(one.name for one in ROOT.iterdir() if not one.name.startswith("."))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (1, ""), found.stderr
