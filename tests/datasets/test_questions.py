"""Checks of questions that users give: contradictory clues, several solutions, mazes without a path."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.datasets.maze.dataset import maze_meta
from trm.datasets.registry import check_question
from trm.datasets.sudoku import questions
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.datasets.sudoku.solver import count_solutions
from trm.utils.errors import DataError

SOLUTION = "1234 3412 2143 4321"
SEVERAL = "has several solutions; the answer can be only one of them"


def grid(text: str) -> np.ndarray:
    return np.array([list(map(int, row.replace(".", "0"))) for row in text.split()], np.uint8)


def problem(meta: object, cells: np.ndarray) -> str:
    with pytest.raises(DataError) as error:
        check_question(meta, cells)  # pyright: ignore[reportArgumentType]
    return str(error.value)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("2..2 .... .... ....", "has 2 twice in a row: at row 1, column 1 and at row 1, column 4"),
        (".3.. .... .... .3..", "has 3 twice in a column: at row 1, column 2 and at row 4, column 2"),
        (".... .... ...4 ..4.", "has 4 twice in a box: at row 3, column 4 and at row 4, column 3"),
        ("123. ...4 .... ....", "has no solution, its clues contradict each other"),
    ],
)
def test_contradictory_sudoku(question: str, words: str) -> None:
    assert words in problem(sudoku_meta(4), grid(question))


def test_solutions_of_sudoku() -> None:
    assert check_question(sudoku_meta(4), grid(SOLUTION)) is None
    assert check_question(sudoku_meta(4), grid("1.3. ...2 .1.. 4..1")) is None
    for size in (4, 6, 9):
        assert check_question(sudoku_meta(size), np.zeros((size, size), np.uint8)) == SEVERAL


def test_undecided_number_of_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_NODES", 3)
    assert check_question(sudoku_meta(9), np.zeros((9, 9), np.uint8)) is None


@given(st.sets(st.integers(0, 15)), st.permutations([1, 2, 3, 4]), st.integers(0, 15), st.integers(0, 4))
def test_count_agrees_with_the_compiled_solver(blanks: set[int], digits: list[int], cell: int, digit: int) -> None:
    cells = np.array([0, *digits], np.uint8)[grid(SOLUTION)].ravel()
    cells[list(blanks)] = 0
    cells[cell] = digit
    question = cells.reshape(4, 4)
    try:
        count = {None: 1, SEVERAL: 2}[check_question(sudoku_meta(4), question)]
    except DataError:
        count = 0
    assert count == count_solutions(question)


MAZE = ["S..#", "##.#", "...#", "G###"]


def maze(rows: list[str]) -> np.ndarray:
    return np.array([["#.SG".index(cell) for cell in row] for row in rows], np.uint8)


@pytest.mark.parametrize(
    ("row", "text", "words"),
    [
        (2, "..S#", "has S twice: at row 1, column 1 and at row 3, column 3"),
        (0, "SG.#", "has G twice: at row 1, column 2 and at row 4, column 1"),
        (0, "...#", "has no S"),
        (3, "####", "has no G"),
        (2, "#..#", "has no path from S to G"),
    ],
)
def test_contradictory_maze(row: int, text: str, words: str) -> None:
    rows = list(MAZE)
    assert check_question(maze_meta(4), maze(rows)) is None
    rows[row] = text
    assert words in problem(maze_meta(4), maze(rows))
