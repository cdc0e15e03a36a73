"""Files of custom puzzles, CSV or JSONL: read with every row checked, onto one canvas.

CSV has the columns input, output and optionally group. A grid is a sequence of rows separated by `/` or line breaks,
one character per cell. JSONL has one object per line with the same keys. A grid is a list of rows; a row is a string,
or a list of integers or characters. Spaces are symbols.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from trm.data.canvas import FIRST_CELL
from trm.data.csv_records import open_csv
from trm.utils.errors import DataError
from trm.utils.file_formats import describe_character, open_lines

SUFFIXES = (".csv", ".jsonl")
MAX_SIDE = 64
"""Largest height and width of a grid."""
MAX_SYMBOLS = 253
"""Tokens are bytes; two of them are padding and the end of a grid."""
KEYS = ("input", "output", "group")

Rows = Sequence[Sequence[str]]
"""A grid as in the file: rows of symbols."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CustomPuzzles:
    """N examples in the upper left corner of one canvas, without end tokens; token 0 is padding, token t is
    `alphabet[t - first_cell_token]`.
    """

    inputs: npt.NDArray[np.uint8]
    """Input tokens, uint8 [N, height, width]."""
    labels: npt.NDArray[np.uint8]
    """Output tokens, uint8 [N, height, width]."""
    shapes: Ints
    """Rows and columns of input and output of each example, int64 [N, 2, 2]."""
    groups: Ints
    """Group numbers by first appearance, int64 [N]."""
    group_names: tuple[str, ...]
    """Name of each group in the file; `line <n>` if the file has no groups."""
    lines: Ints
    """Line of the file on which each example starts, int64 [N]."""
    alphabet: tuple[str, ...]
    """The symbols in the order of their tokens."""

    first_cell_token: int
    """The token of the first symbol: 2 if an input and its output have different shapes, else 1."""

    def __len__(self) -> int:
        return len(self.inputs)

    def grids(self, row: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The tokens of input and output, uint8 [h, w]."""
        (height, width), (label_height, label_width) = self.shapes[row].tolist()
        return self.inputs[row, :height, :width], self.labels[row, :label_height, :label_width]

    def largest(self) -> Ints:
        """Rows and columns of the larger of input and output of each example, int64 [N, 2]."""
        return self.shapes.max(axis=1)


def read_custom_file(
    path: Path, alphabet: tuple[str, ...] | None, height: int | None, width: int | None
) -> CustomPuzzles:
    """Read and check a file of puzzles. None: the alphabet is the sorted symbols, height and width are the largest
    ones.

    Raises `DataError` with file, line and remedy: missing file, invalid UTF-8, CSV or JSON, missing column or key,
    ragged, empty or too large grid, unknown symbol, no puzzles.
    """
    codes = {symbol: code for code, symbol in enumerate(alphabet or ())}
    pairs: list[list[npt.NDArray[np.uint8]]] = []
    groups: dict[str, int] = {}
    names, lines = [], []
    for line, fields, group in _rows(path):
        pair = []
        for name in ("input", "output"):
            _check_shape(path, line, name, fields[name], height, width)
            pair.append(_encode(path, line, name, fields[name], codes, infer_alphabet=alphabet is None))
        pairs.append(pair)
        lines.append(line)
        name = f"line {line}" if group is None else group
        names.append(groups.setdefault(name, len(groups)))
    if not pairs:
        raise_data_error(path, None, "the file contains no puzzles", "add a line for each puzzle")
    shapes = np.array([[grid.shape for grid in pair] for pair in pairs])
    canvas = (height or int(shapes[..., 0].max()), width or int(shapes[..., 1].max()))
    first = 1 if (shapes[:, 0] == shapes[:, 1]).all() else FIRST_CELL
    symbols = tuple(sorted(codes, key=lambda symbol: (len(symbol), symbol))) if alphabet is None else alphabet
    tokens = np.array([first + symbols.index(symbol) for symbol in codes], np.uint8)
    both = np.zeros((2, len(pairs), *canvas), np.uint8)
    for index, pair in enumerate(pairs):
        for side, grid in enumerate(pair):
            both[side, index, : grid.shape[0], : grid.shape[1]] = tokens[grid]
    return CustomPuzzles(both[0], both[1], shapes, np.array(names), tuple(groups), np.array(lines), symbols, first)


def raise_data_error(path: Path, line: int | None, problem: str, remedy: str) -> NoReturn:
    """Raise a `DataError` with file, line, problem and remedy."""
    where = f"{path}, line {line}" if line is not None else str(path)
    raise DataError(f"{where}: {problem}; {remedy}")


_Row = tuple[int, Mapping[str, Rows], str | None]
"""Line, grids `input` and `output`, and the group if there are groups."""


def _rows(path: Path) -> Iterator[_Row]:
    try:
        yield from _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def _csv_rows(path: Path) -> Iterator[_Row]:
    file = open_csv(path, ("input", "output"), ("group",))
    if file.spaced:
        raise_data_error(
            path,
            1,
            "spaces around a column name",
            "remove them, and the spaces after the separators: spaces are symbols",
        )
    columns = file.columns
    for line, record in file.records:
        if not record:
            continue
        if len(record) != file.width:
            raise_data_error(
                path, line, f"expected {file.width} columns. Got {len(record)}", "complete or remove the row"
            )
        # Line breaks before the first and after the last row of a grid are ignored.
        grids = {
            name: re.sub(r"\r\n?", "\n", record[columns[name]]).strip("\n").replace("/", "\n").split("\n")
            for name in ("input", "output")
        }
        yield line, grids, _group(path, line, record[columns["group"]] if "group" in columns else None)


def _json_rows(path: Path) -> Iterator[_Row]:
    grouped: bool | None = None
    for line, record in enumerate(open_lines(path), start=1):
        if not record.strip():
            continue
        try:
            value = json.loads(record)
        except json.JSONDecodeError as error:
            raise_data_error(path, line, f"invalid JSON ({error})", "each line must be one JSON object")
        except RecursionError:
            raise_data_error(path, line, "invalid JSON (nested too deeply)", "each line must be one JSON object")
        except ValueError:  # Python limits the digits of integers
            raise_data_error(path, line, "a number has too many digits", "use a smaller number")
        if not isinstance(value, dict):
            raise_data_error(path, line, "not a JSON object", 'expected {"input": [...], "output": [...]}')
        for name in ("input", "output"):
            if name not in value:
                raise_data_error(path, line, f"key {name} is missing", "each line must have the keys input and output")
        if grouped is not None and grouped != ("group" in value):
            problem = "key group is missing" if grouped else "key group is absent in previous lines"
            raise_data_error(path, line, problem, "add a group to all lines or to none")
        grouped = "group" in value
        grids = {name: _json_grid(path, line, name, value[name]) for name in ("input", "output")}
        yield line, grids, _group(path, line, value["group"] if grouped else None)


def _json_grid(path: Path, line: int, name: str, grid: object) -> Rows:
    if not isinstance(grid, list) or not all(isinstance(row, str | list) for row in grid):
        raise_data_error(path, line, f"{name} is not a list of rows", 'expected ["12", "34"] or [[1, 2], [3, 4]]')
    rows = []
    for row in grid:
        for cell in row:
            if isinstance(cell, bool) or not isinstance(cell, int | str) or (isinstance(cell, str) and len(cell) != 1):
                # json.dumps fails on deeply nested lists.
                text = "[...]" if isinstance(cell, list | dict) else json.dumps(cell, ensure_ascii=False)
                problem = f"{name} contains the cell {text}"
                raise_data_error(path, line, problem, "a cell must be an integer or one character")
        rows.append(row if isinstance(row, str) else [str(cell) for cell in row])
    return rows


def _group(path: Path, line: int, group: object) -> str | None:
    if group is None:
        return None
    if isinstance(group, bool) or not isinstance(group, int | str) or group == "":
        raise_data_error(path, line, "group is neither a non-empty string nor an integer", "correct the group")
    name = str(group)
    if re.search("[\ud800-\udfff]", name):  # valid in JSON, but not in UTF-8
        raise_data_error(path, line, f"group contains an unpaired surrogate: {json.dumps(name)}", "correct the group")
    return name


def _check_shape(path: Path, line: int, name: str, grid: Rows, height: int | None, width: int | None) -> None:
    if not grid or not len(grid[0]):
        raise_data_error(path, line, f"{name} is empty", "complete or remove the puzzle")
    for number, row in enumerate(grid, start=1):
        if len(row) != len(grid[0]):
            problem = f"{name} is ragged: row {number} has {len(row)} cells, row 1 has {len(grid[0])}"
            raise_data_error(path, line, problem, "all rows must have the same length")
    for side, cells, limit in (("height", len(grid), height), ("width", len(grid[0]), width)):
        if cells > (limit or MAX_SIDE):
            reason, remedy = f"data.{side} is {limit}", f"increase data.{side} (at most {MAX_SIDE})"
            if cells > MAX_SIDE:
                reason, remedy = f"the maximum is {MAX_SIDE}", "split the puzzle into smaller ones"
            raise_data_error(path, line, f"{name} has a {side} of {cells}, but {reason}", remedy)


def _encode(
    path: Path, line: int, name: str, grid: Rows, codes: dict[str, int], infer_alphabet: bool
) -> npt.NDArray[np.uint8]:
    """Convert a grid to codes, uint8 [h, w]; with `infer_alphabet`, new symbols get new codes."""
    for number, row in enumerate(grid, start=1):
        for symbol in row:
            if symbol in codes:
                continue
            if not infer_alphabet:
                problem = f"{name} contains {_symbol_text(symbol)} in row {number}, which is not in data.alphabet"
                raise_data_error(path, line, problem, "correct the puzzle, or add the symbol to data.alphabet")
            if len(codes) == MAX_SYMBOLS:
                problem = f"{_symbol_text(symbol)} is symbol number {MAX_SYMBOLS + 1}; the maximum is {MAX_SYMBOLS}"
                raise_data_error(path, line, problem, "use fewer symbols")
            codes[symbol] = len(codes)
    return np.array([[codes[symbol] for symbol in row] for row in grid], np.uint8)


def _symbol_text(symbol: str) -> str:
    return describe_character(symbol) if len(symbol) == 1 else repr(symbol)
