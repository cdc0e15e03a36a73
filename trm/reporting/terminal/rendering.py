"""A frame of a trace as text for a terminal, as large as the window allows.

Each cell shows its value, whether it has just changed and, if the solution is known, whether it is wrong: by a mark
next to it, or in its place if a cell has one column, and by colors. If the window is too small, a line of text shows
two rows of a colored grid, and a second map shows changed and wrong cells.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from trm.data.drawing import Drawing
from trm.data.protocol import Grid
from trm.inference.trace import Frame, Sample
from trm.reporting.terminal.colors import (
    background,
    cell_colors,
    contrasting,
    half_blocks,
    intensity,
    status_colors,
)

SHADES = " ░▒▓█"
CHANGED, WRONG, BOTH = "*", "x", "X"
GAP = 4
"""Columns between two maps."""
NO_CELL = 254
MAX_SAMPLE_LINES, MAX_ANSWERS = 6, 8
Scale = Literal["wide", "narrow", "half"]
"""Two columns per cell, one, or one column for two cells on top of each other."""


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


@dataclass(frozen=True)
class View:
    """A frame and what it is compared with."""

    drawing: Drawing
    frame: Frame
    before: Grid | None
    """The answer of the previous frame."""
    question: Grid
    solution: Grid | None
    """The solution, if known."""

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """Cells that differ from the previous frame, bool [h, w]."""
        return _differ(self.frame.answer, self.before)

    @property
    def wrong(self) -> npt.NDArray[np.bool_] | None:
        """Cells that differ from the solution; None if it is unknown."""
        return None if self.solution is None else _differ(self.frame.answer, self.solution)

    @property
    def area(self) -> tuple[int, int]:
        """Rows and columns that hold question, answer and solution."""
        grids = [grid for grid in (self.frame.answer, self.question, self.solution) if grid is not None]
        return max(grid.shape[0] for grid in grids), max(grid.shape[1] for grid in grids)

    @property
    def is_colored(self) -> bool:
        """Whether colors alone distinguish the cells."""
        return self.drawing.colors is not None


def _differ(grid: Grid, other: Grid | None) -> npt.NDArray[np.bool_]:
    return np.ones(grid.shape, bool) if other is None else grid != fit(other, grid.shape)


def fit(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """Crop or pad a grid to `shape`; padding is a value that no cell has."""
    out = np.full(shape, NO_CELL, np.uint8)
    height, width = np.minimum(grid.shape, shape)
    out[:height, :width] = grid[:height, :width]
    return out


def render(view: View, window: Window) -> Text:
    """The frame as text that fits the window."""
    head, foot = _head(view), _foot(view, window)
    height = None if window.height is None else window.height - len(head) - len(foot)
    lines = [*head, *_maps(view, replace(window, height=height)), *foot]
    for line in lines:
        line.truncate(window.width)
    return Text("\n").join(lines[: window.height])


def _head(view: View) -> list[Text]:
    frame, wrong = view.frame, view.wrong
    probability = 1 / (1 + math.exp(-frame.halt_logit))
    place = f"step {frame.step}, round {frame.round}, pass {frame.number}"
    status = f"{int(view.changed.sum())} of {frame.answer.size} cells changed"
    if view.solution is not None and wrong is not None:
        status += f", {int(wrong.sum())} wrong"
        if view.solution.shape != frame.answer.shape:
            status += "; {} x {}, the solution is {} x {}".format(*frame.answer.shape, *view.solution.shape)
    return [Text(f"{place}   halt logit {frame.halt_logit:+.2f}, probability {probability:.1%}"), Text(status)]


def _foot(view: View, window: Window) -> list[Text]:
    """The samples, in columns."""
    samples = view.frame.samples
    if len(samples) == 1:
        return []
    width = max(len(sample.name) for sample in samples) + 20
    columns = max((window.width + 2) // width, 1)
    shown = min(math.ceil(len(samples) / columns), MAX_SAMPLE_LINES) * columns
    lines = [Text("samples: answer (equal letters are equal answers), halt logit; > is shown", "dim")]
    for start in range(0, shown, columns):
        line = Text()
        for sample in samples[start : start + columns]:
            line.append(sample_text(sample).ljust(width), "bold" if sample.shown else "" if sample.votes else "dim")
        line.rstrip()
        lines.append(line)
    if len(samples) > shown:
        lines.append(Text(f"and {len(samples) - shown} more", "dim"))
    votes = vote_text(view.frame)
    return [*lines, *([Text(votes)] if votes else [])]


def sample_text(sample: Sample) -> str:
    """A sample in a few words."""
    name = f"{'>' if sample.shown else ' '}{sample.name}"
    if sample.status == "pending":
        return f"{name} pending"
    status = "" if sample.status in ("running", "done") else f" {sample.status}"
    return f"{name} {sample.letter} {sample.halt_logit:+.1f}{status}"


def vote_text(frame: Frame) -> str:
    """The votes of the augmentations that have started, most first; empty for a single augmentation."""
    votes = Counter(sample.letter for sample in frame.samples if sample.votes)
    if sum(votes.values()) < 2:
        return ""
    most = votes.most_common(MAX_ANSWERS)
    rest = sum(votes.values()) - sum(count for _, count in most)
    return "votes: " + ", ".join(f"{letter} {count}" for letter, count in most) + (f", others {rest}" if rest else "")


CellText = tuple[str, Style]
"""Text and style of a cell."""


@dataclass(frozen=True)
class Map:
    """A title and the lines below it, rendered only if they fit."""

    title: str
    lines: Callable[[], list[Text]]


def _maps(view: View, window: Window) -> list[Text]:
    """Question, answer and movement at the largest scale that fits, or as many of them as fit."""
    dense: Scale = "half" if window.color and view.is_colored and window.shades else "narrow"
    scales: tuple[Scale, ...] = ("wide", dense)
    for scale in scales:
        answer, moves, legend = _answer(view, scale, window), _movement(view, scale), _legend(view, scale, window)
        sets = [[answer, moves]] if moves else [[answer]]
        if view.drawing.separate_question:
            sets.insert(0, [_question(view, scale, window), *sets[0]])
        for maps in sets:
            if arranged := _arrange(maps, _size(view, scale), window, 1):
                return [*arranged, legend]
    for scale in scales:
        note = [Text("latent movement: the window is too small", "dim")] if _movement(view, scale) else []
        if arranged := _arrange([_answer(view, scale, window)], _size(view, scale), window, 1 + len(note)):
            return [*arranged, _legend(view, scale, window), *note]
    width, height = _size(view, dense)
    warning = f"the window is too small: {width} columns and {height + 4} lines are needed"
    return [Text(warning, "bold"), *_answer(view, dense, window).lines()]


def _size(view: View, scale: Scale) -> tuple[int, int]:
    """Columns and lines of a map, including its title."""
    rows, columns = view.area
    if scale == "half":
        return columns, rows // 2 + rows % 2 + 1
    box_rows, box_columns = _boxes(view, scale)
    return _width(view.drawing, scale) * columns + 2 * (columns // box_columns - 1), rows + rows // box_rows


def _arrange(maps: Sequence[Map], size: tuple[int, int], window: Window, reserved: int) -> list[Text] | None:
    """The maps next to each other, or else below each other; None if they and `reserved` lines do not fit."""
    width, height = size
    widths = [max(width, len(each.title)) for each in maps[:-1]] + [width]
    max_height = math.inf if window.height is None else window.height - reserved
    if sum(widths) + GAP * (len(maps) - 1) <= window.width and height <= max_height:
        rows = [Text() for _ in range(height)]
        start = 0
        for each, columns in zip(maps, widths, strict=True):
            for row, line in zip(rows, [Text(each.title, "dim"), *each.lines()], strict=True):
                row.append(" " * (start - row.cell_len))
                row.append_text(line)
            start += columns + GAP
        return rows
    if width <= window.width and height * len(maps) <= max_height:
        return [line for each in maps for line in (Text(each.title, "dim"), *each.lines())]
    return None


def _question(view: View, scale: Scale, window: Window) -> Map:
    grid = view.question

    def cell(place: tuple[int, int]) -> CellText:
        return _cell(view, scale, window, int(grid[place]), False, None)

    if scale == "half":
        return Map("question", lambda: half_blocks(cell_colors(view.drawing, grid), view.area))
    return Map("question", lambda: _lines(view, scale, grid.shape, cell))


def _answer(view: View, scale: Scale, window: Window) -> Map:
    grid, changed, wrong = view.frame.answer, view.changed, view.wrong

    def cell(place: tuple[int, int]) -> CellText:
        is_wrong = None if wrong is None else bool(wrong[place])
        return _cell(view, scale, window, int(grid[place]), bool(changed[place]), is_wrong, _is_given(view, place))

    if scale == "half":
        return Map("answer", lambda: half_blocks(cell_colors(view.drawing, grid), view.area))
    return Map("answer", lambda: _lines(view, scale, grid.shape, cell))


def _movement(view: View, scale: Scale) -> Map | None:
    """The movement of the latents; at scale half also changed and wrong cells."""
    moved = view.frame.moved
    if scale == "half":
        return Map("status", lambda: half_blocks(status_colors(view.changed, view.wrong, moved), view.area))
    if moved is None:
        return None
    levels = (intensity(moved) * (len(SHADES) - 1)).round().astype(int)
    width, style = _width(view.drawing, scale), Style(color="cyan")

    def cell(place: tuple[int, int]) -> CellText:
        return SHADES[levels[place]] * width, style

    return Map("movement of the latents", lambda: _lines(view, scale, moved.shape, cell))


def _legend(view: View, scale: Scale, window: Window) -> Text:
    known = view.solution is not None
    words = f"{CHANGED} changed" + (f", {WRONG} wrong, {BOTH} both" if known else "")
    if scale == "half":
        words = "status: " + ("green correct, red wrong, " if known else "") + "pale: changed"
        words += "" if view.frame.moved is None else ", bright: latent moves"
    elif scale == "narrow" and window.color and not view.is_colored:
        words = "reversed: changed" + ("; green correct, red wrong" if known else "")
    elif scale == "narrow":
        words += ", in place of the cell"
    return Text(words, "dim")


def _is_given(view: View, place: tuple[int, int]) -> bool:
    """Whether the question contains the cell."""
    blank = view.drawing.blank
    return blank is not None and view.question[place] not in (blank, 255)


def _width(drawing: Drawing, scale: Scale) -> int:
    """Columns of a cell; symbols of several characters are separated by a space at every scale."""
    widest = max(cell_len(drawing.terminal_symbol(cell)) for cell in range(len(drawing.symbols)))
    return widest + 1 if scale == "wide" or widest > 1 else widest


def _cell(
    view: View, scale: Scale, window: Window, cell: int, changed: bool, wrong: bool | None, given: bool = False
) -> CellText:
    width = _width(view.drawing, scale)
    mark = (BOTH if wrong else CHANGED) if changed else WRONG if wrong else ""
    symbol = view.drawing.terminal_symbol(cell)
    if window.color and view.is_colored:
        color = background(view.drawing, cell)
        letter = view.drawing.symbol(cell)
        text = letter if letter and not (mark and scale == "narrow") else mark or " "
        return (text + (mark or " "))[:width], Style(bgcolor=color, color=contrasting(color), bold=True)
    if scale == "narrow" and width == 1:
        text = symbol if window.color else mark or symbol
    else:
        filler = symbol if symbol == "█" else " "
        text = set_cell_size(symbol, width - 1) + (mark or filler)
    if not window.color:
        return text, Style(bold=given)
    color = "red" if wrong else None if wrong is None or given else "green"
    return text, Style(color=color, bold=given or changed, reverse=changed)


def _boxes(view: View, scale: Scale) -> tuple[int, int]:
    """Rows and columns between two lines: those of a box, or all of them."""
    return view.drawing.boxes if view.drawing.boxes and scale == "wide" else view.area


def _lines(view: View, scale: Scale, shape: tuple[int, ...], cell: Callable[[tuple[int, int]], CellText]) -> list[Text]:
    """A line of text for each row of cells, padded to the area, with lines between boxes."""
    (rows, columns), width = view.area, _width(view.drawing, scale)
    box_rows, box_columns = _boxes(view, scale)
    rule = "+-".join(["-" * (width * box_columns)] * (columns // box_columns))
    lines = []
    for row in range(rows):
        if row and row % box_rows == 0:
            lines.append(Text(rule, "dim"))
        line = Text()
        for column in range(columns):
            if column and column % box_columns == 0:
                line.append("| ", "dim")
            is_inside = row < shape[0] and column < shape[1]
            line.append(*(cell((row, column)) if is_inside else (" " * width, "")))
        lines.append(line)
    return lines
