"""The portal in Chromium: bytes on the wire, requests, time to first paint and to the first VM; what watching costs.

python -m bench.portal
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright

from bench import procfs
from bench.table import Figures, show
from tests.fabric.conftest import RunningHost, handler_status, status_blob, vm_of

_ROUNDS = 9
_SECONDS = 10.0


@contextlib.contextmanager
def hosted() -> Iterator[RunningHost]:
    with tempfile.TemporaryDirectory() as folder:
        host = RunningHost(Path(folder))
        host.start()
        try:
            vm = vm_of(host)
            vm.health()
            host.add()
            vm.report(status_blob(handler_status()))
            yield host
        finally:
            host.kill()


def first_view(browser: Browser, host: RunningHost) -> Figures:
    """Nothing is cached: each round is another browser profile."""
    rounds: list[Figures] = []
    for _ in range(_ROUNDS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(host.endpoints["portal"])
        page.wait_for_selector("#extensions .card")
        shown = float(page.evaluate("performance.now()"))
        paint = float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        files = "performance.getEntriesByType('resource').filter(one => one.name.includes('/portal/'))"
        sizes = f"{files}.concat(performance.getEntriesByType('navigation'))"
        weight = float(page.evaluate(f"{sizes}.reduce((sum, one) => sum + one.transferSize, 0)"))
        count = float(page.evaluate(f"{sizes}.length"))
        rounds.append({"weight_kb": weight / 1000, "files": count, "first_paint_ms": paint, "first_vm_ms": shown})
        context.close()
    return {name: median(one[name] for one in rounds) for name in rounds[0]}


def host_cpu(browser: Browser, host: RunningHost, watchers: int) -> float:
    """Percent of a core the host uses while so many pages watch and a VM's heartbeats come, five a second."""
    contexts = [browser.new_context() for _ in range(watchers)]
    for context in contexts:
        page = context.new_page()
        page.goto(host.endpoints["portal"])
        page.wait_for_selector("#extensions .card")
    vm = vm_of(host)
    before, began = procfs.cpu_seconds(host.pid), time.monotonic()
    while time.monotonic() < began + _SECONDS:
        vm.health()
        time.sleep(0.2)
    used, seconds = procfs.cpu_seconds(host.pid) - before, time.monotonic() - began
    for context in contexts:
        context.close()
    return 100 * used / seconds


def main() -> None:
    with hosted() as host, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        show("the portal", first_view(browser, host), {})
        cpu = {f"host_cpu_%_{count}_pages": host_cpu(browser, host, count) for count in (0, 1, 10)}
        show("watching", cpu, {})
        browser.close()


if __name__ == "__main__":
    main()
