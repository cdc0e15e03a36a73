"""Grids that end tokens delimit on a canvas, so that an output may have another shape than its input (ARC).

Token 0 is padding, token 1 the end of a grid, and the tokens from 2 on are cells. The end tokens are below and to the
right of a grid, as far as the canvas reaches.
"""

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import njit
from trm.data.protocol import Grid

END_TOKEN = 1
"""Token that ends the rows and columns of a grid."""
FIRST_CELL = 2
"""The first token of a cell."""


def draw_ends(canvas: npt.NDArray[np.uint8], row: int, column: int, shape: tuple[int, int]) -> None:
    """Draw the end tokens of a grid of this shape with its upper left cell at (row, column), on uint8 [..., H, W]."""
    height, width = shape
    canvas[..., row : row + height, column + width : column + width + 1] = END_TOKEN
    canvas[..., row + height : row + height + 1, column : column + width] = END_TOKEN


def crop_grids(canvases: npt.NDArray[np.uint8]) -> list[Grid]:
    """The grids on canvases, tokens uint8 [k, H, W]; cell = token - 2.

    A grid is the largest rectangle of cells with a corner at (0, 0), of several the one with the smallest height; 0 x 0
    if the first token is not a cell.
    """
    sizes = np.zeros((len(canvases), 2), dtype=np.int64)
    _crop(np.ascontiguousarray(canvases), sizes)
    return [canvas[:h, :w] - np.uint8(FIRST_CELL) for canvas, (h, w) in zip(canvases, sizes.tolist(), strict=True)]


@njit
def _crop(canvases, sizes):  # noqa: ANN001, ANN202  (numba infers the types)
    for number in range(len(canvases)):
        canvas, width, area = canvases[number], canvases.shape[2], 0
        for row in range(canvases.shape[1]):
            length = 0
            while length < width and canvas[row, length] >= FIRST_CELL:
                length += 1
            width = length
            if (row + 1) * width > area:  # the first of the largest
                area = (row + 1) * width
                sizes[number, 0], sizes[number, 1] = row + 1, width
            if width == 0:
                break
