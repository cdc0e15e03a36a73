"""A person's own puzzles, CSV or JSONL: read with every row checked, onto one canvas.

CSV: columns input, output and, where there are groups, group; a grid is its rows, told apart by `/` or line breaks, one
character a cell. JSONL: one object a line with the same keys; a grid is a list of rows, each a string or a list of
whole numbers or characters. Spaces count: they may be symbols.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from trm.utils.errors import DataError

SUFFIXES = (".csv", ".jsonl")
MOST_CELLS = 64
"""Height and width that a grid may have."""
MOST_SYMBOLS = 254
"""Tokens are bytes; 0 is padding."""
KEYS = ("input", "output", "group")

Rows = Sequence[Sequence[str]]
"""A grid as it is written: rows of symbols."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OwnPuzzles:
    """N examples on one canvas, each in its upper left corner; token 0 is padding, token t is `alphabet[t - 1]`."""

    inputs: npt.NDArray[np.uint8]
    """uint8 [N, height, width]."""
    labels: npt.NDArray[np.uint8]
    """uint8 [N, height, width]."""
    shapes: Ints
    """Rows and columns of each example, int64 [N, 2]."""
    groups: Ints
    """int64 [N], numbered by first appearance."""
    group_names: tuple[str, ...]
    """What the file calls each group; without groups `line <n>`."""
    lines: Ints
    """The line of the file on which each example begins, int64 [N]."""
    alphabet: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)


def read_own(path: Path, alphabet: tuple[str, ...] | None, height: int | None, width: int | None) -> OwnPuzzles:
    """Read and check a file of puzzles; whatever is None is found: the symbols in order, the greatest height and width.

    Raises `DataError` with file, line and remedy: no such file, no UTF-8, bad CSV or JSON, a missing column or key, a
    ragged, empty or too large grid, an unknown symbol, input and output of different shapes, a file without puzzles.
    """
    text = _text(path)
    rows = _json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text)
    codes = {symbol: code for code, symbol in enumerate(alphabet or ())}
    pairs: list[list[npt.NDArray[np.uint8]]] = []
    groups: dict[str, int] = {}
    names, lines = [], []
    for line, fields, group in rows:
        pair = []
        for name in ("input", "output"):
            _check_shape(path, line, name, fields[name], height, width)
            pair.append(_encode(path, line, name, fields[name], codes, found=alphabet is None))
        shapes = [" x ".join(map(str, grid.shape)) for grid in pair]
        if shapes[0] != shapes[1]:
            refuse(
                path,
                line,
                f"input is {shapes[0]} and output {shapes[1]}, where both must have one shape",
                "fill up the smaller one with a symbol of your own",
            )
        pairs.append(pair)
        lines.append(line)
        name = f"line {line}" if group is None else group
        names.append(groups.setdefault(name, len(groups)))
    if not pairs:
        refuse(path, None, "the file holds no puzzles", "add a line for each puzzle")
    shapes = np.array([pair[0].shape for pair in pairs])
    canvas = (height or int(shapes[:, 0].max()), width or int(shapes[:, 1].max()))
    symbols = tuple(sorted(codes, key=lambda symbol: (len(symbol), symbol))) if alphabet is None else alphabet
    tokens = np.array([1 + symbols.index(symbol) for symbol in codes], np.uint8)
    both = np.zeros((2, len(pairs), *canvas), np.uint8)
    for index, pair in enumerate(pairs):
        for side, grid in enumerate(pair):
            both[side, index, : grid.shape[0], : grid.shape[1]] = tokens[grid]
    return OwnPuzzles(both[0], both[1], shapes, np.array(names), tuple(groups), np.array(lines), symbols)


def refuse(path: Path, line: int | None, problem: str, remedy: str) -> NoReturn:
    """Raise the `DataError` that names file, line, problem and remedy."""
    where = f"{path}, line {line}" if line is not None else str(path)
    raise DataError(f"{where}: {problem}; {remedy}")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(path, data[: error.start].count(b"\n") + 1, "not text in UTF-8", "save the file as UTF-8")
    if not text.strip():
        refuse(path, None, "the file is empty", "add a line for each puzzle")
    return text


_Row = tuple[int, Mapping[str, Rows], str | None]
"""Line, the grids `input` and `output`, and the group where there are groups."""


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    records = _csv_records(path, text)
    line, header = next(records)
    columns = {name: index for index, name in enumerate(header) if name in KEYS}
    for name in KEYS:
        times = header.count(name)
        if times > 1 or (times == 0 and name != "group"):
            problem = f"column {name} is {'there twice' if times else 'missing'}"
            refuse(path, line, problem, "the first line must name the columns: input,output or input,output,group")
    for line, record in records:
        if len(record) != len(header):
            refuse(path, line, f"expected {len(header)} columns. Got {len(record)}", "complete or remove the row")
        # A grid may end, and begin, with a line break of its own.
        grids = {
            name: record[columns[name]].replace("\r\n", "\n").strip("\n").replace("/", "\n").split("\n")
            for name in ("input", "output")
        }
        yield line, grids, _group(path, line, record[columns["group"]] if "group" in columns else None)


def _csv_records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The records with the lines on which they begin, without empty lines."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            refuse(path, line, f"not a readable CSV ({error})", "close the quotes, or write the row again")
        if record:
            yield line, record


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    grouped: bool | None = None
    for line, record in enumerate(text.split("\n"), start=1):
        if not record.strip():
            continue
        try:
            value = json.loads(record)
        except json.JSONDecodeError as error:
            refuse(path, line, f"not readable JSON ({error})", "each line must be one JSON object")
        except RecursionError:
            refuse(path, line, "not readable JSON (lists too deep in lists)", "each line must be one JSON object")
        except ValueError:  # Python reads no whole number of more than some thousand digits
            refuse(path, line, "a number has too many digits", "write a shorter one")
        if not isinstance(value, dict):
            refuse(path, line, "not a JSON object", 'write {"input": [...], "output": [...]}')
        for name in ("input", "output"):
            if name not in value:
                refuse(path, line, f"key {name} is missing", "each line must have the keys input and output")
        if grouped is not None and grouped != ("group" in value):
            problem = "key group is missing" if grouped else "key group is new"
            refuse(path, line, problem, "all lines must have a group, or none")
        grouped = "group" in value
        grids = {name: _json_grid(path, line, name, value[name]) for name in ("input", "output")}
        yield line, grids, _group(path, line, value["group"] if grouped else None)


def _json_grid(path: Path, line: int, name: str, grid: object) -> Rows:
    if not isinstance(grid, list) or not all(isinstance(row, str | list) for row in grid):
        refuse(path, line, f"{name} is no list of rows", 'write it as ["12", "34"] or [[1, 2], [3, 4]]')
    rows = []
    for row in grid:
        for cell in row:
            if isinstance(cell, bool) or not isinstance(cell, int | str) or (isinstance(cell, str) and len(cell) != 1):
                # A list may be too deep to be written out.
                word = "[...]" if isinstance(cell, list | dict) else json.dumps(cell, ensure_ascii=False)
                problem = f"{name} holds the cell {word}"
                refuse(path, line, problem, "a cell must be a whole number or one character")
        rows.append(row if isinstance(row, str) else [str(cell) for cell in row])
    return rows


def _group(path: Path, line: int, group: object) -> str | None:
    if group is None:
        return None
    if isinstance(group, bool) or not isinstance(group, int | str) or group == "":
        refuse(path, line, "group is neither a word nor a whole number", "name the group that the puzzle belongs to")
    name = str(group)
    if re.search("[\ud800-\udfff]", name):  # as JSON may hold, but no text in UTF-8
        refuse(path, line, f"group holds half a character: {json.dumps(name)}", "write the whole character")
    return name


def _check_shape(path: Path, line: int, name: str, grid: Rows, height: int | None, width: int | None) -> None:
    if not grid or not len(grid[0]):
        refuse(path, line, f"{name} is empty", "complete or remove the puzzle")
    for number, row in enumerate(grid, start=1):
        if len(row) != len(grid[0]):
            problem = f"{name} is ragged: row {number} has {len(row)} cells, row 1 has {len(grid[0])}"
            refuse(path, line, problem, "make all its rows equally long")
    for side, cells, most in (("height", len(grid), height), ("width", len(grid[0]), width)):
        if cells > (most or MOST_CELLS):
            limit, remedy = f"data.{side} is {most}", f"raise data.{side} (at most {MOST_CELLS})"
            if cells > MOST_CELLS:
                limit, remedy = f"at most {MOST_CELLS} are possible", "cut the puzzle into smaller ones"
            refuse(path, line, f"{name} has a {side} of {cells}, but {limit}", remedy)


def _encode(path: Path, line: int, name: str, grid: Rows, codes: dict[str, int], found: bool) -> npt.NDArray[np.uint8]:
    """The grid as codes uint8 [h, w]; where the alphabet is `found`, new symbols get new codes."""
    for number, row in enumerate(grid, start=1):
        for symbol in row:
            if symbol in codes:
                continue
            if not found:
                problem = f"{name} holds {symbol!r} in row {number}, which is not in data.alphabet"
                refuse(path, line, problem, "correct the puzzle, or add the symbol to data.alphabet")
            if len(codes) == MOST_SYMBOLS:
                problem = f"{symbol!r} is one symbol more than the {MOST_SYMBOLS} that are possible"
                refuse(path, line, problem, "use fewer symbols")
            codes[symbol] = len(codes)
    return np.array([[codes[symbol] for symbol in row] for row in grid], np.uint8)
