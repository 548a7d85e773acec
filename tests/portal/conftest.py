"""The portal in Debian's Chromium, driven by Playwright; the page must never complain."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.fabric.conftest import RunningHost
from tests.system.conftest import Group

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 30_000
"""Milliseconds until something is on the page."""
OFFLINE = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET")
"""What the browser itself says while the host is away."""


class Watched:
    """Opens pages and remembers what went wrong on them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.problems: list[str] = []
        self.expected: tuple[str, ...] = ()

    def open(self, url: str, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        context = self._browser.new_context(**options)
        self._contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', event =>"
            " console.error('policy: ' + event.violatedDirective + ' ' + event.blockedURI))"
        )
        page.goto(url)
        return page

    def close(self) -> None:
        for one in self._contexts:
            one.close()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(one in message.text for one in self.expected):
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url')})")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: while it is there an event loop runs in this thread, and no other test could run its own."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # Its own sandbox wants privileges that root in a container does not have.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.close()
    assert watched.problems == []


@pytest.fixture(scope="module")
def module_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    host = RunningHost(tmp_path_factory.mktemp("host"))
    host.start()
    yield host
    host.kill()


@pytest.fixture
def host(module_host: RunningHost) -> RunningHost:
    """A host with a VM that somebody else plays: no faults."""
    module_host.api("DELETE", "/api/faults")
    return module_host


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """The real agent, Ready, with the sample extension."""
    group = Group(tmp_path_factory.mktemp("root"))
    (group.root / "azvmagent.toml").write_text("[rdagent]\nheartbeat_period = 2.0\n[telemetry]\nupload_period = 1.0\n")
    group.agentctl("up", "--detach")
    yield group
    group.agentctl("down", check=False)
    assert group.processes() == []
