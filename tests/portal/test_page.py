"""The page with a VM that the test plays: hostile words, phones, the dark, a host that goes away, every order."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.fabric.conftest import NAME, RunningHost, Vm, handler_status, package, running, status_blob, vm_of
from tests.portal.conftest import OFFLINE, Watched

MARKUP = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>&lt;b&gt;"
CONTROLS = "a\x00b\x1b[31mred\x07\u202egnirts\u2066x\u200by\ufeff"


@pytest.fixture
def vm(host: RunningHost) -> Vm:
    """It is Ready and has reported one extension."""
    host.add(settings={"who": "world"})
    vm = vm_of(host)
    vm.health()
    number = host.api("GET", "/api/extensions")[0]["sequence_number"]
    vm.report(status_blob(handler_status(sequence=number)))
    return vm


@pytest.fixture
def page(host: RunningHost, vm: Vm, watched: Watched) -> Page:
    page = watched.open(host.endpoints["portal"])
    expect(page.locator("#extensions .card")).to_have_count(1)
    return page


def events(host: RunningHost, vm: Vm, *told: dict[str, Any]) -> None:
    """Telemetry as agents post it."""
    texts = []
    for one in told:
        params = "".join(
            f'<Param Name="{name}" Value="{escaped(str(value))}" T="mt:wstr" />' for name, value in one.items()
        )
        texts.append(f'<Event id="1"><![CDATA[{params}]]></Event>')
    provider = '<Provider id="69B669B9-4AF8-4C50-BDC4-6006FA76E975">'
    body = f'<?xml version="1.0"?><TelemetryData version="1.0">{provider}{"".join(texts)}</Provider></TelemetryData>'
    headers = {**Vm.WIRE, "Content-Type": "text/xml;charset=utf-8"}
    answer = host.call("wireserver", "POST", "/machine?comp=telemetrydata", data=body.encode(), headers=headers)
    assert answer.status_code == 200, answer.text


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace(">", "&gt;")


HOSTILE: dict[str, Any] = {
    "markup": status_blob(
        {**handler_status(message=MARKUP, status=MARKUP, version=MARKUP), "handlerName": MARKUP, "status": MARKUP}
    ),
    "controls": status_blob({**handler_status(message=CONTROLS), "handlerName": "Con.Trols" + CONTROLS}),
    "long": status_blob({**handler_status(message="x" * 100_000), "handlerName": "L" * 100_000, "code": "9" * 100_000}),
    "wrong types": status_blob(
        {"handlerName": 5, "status": {"a": []}, "runtimeSettingsStatus": [1], "formattedMessage": 7},
        {"handlerName": None, "runtimeSettingsStatus": {"settingsStatus": {"status": {"substatus": {"a": 1}}}}},
        {"handlerName": ["x"], "runtimeSettingsStatus": {"sequenceNumber": {}, "settingsStatus": {"status": "odd"}}},
    ),
    "odd entries": b'{"aggregateStatus": {"handlerAggregateStatus": [null, 1, "a", [], true]}}',
    "no list": b'{"aggregateStatus": {"handlerAggregateStatus": {"length": 3, "0": "x"}, "guestAgentStatus": 7}}',
    "a list": b"[1, 2]",
    "a string": b'"just words"',
    "no json": b"\xff\xfe{{{",
    "prototypes": status_blob(
        {"handlerName": "__proto__", "status": "constructor", "handlerVersion": "toString", "__proto__": {"a": 1}}
    ),
    "deep": status_blob({**handler_status(), "status": json.loads("[" * 80 + "]" * 80)}),
    "many": status_blob(*[{**handler_status(), "handlerName": f"Many.Of.Them{n}"} for n in range(1000)]),
}


def test_whatever_a_vm_reports_is_text(host: RunningHost, vm: Vm, page: Page) -> None:
    number = host.api("GET", "/api/extensions")[0]["sequence_number"]
    for name, content in HOSTILE.items():
        assert vm.report(content).status_code == 200
        expect(page.locator("#extensions"), name).not_to_contain_text("well again")
        assert page.locator("#vm img, #vm script, #vm b").count() == 0, name
        assert "caught" not in page.title()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        # The page has not stumbled: what comes later is shown.
        vm.report(status_blob(handler_status(sequence=number, message=f"well again after {name}")))
        expect(page.locator("#extensions .card"), name).to_have_count(1)
        expect(page.locator("#extensions .message"), name).to_have_text(f"well again after {name}")


def test_unseen_characters_are_seen(vm: Vm, page: Page) -> None:
    vm.report(status_blob(handler_status(message=CONTROLS)))
    shown = page.locator("#extensions .message")
    expect(shown).to_contain_text("␛[31mred")
    assert not re.search("[\x00-\x08\x1b\u202e\u2066\u200b\ufeff]", shown.inner_text())


def test_hostile_events_and_health(host: RunningHost, vm: Vm, page: Page) -> None:
    events(
        host,
        vm,
        {
            "Name": MARKUP,
            "Operation": "Install",
            "Message": MARKUP,
            "Duration": "1e400",
            "OpcodeName": "2026-01-01T00:00:00Z",
        },
        {
            "Name": "N" * 5000,
            "Operation": "Enable",
            "Message": "m" * 5000,
            "Duration": "-5",
            "OpcodeName": "9999-99-99",
        },
        {"Name": "Contoso.Odd", "Operation": "Enable", "Duration": "many", "OpcodeName": "2026-01-01T00:00:01Z"},
    )
    details = f"<Details><SubStatus>Odd</SubStatus><Description>{escaped(MARKUP)}</Description></Details>"
    vm.health("NotReady", details)
    expect(page.locator("#head .note")).to_contain_text("<img src=x")
    page.get_by_text("Telemetry events").click()
    expect(page.locator("#events")).to_contain_text("<script>")
    page.locator("#range").select_option("all")
    expect(page.locator("#chart .mark.install")).to_have_count(1)
    assert page.locator("#vm img, #vm script").count() == 0
    assert page.title() == "vm1: Not Ready"


def test_a_failure_is_drawn_as_one(host: RunningHost, vm: Vm, page: Page) -> None:
    failed = {"OperationSuccess": "False", "Message": "exit code 7", "Duration": "1500"}
    events(host, vm, {"Name": NAME, "Operation": "Install", "OpcodeName": "2026-01-01T00:00:09.000Z", **failed})
    page.locator("#range").select_option("all")
    mark = page.locator("#chart .mark.failed", has=page.locator("title", has_text="Install (failed)"))
    expect(mark).to_have_count(1)
    expect(mark.locator("title")).to_contain_text("1.5 s. exit code 7")


def test_what_is_wanted_beside_what_is_reported(host: RunningHost, vm: Vm, page: Page) -> None:
    host.add(version="1.2.0", settings={"who": "you"}, protected={"key": "hush-hush"})
    note = page.locator("#extensions .apart-note")
    expect(note).to_contain_text("version 1.2.0 is wanted")
    expect(note).to_contain_text("sequence number")
    number = host.api("GET", "/api/extensions")[0]["sequence_number"]
    vm.report(status_blob(handler_status(version="1.2.0", sequence=number)))
    expect(note).to_have_count(0)
    assert "hush-hush" not in page.content()
    host.api("DELETE", f"/api/extensions/{NAME}")
    expect(note).to_contain_text("to be uninstalled")


@pytest.fixture
def away(watched: Watched, tmp_path: Path) -> Iterator[tuple[RunningHost, Page]]:
    """A host of its own, that may go away."""
    host = RunningHost(tmp_path)
    host.start()
    vm_of(host).health()
    page = watched.open(host.endpoints["portal"])
    expect(page.locator("#line")).to_have_text("Live")
    watched.expected = OFFLINE
    yield host, page
    host.kill()


def test_a_host_that_goes_away_and_comes_back(away: tuple[RunningHost, Page]) -> None:
    host, page = away
    # It ends at once, whoever watches.
    assert host.stop() == 0
    expect(page.locator("#offline")).to_be_visible()
    expect(page.locator("#offline")).to_contain_text("agentctl up")
    page.get_by_role("button", name="Move container").click()
    page.get_by_role("dialog").get_by_role("button", name="Move", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("The host does not answer")
    page.keyboard.press("Escape")
    host.start()
    expect(page.locator("#offline")).to_be_hidden()
    expect(page.locator("#line")).to_have_text("Live")
    vm_of(host).health("NotReady")
    expect(page).to_have_title("vm1: Not Ready")


@pytest.mark.parametrize(("width", "dark"), [(360, False), (320, True)])
def test_a_phone_never_scrolls_sideways(host: RunningHost, vm: Vm, watched: Watched, width: int, dark: bool) -> None:
    vm.report(status_blob(handler_status(message="w" * 3000), {**handler_status(), "handlerName": "N" * 150}))
    page = watched.open(
        host.endpoints["portal"],
        viewport={"width": width, "height": 700},
        color_scheme="dark" if dark else "light",
        has_touch=True,
    )
    expect(page.locator("#extensions .card")).to_have_count(2)
    for one in page.locator("#vm details").all():
        one.evaluate("one => { one.open = true }")
    for order in ("Add extension", "Run script", "Inject fault", "New VM"):
        page.get_by_role("button", name=order).click()
        dialog = page.locator("dialog[open]")
        expect(dialog).to_be_visible()
        assert dialog.evaluate("one => one.scrollWidth <= one.clientWidth"), order
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    light = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (light < 50) == dark


_CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = color => [.2126, .7152, .0722].reduce((sum, part, i) => sum + part * linear(color[i] / 255), 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const color = rgb(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const says = one => [...one.childNodes].some(child => child.nodeType === 3 && child.nodeValue.trim());
  const ratio = one => {
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  return [...document.querySelectorAll("body *")]
    .filter(one => one.checkVisibility() && !one.closest("svg, .said") && says(one) && ratio(one) < 4.5)
    .map(one => `${ratio(one).toFixed(2)} ${one.textContent.slice(0, 40)}`);
}"""

_NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea, [tabindex='0'], summary")]
  .filter(one => {
    const label = one.labels?.[0]?.textContent ?? "";
    const by = document.getElementById(one.getAttribute("aria-labelledby"))?.textContent;
    return !(one.getAttribute("aria-label") || by || label.trim() || one.textContent.trim());
  }).map(one => one.outerHTML.slice(0, 100))"""

_DROP = """content => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(content)], "dropped.zip"));
  for (const type of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(type, {dataTransfer: given, bubbles: true, cancelable: true}));
}"""


def contrast(page: Page) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5."""
    found: list[str] = page.evaluate(_CONTRAST)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(host: RunningHost, vm: Vm, watched: Watched, scheme: str) -> None:
    host.fault("imds", "reset")
    host.add("Contoso.Tools.Waiting")
    page = watched.open(host.endpoints["portal"], color_scheme=scheme)
    expect(page.locator("#extensions .card")).to_have_count(2)
    expect(page.locator("#faults .card")).to_have_count(1)
    assert contrast(page) == []
    page.get_by_role("button", name="Add extension").click()
    assert contrast(page) == []
    host.api("DELETE", "/api/extensions/Contoso.Tools.Waiting", params={"now": True})


def test_everything_has_a_name(page: Page) -> None:
    assert page.evaluate(_NAMELESS) == []
    twice = page.evaluate(
        "() => { const all = [...document.querySelectorAll('[id]')].map(one => one.id);"
        " return all.filter((one, index) => all.indexOf(one) !== index); }"
    )
    assert twice == []


def test_a_zip_that_is_dropped(page: Page) -> None:
    page.evaluate(_DROP, list(package("Contoso.Tools.Dropped")))
    dialog = page.get_by_role("dialog", name="Add an extension")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#extensions")).to_contain_text("Contoso.Tools.Dropped")
    page.get_by_role("button", name="Remove without a word Contoso.Tools.Dropped").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("#extensions")).not_to_contain_text("Contoso.Tools.Dropped")


def test_a_package_that_is_none_says_so_beside_the_field(page: Page, watched: Watched, tmp_path: Path) -> None:
    watched.expected = ("the server responded with a status of 400",)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip at all")
    page.get_by_role("button", name="Add extension").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Package").set_input_files(broken)
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.locator("[data-error=package]")).not_to_be_empty()
    expect(dialog.get_by_label("Package")).to_be_focused()


def test_settings_that_are_no_object(page: Page, tmp_path: Path) -> None:
    zipped = tmp_path / "a.zip"
    zipped.write_bytes(package())
    page.get_by_role("button", name="Add extension").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Package").set_input_files(zipped)
    field = dialog.get_by_label("Protected settings")
    for text in ("{", "[1]", "5", '{"a": 1,}', "null"):
        field.fill(text)
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog.locator("[data-error=protected]"), text).to_contain_text("JSON")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
    field.fill('{"a": 1}')
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog).to_be_hidden()


def test_orders_about_the_vm(host: RunningHost, page: Page) -> None:
    hold = page.get_by_role("button", name="Hold extensions")
    hold.click()
    expect(hold).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#head")).to_contain_text("Extensions on hold")
    hold.click()
    expect(hold).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Rotate certificate").click()
    page.get_by_role("dialog").get_by_label("Elliptic curve").check()
    page.get_by_role("dialog").get_by_role("button", name="Rotate", exact=True).click()
    expect(page.locator("#said")).to_have_text(re.compile("The certificate is now [0-9A-F]{40}"))
    before = vm_of(host).container_id
    page.get_by_role("button", name="Move container").click()
    page.get_by_role("dialog").get_by_role("button", name="Move", exact=True).click()
    expect(page.locator("#head code")).not_to_have_text(before)
    expect(page.locator("#head code")).to_have_text(vm_of(host).container_id)


def test_more_vms_each_with_an_address_of_its_own(host: RunningHost, page: Page, watched: Watched) -> None:
    watched.expected = ("the server responded with a status of 400",)
    page.get_by_role("button", name="New VM").click()
    dialog = page.get_by_role("dialog", name="New VM")
    dialog.get_by_label("Name").fill("no good name!")
    dialog.get_by_role("button", name="Make it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("letters, digits and dashes")
    dialog.get_by_label("Name").fill("second")
    dialog.get_by_role("button", name="Make it").click()
    expect(page.locator("#head .vm-name")).to_have_text("second")
    assert page.url.endswith("#vm/second")
    expect(page.locator("#head .badge")).to_have_text("Told nothing yet")
    # The address can be kept and given away.
    other = watched.open(f"{host.endpoints['portal']}/#vm/second")
    expect(other.locator("#head .vm-name")).to_have_text("second")
    other.locator("#vms a", has_text="vm1").click()
    expect(other.locator("#head .vm-name")).to_have_text("vm1")
    expect(other.locator("#extensions")).to_contain_text(NAME)
    page.get_by_role("button", name="Forget VM").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget", exact=True).click()
    expect(page.locator("#empty")).to_contain_text("There is no VM of this name")
    expect(page.locator("#vms a")).to_have_count(1)


def test_what_is_open_and_focused_stays_while_news_come(vm: Vm, page: Page) -> None:
    summary = page.locator("#extensions summary").first
    summary.focus()
    page.keyboard.press("Enter")
    settings = page.locator("#extensions pre").first
    expect(settings).to_be_visible()
    vm.health()
    vm.report(status_blob(handler_status(sequence=99, message="something new")))
    expect(page.locator("#extensions .message")).to_have_text("something new")
    expect(settings).to_be_visible()
    expect(summary).to_be_focused()


def zipped() -> FilePayload:
    """An agent's package, as a file to choose."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", "[]")
    return {"name": "rdagent.zip", "mimeType": "application/zip", "buffer": buffer.getvalue()}


def agent_blob(version: str, refused: str = "") -> bytes:
    update = {"expectedVersion": version, "status": "Error", "code": 1, "formattedMessage": {"message": refused}}
    agent = {"version": version, "status": "Ready", **({"updateStatus": update} if refused else {})}
    aggregate = {"guestAgentStatus": agent, "handlerAggregateStatus": []}
    return json.dumps({"version": "1.1", "aggregateStatus": aggregate}).encode()


def test_a_version_is_asked_for_and_taken_back(host: RunningHost, vm: Vm, page: Page, watched: Watched) -> None:
    # The host refuses orders, and the browser notes it.
    watched.expected = ("the server responded with a status of 40",)
    vm.report(agent_blob("0.1.0"))
    expect(page.locator("#asked-section")).to_be_hidden()
    page.get_by_role("button", name="Ask for a version").click()
    dialog = page.get_by_role("dialog", name="Ask for a version")
    expect(dialog).to_contain_text("No package is published yet")
    dialog.get_by_role("button", name="Ask for it").click()
    expect(dialog.locator("[data-error=component]")).to_contain_text("Name a component")
    dialog.get_by_label("Component").fill("Prod")
    dialog.get_by_label("Version", exact=True).fill("0.2.0")
    dialog.get_by_role("button", name="Ask for it").click()
    expect(dialog.locator("[data-error='']")).to_contain_text("azfabric family publish Prod")
    dialog.get_by_label("Package").set_input_files(zipped())
    dialog.get_by_role("button", name="Ask for it").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#said")).to_contain_text("Prod 0.2.0 is asked for, in incarnation")
    card = page.locator("#asked .card")
    # Nobody has done anything yet, and the page does not say so either.
    expect(card.locator(".badge")).to_have_text("asked for, not yet running")
    expect(card).to_contain_text("it runs 0.1.0")
    vm_of(host).report(agent_blob("0.1.0", MARKUP))
    expect(card.locator(".badge")).to_have_text("refused")
    expect(card.locator(".message")).to_contain_text("<img src=x")
    vm_of(host).report(agent_blob("0.2.0"))
    expect(card.locator(".badge")).to_have_text("running")
    # What is published is offered, the newest first.
    host.api("PUT", "/api/families/rdagent", params={"version": "0.9.0"}, data=zipped()["buffer"])
    host.api("PUT", "/api/families/rdagent", params={"version": "0.10.0"}, data=zipped()["buffer"])
    page.get_by_role("button", name="Ask for a version").click()
    dialog.get_by_label("Component").fill("rdagent")
    expect(dialog.get_by_label("Version", exact=True)).to_have_value("0.10.0")
    dialog.get_by_text("To go back to an older version").click()
    dialog.get_by_label("Only from version").fill("0.11.0")
    dialog.get_by_role("button", name="Ask for it").click()
    expect(card).to_have_count(2)
    expect(card.nth(1)).to_contain_text("rdagent 0.10.0")
    expect(card.nth(1)).to_contain_text("from 0.11.0 only")
    page.get_by_role("button", name="Clear rdagent 0.10.0").click()
    expect(card).to_have_count(1)
    assert [one["component"] for one in host.api("GET", "/api/components")] == ["Prod"]
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator("#asked-section")).to_be_hidden()
    assert host.api("GET", "/api/components") == []


def test_a_version_asked_for_by_fast_track(tmp_path: Path, watched: Watched) -> None:
    with running(tmp_path / "root") as host:
        host.api("PUT", "/api/families/rdagent", params={"version": "0.9.0"}, data=zipped()["buffer"])
        vm, page = vm_of(host), watched.open(host.endpoints["portal"])

        def ask() -> Locator:
            page.get_by_role("button", name="Ask for a version").click()
            dialog = page.get_by_role("dialog", name="Ask for a version")
            box = dialog.get_by_label("Deliver by FastTrack")
            expect(box).not_to_be_checked()
            box.check()
            dialog.get_by_role("button", name="Ask for it").click()
            expect(dialog).to_be_hidden()
            return page.locator("#said")

        said = "rdagent 0.9.0 is asked for, by FastTrack"
        expect(ask()).to_contain_text(f"{said} (1). But this VM has never asked for vmSettings")
        expect(page.locator("#asked .card")).to_contain_text("since FastTrack 1")
        assert [one["fast_track"] for one in host.api("GET", "/api/components")] == [True]
        assert vm_of(host).incarnation == vm.incarnation
        families = vm.vm_settings()["gaFamilies"]
        assert [one["version"] for one in families if one["name"] == "rdagent"] == ["0.9.0"]
        page.reload()
        expect(ask()).to_have_text(f"{said} (2).")
        page.goto("about:blank")


def test_a_blackout_of_agent_packages_only(host: RunningHost, vm: Vm, page: Page) -> None:
    host.api("PUT", "/api/families/Prod", params={"version": "0.2.0"}, data=zipped()["buffer"])
    page.get_by_role("button", name="Inject fault").click()
    dialog = page.get_by_role("dialog", name="Inject a fault")
    dialog.get_by_label("Where").select_option("agent-artifacts")
    dialog.get_by_label("What goes wrong").select_option("status")
    dialog.get_by_role("button", name="Inject", exact=True).click()
    expect(page.locator("#faults")).to_contain_text("status at agent-artifacts, value 503")
    config = vm_of(host).config()
    family = config.findtext("GuestAgentExtension/GAFamilies/GAFamily/Uris/Uri") or ""
    plugin = config.find("Plugins/Plugin")
    assert plugin is not None
    assert host.call("blob", "GET", family).status_code == 503
    assert host.call("blob", "GET", plugin.get("location", "")).status_code == 200
    page.get_by_role("button", name="Lift fault").click()
    expect(page.locator("#faults-section")).to_be_hidden()
    assert host.call("blob", "GET", family).status_code == 200


def test_the_api_is_described_without_a_network(host: RunningHost, watched: Watched) -> None:
    page = watched.open(f"{host.endpoints['portal']}/docs")
    expect(page.locator("#summary")).to_contain_text("operations")
    asked = page.evaluate("performance.getEntriesByType('resource').map(one => new URL(one.name).origin)")
    assert set(asked) == {host.endpoints["portal"]}
    described = host.api("GET", "/openapi.json")["paths"]
    operations = page.locator("#operations > li")
    expect(operations).to_have_count(sum(len(one) for one in described.values()))
    page.locator("#operations details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    text = page.locator("#operations").inner_text()
    assert "[object" not in text
    assert "undefined" not in text
    # What is in lists and in lists of lists is explained too.
    assert "sequence_number integer" in text
    page.get_by_role("searchbox").fill("post /api/components")
    expect(operations).to_have_count(1)
    expect(operations).to_contain_text("from_version string")
    expect(operations).to_contain_text("up to 80 characters")
    expect(operations).to_contain_text("There is no such thing")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("searchbox").fill("no such thing anywhere")
    expect(operations).to_have_text("No operation matches.")


def test_who_never_reads_vm_settings_is_named(tmp_path: Path, watched: Watched) -> None:
    with running(tmp_path / "root") as host:
        host.add(settings={})
        page = watched.open(host.endpoints["portal"])

        def uninstall() -> Locator:
            page.get_by_role("button", name=f"Uninstall {NAME}").click()
            dialog = page.get_by_role("dialog", name="Uninstall")
            dialog.get_by_label("Deliver by FastTrack").check()
            dialog.get_by_role("button", name="Uninstall", exact=True).click()
            expect(page.locator("#said")).to_contain_text(f"{NAME} is to be uninstalled.")
            return page.locator("#said")

        expect(uninstall()).to_contain_text("has never asked for vmSettings")
        vm_of(host).vm_settings()
        # Wanted again, with a page that has not said anything yet.
        host.add(settings={})
        page.reload()
        expect(uninstall()).not_to_contain_text("vmSettings")
        page.goto("about:blank")


def test_forgetting_the_vm_that_has_the_rest_is_warned_of(host: RunningHost, page: Page) -> None:
    page.get_by_role("button", name="Forget VM").click()
    expect(page.get_by_role("dialog")).to_contain_text("every address that is nobody else's")
    page.keyboard.press("Escape")
    host.api("POST", "/api/vms", json={"name": "other", "own_ports": True})
    page.locator("#vms a", has_text="other").click()
    expect(page.locator("#head .vm-name")).to_have_text("other")
    page.get_by_role("button", name="Forget VM").click()
    expect(page.get_by_role("dialog")).not_to_contain_text("nobody else's")
    page.goto("about:blank")  # it would ask for the VM that is gone
    host.api("DELETE", "/api/vms/other")
