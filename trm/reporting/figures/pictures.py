"""Grids as pictures, for pages and animations."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trm.reporting.terminal.dataset_summary import COLOURS
from trm.datasets.sudoku.augmentation import BOXES
from trm.config.dataset_meta import DatasetMeta

Grid = npt.NDArray[np.uint8]
MAZE = {"#": "#3b4252", " ": "#ffffff", "S": "#2e7d32", "G": "#c62828", "o": "#f9a825"}
"""Colour of a maze's cells."""
PAPER, INK, LINE, NOTHING = "#ffffff", "#1f2430", "#c3c8d2", "#8e44ad"
RIGHT, WRONG, GIVEN = "#c9efd2", "#f8c9c9", "#e8eaf0"


def picture(
    meta: DatasetMeta,
    grid: Grid,
    question: Grid | None = None,
    right: Grid | None = None,
    side: int | None = None,
) -> Image.Image:
    """A grid of cells, uint8 [h, w], as an RGB picture: colours for mazes and ARC, symbols for the rest.

    With the `question`, a Sudoku's clues are grey; with the `right` answer, symbols lie on green or red, and wrong
    colours are framed. A cell has `side` pixels, or as many as suit the grid.
    """
    height, width = grid.shape
    side = side or side_of(grid.shape)
    shown = Image.new("RGB", (max(width, 1) * side + 1, max(height, 1) * side + 1), PAPER)
    pen, font = ImageDraw.Draw(shown), ImageFont.load_default(size=side * 0.6)
    coloured = meta.name in ("arc", "maze")
    right = right if right is not None and right.shape == grid.shape else None
    for place, cell in np.ndenumerate(grid):
        colour, symbol = look(meta, int(cell))
        wrong = right is not None and cell != right[place]
        if question is not None and meta.name == "sudoku" and question[place]:
            colour = GIVEN
        elif right is not None and not coloured:
            colour = WRONG if wrong else RIGHT
        left, top = place[1] * side, place[0] * side
        pen.rectangle((left, top, left + side, top + side), colour, LINE)
        if wrong and coloured:
            pen.rectangle((left + 1, top + 1, left + side - 1, top + side - 1), None, NOTHING, max(side // 8, 1))
        if symbol:
            pen.text((left + side / 2, top + side / 2), symbol, INK, font, anchor="mm")
    if meta.name == "sudoku" and height in BOXES:
        _draw_boxes(pen, height, side)
    return shown


def side_of(shape: tuple[int, ...]) -> int:
    """Pixels of a cell that suit a grid of this shape."""
    return max(8, min(32, 480 // max(*shape, 1)))


def look(meta: DatasetMeta, cell: int) -> tuple[str, str]:
    """Colour and symbol of a cell."""
    if meta.name == "arc":
        return (COLOURS[cell] if cell < len(COLOURS) else NOTHING), ""
    symbols = meta.vocabulary[1:]
    symbol = symbols[cell] if cell < len(symbols) else "?"  # a model may answer with padding: 255
    if meta.name == "maze":
        return MAZE.get(symbol, NOTHING), symbol if symbol in "SG" else ""
    return PAPER, "" if meta.name == "sudoku" and cell == 0 else symbol


def _draw_boxes(pen: ImageDraw.ImageDraw, size: int, side: int) -> None:
    rows, columns = BOXES[size]
    for row in range(0, size + 1, rows):
        pen.line((0, row * side, size * side, row * side), INK, 2)
    for column in range(0, size + 1, columns):
        pen.line((column * side, 0, column * side, size * side), INK, 2)
