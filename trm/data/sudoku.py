"""Sudoku n x n: its boxes, its tokens, and the shuffles under which a puzzle stays a puzzle (spec section 1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.meta import DatasetMeta

Grids = npt.NDArray[np.uint8]
"""Grids of digits, uint8 [..., n, n]: 0 blank, d digit d."""

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Height and width of a box for each grid size: a 6x6 grid has 3 bands of 2 rows and 2 stacks of 3 columns."""


def sudoku_meta(size: int) -> DatasetMeta:
    """What a Sudoku data set says of itself: token 0 pads, 1 is a blank cell, d + 1 is digit d; one identifier."""
    vocabulary = ("pad", ".", *(str(digit) for digit in range(1, size + 1)))
    return DatasetMeta(kind="sudoku", height=size, width=size, vocabulary=vocabulary, num_identifiers=1)


def box_of_cell(size: int) -> npt.NDArray[np.int64]:
    """Number of the box of each cell, int64 [n, n], counted row by row of boxes."""
    height, width = BOXES[size]
    row, column = np.indices((size, size))
    return (row // height) * (size // width) + column // width


@dataclass(frozen=True)
class Shuffles:
    """k symmetries of Sudoku; each maps a grid to digits[(transposed if drawn)[rows][:, columns]].

    `digits` uint8 [k, n + 1] with digits[:, 0] = 0, `rows` and `columns` uint8 [k, n], `transposed` bool [k].
    """

    digits: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.uint8]
    columns: npt.NDArray[np.uint8]
    transposed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.transposed)

    def apply(self, grids: Grids) -> Grids:
        """Shuffle k grids, or one grid in k ways: uint8 [k, n, n] or [n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        rows, columns = self.rows.astype(np.intp)[:, :, None], self.columns.astype(np.intp)[:, None, :]
        # Cell (i, j) of the transposed grid is cell (j, i) of the grid itself.
        along, across = np.where(self.transposed, [[1], [size]], [[size], [1]])[:, :, None, None]
        cells = rows * along + columns * across
        picked = _gather(grids, cells)
        which = np.arange(len(self), dtype=np.intp)[:, None, None] * (size + 1)
        return self.digits.ravel()[which + picked]

    def invert(self, grids: Grids) -> Grids:
        """Undo `apply`: uint8 [k, n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        digits = np.argsort(self.digits, axis=1).astype(np.uint8)
        rows, columns = np.argsort(self.rows, axis=1)[:, :, None], np.argsort(self.columns, axis=1)[:, None, :]
        cells = rows * size + columns
        cells = np.where(self.transposed[:, None, None], cells.swapaxes(1, 2), cells)
        which = np.arange(len(self), dtype=np.intp)[:, None, None] * (size + 1)
        return digits.ravel()[which + _gather(grids, cells)]

    def select(self, start: int, stop: int) -> "Shuffles":
        """Shuffles start .. stop - 1."""
        part = slice(start, stop)
        return Shuffles(self.digits[part], self.rows[part], self.columns[part], self.transposed[part])


def _gather(grids: Grids, cells: npt.NDArray[np.intp]) -> Grids:
    if grids.ndim == 2:
        return grids.ravel()[cells]
    which = np.arange(len(cells), dtype=np.intp)[:, None, None] * cells[0].size
    return grids.reshape(-1)[which + cells]


def identity_shuffle(size: int) -> Shuffles:
    """The one shuffle (k = 1) that changes nothing."""
    order = np.arange(size + 1, dtype=np.uint8)[None]
    return Shuffles(order, order[:, :-1], order[:, :-1], np.zeros(1, dtype=np.bool_))


def concatenate(first: Shuffles, second: Shuffles) -> Shuffles:
    """The shuffles of `first`, then those of `second`."""
    return Shuffles(
        np.concatenate([first.digits, second.digits]),
        np.concatenate([first.rows, second.rows]),
        np.concatenate([first.columns, second.columns]),
        np.concatenate([first.transposed, second.transposed]),
    )


def draw_shuffles(rng: np.random.Generator, size: int, count: int) -> Shuffles:
    """Draw `count` shuffles, each uniformly from the whole group of symmetries."""
    height, width = BOXES[size]
    digits = np.zeros((count, size + 1), dtype=np.uint8)
    digits[:, 1:] = _permutations(rng, count, size) + 1
    rows = _line_order(rng, count, size // height, height)
    columns = _line_order(rng, count, size // width, width)
    if height == width:
        transposed = rng.integers(0, 2, size=count, dtype=np.uint8).astype(np.bool_)
    else:
        transposed = np.zeros(count, dtype=np.bool_)  # a box lying down has no place among boxes standing up
    return Shuffles(digits, rows, columns, transposed)


def _permutations(rng: np.random.Generator, count: int, length: int) -> npt.NDArray[np.uint8]:
    return rng.permuted(np.tile(np.arange(length, dtype=np.uint8), (count, 1)), axis=1)


def _line_order(rng: np.random.Generator, count: int, bands: int, thickness: int) -> npt.NDArray[np.uint8]:
    """Permute the bands and the lines inside each band: uint8 [count, bands * thickness]."""
    band = _permutations(rng, count, bands)[:, :, None]
    inside = _permutations(rng, count * bands, thickness).reshape(count, bands, thickness)
    return (band * np.uint8(thickness) + inside).reshape(count, bands * thickness)
