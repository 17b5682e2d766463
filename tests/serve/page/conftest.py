"""One Chromium, one server of the demo model, and one of a model that never ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from support.page import Visit

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

Visitor = Callable[..., "Visit"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH: the page was not tested")
    api.expect.set_options(timeout=20_000)
    with api.sync_playwright() as playwright:
        # Containers have no user namespaces for its sandbox; it only sees pages of ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo_url(browser: Browser) -> Iterator[str]:
    from support.page import serving

    with serving("demo") as url:
        yield url


@pytest.fixture(scope="module")
def endless_url(browser: Browser, small_package: Path) -> Iterator[str]:
    """Random weights: they go on until the context is full, in a minute or two."""
    from support.page import serving

    with serving(small_package, "--max-tokens", 100_000) as url:
        yield url


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visitor]:
    """Opens the page of a server; at the end, nothing bad may have happened on it."""
    from playwright.sync_api import expect

    from support.page import Visit

    visits: list[Visit] = []

    def open_page(url: str, *, locked: bool = False, **options: Any) -> Visit:
        context = browser.new_context(**options)
        context.set_default_timeout(20_000)
        visits.append(Visit(context.new_page(), url))
        if not locked:  # by a key
            expect(visits[-1].page.locator("#model")).to_contain_text(" on ")
        return visits[-1]

    yield open_page
    for each in visits:
        each.page.context.close()
    assert [fault for each in visits for fault in each.faults] == []


@pytest.fixture
def demo(visit: Visitor, demo_url: str) -> Visit:
    return visit(demo_url)


@pytest.fixture
def endless(visit: Visitor, endless_url: str) -> Visit:
    return visit(endless_url)
