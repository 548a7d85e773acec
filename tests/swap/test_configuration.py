"""After a roll-back a newer release's tables and keys are still in the configuration: it runs, and says so."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipc.bus import Bus
from ipc.contract.every import Describe
from ipc.errors import NoAnswer
from ipc.places import COMPONENTS, Places

NEWER = '[host]\nwireserver = "http://127.0.0.1:9"\nlater = 1\n[{0}]\nlater = 2\n[newer]\nx = 3\n'


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_starts_beside_what_it_does_not_know(root: Path, until: Callable[..., Any], name: str) -> None:
    places = Places.under(root)
    places.config.write_text(NEWER.format(name))
    command = [sys.executable, "-P", "-m", name]
    environment = {**os.environ, "AZVMAGENT_ROOT": str(root)}
    with (root / "log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd="/")
    try:
        assert asyncio.run(answers(places, name, until))
    finally:
        child.terminate()
        child.wait(20)
    said = (root / "log").read_text()
    for unknown in (f"key in [{name}]: 'later'", "key in [host]: 'later'", "table: 'newer'"):
        assert f"passed over: {places.config}: unknown {unknown}" in said
    asked = subprocess.run([*command, "--check-settings"], env=environment, capture_output=True, text=True, cwd="/")
    assert asked.returncode == 1
    assert "CRITICAL" in asked.stderr
    assert "unknown" in asked.stderr


async def answers(places: Places, name: str, until: Callable[..., Any]) -> bool:
    bus = Bus(places, "test", "0")

    async def described() -> bool:
        try:
            return (await bus.ask(Describe(), to=name, within=1.0)).component == name
        except NoAnswer:
            return False

    try:
        return bool(await until(described))
    finally:
        bus.close()
