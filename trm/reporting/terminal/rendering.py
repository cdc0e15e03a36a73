"""A frame of a trace as text for a terminal, in the largest drawing that there is room for.

Of a cell one sees what is in it, whether it just changed and, where the answer is known, whether it is wrong. A mark
says so beside it, or in its place where a cell has one column; with colours those tell it too. Where even that is too
large, a row of text shows two rows of a maze or an ARC grid in colours, and a map beside it what changed and is wrong.
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

from trm.data.protocol import Grid
from trm.datasets.sudoku.augmentation import BOXES
from trm.config.dataset_meta import DatasetMeta
from trm.reporting.figures.pictures import look
from trm.inference.trace import Frame, Heat, Try

SHADES = " ░▒▓█"
CHANGED, WRONG, BOTH = "*", "x", "X"
GAP = 4
"""Columns between two maps."""
NO_CELL = 254
MOST_LINES_OF_TRIES, MOST_ANSWERS = 6, 8
Paints = npt.NDArray[np.float64]
"""Colours of cells, [h, w, 3], 0 to 255."""
RIGHT_HUE, WRONG_HUE, NO_HUE = (40, 170, 70), (225, 50, 45), (0, 165, 195)
Scale = Literal["wide", "narrow", "half"]
"""Two columns a cell, one, or one column for two cells, one above the other."""
COLOURED = ("arc", "maze")
"""Kinds whose cells are told by their colours alone."""


@dataclass(frozen=True)
class Room:
    """What may be filled."""

    width: int
    height: int | None
    """None: as many lines as it takes."""
    colour: bool
    shades: bool = True
    """Whether there are more than 16 colours."""


@dataclass(frozen=True)
class View:
    """A frame and what it is compared with."""

    meta: DatasetMeta
    frame: Frame
    before: Grid | None
    """The answer of the frame before."""
    question: Grid
    right: Grid | None
    """The right answer, where it is known."""

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """Cells that the frame before had otherwise, or not at all; bool [h, w]."""
        return _differ(self.frame.answer, self.before)

    @property
    def wrong(self) -> npt.NDArray[np.bool_] | None:
        """Cells that the right answer has otherwise, or not at all; None where nobody knows it."""
        return None if self.right is None else _differ(self.frame.answer, self.right)

    @property
    def area(self) -> tuple[int, int]:
        """Rows and columns that hold question and answers."""
        grids = [grid for grid in (self.frame.answer, self.question, self.right) if grid is not None]
        return max(grid.shape[0] for grid in grids), max(grid.shape[1] for grid in grids)


def _differ(grid: Grid, other: Grid | None) -> npt.NDArray[np.bool_]:
    return np.ones(grid.shape, bool) if other is None else grid != fitted(other, grid.shape)


def fitted(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The part of a grid that lies in such a shape, and elsewhere what no cell holds."""
    out = np.full(shape, NO_CELL, np.uint8)
    height, width = np.minimum(grid.shape, shape)
    out[:height, :width] = grid[:height, :width]
    return out


def draw(view: View, room: Room) -> Text:
    """The frame in words and maps, no larger than the `room`."""
    head, foot = _head(view), _foot(view, room)
    height = None if room.height is None else room.height - len(head) - len(foot)
    lines = [*head, *_maps(view, replace(room, height=height)), *foot]
    for line in lines:
        line.truncate(room.width)
    return Text("\n").join(lines[: room.height])


def _head(view: View) -> list[Text]:
    frame, wrong = view.frame, view.wrong
    sure = 1 / (1 + math.exp(-frame.halt_logit))
    place = f"step {frame.step}, round {frame.round}, pass {frame.number}"
    cells = frame.answer.size
    said = f"{int(view.changed.sum())} of {cells} cells changed"
    if view.right is not None and wrong is not None:
        said += f", {int(wrong.sum())} are wrong"
        if view.right.shape != frame.answer.shape:
            said += "; {} x {} where {} x {} is right".format(*frame.answer.shape, *view.right.shape)
    return [Text(f"{place}   halt logit {frame.halt_logit:+.2f}: {sure:.1%} sure"), Text(said)]


def _foot(view: View, room: Room) -> list[Text]:
    """The tries, in columns."""
    tries = view.frame.tries
    if len(tries) == 1:
        return []
    width = max(len(one.name) for one in tries) + 20
    columns = max((room.width + 2) // width, 1)
    shown = min(math.ceil(len(tries) / columns), MOST_LINES_OF_TRIES) * columns
    lines = [Text("tries: answer (the same letter is the same answer), halt logit; > is shown", "dim")]
    for start in range(0, shown, columns):
        line = Text()
        for one in tries[start : start + columns]:
            line.append(told(one).ljust(width), "bold" if one.shown else "" if one.votes else "dim")
        line.rstrip()
        lines.append(line)
    if len(tries) > shown:
        lines.append(Text(f"and {len(tries) - shown} more", "dim"))
    return [*lines, *([Text(tally(view.frame))] if tally(view.frame) else [])]


def told(one: Try) -> str:
    """A try in a few words."""
    name = f"{'>' if one.shown else ' '}{one.name}"
    if one.state == "waits":
        return f"{name} waits"
    state = "" if one.state in ("thinks", "done") else f" {one.state}"
    return f"{name} {one.letter} {one.halt_logit:+.1f}{state}"


def tally(frame: Frame) -> str:
    """The votes of the versions that have begun, most first; nothing where there is one version."""
    votes = Counter(one.letter for one in frame.tries if one.votes)
    if sum(votes.values()) < 2:
        return ""
    most = votes.most_common(MOST_ANSWERS)
    rest = sum(votes.values()) - sum(count for _, count in most)
    return "votes: " + ", ".join(f"{letter} {count}" for letter, count in most) + (f", others {rest}" if rest else "")


Cell = tuple[str, Style]
"""How a cell is written."""


@dataclass(frozen=True)
class Map:
    """A title, and the lines below it, drawn where there is room for them."""

    title: str
    lines: Callable[[], list[Text]]


def _maps(view: View, room: Room) -> list[Text]:
    """Question, answer and movement in the largest drawing that there is room for, or what there is room for."""
    coloured = room.colour and view.meta.name in COLOURED
    dense: Scale = "half" if coloured and room.shades else "narrow"
    scales: tuple[Scale, ...] = ("wide", dense)
    for scale in scales:
        answer, moves, legend = _answer(view, scale, room), _moves(view, scale), _legend(view, scale, room)
        sets = [[answer, moves]] if moves else [[answer]]
        if view.meta.name in ("arc", "custom"):  # in the other kinds the answer repeats the question
            sets.insert(0, [_question(view, scale, room), *sets[0]])
        for maps in sets:
            if arranged := _arranged(maps, _size(view, scale), room, 1):
                return [*arranged, legend]
    for scale in scales:
        note = [Text("no room for how the latents move", "dim")] if _moves(view, scale) else []
        if arranged := _arranged([_answer(view, scale, room)], _size(view, scale), room, 1 + len(note)):
            return [*arranged, _legend(view, scale, room), *note]
    width, height = _size(view, dense)
    needs = f"the window is too small for all of it, which takes {width} columns and {height + 4} lines"
    return [Text(needs, "bold"), *_answer(view, dense, room).lines()]


def _size(view: View, scale: Scale) -> tuple[int, int]:
    """Columns and lines of a map, its title included."""
    rows, columns = view.area
    if scale == "half":
        return columns, rows // 2 + rows % 2 + 1
    tall, broad = _boxes(view, scale)
    return _width(view.meta, scale) * columns + 2 * (columns // broad - 1), rows + rows // tall


def _arranged(maps: Sequence[Map], size: tuple[int, int], room: Room, words: int) -> list[Text] | None:
    """The maps side by side, or else one below the other; None where there is no room for them and so many lines."""
    width, height = size
    titled = [max(width, len(each.title)) for each in maps[:-1]] + [width]
    most = math.inf if room.height is None else room.height - words
    if sum(titled) + GAP * (len(maps) - 1) <= room.width and height <= most:
        rows = [Text() for _ in range(height)]
        start = 0
        for each, columns in zip(maps, titled, strict=True):
            for row, line in zip(rows, [Text(each.title, "dim"), *each.lines()], strict=True):
                row.append(" " * (start - row.cell_len))
                row.append_text(line)
            start += columns + GAP
        return rows
    if width <= room.width and height * len(maps) <= most:
        return [line for each in maps for line in (Text(each.title, "dim"), *each.lines())]
    return None


def _question(view: View, scale: Scale, room: Room) -> Map:
    grid = view.question

    def cell(place: tuple[int, int]) -> Cell:
        return _cell(view, scale, room, int(grid[place]), False, None)

    if scale == "half":
        return Map("question", lambda: _halves(_paints(view.meta, grid), view.area))
    return Map("question", lambda: _cells(view, scale, grid.shape, cell))


def _answer(view: View, scale: Scale, room: Room) -> Map:
    grid, changed, wrong = view.frame.answer, view.changed, view.wrong

    def cell(place: tuple[int, int]) -> Cell:
        is_wrong = None if wrong is None else bool(wrong[place])
        return _cell(view, scale, room, int(grid[place]), bool(changed[place]), is_wrong, _given(view, place))

    if scale == "half":
        return Map("answer", lambda: _halves(_paints(view.meta, grid), view.area))
    return Map("answer", lambda: _cells(view, scale, grid.shape, cell))


def _moves(view: View, scale: Scale) -> Map | None:
    """Where the latents move, and in the half scale what changed and is wrong too."""
    moved = view.frame.moved
    if scale == "half":
        return Map("how each cell does", lambda: _halves(_hues(view), view.area))
    if moved is None:
        return None
    levels = (darkness(moved) * (len(SHADES) - 1)).round().astype(int)
    width, style = _width(view.meta, scale), Style(color="cyan")

    def cell(place: tuple[int, int]) -> Cell:
        return SHADES[levels[place]] * width, style

    return Map("how much each latent moves", lambda: _cells(view, scale, moved.shape, cell))


def darkness(moved: Heat) -> Heat:
    """0 to 1, by orders of magnitude: 1 where latents move by their own length, 0 at a thousandth of it."""
    return np.clip(1 + np.log10(np.maximum(moved, np.float32(1e-9))) / 3, 0, 1).astype(np.float32)


def _legend(view: View, scale: Scale, room: Room) -> Text:
    known = view.right is not None
    words = f"{CHANGED} just changed" + (f", {WRONG} wrong, {BOTH} both" if known else "")
    if scale == "half":
        words = "how: " + ("green right, red wrong, " if known else "") + "pale: just changed"
        words += "" if view.frame.moved is None else ", bright: its latent moves"
    elif scale == "narrow" and room.colour and view.meta.name not in COLOURED:
        words = "reversed: just changed" + ("; green right, red wrong" if known else "")
    elif scale == "narrow":
        words += ", in place of the cell"
    return Text(words, "dim")


def _given(view: View, place: tuple[int, int]) -> bool:
    """Whether the question says what is in the cell."""
    blank = {"sudoku": 0, "arithmetic": 255}.get(view.meta.name)
    return blank is not None and view.question[place] not in (blank, 255)


def _symbol(meta: DatasetMeta, cell: int) -> str:
    if meta.name == "arc":
        return str(cell) if cell else "·"
    symbol = look(meta, cell)[1] or "."
    if meta.name == "maze" and cell < len(meta.vocabulary) - 1:
        symbol = {"#": "█", " ": "·"}.get(meta.vocabulary[cell + 1], meta.vocabulary[cell + 1])
    return symbol


def _width(meta: DatasetMeta, scale: Scale) -> int:
    """Columns of a cell; symbols of several characters have a space between them in every scale."""
    widest = max(cell_len(symbol) for symbol in meta.vocabulary[1:]) if meta.name == "custom" else 1
    return widest + 1 if scale == "wide" or widest > 1 else widest


def _cell(
    view: View, scale: Scale, room: Room, cell: int, changed: bool, wrong: bool | None, given: bool = False
) -> Cell:
    meta, width = view.meta, _width(view.meta, scale)
    mark = (BOTH if wrong else CHANGED) if changed else WRONG if wrong else ""
    symbol = _symbol(meta, cell)
    if room.colour and meta.name in COLOURED:
        paint = _paint(meta, cell)
        text = symbol if symbol in "SG" and not (mark and scale == "narrow") else mark or " "
        return (text + (mark or " "))[:width], Style(bgcolor=paint, color=_ink(paint), bold=True)
    if scale == "narrow" and width == 1:
        text = symbol if room.colour else mark or symbol
    else:
        filler = symbol if symbol == "█" else " "
        text = set_cell_size(symbol, width - 1) + (mark or filler)
    if not room.colour:
        return text, Style(bold=given)
    colour = "red" if wrong else None if wrong is None or given else "green"
    return text, Style(color=colour, bold=given or changed, reverse=changed)


def _ink(paint: str) -> str:
    """Black or white, which is seen better on `paint`."""
    red, green, blue = _rgb(paint)
    return "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "#ffffff"


def _boxes(view: View, scale: Scale) -> tuple[int, int]:
    """Rows and columns between two lines: those of a box of a Sudoku, elsewhere all."""
    return BOXES.get(view.area[0], view.area) if view.meta.name == "sudoku" and scale == "wide" else view.area


def _cells(view: View, scale: Scale, shape: tuple[int, ...], cell: Callable[[tuple[int, int]], Cell]) -> list[Text]:
    """A row of text for each row of cells, as wide and as many as the area takes; between boxes of a Sudoku a line."""
    (rows, columns), width = view.area, _width(view.meta, scale)
    tall, broad = _boxes(view, scale)
    rule = "+-".join(["-" * (width * broad)] * (columns // broad))
    lines = []
    for row in range(rows):
        if row and row % tall == 0:
            lines.append(Text(rule, "dim"))
        line = Text()
        for column in range(columns):
            if column and column % broad == 0:
                line.append("| ", "dim")
            inside = row < shape[0] and column < shape[1]
            line.append(*(cell((row, column)) if inside else (" " * width, "")))
        lines.append(line)
    return lines


def _paint(meta: DatasetMeta, cell: int) -> str:
    """Its colour, but black a little lighter, so that it is seen on a black terminal."""
    return {"#000000": "#262626"}.get(paint := look(meta, cell)[0], paint)


def _paints(meta: DatasetMeta, grid: Grid) -> Paints:
    return np.array([[_rgb(_paint(meta, int(cell))) for cell in row] for row in grid], float).reshape(*grid.shape, 3)


def _hues(view: View) -> Paints:
    """Of each cell: green right, red wrong, blue unknown; the brighter, the more its latent moves; pale if changed."""
    shape, wrong, moved = view.frame.answer.shape, view.wrong, view.frame.moved
    hues = np.empty((*shape, 3))
    hues[:] = NO_HUE if wrong is None else RIGHT_HUE
    if wrong is not None:
        hues[wrong] = WRONG_HUE
    if moved is not None:
        hues *= 0.35 + 0.65 * darkness(moved)[..., None]
    hues[view.changed] = 0.4 * hues[view.changed] + 0.6 * 255
    return hues


def _halves(paints: Paints, area: tuple[int, int]) -> list[Text]:
    """Two rows of cells in a row of text, one column each."""
    padded = np.full((area[0] + area[0] % 2, area[1], 3), -1.0)
    padded[: paints.shape[0], : paints.shape[1]] = paints
    lines = []
    for upper, lower in zip(padded[::2], padded[1::2], strict=True):
        line = Text()
        for top, bottom in zip(upper, lower, strict=True):
            if top[0] < 0:
                line.append(" ")
            else:
                line.append("▀", Style(color=_hex(top), bgcolor=_hex(bottom) if bottom[0] >= 0 else None))
        lines.append(line)
    return lines


def _rgb(paint: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(paint[1:]))


def _hex(paint: npt.NDArray[np.float64]) -> str:
    return "#" + bytes(paint.round().astype(np.uint8).tolist()).hex()
