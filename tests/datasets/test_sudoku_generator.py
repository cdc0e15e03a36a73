import numpy as np
import pytest

from tests.sudokus import digits, grid_classes
from trm.datasets.sudoku import generator, solver
from trm.datasets.sudoku.augmentation import BOXES, violates_rules
from trm.datasets.sudoku.generator import generate_puzzles
from trm.datasets.sudoku.solver import count_solutions, rating, solve_grid
from trm.utils.errors import UserError


def all_solutions(grid: np.ndarray) -> int:
    """An independent, slow counter: fill the first blank cell with each allowed digit."""
    size = len(grid)
    height, width = BOXES[size]
    blanks = np.argwhere(grid == 0)
    if not len(blanks):
        return 1
    r, c = blanks[0]
    top, left = r - r % height, c - c % width
    seen = {*grid[r], *grid[:, c], *grid[top : top + height, left : left + width].ravel()}
    total = 0
    for digit in set(range(1, size + 1)) - seen:
        grid[r, c] = digit
        total += all_solutions(grid)
    grid[r, c] = 0
    return total


def test_count_solutions_equals_second_solver() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        grid = generate_puzzles(4, 1, "minimal", int(rng.integers(1000)), True).questions
        grid = digits(grid)[0]
        given = np.argwhere(grid)
        grid[tuple(given[rng.integers(len(given))])] = 0
        assert count_solutions(grid, 1000) == all_solutions(grid.copy())
    assert count_solutions(np.zeros((4, 4), dtype=np.uint8), 1000) == 288
    assert count_solutions(np.zeros((9, 9), dtype=np.uint8), 7) == 7


def test_contradictions_have_no_solution() -> None:
    grid = np.zeros((9, 9), dtype=np.uint8)
    grid[0, 0] = grid[0, 5] = 3
    assert count_solutions(grid) == 0
    assert solve_grid(grid) is None
    grid[0, 5] = 0
    assert solve_grid(grid) is not None


@pytest.mark.parametrize("size", [4, 6, 9])
def test_minimal_puzzles(size: int) -> None:
    puzzles = generate_puzzles(size, 12, "minimal", 3, False)
    assert len(puzzles) == len(puzzles.sources) == 12
    assert not violates_rules(digits(puzzles.answers)).any()
    assert len(set(grid_classes(digits(puzzles.questions)).tolist())) == 12
    for question, answer, guesses in zip(
        digits(puzzles.questions), digits(puzzles.answers), puzzles.ratings, strict=True
    ):
        assert ((question == 0) | (question == answer)).all()
        assert count_solutions(question, 2) == 1
        solved = solve_grid(question)
        assert solved is not None
        assert np.array_equal(solved, answer)
        assert rating(question) == guesses
        for cell in np.argwhere(question):
            fewer = question.copy()
            fewer[tuple(cell)] = 0
            assert count_solutions(fewer, 2) == 2


@pytest.mark.parametrize(("size", "clues"), [(4, 6), (6, 10), (6, 36), (9, 28)])
def test_exact_number_of_clues(size: int, clues: int) -> None:
    puzzles = generate_puzzles(size, 2 if clues == 36 else 10, clues, 0, False)
    assert ((puzzles.questions != 1).sum(axis=1) == clues).all()
    assert all(count_solutions(question, 2) == 1 for question in digits(puzzles.questions))


def test_seeds() -> None:
    first, again, other = (generate_puzzles(6, 20, "minimal", seed, False) for seed in (1, 1, 2))
    assert np.array_equal(first.questions, again.questions)
    assert np.array_equal(first.ratings, again.ratings)
    assert not np.array_equal(first.questions, other.questions)
    longer = generate_puzzles(6, 30, "minimal", 1, False)
    assert np.array_equal(longer.questions[:20], first.questions)


def test_ratings() -> None:
    hardest = "4.....8.5.3..........7......2.....6.....8.4......1.......6.3.7.5..2.....1.4......"
    grid = np.array([0 if c == "." else int(c) for c in hardest], dtype=np.uint8).reshape(9, 9)
    assert count_solutions(grid) == 1
    assert rating(grid) > 10
    solved = solve_grid(grid)
    assert solved is not None
    assert rating(solved) == 0
    few_blanks = np.where(np.arange(81).reshape(9, 9) % 10 == 0, 0, solved)
    assert rating(few_blanks.astype(np.uint8)) == 0  # each blank has one candidate
    # Worked by hand: each half has two fillings. One guess in each half leads to the first solution, and
    # backtracking in the lower half to the second.
    two_left = np.array([[0, 0, 3, 4], [3, 4, 0, 0], [0, 0, 4, 3], [4, 3, 0, 0]], dtype=np.uint8)
    assert count_solutions(two_left, 9) == 4
    assert rating(two_left) == 2


@pytest.mark.slow
def test_number_of_minimal_4x4_puzzles() -> None:
    puzzles = generate_puzzles(4, 36, "minimal", 0, False)
    clues = (puzzles.questions != 1).sum(axis=1)
    assert np.bincount(clues).tolist() == [0, 0, 0, 0, 13, 22, 1]  # known from exhaustive enumeration
    with pytest.raises(UserError, match=r"only 36 different 4x4 minimal puzzles .* data.allow_leakage: true"):
        generate_puzzles(4, 37, "minimal", 0, False)


def test_puzzles_are_distinct_with_leakage() -> None:
    puzzles = generate_puzzles(4, 2000, "minimal", 0, True)
    assert len(np.unique(puzzles.questions, axis=0)) == 2000


def test_impossible_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^data.source.clues: no 9x9 puzzle with fewer than 17 clues .* Got 10"):
        generate_puzzles(9, 1, 10, 0, False)
    monkeypatch.setitem(generator.MAX_TRIES_WITHOUT_PUZZLE, 9, 50)
    with pytest.raises(
        UserError, match=r"^data.source.clues: only 0 of 1 9x9 puzzles with 18 clues .* increase data.source.clues"
    ):
        generate_puzzles(9, 1, 18, 0, False)


def test_compiles_without_cache_folder() -> None:
    scope: dict = {}
    exec("def twice(x):\n    return 2 * x", scope)  # without a source file, numba cannot cache
    assert solver.njit(scope["twice"])(4) == 8
