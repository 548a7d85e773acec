"""The pictures of docs/portal.md, made anew: python -m tests.portal.tour [FOLDER]

A real agent, an extension from a zip, a run, a version asked for, a fault; the page photographed as people look at it.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.portal.conftest import CHROMIUM
from tests.portal.greeter import NAME, greeter
from tests.system.conftest import Group

SLOW = 90_000
_SCRIPT = '#!/bin/sh\nfor part in disk network memory; do\n  echo "$part: checked"\ndone\nuname -sm\n'


def act(group: Group, folder: Path) -> None:
    (folder / "greeter.zip").write_bytes(greeter())
    (folder / "settings.json").write_text('{"who": "Ada"}')
    (folder / "secrets.json").write_text('{"password": "hush"}')
    (folder / "checks.sh").write_text(_SCRIPT)
    settings = ("--settings", str(folder / "settings.json"), "--protected", str(folder / "secrets.json"))
    group.azfabric("run", str(folder / "checks.sh"), "--name", "checks", "--output-blob", "--wait", "60")
    group.azfabric("family", "publish", "rdagent", str(folder / "greeter.zip"), "--version", "0.3.0")
    group.azfabric("want", "rdagent", "0.3.0")
    group.azfabric("ext", "add", str(folder / "greeter.zip"), *settings, "--wait", "60")


def photograph(page: Page, folder: Path) -> None:
    """The page as it stands, light; its timeline; dark; and on a phone."""
    expect(page.locator("#extensions .card", has_text=NAME)).to_contain_text("Good morning", timeout=SLOW)
    expect(page.locator("#chart .mark.enable").first).to_be_attached(timeout=SLOW)
    page.screenshot(path=folder / "light.png")
    page.get_by_text("The same as a table").click()
    page.locator("#chart .mark.install rect").first.hover()
    page.locator(".timeline").screenshot(path=folder / "timeline.png")
    page.emulate_media(color_scheme="dark")
    page.get_by_role("button", name="Inject fault").click()
    page.locator("dialog[open]").screenshot(path=folder / "fault.png")
    page.get_by_role("button", name="Inject", exact=True).click()
    page.get_by_role("heading", name="Faults in force").evaluate("one => one.scrollIntoView()")
    expect(page.locator("#said")).to_be_visible()
    page.screenshot(path=folder / "dark.png")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=folder / "phone.png")


def main(pictures: Path) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        group = Group(Path(name) / "root")
        group.root.mkdir()
        (group.root / "azvmagent.toml").write_text(
            "[rdagent]\nheartbeat_period = 5.0\n[telemetry]\nupload_period = 1.0\n"
        )
        group.agentctl("up", "--detach")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            act(group, Path(name))
            page = browser.new_page(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
            page.goto(str(group.status()["host"]["portal"]))
            photograph(page, pictures)
        finally:
            browser.close()
            group.agentctl("down", check=False)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/portal"))
