"""The web page of `trm export --web`, in a real browser: answers, keyboard, theme, width, accessibility."""

import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import browser, displays, overflow, violations  # noqa: F401 - a fixture
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.exporting.web import export_web
from trm.inference.solve import solve
from trm.models.act import build_model
from trm.reporting.terminal.demo import MODEL, new_puzzle
from trm.training.checkpoint import load_checkpoint, save_checkpoint
from trm.utils.errors import InternalError, UserError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a log."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the included model."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches ONNX Runtime Web, is not installed")
    folder = tmp_path_factory.mktemp("web") / "site"
    try:
        export_web(str(MODEL), None, folder, None)
    except InternalError as error:
        pytest.skip(f"no npm registry is reachable: {error}")
    return folder


@contextmanager
def opened(browser: Browser, site: Path) -> Iterator[Page]:  # noqa: F811
    """The page, which must request only its own files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever).start()
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page, requests, messages = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        page.goto(f"{url}index.html")
        page.locator("#solve:enabled").wait_for()
        yield page
    finally:
        context.close()
        server.shutdown()
        server.server_close()
    assert messages == []
    assert [each for each in requests if not each.startswith((url, "data:"))] == []


def answer(page: Page) -> str:
    page.click("#solve")
    page.locator("#result:not(:empty)").wait_for()
    return "".join(page.locator("#answer > div").all_text_contents())


def test_answers_are_those_of_solve(site: Path, browser: Browser) -> None:  # noqa: F811
    questions = [new_puzzle(seed)[0] for seed in range(8)]
    model, meta = load_checkpoint(MODEL)
    expected = solve(model, meta, questions, early_halting=True)
    with opened(browser, site) as page:
        page.click("summary")
        for question, right in zip(questions, expected, strict=True):
            page.fill("#text", "".join(map(str, question.ravel())))
            assert answer(page) == "".join(map(str, right.grid.ravel()))
            probability = float(page.inner_text("#result").split()[2])
            assert probability == pytest.approx(100 * right.halt_probability, abs=0.2)
        page.fill("#text", "12")
        assert "Give 36 cells" in page.inner_text("#text-error")


def test_keyboard(site: Path, browser: Browser) -> None:  # noqa: F811
    with opened(browser, site) as page:
        page.click("#clear")
        first = page.locator("#question > button").first
        first.focus()
        for key in ("5", "ArrowRight", "6", "ArrowDown", "9", "3", "Delete", "ArrowLeft", "1"):
            page.keyboard.press(key)
        cells = page.locator("#question > button").all_text_contents()
        assert {index: cell for index, cell in enumerate(cells) if cell} == {0: "5", 1: "6", 6: "1"}
        assert first.get_attribute("aria-label") == "row 1, column 1: 5"
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "row 2, column 1: 1"
        assert len(answer(page)) == 36
        page.keyboard.press("Tab")
        page.click("#clear")
        assert page.inner_text("#result") == ""
        assert "".join(page.locator("#question > button").all_text_contents()) == ""


def test_width_and_accessibility(site: Path, browser: Browser) -> None:  # noqa: F811
    with opened(browser, site) as page:
        answer(page)
        for display in displays(page):
            assert violations(page) == [], display
            assert overflow(page) == 0, display


def test_size(site: Path) -> None:
    """Transferred with gzip at most 6 MB, the model below 1 MB, and only the plain build of the runtime."""
    assert sum(len(gzip.compress(path.read_bytes())) for path in site.iterdir()) <= 6_000_000
    assert (site / "model.onnx").stat().st_size < 1_000_000
    assert [path.name for path in site.glob("*.wasm")] == ["ort-wasm-simd-threaded.wasm"]


def test_examples_are_generated_without_a_dataset(site: Path) -> None:
    examples = json.loads((site / "puzzles.json").read_text())["examples"]
    assert examples[0] == new_puzzle(0)[0].ravel().tolist()
    assert len({tuple(example) for example in examples}) == 10


def test_other_packages_and_datasets_are_refused(model_params: ModelParams, tmp_path: Path) -> None:
    package = tmp_path / "other.tgz"
    package.write_bytes(b"something else")
    with pytest.raises(UserError, match="is not onnxruntime-web"):
        export_web(str(MODEL), None, tmp_path / "site", package)
    with pytest.raises(UserError, match="no such file; correct --runtime"):
        export_web(str(MODEL), None, tmp_path / "site", tmp_path / "nothing.tgz")
    meta = DatasetMeta(name="custom", height=4, width=4, vocabulary=("pad", "end", *"ab"), num_identifiers=1)
    model = build_model(model_params, meta)
    save_checkpoint(tmp_path / "checkpoint.safetensors", model, model, {})
    with pytest.raises(UserError, match="may have another shape than the puzzle"):
        export_web(str(tmp_path / "checkpoint.safetensors"), None, tmp_path / "site", package)
    assert not (tmp_path / "site").exists()
