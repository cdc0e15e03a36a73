"""Grids as pictures, for animations and Weights & Biases."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trm.data.drawing import INVALID, PAPER, Drawing

Grid = npt.NDArray[np.uint8]
INK, LINE = "#1f2430", "#c3c8d2"
CORRECT, WRONG, GIVEN = "#c9efd2", "#f8c9c9", "#e8eaf0"


def picture(
    drawing: Drawing,
    grid: Grid,
    question: Grid | None = None,
    solution: Grid | None = None,
    cell_size: int | None = None,
) -> Image.Image:
    """A grid of cells, uint8 [h, w], as an RGB picture.

    With the `question`, given cells are gray. With the `solution`, symbols have a green or red background, and wrong
    colors have a frame. cell_size: pixels of a cell; None: chosen by the size of the grid.
    """
    height, width = grid.shape
    size = cell_size or suitable_cell_size(grid.shape)
    image = Image.new("RGB", (max(width, 1) * size + 1, max(height, 1) * size + 1), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=size * 0.6)
    is_colored = drawing.colors is not None
    solution = solution if solution is not None and solution.shape == grid.shape else None
    for place, value in np.ndenumerate(grid):
        color = drawing.color(int(value))
        symbol = "" if value == drawing.blank and solution is None else drawing.symbol(int(value))
        wrong = solution is not None and value != solution[place]
        if question is not None and drawing.boxes and drawing.blank is not None and question[place] != drawing.blank:
            color = GIVEN
        elif solution is not None and not is_colored:
            color = WRONG if wrong else CORRECT
        left, top = place[1] * size, place[0] * size
        pen.rectangle((left, top, left + size, top + size), color, LINE)
        if wrong and is_colored:
            pen.rectangle((left + 1, top + 1, left + size - 1, top + size - 1), None, INVALID, max(size // 8, 1))
        if symbol:
            pen.text((left + size / 2, top + size / 2), symbol, INK, font, anchor="mm")
    if drawing.boxes:
        _draw_boxes(pen, grid.shape, drawing.boxes, size)
    return image


def suitable_cell_size(shape: tuple[int, ...]) -> int:
    """Pixels of a cell for a grid of this shape."""
    return max(8, min(32, 480 // max(*shape, 1)))


def _draw_boxes(pen: ImageDraw.ImageDraw, shape: tuple[int, ...], boxes: tuple[int, int], size: int) -> None:
    height, width = shape
    for row in range(0, height + 1, boxes[0]):
        pen.line((0, row * size, width * size, row * size), INK, 2)
    for column in range(0, width + 1, boxes[1]):
        pen.line((column * size, 0, column * size, height * size), INK, 2)
