"""The HTML report in a real browser: requests, keyboard, width, contrast, printing."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import browser, displays, opened, overflow, violations  # noqa: F401 - a fixture
from tests.reporting.experiments import experiment_of, solving_experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PAGES = ("sudoku", "maze", "arc", "arithmetic", "custom")
each_page = pytest.mark.parametrize("name", PAGES)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> dict[str, Path]:  # noqa: F811
    """A page of each dataset; some of the Sudokus are solved step by step."""
    del browser  # without a browser no experiment is run
    folder = tmp_path_factory.mktemp("pages")
    made = {name: experiment_of(name, folder / name) for name in PAGES if name != "sudoku"}
    made["sudoku"] = solving_experiment(folder / "sudoku")
    published = {"exact_accuracy": 0.874, "pass@2": 0.446}
    for experiment in made.values():
        experiment.report(num_examples=6, published=published)
    return {name: experiment.folder / "report/report.html" for name, experiment in made.items()}


def symbols(page: Page, grid: str) -> str:
    """The symbols in a grid of the first puzzle."""
    return "".join(page.locator(f"#gallery-0 [data-grid={grid}] text").all_text_contents())


def test_slider_updates_grid_and_text(pages: dict[str, Path], browser: Browser) -> None:  # noqa: F811
    with opened(browser, pages["sudoku"]) as page:
        slider, status = page.locator("#gallery-0 input"), page.locator("#gallery-0 .status")
        assert slider.input_value() == "8"
        assert "Step 8 of 8: 16 of 16 cells correct" in status.inner_text()
        assert symbols(page, "answer") == symbols(page, "solution")
        slider.focus()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        answers, changed = {}, {}
        for step in range(8, 0, -1):
            assert f"Step {step} of 8" in status.inner_text()
            assert slider.get_attribute("aria-valuetext") == f"step {step} of 8"
            count = int(re.findall(r"(\d+) of 16 cells correct", status.inner_text())[0])
            wrong = page.locator("#gallery-0 [data-grid=answer] path.frame")
            marked = len(re.findall("M", wrong.get_attribute("d") or "")) if wrong.count() else 0
            assert marked == 16 - count
            pairs = zip(symbols(page, "answer"), symbols(page, "solution"), strict=True)
            assert sum(one == other for one, other in pairs) == count
            answers[step] = symbols(page, "answer")
            changed[step] = re.findall(r"(\d+) changed", status.inner_text())
            page.keyboard.press("ArrowLeft")
        # The network answers 1 everywhere, then copies the clues, then fills in the 4 that all blanks hide.
        solution = symbols(page, "solution")
        assert [answers[step] for step in (1, 2)] == ["1" * 16, solution.replace("4", "1")]
        assert {answers[step] for step in range(3, 9)} == {solution}
        assert changed == {1: [], 2: ["8"], 3: ["4"]} | {step: ["0"] for step in range(4, 9)}
        assert "First correct after step 3" in status.inner_text()


@each_page
def test_width_and_accessibility(pages: dict[str, Path], browser: Browser, name: str) -> None:  # noqa: F811
    with opened(browser, pages[name]) as page:
        for display in displays(page, (320, 400, 1400), ("light",)):
            assert overflow(page) == 0, display
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        for display in displays(page, (320, 400, 1400), ("light",)):
            assert overflow(page) == 0, display
        for display in displays(page):
            assert violations(page) == [], display


def test_charts_follow_the_theme(pages: dict[str, Path], browser: Browser) -> None:  # noqa: F811
    colors = []
    for theme in ("light", "dark"):
        with opened(browser, pages["sudoku"], theme=theme) as page:
            text = page.locator(".drawing text").first
            colors.append(text.evaluate("element => getComputedStyle(element).fill"))
            assert colors[-1] == page.evaluate("getComputedStyle(document.body).color")
    assert colors[0] != colors[1]


def test_printing_opens_all_details(pages: dict[str, Path], browser: Browser) -> None:  # noqa: F811
    with opened(browser, pages["sudoku"]) as page:
        assert page.locator("details:not([open])").count() > 5
        page.pdf()
        assert page.locator("details:not([open])").count() == 0


@each_page
def test_plots_fill_the_width(pages: dict[str, Path], browser: Browser, name: str) -> None:  # noqa: F811
    """The last plot of each row ends where the section ends, and each drawing fills its plot."""
    gaps = """() => [...document.querySelectorAll('.plots')].flatMap((plots) => {
        const rows = []; // the right end of each row: a row ends before a plot that is further to the left
        for (const each of plots.children) {
            const box = each.getBoundingClientRect();
            if (rows.length && box.left > rows[rows.length - 1]) rows[rows.length - 1] = box.right;
            else rows.push(box.right);
        }
        const end = plots.parentElement.getBoundingClientRect().right;
        const drawings = [...plots.querySelectorAll('.drawing')].map(
            (each) => each.clientWidth - each.firstElementChild.getBoundingClientRect().width);
        return [...rows.map((right) => end - right), ...drawings.filter((gap) => gap > 0)];
    })"""
    with opened(browser, pages[name]) as page:
        for display in displays(page, (400, 800, 1400), ("light",)):
            found = page.evaluate(gaps)
            assert found
            assert max(map(abs, found)) < 1.5, display


@pytest.mark.parametrize("name", ["custom", "arithmetic"])
def test_symbols_have_colors(pages: dict[str, Path], browser: Browser, name: str) -> None:  # noqa: F811
    with opened(browser, pages[name]) as page:
        fills = "elements => elements.map((each) => getComputedStyle(each).fill)"
        assert len(set(page.locator("#gallery-0 [data-grid=solution] path[style]").evaluate_all(fills))) > 1
