"""The tour with the real agent: by mouse, then with the keyboard alone."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.portal.conftest import PATIENCE, Watched
from tests.portal.greeter import NAME, greeter
from tests.system.conftest import Group

SLOW = 60_000
"""Milliseconds until the agent has done it and said so."""

_FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def portal(group: Group) -> str:
    return str(group.status()["host"]["portal"])


@pytest.fixture
def page(portal: str, watched: Watched) -> Page:
    page = watched.open(portal)
    expect(page.locator("#head .badge").first).to_have_text("Ready", timeout=SLOW)
    return page


def card(page: Page, name: str) -> Locator:
    return page.locator("#extensions .card", has=page.get_by_role("heading", name=name))


def test_what_the_agent_is_and_has(page: Page) -> None:
    expect(page).to_have_title("vm1: Ready")
    expect(page.locator("#vms a")).to_contain_text("vm1")
    expect(page.locator("#vms a")).to_have_attribute("aria-current", "page")
    for component in ("guestagent", "netagent", "rdagent", "telemetry"):
        expect(page.locator("#components tr", has_text=component).locator(".badge")).to_have_text("ok")
    expect(card(page, "Azvmagent.Samples.Hello")).to_contain_text("Hello, world!")


def test_an_extension_from_a_zip(page: Page, tmp_path: Path) -> None:
    zipped = tmp_path / "greeter.zip"
    zipped.write_bytes(greeter())
    page.get_by_role("button", name="Add extension").click()
    dialog = page.get_by_role("dialog", name="Add an extension")
    dialog.get_by_label("Settings a JSON object").fill('{"who": ')
    dialog.get_by_label("Package").set_input_files(zipped)
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.locator("[data-error=settings]")).to_contain_text("This is no JSON")
    dialog.get_by_label("Settings a JSON object").fill('{"who": "Ada"}')
    dialog.get_by_label("Protected settings").fill('{"password": "hush-hush"}')
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#said")).to_have_text(f"{NAME} 1.0.0 is wanted, sequence number 0.")
    greeted = card(page, NAME)
    expect(greeted.locator(".message").first).to_have_text("Good morning, Ada", timeout=SLOW)
    expect(greeted.locator(".badge").nth(1)).to_have_text("success")
    expect(greeted).to_contain_text("greeting")
    greeted.get_by_text("Settings", exact=True).click()
    expect(greeted.locator("pre")).to_contain_text('"who": "Ada"')
    expect(greeted).to_contain_text("Encrypted for the VM")
    assert "hush-hush" not in page.content()


def test_the_timeline_of_it(page: Page) -> None:
    for phase in ("download", "install", "enable"):
        expect(page.locator(f"#chart .mark.{phase}").first).to_be_attached(timeout=SLOW)
    expect(page.locator("#chart .mark.goal").first).to_be_attached()
    expect(page.locator("#chart .mark.report").first).to_be_attached()
    page.locator("#chart .mark.install rect").first.hover()
    expect(page.locator("#reading")).to_contain_text("Install, ")
    page.get_by_text("The same as a table").click()
    row = page.locator("#steps tr", has_text="Install").filter(has_text=NAME).first
    expect(row).to_contain_text("ms")


def test_an_update_that_is_wanted_and_not_there_yet(page: Page, tmp_path: Path, group: Group) -> None:
    zipped = tmp_path / "greeter.zip"
    zipped.write_bytes(greeter("1.1.0"))
    group.azfabric("fault", "add", "extension-artifacts", "status", "--value", "503")
    expect(page.locator("#faults")).to_contain_text("status at extension-artifacts, value 503, for every VM")
    page.get_by_role("button", name=f"Update {NAME}").click()
    dialog = page.get_by_role("dialog", name="Update the extension")
    expect(dialog.get_by_label("Settings a JSON object")).to_have_value('{\n  "who": "Ada"\n}')
    dialog.get_by_label("Settings a JSON object").fill('{"who": "Grace"}')
    dialog.get_by_label("Package").set_input_files(zipped)
    dialog.get_by_role("button", name="Update", exact=True).click()
    expect(card(page, NAME).locator(".apart-note")).to_contain_text("version 1.1.0 is wanted")
    page.get_by_role("button", name="Lift fault").click()
    expect(page.locator("#faults-section")).to_be_hidden()
    expect(card(page, NAME).locator(".message").first).to_have_text("Good morning, Grace", timeout=120_000)
    expect(card(page, NAME).locator(".apart-note")).to_have_count(0)


def test_a_script_whose_output_is_seen_while_it_runs(page: Page, tmp_path: Path) -> None:
    gate = tmp_path / "go-on"
    page.get_by_role("button", name="Run script").click()
    dialog = page.get_by_role("dialog", name="Run a script")
    dialog.get_by_role("button", name="Run", exact=True).click()
    expect(dialog.locator("[data-error=script]")).to_contain_text("Write a script")
    script = f"#!/bin/sh\necho first $WHO\nuntil [ -e {gate} ]; do sleep 0.1; done\necho last\necho oops >&2\nexit 3\n"
    dialog.get_by_label("Script").fill(script)
    dialog.get_by_label("Name the same name").fill("tour")
    dialog.get_by_text("Parameters and user").click()
    dialog.get_by_label("Parameters one a line").fill("WHO=Ada")
    dialog.get_by_role("button", name="Run", exact=True).click()
    run = page.locator("#runs .card", has=page.get_by_role("heading", name="tour"))
    output = run.get_by_role("log", name="Output of tour", exact=True)
    expect(output).to_have_text("first Ada\n", timeout=SLOW)
    assert not gate.exists()
    gate.touch()
    expect(output).to_have_text("first Ada\nlast\n", timeout=SLOW)
    expect(run.get_by_role("log", name="Error output of tour")).to_have_text("oops\n", timeout=SLOW)
    expect(run).to_contain_text("exit code 3", timeout=SLOW)


def test_a_fault_with_the_keyboard_alone(page: Page, watched: Watched) -> None:
    # The host refuses one order, and the browser notes it.
    watched.expected = ("the server responded with a status of 400",)

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            focused = page.evaluate(
                "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
            )
            if str(focused).startswith(name):
                style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert style != "none"
                return
        pytest.fail(f"{name} is not reached with Tab")

    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to("Inject fault")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Inject a fault")
    expect(dialog.get_by_label("Where")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Inject fault")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("imds")
    page.keyboard.press("Tab")
    page.keyboard.type("slow")
    expect(dialog.locator("#fault-meaning")).to_contain_text("The host will answer after 5 seconds.")
    page.keyboard.press("Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("999999")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("slow needs a value from 0 to 3600")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(page.locator("#faults")).to_contain_text("slow at imds, value 2")
    tab_to("Lift fault")
    page.keyboard.press("Enter")
    expect(page.locator("#faults-section")).to_be_hidden(timeout=PATIENCE)


def test_the_timeline_with_the_arrow_keys(page: Page) -> None:
    chart = page.locator("#chart svg")
    expect(chart).to_be_visible()
    page.locator("#range").select_option("all")
    chart.focus()
    page.keyboard.press("Home")
    first = page.locator("#reading").inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#reading")).not_to_have_text(first)
    expect(page.locator("#chart .mark.at")).to_have_count(1)


def test_uninstalling_makes_it_go(page: Page) -> None:
    page.get_by_role("button", name=f"Uninstall {NAME}").click()
    page.get_by_role("dialog", name="Uninstall").get_by_role("button", name="Uninstall", exact=True).click()
    expect(card(page, NAME)).to_have_count(0, timeout=SLOW)
