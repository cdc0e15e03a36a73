"""Chromium, controlled by playwright, for tests of HTML pages."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")
Theme = Literal["light", "dark"]


def chromium() -> str | None:
    """The path of the browser, if it is installed."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser during the block."""
    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=[*QUIET, *as_root])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    if chromium() is None:
        pytest.skip("Chromium is not installed")
    with started() as shared:
        yield shared


@contextmanager
def opened(browser: Browser, file: Path, theme: Theme = "light") -> Iterator[Page]:
    """The page in `file`, which must not request other URLs or log to the console."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=theme)
    page, requests, messages = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert messages == []
    assert [url for url in requests if url != file.as_uri() and not url.startswith("data:")] == []


def displays(
    page: Page, widths: Sequence[int] = (1400, 400), themes: Sequence[Theme] = ("light", "dark")
) -> Iterator[str]:
    """Show the page in each width and theme; yields their names."""
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        for theme in themes:
            page.emulate_media(color_scheme=theme)
            yield f"{width} {theme}"


def violations(page: Page) -> list[str]:
    """Serious and critical accessibility violations found by axe, including contrast: rule and first elements."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
