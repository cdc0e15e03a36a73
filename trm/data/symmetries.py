"""The eight symmetries of a grid, numbered as in the names of ARC puzzles."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.uint8]

INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
"""`INVERSE[s]` undoes symmetry s."""
KEEP_SHAPE = (0, 2, 4, 5)
"""The symmetries that leave a rectangle as wide and as high as it is."""
SWAP_SIDES = (1, 3, 6, 7)
"""Those that make a rectangle as wide as it was high, and as high as it was wide."""

_SYMMETRIES: tuple[Callable[[Grids], Grids], ...] = (
    lambda grids: grids,
    lambda grids: np.rot90(grids, 1, axes=(-2, -1)),  # counter-clockwise
    lambda grids: np.rot90(grids, 2, axes=(-2, -1)),
    lambda grids: np.rot90(grids, 3, axes=(-2, -1)),
    lambda grids: grids[..., ::-1],
    lambda grids: grids[..., ::-1, :],
    lambda grids: np.swapaxes(grids, -2, -1),
    lambda grids: np.rot90(grids, 1, axes=(-2, -1))[..., ::-1],
)


def apply_symmetry(grids: Grids, symmetry: int) -> Grids:
    """Turn or mirror grids uint8 [..., h, w]; the result is contiguous, its sides swapped by `SWAP_SIDES`.

    0 nothing; 1, 2, 3 rotate counter-clockwise by 90, 180, 270 degrees; 4 mirror left-right; 5 mirror up-down;
    6 transpose; 7 rotate by 90 degrees, then mirror left-right. Raises `ValueError` for any other number.
    """
    if not 0 <= symmetry < len(_SYMMETRIES):
        raise ValueError(f"a symmetry is a number from 0 to 7. Got {symmetry}")
    return np.ascontiguousarray(_SYMMETRIES[symmetry](grids))
