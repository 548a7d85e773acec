"""The portal page: what a VM wrote gets into it as text, and nothing but its own script runs."""

import base64
import hashlib
import re

import pytest

from tests.fabric.conftest import RunningHost


@pytest.fixture(scope="module")
def page(host: RunningHost) -> str:
    answer = host.call("portal", "GET", "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return answer.text


@pytest.fixture(scope="module")
def script(page: str) -> str:
    (found,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    return str(found)


def test_text_gets_in_as_text_only(script: str) -> None:
    assert ".textContent = " in script
    for sink in ("HTML", "document.write", "eval", "Function", "setAttribute", "href", "src", "import", ".style"):
        assert sink not in script, sink


def test_what_the_vm_says_chooses_a_class_but_never_is_one(script: str) -> None:
    # A table without a prototype: "constructor" is nothing special in it.
    assert "const shades = {__proto__: null, " in script
    assert 'const shade = word => shades[word] ?? "";' in script
    classes = re.findall(r"className = (.*?);", script)
    assert classes
    assert all(re.fullmatch(r"shade\(.*\)|[\w.]+ === null \? .*", one) for one in classes)


def test_the_markup_runs_nothing(page: str, script: str) -> None:
    markup = page.replace(script, "")
    assert re.findall(r"<script[^>]*>", markup) == ["<script>"]
    assert not re.findall(r"\son\w+=|javascript:|<iframe|<object|<embed|<base|<link|<img", markup)


def test_the_browser_is_told_to_run_this_script_and_nothing_else(host: RunningHost, page: str, script: str) -> None:
    policy = host.call("portal", "GET", "/").headers["Content-Security-Policy"]
    rules = dict(one.strip().split(" ", 1) for one in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"


def test_what_the_page_asks_for_is_there(host: RunningHost, script: str) -> None:
    paths = re.findall(r'"(/api/\w+)"', script)
    assert paths == ["/api/told", "/api/vms"]
    for path in paths:
        answer = host.call("portal", "GET", path)
        assert answer.status_code == 200
        # Never as a page.
        assert answer.headers["Content-Type"] == "application/json"


def test_every_element_the_script_fills_is_in_the_page(page: str, script: str) -> None:
    wanted = set(re.findall(r'(?:put|fill)\("(\w+)"|getElementById\("(\w+)"\)', script))
    names = {one or other for one, other in wanted}
    assert names
    assert names <= set(re.findall(r'id="(\w+)"', page))


def test_the_page_can_be_used_without_a_mouse_and_on_a_phone(page: str) -> None:
    assert 'lang="en"' in page
    assert 'name="viewport"' in page
    for region in re.findall(r'<div class="wide"[^>]*>', page):
        assert 'tabindex="0"' in region
        assert "aria-labelledby" in region
