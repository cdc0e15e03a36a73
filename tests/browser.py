"""A real browser for pages: Debian's Chromium, driven by playwright, with what it must not do written down."""

import os
import shutil
from collections.abc import Iterator
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
    """The browser's program, where there is one."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Browser]:
    """A browser without a window, for as long as the block lasts."""
    as_root = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=[*QUIET, *as_root])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    with started() as shared:
        yield shared


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1400, theme: Theme = "light") -> Iterator[Page]:
    """The page in `file`, which must ask for nothing but itself and say nothing on the console."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page, requests, said = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert said == []
    assert [url for url in requests if url != file.as_uri() and not url.startswith("data:")] == []


def violations(page: Page) -> list[str]:
    """What axe finds of impact serious or critical, contrast included: rule, and the first places."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
