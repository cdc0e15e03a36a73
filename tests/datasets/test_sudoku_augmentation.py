import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm.datasets.sudoku.augmentation import BOXES, Transforms, concatenate, draw_transforms, identity_transform
from trm.datasets.sudoku.dataset import sudoku_meta

sizes = st.sampled_from(sorted(BOXES))
seeds = st.integers(0, 2**32)


def full_grid(size: int) -> np.ndarray:
    height, width = BOXES[size]
    grid = [[(r % height * width + r // height + c) % size + 1 for c in range(size)] for r in range(size)]
    return np.array(grid, dtype=np.uint8)


def keeps_rules(grid: np.ndarray) -> bool:
    """An independent implementation of the rules: no digit twice in a row, column or box."""
    size = len(grid)
    height, width = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[size]
    units = [[(r, c) for c in range(size)] for r in range(size)] + [[(r, c) for r in range(size)] for c in range(size)]
    for top in range(0, size, height):
        for left in range(0, size, width):
            units.append([(top + r, left + c) for r in range(height) for c in range(width)])
    return all(sorted(int(grid[cell]) for cell in unit) == list(range(1, size + 1)) for unit in units)


@given(size=sizes, seed=seeds)
def test_transformed_solution_is_valid_and_invertible(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grids = np.tile(full_grid(size), (5, 1, 1))
    transforms = draw_transforms(rng, size, 5)
    out = transforms.apply(grids)
    assert out.dtype == np.uint8
    assert out.shape == grids.shape
    assert all(keeps_rules(grid) for grid in out)
    assert np.array_equal(transforms.invert(out), grids)
    assert np.array_equal(transforms.apply(full_grid(size)), out)


@given(size=sizes, seed=seeds)
def test_invert_is_inverse_and_keeps_blanks(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, size + 1, (7, size, size), dtype=np.uint8)
    transforms = draw_transforms(rng, size, 7)
    out = transforms.apply(grids)
    assert np.array_equal(transforms.invert(out), grids)
    assert np.array_equal(transforms.apply(transforms.invert(grids)), grids)
    assert np.array_equal((out == 0).sum(axis=(1, 2)), (grids == 0).sum(axis=(1, 2)))


@given(seed=seeds)
def test_apply_equals_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grids = rng.integers(0, 10, (4, 9, 9), dtype=np.uint8)
    s = draw_transforms(rng, 9, 4)
    for k, out in enumerate(s.apply(grids)):
        grid = grids[k].T if s.transposed[k] else grids[k]
        assert np.array_equal(out, s.digits[k][grid[s.rows[k]][:, s.columns[k]]])


def test_apply_worked_by_hand() -> None:
    grid = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 0]], dtype=np.uint8)
    transform = Transforms(
        digits=np.array([[0, 2, 1, 3, 4]], dtype=np.uint8),
        rows=np.array([[2, 3, 1, 0]], dtype=np.uint8),
        columns=np.array([[0, 1, 3, 2]], dtype=np.uint8),
        transposed=np.array([True]),
    )
    # transposed: 1324 2413 3142 4230; rows 2, 3, 1, 0; columns 0, 1, 3, 2; then 1 and 2 swapped
    assert transform.apply(grid)[0].tolist() == [[3, 2, 1, 4], [4, 1, 0, 3], [1, 4, 3, 2], [2, 3, 4, 1]]


def test_draws_cover_symmetry_group() -> None:
    s = draw_transforms(np.random.default_rng(0), 4, 4000)
    assert len(np.unique(s.rows, axis=0)) == len(np.unique(s.columns, axis=0)) == 8
    assert len(np.unique(s.digits, axis=0)) == 24
    assert 0.45 < s.transposed.mean() < 0.55
    six = draw_transforms(np.random.default_rng(0), 6, 4000)
    assert len(np.unique(six.rows, axis=0)) == 6 * 2**3  # 3 bands of 2 rows
    assert len(np.unique(six.columns, axis=0)) == 2 * 6**2  # 2 stacks of 3 columns
    assert not six.transposed.any()


def test_draws_depend_on_generator() -> None:
    first, second = (draw_transforms(np.random.default_rng(3), 9, 10) for _ in range(2))
    assert all(np.array_equal(getattr(first, f), getattr(second, f)) for f in ("digits", "rows", "columns"))


@pytest.mark.parametrize("size", BOXES)
def test_concatenate_with_identity(size: int) -> None:
    rng = np.random.default_rng(1)
    transforms = concatenate(identity_transform(size), draw_transforms(rng, size, 3))
    grid = full_grid(size)
    assert len(transforms) == 4
    assert np.array_equal(transforms.apply(grid)[0], grid)


def test_meta() -> None:
    meta = sudoku_meta(6)
    assert (meta.seq_len, meta.vocab_size, meta.num_identifiers) == (36, 8, 1)
    assert meta.vocabulary[:3] == ("pad", ".", "1")
