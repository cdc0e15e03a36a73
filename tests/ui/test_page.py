"""The page of `trm ui` in a real browser: puzzles, timeline, comparison, keyboard, theme, width, accessibility."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import browser, displays, overflow, violations  # noqa: F401 - a fixture
from tests.ui.conftest import TOKEN, Session
from trm.inference.solve import solve
from trm.reporting.terminal.demo import MODEL, new_puzzle
from trm.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ANSWER = '[data-of="answer"] > *'
REFUSED = "Failed to load resource"
"""The start of the message that Chromium logs for a status of 400 and more."""


@contextmanager
def opened(
    browser: Browser,  # noqa: F811
    session: Session,
    model: str = "demo",
    refusals: int = 0,
) -> Iterator[Page]:
    """The page with a model, which must request only this server. refusals: expected requests that are refused."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page, requests, messages = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    try:
        page.goto(f"{session.url}/#token={quote(TOKEN)}")
        page.locator("html[data-ready]").wait_for()
        page.select_option("#models select", name_of(session, model))
        ready(page)
        yield page
    finally:
        context.close()
    assert [message for message in messages if not message.startswith(REFUSED)] == []
    assert len(messages) == refusals
    assert [url for url in requests if not url.startswith((f"{session.url}/", "data:"))] == []


def name_of(session: Session, model: str) -> str:
    return model if model == "demo" else str(session.folder / model)


def ready(page: Page) -> None:
    """Wait until nothing is loaded or computed."""
    expect(page.locator("#busy")).to_be_empty(timeout=60_000)
    page.locator("#solve:enabled").wait_for(timeout=60_000)


def run(page: Page) -> None:
    page.click("#solve")
    ready(page)


def cells(page: Page, place: str = "#question") -> list[str]:
    return page.locator(f"{place} > *").all_text_contents()


def answer(panel: Page | Locator) -> str:
    return "".join(panel.locator('[data-of="answer"] > *').all_text_contents())


def outcome(panel: Page | Locator) -> str:
    return panel.locator('[data-of="result"]').inner_text().replace("\u00a0", " ")


def frame_of(page: Page) -> tuple[int, int]:
    """Number of the frame and of all frames."""
    found = re.match(r"Frame (\d+) of (\d+)", page.inner_text("#place"))
    assert found is not None
    return int(found[1]), int(found[2])


def test_the_token_leaves_the_address(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session) as page:
        assert page.url == f"{session.url}/"
        page.reload()
        ready(page)
        assert page.locator("#models option").count() == 6
    context = browser.new_context()
    page = context.new_page()
    page.goto(session.url)
    expect(page.locator("#error")).to_contain_text("the token of the session is missing or wrong")
    context.close()


def test_a_typed_puzzle(browser: Browser, session: Session) -> None:  # noqa: F811
    """Typed, solved, and looked at pass by pass."""
    question = new_puzzle(11)[0]
    model, meta = load_checkpoint(MODEL)
    (expected,) = solve(model, meta, [question])
    with opened(browser, session) as page:
        page.click("#clear")
        page.locator("#question > button").first.focus()
        for row in question:
            for cell in row:
                page.keyboard.press(str(cell) if cell else ".")
                page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowDown")
            for _ in row:
                page.keyboard.press("ArrowLeft")
        assert "".join(cells(page)) == "".join(str(cell) for cell in question.ravel() if cell)
        run(page)
        assert answer(page) == "".join(map(str, expected.grid.ravel()))
        assert outcome(page).startswith(f"Solved; confidence {100 * expected.confidence:.1f} %")
        assert outcome(page).endswith("16 steps, 160 forward passes.")
        assert frame_of(page) == (160, 160)
        assert page.inner_text("#announcement").replace("\u00a0", " ") == outcome(page)
        given = page.locator('[data-of="answer"] > .given').count()
        assert given == (question > 0).sum()

        page.focus("#time")
        page.keyboard.press("Home")
        assert frame_of(page) == (1, 160)
        assert page.get_attribute("#time", "aria-valuetext") == "Frame 1 of 160: step 1, round 1, pass 1"
        before = answer(page)
        assert before != "".join(map(str, expected.grid.ravel()))
        page.click("#forward")
        assert frame_of(page) == (10, 160)  # the end of the first step: two rounds of five passes
        assert "Step 1 of 16, round 2, pass 5" in page.inner_text("#announcement")
        assert page.locator('[data-of="moved"]').get_attribute("aria-label") != "No trace"
        page.click("#back")
        assert (frame_of(page), answer(page)) == ((1, 160), before)
        page.click("#play")
        expect(page.locator("#place")).to_have_text(re.compile("Frame ([4-9]|[0-9]{2,}) "))
        page.click("#play")
        stopped = frame_of(page)
        assert stopped[0] >= 4
        page.click("#question > button")
        page.keyboard.press("Delete")
        assert page.inner_text("#place") == "No trace"


def test_a_pasted_puzzle(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session, refusals=1) as page:
        page.click("#editing summary")
        page.fill("#text", "66" + "." * 34)
        page.click("#paste")
        expect(page.locator("#error")).to_contain_text("twice in a row")
        page.fill("#text", "." * 35 + "4")
        page.click("#paste")
        expect(page.locator("#note")).to_contain_text("The puzzle has several solutions")
        assert cells(page) == [""] * 35 + ["4"]
        assert page.inner_text("#error") == ""


def test_two_settings(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session) as page:
        page.check("#compare")
        first, second = page.locator(".panel").all()
        second.locator("summary").first.click()
        page.fill("#B-max_steps", "1")
        page.fill("#B-num_votes", "3")
        run(page)
        assert "160 forward passes" in outcome(first)
        assert "of 3 votes" in outcome(second)
        assert "1 step, 10 forward passes" in outcome(second)
        assert [first.locator("tbody tr").count(), second.locator("tbody tr").count()] == [0, 3]
        assert frame_of(page) == (160, 160)
        page.focus("#time")
        page.keyboard.press("Home")
        both = [panel.locator('[data-of="frame"]').inner_text() for panel in (first, second)]
        assert [text[:23] for text in both] == ["Step 1 of 16, round 1, ", "Step 1 of 1, round 1, p"]
        page.uncheck("#every-pass")
        run(page)
        assert frame_of(page) == (16, 16)
        page.uncheck("#compare")
        assert page.locator(".panel").count() == 1


def test_two_models(browser: Browser, session: Session) -> None:  # noqa: F811
    """A drawn maze; the networks copy it, and one of them replaces walls by the path."""
    with opened(browser, session, "maze/model") as page:
        page.click("#clear")
        page.get_by_role("button", name="start").click()
        page.locator("#question > button").nth(0).click()
        page.get_by_role("button", name="goal").click()
        page.locator("#question > button").nth(63).focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="wall").click()
        boxes = [page.locator("#question > button").nth(index).bounding_box() for index in (17, 20)]
        start, end = ((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes if box)
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(*end, steps=12)
        page.mouse.up()
        labels = [each.get_attribute("aria-label") or "" for each in page.locator("#question > button").all()]
        names = [label.partition(": ")[2] for label in labels]
        expected = {0: "start", 63: "goal", 17: "wall", 18: "wall", 19: "wall", 20: "wall"}
        assert names == [expected.get(index, "free") for index in range(64)]
        page.check("#compare")
        choices = page.locator("#models select").nth(1)
        assert len(choices.locator("option").all()) == 2
        choices.select_option(name_of(session, "maze/other"))
        ready(page)
        run(page)
        first, second = page.locator(".panel").all()
        assert [answer(first).count("•"), answer(second).count("•")] == [0, 4]
        assert "Not solved: breaks a rule or a clue" in outcome(first)


def test_tasks(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session, "arc/model") as page:
        page.select_option("#task", label="c")
        page.fill("#pair", "2")
        page.click("#tests button")
        ready(page)
        page.click("#demonstrations summary")
        assert page.locator("#pairs .grid").count() == 6
        assert page.locator("#question").get_attribute("role") == "img"
        assert not page.is_visible("#symbols")
        run(page)
        assert len(cells(page)) == len(cells(page, '[data-of="answer"]')) == 2
        assert "Not solved" in outcome(page)
        # The answer is the question, 1 0; the solution is 1 2 3.
        wrong = [each.evaluate("each => each.classList.contains('wrong')") for each in page.locator(ANSWER).all()]
        assert wrong == [False, True]
        assert "1 of 3 cells correct, 1 x 2 instead of 1 x 3." in page.locator('[data-of="frame"]').inner_text()


def test_custom_puzzles(browser: Browser, session: Session) -> None:  # noqa: F811
    """A smaller grid than the canvas, and a test puzzle with its solution."""
    with opened(browser, session, "custom/model") as page:
        page.fill("#index", "1")
        page.click("#tests button")
        ready(page)
        run(page)
        assert outcome(page).startswith("Solved")
        assert page.locator(f"{ANSWER}.wrong").count() == 0
        page.fill("#columns", "2")
        page.keyboard.press("Tab")
        assert len(cells(page)) == 4
        page.locator("#question > button").first.click()
        page.get_by_role("button", name="d", exact=True).click()
        assert cells(page)[0] == "d"
        run(page)
        assert "No rules to check" in outcome(page)


def test_sums(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session, "sums/model") as page:
        assert re.fullmatch(r"\d{3}\+\d{3}=", "".join(cells(page)))
        run(page)
        assert len(cells(page, '[data-of="answer"]')) == 12


def test_stop(browser: Browser, session: Session) -> None:  # noqa: F811
    with opened(browser, session) as page:
        page.click(".panel summary")
        page.fill("#A-max_steps", "2000")
        page.click("#solve")
        expect(page.locator("#place")).to_have_text(re.compile("Frame [0-9]{2,} "))
        page.click("#stop")
        ready(page)
        assert outcome(page) == "Stopped."
        page.fill("#A-max_steps", "1")
        run(page)
        assert frame_of(page) == (10, 10)


def test_keyboard_only(browser: Browser, session: Session) -> None:  # noqa: F811
    """Every control is reached by Tab, and works with Enter, Space and arrow keys."""
    with opened(browser, session) as page:

        def tab_to(selector: str) -> None:
            for _ in range(60):
                if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                    return
                page.keyboard.press("Tab")
            pytest.fail(f"{selector} has no focus")

        page.locator("#models select").focus()
        tab_to("#generate")
        before = cells(page)
        page.keyboard.press("Enter")
        ready(page)
        assert cells(page) != before
        tab_to("#question > button")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("row 2, column 1")
        tab_to("#symbols > button")
        tab_to("#solve")
        page.keyboard.press("Enter")
        ready(page)
        page.keyboard.press("Tab")
        tab_to("#compare")
        page.keyboard.press("Space")
        assert page.locator(".panel").count() == 2
        tab_to("#play")
        tab_to("#time")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert frame_of(page) == (2, 160)
        tab_to(".panel summary")
        page.keyboard.press("Enter")
        tab_to("#A-max_steps")
        page.keyboard.press("ArrowUp")
        assert page.input_value("#A-max_steps") == "17"


@pytest.mark.parametrize("model", ["demo", "maze/model", "arc/model", "custom/model"])
def test_width_and_accessibility(browser: Browser, session: Session, model: str) -> None:  # noqa: F811
    with opened(browser, session, model) as page:
        page.check("#compare")
        run(page)
        for display in displays(page):
            closed = page.locator("details:not([open]) > summary:visible")
            while closed.count():
                closed.first.click()
            assert violations(page) == [], display
            assert overflow(page) == 0, display
