"""The maps of a frame: question, answer, solution and movement of the latents, as lines of text.

Each cell shows its value, whether it has just changed and, if the solution is known, whether it is wrong: by a mark
next to it, or in its place if a cell has one column, and by colors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from trm.data.drawing import Drawing
from trm.data.protocol import Grid
from trm.inference.trace import Frame
from trm.reporting.terminal.colors import (
    background,
    cell_colors,
    contrasting,
    half_blocks,
    intensity,
    status_colors,
    strong,
)

SHADES = " ░▒▓█"
LEVELS = (0.006, 0.03, 0.2, 1)
"""Movement that each shade but the blank stands for."""
CHANGED, WRONG, BOTH = "*", "x", "X"
BLANK = "."
NO_CELL = 254
BLOCK = "█"


class Scale(NamedTuple):
    """The size of a cell: two columns, one, or one column for two cells on top of each other, times `zoom`."""

    kind: Literal["wide", "narrow", "half"]
    zoom: int = 1


@dataclass(frozen=True)
class Window:
    """The space for a frame."""

    width: int
    """Columns."""
    height: int | None
    """Lines; None: unlimited."""
    color: bool
    """True: colors can be used."""
    shades: bool = True
    """True: more than 16 colors can be used."""
    encoding: str = "utf-8"
    """Encoding of the terminal; characters that it lacks are replaced by ASCII."""
    keys: str = ""
    """A line about the keys, below the frame."""
    compact: bool = False
    """True: cells are not enlarged, and words are not explained."""

    def can_show(self, text: str) -> bool:
        """Whether the encoding has all characters of `text`."""
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True


@dataclass(frozen=True)
class View:
    """A frame and what it is compared with."""

    drawing: Drawing
    frame: Frame
    before: Grid | None
    """The answer of the previous frame; None for the first frame."""
    question: Grid
    solution: Grid | None
    """The solution, if known."""
    limits: tuple[int, int, int] | None = None
    """Number of steps, of rounds of a step, and of passes of a round, if known."""
    skipped: int = 0
    """Frames without a change between the previous view and this one."""
    unit: Literal["step", "pass"] = "pass"
    """Meaning of a frame: all passes are shown, or only the last one of each step."""

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """Cells that differ from the previous frame, bool [h, w]."""
        return np.zeros(self.frame.answer.shape, bool) if self.before is None else self._differ(self.before)

    @property
    def wrong(self) -> npt.NDArray[np.bool_] | None:
        """Cells that differ from the solution; None if it is unknown."""
        return None if self.solution is None else self._differ(self.solution)

    @property
    def is_solved(self) -> bool:
        """Whether the answer is the solution; False if that is unknown."""
        return self.solution is not None and np.array_equal(self.frame.answer, self.solution)

    @property
    def area(self) -> tuple[int, int]:
        """Rows and columns that hold question, answer and solution."""
        grids = [grid for grid in (self.frame.answer, self.question, self.solution) if grid is not None]
        return max(grid.shape[0] for grid in grids), max(grid.shape[1] for grid in grids)

    @property
    def is_colored(self) -> bool:
        """Whether the cells have colors of their own."""
        return self.drawing.colors is not None

    def _differ(self, other: Grid) -> npt.NDArray[np.bool_]:
        return self.frame.answer != fit(other, self.frame.answer.shape)


def fit(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """Crop or pad a grid to `shape`; padding is a value that no cell has."""
    out = np.full(shape, NO_CELL, np.uint8)
    height, width = np.minimum(grid.shape, shape)
    out[:height, :width] = grid[:height, :width]
    return out


CellText = tuple[str, str, Style]
"""Text of a cell, the character around it if the cell is enlarged, and its style."""


@dataclass(frozen=True)
class Map:
    """A title and the lines below it, rendered only if they fit."""

    title: str
    lines: Callable[[], list[Text]]


def size_of(view: View, scale: Scale) -> tuple[int, int]:
    """Columns and lines of a map, including its title."""
    rows, columns = view.area
    if scale.kind == "half":
        return columns, rows // 2 + rows % 2 + 1
    box_rows, box_columns = _boxes(view, scale)
    width = scale.zoom * _width(view.drawing, scale)
    return width * columns + 2 * (columns // box_columns - 1), scale.zoom * rows + rows // box_rows


def plain_map(title: str, grid: Grid, view: View, scale: Scale, window: Window) -> Map:
    """A map of a question or a solution."""
    if scale.kind == "half":
        return Map(title, lambda: half_blocks(cell_colors(view.drawing, grid), view.area))

    def cell(place: tuple[int, int]) -> CellText:
        value = int(grid[place])
        if value == view.drawing.blank:
            return BLANK.ljust(_width(view.drawing, scale)), " ", Style(dim=True)
        return _cell(view, scale, window, value, False, None, _is_given(view, place))

    return Map(title, lambda: _lines(view, scale, grid.shape, cell))


def answer_map(view: View, scale: Scale, window: Window) -> Map:
    """A map of the answer with marks at changed and wrong cells."""
    grid, changed, wrong = view.frame.answer, view.changed, view.wrong
    if scale.kind == "half":
        return Map("answer", lambda: half_blocks(cell_colors(view.drawing, grid), view.area))

    def cell(place: tuple[int, int]) -> CellText:
        is_wrong = None if wrong is None else bool(wrong[place])
        return _cell(view, scale, window, int(grid[place]), bool(changed[place]), is_wrong, _is_given(view, place))

    return Map("answer", lambda: _lines(view, scale, grid.shape, cell))


def movement_map(view: View, scale: Scale) -> Map | None:
    """The movement of the latents; at scale half also changed and wrong cells."""
    moved = view.frame.moved
    if scale.kind == "half":
        return Map("status", lambda: half_blocks(status_colors(view.changed, view.wrong, moved), view.area))
    if moved is None:
        return None
    levels = (intensity(moved) * (len(SHADES) - 1)).round().astype(int)
    width, style = _width(view.drawing, scale), Style(color="cyan")

    def cell(place: tuple[int, int]) -> CellText:
        shade = SHADES[levels[place]]
        return shade * width, shade, style

    return Map("movement of the latents", lambda: _lines(view, scale, moved.shape, cell))


def legend(view: View, scale: Scale, window: Window) -> list[Text]:
    """The meaning of marks, colors and shades."""
    known, is_half = view.solution is not None, scale.kind == "half"
    words = f"{CHANGED} changed" + (f", {WRONG} wrong, {BOTH} both" if known else "")
    if is_half:
        words = "status: " + ("green correct, red wrong, " if known else "") + "pale: changed"
        words += "" if view.frame.moved is None else ", bright: latent moves"
    elif scale.kind == "narrow" and not (window.color and not view.is_colored):
        words += ", in place of the cell"
    line = Text(words, "dim")
    if window.color and not view.is_colored:
        marks = ("", "", "") if scale.kind == "narrow" else (f"{CHANGED} ", f"{WRONG} ", f"{BOTH} ")
        changed, wrong, both = marks
        samples = [(f"{changed}changed", "reverse")]
        samples += [(f"{wrong}wrong", "red"), (f"{both}both", "reverse red"), ("correct", "green")] if known else []
        samples += [("given", "bold")] if view.drawing.blank is not None else []
        line = Text("  ").join(Text(name, style) for name, style in samples)
    if view.frame.moved is None or is_half:
        return [line]
    shades = "  ".join(f"{shade} {level}" for shade, level in zip(SHADES[1:], LEVELS, strict=True))
    return [line, Text(f"movement: {shades}", "dim")]


def _is_given(view: View, place: tuple[int, int]) -> bool:
    """Whether the question contains the cell."""
    blank, (rows, columns) = view.drawing.blank, view.question.shape
    is_inside = place[0] < rows and place[1] < columns
    return blank is not None and is_inside and view.question[place] not in (blank, 255)


def _width(drawing: Drawing, scale: Scale) -> int:
    """Columns of a cell without zoom; symbols of several characters are separated by a space at every scale."""
    widest = max(cell_len(drawing.terminal_symbol(cell)) for cell in range(len(drawing.symbols)))
    return widest + 1 if scale.kind == "wide" or widest > 1 else widest


def _cell(
    view: View, scale: Scale, window: Window, cell: int, changed: bool, wrong: bool | None, given: bool = False
) -> CellText:
    width = _width(view.drawing, scale)
    mark = (BOTH if wrong else CHANGED) if changed else WRONG if wrong else ""
    symbol = view.drawing.terminal_symbol(cell)
    if window.color and view.is_colored:
        color = background(view.drawing, cell)
        color = color if window.shades else strong(color)
        letter = symbol if view.drawing.symbol(cell) else ""
        if letter and width > 1:
            text = set_cell_size(letter, width - 1) + (mark or " ")
        else:
            text = (mark or letter or " ") * width
        return text, " ", Style(bgcolor=color, color=contrasting(color), bold=True)
    filler = BLOCK if symbol == BLOCK else " "
    if scale.kind == "narrow" and width == 1:
        text = symbol if window.color else mark or symbol
    else:
        text = set_cell_size(symbol, width - 1) + (mark or filler)
    if not window.color:
        return text, filler, Style(bold=given)
    color = "red" if wrong else None if wrong is None or given else "green"
    return text, filler, Style(color=color, bold=given or changed, reverse=changed)


def _boxes(view: View, scale: Scale) -> tuple[int, int]:
    """Rows and columns between two lines: those of a box, or all of them."""
    return view.drawing.boxes if view.drawing.boxes and scale.kind == "wide" else view.area


def _lines(view: View, scale: Scale, shape: tuple[int, ...], cell: Callable[[tuple[int, int]], CellText]) -> list[Text]:
    """`zoom` lines of text for each row of cells, padded to the area, with lines between boxes."""
    (rows, columns), width = view.area, scale.zoom * _width(view.drawing, scale)
    box_rows, box_columns = _boxes(view, scale)
    rule = "+-".join(["-" * (width * box_columns)] * (columns // box_columns))
    lines = []
    for row in range(rows):
        if row and row % box_rows == 0:
            lines.append(Text(rule, "dim"))
        cells = [
            cell((row, column)) if row < shape[0] and column < shape[1] else ("", " ", Style())
            for column in range(columns)
        ]
        for number in range(scale.zoom):
            line = Text()
            for column, (text, filler, style) in enumerate(cells):
                if column and column % box_columns == 0:
                    line.append("| ", "dim")
                shown = text if number == (scale.zoom - 1) // 2 else ""
                left = (width - cell_len(shown)) // 2
                line.append(filler * left + shown + filler * (width - left - cell_len(shown)), style)
            lines.append(line)
    return lines
