"""The eight symmetries of a square (dihedral group D4), numbered as in the names of ARC puzzles."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Grids = npt.NDArray[np.uint8]

INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
"""`INVERSE[s]` is the inverse of symmetry s."""
KEEP_SHAPE = (0, 2, 4, 5)
"""Symmetries that keep height and width."""
SWAP_SIDES = (1, 3, 6, 7)
"""Symmetries that exchange height and width."""

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
    """Rotate or reflect grids uint8 [..., h, w]; the result is contiguous, [..., w, h] for `SWAP_SIDES`.

    0 identity; 1, 2, 3 rotation by 90, 180, 270 degrees counter-clockwise; 4 left-right reflection; 5 up-down
    reflection; 6 transposition; 7 rotation by 90 degrees, then left-right reflection. Raises `ValueError` for other
    numbers.
    """
    if not 0 <= symmetry < len(_SYMMETRIES):
        raise ValueError(f"symmetry must be from 0 to 7. Got {symmetry}")
    return np.ascontiguousarray(_SYMMETRIES[symmetry](grids))
