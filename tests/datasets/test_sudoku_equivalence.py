import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sudokus import digits, grid_classes
from trm.data.deduplication import Equivalence, find_duplicates
from trm.datasets.sudoku.augmentation import draw_transforms
from trm.datasets.sudoku.equivalence import are_equivalent, fingerprints, is_symmetry
from trm.datasets.sudoku.generator import generate_puzzles


def duplicates(train: np.ndarray, test: np.ndarray) -> list[tuple[int, int]]:
    """Duplicates of two files, each read in two parts."""
    equivalence = Equivalence(fingerprints, are_equivalent)
    return find_duplicates(equivalence, lambda: [train[:3], train[3:]], lambda: [test[:1], test[1:]])


sizes = st.sampled_from([4, 6, 9])
seeds = st.integers(0, 2**32)


@given(size=sizes, seed=seeds, clues=st.integers(0, 81))
@settings(deadline=None)
def test_transformed_grid_is_equivalent(size: int, seed: int, clues: int) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.integers(1, size + 1, (size, size), dtype=np.uint8)
    grid.ravel()[rng.permutation(size * size)[clues:]] = 0
    shuffled = draw_transforms(rng, size, 1).apply(grid)[0]
    assert np.array_equal(fingerprints(grid[None]), fingerprints(shuffled[None]))
    assert are_equivalent(grid, shuffled)


@given(seed=seeds)
@settings(deadline=None)
def test_moved_clue_is_not_equivalent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = np.zeros((9, 9), dtype=np.uint8)
    grid[0, 0] = grid[1, 3] = grid[4, 4] = 1
    other = grid.copy()
    other[4, 4], other[4, 0] = 0, 1  # now in the column of another clue
    other = draw_transforms(rng, 9, 1).apply(other)[0]
    assert not are_equivalent(grid, other)
    assert fingerprints(grid[None]) != fingerprints(other[None])


def test_other_transformations_are_not_equivalent() -> None:
    puzzle = digits(generate_puzzles(9, 1, "minimal", 5, False).questions)[0]
    swapped_across_bands = puzzle[[3, 1, 2, 0, 4, 5, 6, 7, 8]]
    one_digit_changed = puzzle.copy()
    row, column = np.argwhere(puzzle)[0]
    one_digit_changed[row, column] = puzzle[row, column] % 9 + 1
    for other in (swapped_across_bands, one_digit_changed, puzzle[:, [3, 1, 2, 0, 4, 5, 6, 7, 8]]):
        assert not are_equivalent(puzzle, other)


def test_six_by_six_has_no_transposition() -> None:
    puzzle = digits(generate_puzzles(6, 1, "minimal", 0, False).questions)[0]
    assert not are_equivalent(puzzle, puzzle.T.copy())
    assert fingerprints(puzzle[None]) != fingerprints(puzzle.T[None])


def test_full_grids_with_few_colors() -> None:
    from trm.datasets.sudoku.solver import solve_grid

    cyclic = np.array([[(r * 3 + r // 3 + c) % 9 + 1 for c in range(9)] for r in range(9)], dtype=np.uint8)
    other = solve_grid(np.diag(np.arange(1, 10)).astype(np.uint8))
    assert other is not None
    assert not are_equivalent(cyclic, other)
    assert len(set(fingerprints(np.stack([cyclic, other])).tolist())) == 2


def test_find_duplicates_and_equivalence_classes() -> None:
    rng = np.random.default_rng(0)
    puzzles = digits(generate_puzzles(6, 40, "minimal", 1, False).questions)
    copies = draw_transforms(rng, 6, 3).apply(puzzles[[7, 30, 7]])
    train, test = puzzles[:35], np.concatenate([puzzles[35:], copies])
    assert duplicates(train, test) == [(5, 7), (6, 30), (7, 7)]
    assert duplicates(train, puzzles[35:]) == []
    assert grid_classes(np.concatenate([puzzles, copies])).tolist() == [*range(40), 7, 30, 7]


def test_equal_fingerprints_do_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trm.datasets.sudoku.equivalence.fingerprints", lambda p: np.zeros(len(p), dtype=np.uint64))
    puzzles = digits(generate_puzzles(4, 6, "minimal", 1, False).questions)
    assert duplicates(puzzles[:5], puzzles[5:]) == []
    assert grid_classes(puzzles).tolist() == list(range(6))


@pytest.mark.parametrize("size", [4, 6, 9])
def test_different_clue_counts(size: int) -> None:
    grid = np.zeros((size, size), dtype=np.uint8)
    other = grid.copy()
    other[0, 0] = 1
    assert not are_equivalent(grid, other)
    assert are_equivalent(grid, grid)


@pytest.mark.parametrize(
    ("cells", "allowed"),
    [
        (np.arange(16).reshape(4, 4), True),
        (np.arange(16).reshape(4, 4).T, True),
        (np.arange(16).reshape(4, 4)[[2, 3, 1, 0]], True),
        (np.arange(16).reshape(4, 4)[[2, 1, 0, 3]], False),  # a row leaves its band
        (np.arange(16).reshape(4, 4)[:, [2, 1, 0, 3]], False),  # a column leaves its stack
        (np.roll(np.arange(16), 1).reshape(4, 4), False),  # rows are split
    ],
)
def test_is_symmetry(cells: np.ndarray, allowed: bool) -> None:
    empty = np.zeros((4, 4), dtype=np.uint8)
    assert is_symmetry(empty, empty, np.arange(16), cells.ravel()) is allowed
