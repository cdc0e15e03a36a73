import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trm.data.symmetries import INVERSE, KEEP_SHAPE, SWAP_SIDES, apply_symmetry

EXPECTED = {
    0: [[1, 2, 3], [4, 5, 6]],
    1: [[3, 6], [2, 5], [1, 4]],
    2: [[6, 5, 4], [3, 2, 1]],
    3: [[4, 1], [5, 2], [6, 3]],
    4: [[3, 2, 1], [6, 5, 4]],
    5: [[4, 5, 6], [1, 2, 3]],
    6: [[1, 4], [2, 5], [3, 6]],
    7: [[6, 3], [5, 2], [4, 1]],
}


@pytest.mark.parametrize("symmetry", range(8))
def test_symmetries_worked_by_hand(symmetry: int) -> None:
    grid = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    transformed = apply_symmetry(grid, symmetry)
    assert transformed.tolist() == EXPECTED[symmetry]
    assert transformed.dtype == np.uint8
    assert (transformed.shape == grid.shape) == (symmetry in KEEP_SHAPE)
    assert (transformed.shape == grid.shape[::-1]) == (symmetry in SWAP_SIDES)


@pytest.mark.parametrize("symmetry", [-1, 8])
def test_invalid_symmetry(symmetry: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 7"):
        apply_symmetry(np.zeros((2, 2), dtype=np.uint8), symmetry)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)), st.integers(0, 7))
def test_inverse_and_leading_axes(grids: np.ndarray, symmetry: int) -> None:
    transformed = apply_symmetry(grids, symmetry)
    assert transformed.flags.c_contiguous
    assert np.array_equal(apply_symmetry(transformed, INVERSE[symmetry]), grids)
    each = [apply_symmetry(grid, symmetry) for grid in grids.reshape(-1, *grids.shape[-2:])]
    assert np.array_equal(transformed, np.stack(each).reshape(transformed.shape))
