"""Functions for puzzles that users type: `normalize_text` and `unique_solution`."""

import numpy as np
import pytest

from trm.datasets.registry import get_dataset


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sudoku", "1_0.\n..2_", "1...\n..2."),
        ("maze", "#._0 S\n##.oG#", "#    S\n##  G#"),
        ("arithmetic", "12+34=...", "12+34="),
        ("arithmetic", "12+34=  \n", "12+34="),
        ("arithmetic", "12+34=", "12+34="),
        ("arc", " .0_\n", " .0_\n"),
        ("custom", " .0_\n", " .0_\n"),
    ],
)
def test_normalize_text(name: str, text: str, expected: str) -> None:
    assert get_dataset(name).normalize_text(text) == expected


def grid(text: str) -> np.ndarray:
    return np.array([list(map(int, row)) for row in text.split()], np.uint8)


# Written by hand.
SOLUTION = "1234 3412 2143 4321"


@pytest.mark.parametrize(
    "question",
    [
        "1234 3412 2143 4320",
        "1030 0002 0100 4001",
        SOLUTION,
    ],
)
def test_unique_solution_of_sudoku(question: str) -> None:
    puzzle = grid(question)
    solution = get_dataset("sudoku").unique_solution(puzzle)
    assert solution is not None
    assert solution.dtype == np.uint8
    assert np.array_equal(solution, grid(SOLUTION))
    assert np.array_equal(puzzle, grid(question)), "the question was modified"


@pytest.mark.parametrize(
    "question",
    [
        "1100 0000 0000 0000",  # violates a rule
        "1230 0004 0000 0000",  # no digit fits into the first row
    ],
)
def test_no_solution_of_sudoku(question: str) -> None:
    assert get_dataset("sudoku").unique_solution(grid(question)) is None


@pytest.mark.parametrize(
    "question",
    [
        "0000 0000 0000 0000",
        "0034 3400 0043 4300",  # 4 solutions: two fillings of each half
        "0034 3412 0043 4321",  # 2 solutions: exchange 1 and 2 in both blank pairs
    ],
)
def test_several_solutions_of_sudoku(question: str) -> None:
    assert get_dataset("sudoku").unique_solution(grid(question)) is None


@pytest.mark.parametrize("name", ["arc", "arithmetic", "custom", "maze"])
def test_datasets_without_solver(name: str) -> None:
    assert get_dataset(name).unique_solution(np.zeros((4, 4), np.uint8)) is None
