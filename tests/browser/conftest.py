"""A browser, and pages opened in it from disk that must stay silent."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdc_guard.document.schema import Report
from sdc_guard.render.page import report_page
from tests.browser.chromium import find_chromium, launch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOOK = "window.called = []; window.alert = (...args) => { window.called.push(args); };"


@dataclass
class Opened:
    """A page with all that it did beyond showing itself."""

    page: Page
    address: str
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def check_silence(self) -> None:
        """No request but for the file and data inside it, no console line, no error, no dialog."""
        strange = [r for r in self.requests
                   if r.split("#")[0] != self.address and not r.startswith("data:")]
        assert strange == []
        assert self.messages == []


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    give_up = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
    path = find_chromium()
    if importlib.util.find_spec("playwright") is None:
        give_up("playwright is not installed; `make test-browser` installs it")
    if not path:
        give_up("no Chromium on PATH; `make test-browser` says how to get one")
    api = importlib.import_module("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = launch(playwright, path)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a report's page from disk; at the end of the test each page must have been silent."""
    opened: list[Opened] = []

    def open_report(report: Report | str, *, script: str = "", **options: Any) -> Opened:
        path = tmp_path / f"page {len(opened)}.html"
        html = report if isinstance(report, str) else report_page(report)
        path.write_bytes(html.encode())
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.add_init_script(HOOK + script)
        page = context.new_page()
        one = Opened(page, path.as_uri())
        page.on("request", lambda request: one.requests.append(request.url))
        page.on("console", lambda message: one.messages.append(message.text))
        page.on("pageerror", lambda error: one.messages.append(str(error)))
        page.on("dialog", lambda dialog: (one.messages.append(dialog.message), dialog.dismiss()))
        page.goto(one.address)
        opened.append(one)
        return one

    yield open_report
    for one in opened:
        one.check_silence()
        one.page.context.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")
