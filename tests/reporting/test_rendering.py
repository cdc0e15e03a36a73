"""Frames in the terminal: their size, and how cells are distinguished, with and without colors."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from rich.console import Console

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.arc.dataset import VOCABULARY
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.drawings import get_drawing
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.trace import Frame, Sample, Status
from trm.reporting.terminal.colors import intensity
from trm.reporting.terminal.maps import View, Window
from trm.reporting.terminal.rendering import TERMS, render, render_answer

LARGE = Window(160, 60, False)
ARC = DatasetMeta(name="arc", height=30, width=30, vocabulary=VOCABULARY, num_identifiers=2)
CUSTOM = DatasetMeta(name="custom", height=20, width=20, vocabulary=("pad", "a", "b", "c"), num_identifiers=1)
NUMBERS = DatasetMeta(name="custom", height=5, width=5, vocabulary=("pad", "-1", "0", "12"), num_identifiers=1)
METAS = {
    "sudoku-4x4": sudoku_meta(4),
    "sudoku-6x6": sudoku_meta(6),
    "sudoku-9x9": sudoku_meta(9),
    "maze-6x6": maze_meta(6),
    "maze-30x30": maze_meta(30),
    "arc": ARC,
    "sums": arithmetic_meta(3),
    "custom": CUSTOM,
    "numbers": NUMBERS,
}
COLOR_SYSTEMS: dict[tuple[bool, bool], Literal["standard", "truecolor"] | None] = {
    (True, True): "truecolor",
    (True, False): "standard",
    (False, True): None,
}
ONE = Sample("1", "A", 0.0, "running", True, True)


def frame_of(answer: np.ndarray, samples: tuple[Sample, ...] = (ONE,), moved: bool = True) -> Frame:
    heat = np.full(answer.shape, 1.0, np.float32) if moved else None
    return Frame(2, 1, 3, True, answer, 0.0, heat, samples)


def printed(view: View, window: Window) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=COLOR_SYSTEMS[window.color, window.shades])
    console.width = window.width
    console.print(render(view, window))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_render() -> None:
    """Correct and wrong cells, changed and unchanged, of a 4x4 Sudoku with one clue, the 4."""
    solution = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
    answer, before, question = solution.copy(), solution.copy(), np.zeros_like(solution)
    answer[0, :2] = before[0, 0] = 4  # still wrong, and newly wrong
    before[0, 2] = 1
    question[0, 3] = 4
    view = View(get_drawing(sudoku_meta(4)), frame_of(answer), before, question, solution)
    assert render(view, Window(80, None, False)).plain == "\n".join(
        [
            "step 2, round 1, pass 3   halt logit +0.00, probability 50.0%",
            "2 of 16 cells changed, 2 wrong",
            "question      answer        movement of the latents",
            ". . | . 4     4x4X| 3*4     ████| ████",
            ". . | . .     3 4 | 1 2     ████| ████",
            "----+-----    ----+-----    ----+-----",
            ". . | . .     2 1 | 4 3     ████| ████",
            ". . | . .     4 3 | 2 1     ████| ████",
            "* changed, x wrong, X both",
            "movement: ░ 0.006  ▒ 0.03  ▓ 0.2  █ 1",
        ]
    )
    colored = printed(view, Window(80, None, True))
    assert "\x1b[31m4x" in colored  # wrong
    assert "\x1b[1;7;31m4X" in colored  # wrong and changed
    assert "\x1b[1;7;32m3*" in colored  # correct and changed
    assert "\x1b[1m4 " in colored  # a clue
    assert "\x1b[32m2 " in colored  # correct


def test_intensity() -> None:
    """Full at 1, half at 10 ** -1.5, blank at 10 ** -3 and below."""
    assert intensity(np.array([1, 10**-1.5, 1e-3, 0], np.float32)) == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    answer = np.zeros((1, 4), np.uint8)
    moved = np.array([[1, 10**-1.5, 1e-3, 0]], np.float32)
    frame = Frame(1, 1, 1, False, answer, 0.0, moved, (ONE,))
    view = View(get_drawing(CUSTOM), frame, answer, answer, None)
    assert render(view, Window(80, None, False)).plain.splitlines()[3].rstrip().endswith("██▒▒")


WINDOWS = [
    Window(80, 24, True),
    Window(80, 40, True, False),
    Window(160, 50, True),
    Window(80, 24, False),
    Window(160, 50, False),
]


def view_of(meta: DatasetMeta) -> tuple[np.ndarray, Callable[..., View]]:
    """An answer, and a function that creates views of it."""
    symbols = 10 if meta.name == "arc" else meta.vocab_size - 1
    answer = np.random.default_rng(0).integers(1, symbols, (meta.height, meta.width)).astype(np.uint8)
    question = np.full_like(answer, 255 if meta.name == "arithmetic" else 0)

    def view(before: np.ndarray, solution: np.ndarray | None, **more: object) -> View:
        frame = frame_of(answer, **more)  # pyright: ignore[reportArgumentType]
        return View(get_drawing(meta), frame, before, question, solution)

    return answer, view


@pytest.mark.parametrize(
    "window", WINDOWS, ids=lambda window: f"{window.width}x{window.height}-{window.color}-{window.shades}"
)
@pytest.mark.parametrize("name", METAS)
def test_cells_are_distinguishable(name: str, window: Window) -> None:
    """The first cell is correct or wrong, changed or not: four different outputs, none larger than the window."""
    answer, view = view_of(METAS[name])
    other = answer.copy()
    other[0, 0] = 2 if answer[0, 0] == 1 else 1
    rendered = [render(view(before, solution), window) for solution in (answer, other) for before in (answer, other)]
    pictures = []
    for text in rendered:
        lines = text.plain.splitlines()
        assert len(lines) <= window.height if window.height else True
        assert max(map(len, lines)) <= window.width
        # Without the second line, which has the numbers.
        console = Console(
            file=io.StringIO(), force_terminal=True, color_system=COLOR_SYSTEMS[window.color, window.shades]
        )
        console.width = window.width
        for line in text.split()[2:]:
            console.print(line)
        pictures.append(console.file.getvalue())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(set(pictures)) == 4
    # Without a solution: changed or not.
    unknown = {printed(view(before, None), window).split("\n", 2)[2] for before in (answer, other)}
    assert len(unknown) == 2


@pytest.mark.parametrize("name", METAS)
@pytest.mark.parametrize("color", [True, False])
def test_output_fits_any_window(name: str, color: bool) -> None:
    answer, view = view_of(METAS[name])
    samples = tuple(Sample(f"{n}", "A", 1.0, "running", True, n == 3) for n in range(1, 100))
    for width, height in ((1, 1), (20, 5), (64, 20), (100, 34)):
        for more in ({}, {"samples": samples}, {"moved": False}):
            lines = render(view(answer, answer, **more), Window(width, height, color)).plain.splitlines()
            assert len(lines) <= height
            assert max(map(len, lines)) <= width


def test_largest_scale_that_fits() -> None:
    answer, view = view_of(maze_meta(30))

    def lines(window: Window) -> list[str]:
        return render(view(answer, answer), window).plain.splitlines()

    wide = lines(Window(190, 50, True))
    assert wide[2].split() == ["question", "answer", "movement", "of", "the", "latents"]
    assert len(wide[3]) == 3 * 60 + 2 * 4
    halves = lines(Window(100, 24, True))
    assert halves[2].split() == ["question", "answer", "status"]
    assert halves[3].count("▀") == 90
    two = lines(Window(80, 24, True))
    assert two[2].split() == ["answer", "status"]
    assert two[3].count("▀") == 60
    assert len(two) == 2 + 1 + 15 + 1 + 1 + len(TERMS)
    narrow = lines(Window(80, 40, False))
    assert "movement of the latents" in narrow[2]
    assert len(narrow[3]) == 30 + 4 + 30
    alone = lines(Window(40, 40, False))
    assert "latent movement: the window is too small" in alone
    assert len(alone[3]) == 30
    assert lines(Window(80, 24, False))[2].startswith("the window is too small: 30 columns and 35 lines are needed")


def test_grid_of_another_size() -> None:
    solution, question = np.ones((3, 4), np.uint8), np.full((2, 2), 5, np.uint8)
    answer = np.array([[1, 2, 1, 1, 1]], np.uint8)
    view = View(get_drawing(ARC), frame_of(answer), None, question, solution)
    text = render(view, Window(160, None, False)).plain.splitlines()
    assert text[1] == "the first answer, 2 wrong; 1 x 5, the solution is 3 x 4"
    assert text[2].split() == ["question", "answer", "movement", "of", "the", "latents"]
    assert text[3].split() == ["5", "5", "1", "2x1", "1", "1x", "██████████"]
    empty = render(
        View(get_drawing(ARC), frame_of(np.zeros((0, 0), np.uint8)), answer, question, solution), LARGE
    ).plain
    assert "0 of 0 cells changed, 0 wrong; 0 x 0, the solution is 3 x 4" in empty


def test_samples() -> None:
    values: list[tuple[str, str, float, Status]] = [
        ("1.1", "A", 1.25, "halted"),
        ("1.2", "B", -2.0, "running"),
        ("2.1", "A", 3.0, "valid"),
        ("2.2", "C", 0.0, "stopped"),
        ("3.1", "", 0.0, "pending"),
    ]
    samples = tuple(Sample(*value, votes=n in (0, 2), shown=n == 2) for n, value in enumerate(values))
    answer, view = view_of(sudoku_meta(4))
    lines = render(view(answer, answer, samples=samples), Window(80, 40, False)).plain.splitlines()
    assert lines[-4:] == [
        "samples: answer (equal letters are equal answers), halt logit; > is shown",
        " 1.1 A +1.2 halted      1.2 B -2.0            >2.1 A +3.0 valid",
        " 2.2 C +0.0 stopped     3.1 pending",
        "votes: A 2",
    ]
    many = tuple(Sample(str(n), "A", 1.0, "running", True, n == 1) for n in range(1, 61))
    lines = render(view(answer, answer, samples=many), Window(80, 40, False)).plain.splitlines()
    assert lines[-2:] == ["and 42 more", "votes: A 60"]


def test_large_windows() -> None:
    """Cells are enlarged, and every word is explained, as far as the window allows."""
    answer, view = view_of(sudoku_meta(6))
    lines = render(view(answer, None), Window(140, 40, True)).plain.splitlines()
    assert lines[2].split() == ["question", "answer", "movement", "of", "the", "latents"]
    first = lines[4]  # the second of three lines of the first row of cells
    assert len(first.split("|")[0]) == 3 * 6
    assert first.startswith("  .     .     .   | ")
    assert lines[3].strip(" |█") == ""
    assert [line for line in lines if line in TERMS] == list(TERMS)
    assert len(render(view(answer, None), Window(80, 24, True)).plain.splitlines()) <= 24


def test_keys_are_in_the_last_line_of_every_window() -> None:
    answer, view = view_of(sudoku_meta(6))
    for width, height in ((140, 40), (80, 24), (40, 6), (10, 2)):
        lines = render(view(answer, None), Window(width, height, True, keys="q quit")).plain.splitlines()
        assert lines[-1] == "q quit"
        assert len(lines) <= height


@pytest.mark.parametrize("name", METAS)
@pytest.mark.parametrize("color", [True, False])
def test_ascii(name: str, color: bool) -> None:
    """A terminal without box characters gets ASCII, in the same columns."""
    answer, view = view_of(METAS[name])
    for shown in (view(answer, answer), view(answer, None)):
        text = render(shown, Window(200, 40, color, encoding="ascii"))
        assert text.plain.isascii()
        assert "?" not in text.plain
    assert render(view(answer, answer), Window(200, 40, color, encoding="latin-1")).plain.encode("latin-1")


def test_ascii_shades() -> None:
    answer = np.zeros((1, 4), np.uint8)
    frame = Frame(1, 1, 1, False, answer, 0.0, np.array([[1, 0.2, 0.03, 0.006]], np.float32), (ONE,))
    view = View(get_drawing(CUSTOM), frame, answer, answer, None)
    assert render(view, Window(80, None, False, encoding="ascii")).plain.splitlines()[3].endswith("##%%==--")


def test_skipped_frames_are_counted() -> None:
    answer, view = view_of(sudoku_meta(4))
    for skipped, words in ((1, "after 1 pass without a change"), (12, "after 12 passes without a change")):
        text = render(replace(view(answer, answer), skipped=skipped), LARGE).plain.splitlines()
        assert text[1] == f"0 of 16 cells changed {words}, 0 wrong"
    limited = render(replace(view(answer, answer), limits=(16, 2, 5)), LARGE).plain
    assert limited.startswith("step 2 of 16, round 1 of 2, pass 3 of 5   halt logit")


def test_finished_puzzle() -> None:
    """Question, answer and solution next to each other, or below each other."""
    answer, question = np.array([[1, 2], [2, 2]], np.uint8), np.array([[1, 0], [0, 0]], np.uint8)
    solution = np.array([[1, 2], [2, 1]], np.uint8)
    meta = DatasetMeta(name="custom", height=2, width=2, vocabulary=("pad", *"abc"), num_identifiers=1)
    view = View(get_drawing(meta), frame_of(answer), answer, question, solution)
    assert [line.plain.rstrip() for line in render_answer(view, Window(80, None, False))] == [
        "question    answer    solution",
        "b a         b c       b c",
        "a a         c cx      c b",
        "x wrong",
    ]
    stacked = [line.plain.rstrip() for line in render_answer(view, Window(10, None, False))]
    assert stacked == ["question", "ba", "aa", "answer", "bc", "cx", "solution", "bc", "cb", "x wrong"]
