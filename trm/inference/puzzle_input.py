"""Reads puzzles from the command line: as text, from a file, or from stdin."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Dataset, Grid
from trm.datasets.registry import check_question
from trm.inference.puzzle import get_solvable_dataset, to_tokens
from trm.utils.errors import DataError
from trm.utils.file_formats import decode_text, describe_character
from trm.utils.progress import progress

LENGTHS = 4
"""Most row lengths named in a message."""
WORTH_PROGRESS = 500
"""Puzzles from which checking them takes long enough for a progress display."""
_FILE_NAME = re.compile(r"\.[A-Za-z]{1,5}$")
"""The end of a text that is the name of a file, not a puzzle."""
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_RESULT = re.compile(r"^.*; halt probability .*$", re.MULTILINE)
"""The last line that `trm solve` prints."""


def read_puzzles(puzzle: str, meta: DatasetMeta, is_file: bool = False) -> list[Grid]:
    """The cells of one or more puzzles, uint8 [height, width] each, in order.

    puzzle: its text, the path of a text file, or `-` for stdin; with `is_file` it is never the text. Raises `DataError`
    and `UserError` as `parse_puzzles`, and `DataError` for an empty text, a folder, a missing or unreadable file, or
    another format.
    """
    get_solvable_dataset(meta)  # raises before stdin is read
    text, location = _text(puzzle)
    if is_file and location is None:
        raise DataError(f"{puzzle}: no such file; correct the path, or give - for stdin")
    try:
        return parse_puzzles(text, meta)
    except DataError as error:
        if location is not None:
            raise DataError(f"{location}: {error}") from None
        if _FILE_NAME.search(puzzle) and len(puzzle) < 256:
            raise DataError(f"{puzzle}: no such file, and not a puzzle ({error}); - reads stdin") from None
        raise


def _text(puzzle: str) -> tuple[str, str | None]:
    """The text, and the file that contains it."""
    if puzzle == "-":
        if sys.stdin is None:
            raise DataError("stdin is closed; give the puzzle as text or a file")
        # The bytes, because stdin may have another encoding. A test or notebook may have only text.
        binary = getattr(sys.stdin, "buffer", None)
        return (decode_text(binary.read(), "stdin") if binary else sys.stdin.read()), "stdin"
    path = Path(puzzle)
    try:
        is_folder, is_file = bool(puzzle) and path.is_dir(), path.is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character: it is the puzzle itself
        is_folder = is_file = False
    if is_folder:
        raise DataError(f"{puzzle}: is a folder, not a puzzle; give the text of a puzzle or a text file")
    if not is_file:
        return puzzle, None
    try:
        return decode_text(path.read_bytes(), puzzle), puzzle
    except OSError as error:
        raise DataError(f"{puzzle}: cannot be read ({error.strerror or error}); check the permissions") from None


def parse_puzzles(text: str, meta: DatasetMeta) -> list[Grid]:
    """Parse puzzles given as characters, row by row, to cells uint8 [height, width].

    White space is ignored, except line breaks, and spaces if they are symbols of the puzzle (mazes). Symbols of several
    characters (numbers) are separated by spaces. Line breaks or `/` separate rows; they are required if the puzzle is
    smaller than the canvas and has several rows. Several puzzles follow one another: one a line or, if all fill the
    canvas, one after the other. Each dataset accepts further notations (`normalize_text`), and what `trm solve`
    prints is accepted, also with `--json`: then the questions are the puzzles. Raises `DataError` for another length,
    shape or symbol, `UserError` for a dataset that cannot be solved from outside.
    """
    dataset, symbols = get_solvable_dataset(meta), meta.vocabulary[meta.first_cell_token :]
    values = {symbol: cell for cell, symbol in enumerate(symbols)}
    if text.lstrip().startswith("{") and "{" not in values:
        return [_question(line, number, meta, dataset) for number, line in enumerate(text.strip().splitlines(), 1)]
    text = dataset.normalize_text(_RESULT.sub("", _COLORS.sub("", text)))
    if "/" not in values:
        text = text.replace("/", "\n")
    rows = [row for row in (_symbols(line, values) for line in text.strip("\r\n").splitlines()) if row]
    if not rows:
        raise DataError(f"the puzzle is empty; give {meta.seq_len} cells ({meta.height} x {meta.width}), row by row")
    puzzles = _split(rows, meta, dataset)
    names = [f"puzzle {number}" for number in range(1, len(puzzles) + 1)] if len(puzzles) > 1 else ["the puzzle"]
    return [_parse(each, meta, dataset, values, name) for each, name in zip(puzzles, names, strict=True)]


def _question(line: str, number: int, meta: DatasetMeta, dataset: Dataset) -> Grid:
    """The question of a line that `trm solve --json` prints."""
    try:
        grid = np.array(json.loads(line)["question"], dtype=np.int64)
        to_tokens(meta, dataset, grid)
    except DataError as error:
        raise DataError(f"line {number}: {error}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        remedy = "give its cells as `question`"
        raise DataError(f"line {number}: not a line of `trm solve --json` ({error}); {remedy}") from None
    return grid.astype(np.uint8)


def check_puzzles(puzzles: Sequence[Grid], meta: DatasetMeta) -> list[str]:
    """Notes about puzzles, a line each: those that have several solutions.

    Raises `DataError` for a puzzle that no answer can solve, with the cells that contradict each other.
    """
    notes: dict[str, list[int]] = {}
    with progress("check the puzzles", len(puzzles), silent=len(puzzles) < WORTH_PROGRESS) as bar:
        for number, puzzle in enumerate(puzzles, 1):
            try:
                note = check_question(meta, puzzle)
            except DataError as error:
                name = f"puzzle {number}" if len(puzzles) > 1 else "the puzzle"
                raise DataError(f"{name} {error}") from None
            if note:
                notes.setdefault(note, []).append(number)
            bar.advance()
    if len(puzzles) == 1:
        return [f"the puzzle {note}" for note in notes]
    return [
        f"puzzle {numbers[0]} {note}" + (f" (and {len(numbers) - 1} more puzzles)" if len(numbers) > 1 else "")
        for note, numbers in notes.items()
    ]


def _split(rows: list[list[str]], meta: DatasetMeta, dataset: Dataset) -> list[list[list[str]]]:
    """The puzzles: rows of symbols."""
    height, width = meta.height, meta.width
    if all(len(row) == meta.seq_len for row in rows):  # one puzzle a line
        return [[row[start : start + width] for start in range(0, len(row), width)] for row in rows]
    if height == 1:
        return [[row] for row in rows]
    if dataset.FILLS_CANVAS and len(rows) % height == 0 and all(len(row) == width for row in rows):
        return [rows[start : start + height] for start in range(0, len(rows), height)]
    return [rows]


def _parse(rows: Sequence[list[str]], meta: DatasetMeta, dataset: Dataset, values: Mapping[str, int], of: str) -> Grid:
    """The cells of one puzzle; `of` names it in messages."""
    widths = sorted({len(row) for row in rows})
    cells = [symbol for row in rows for symbol in row]
    foreign = next((i for i, cell in enumerate(cells) if cell not in values and not cell.isascii()), None)
    if foreign is not None:
        raise _symbol_error(foreign, cells[foreign], values, of)
    if len(widths) > 1:
        more = ", …" if len(widths) > LENGTHS else ""
        lengths = ", ".join(map(str, widths[:LENGTHS])) + more
        raise DataError(f"the rows of {of} must have one length. Got {lengths} cells")
    canvas, shape = (meta.height, meta.width), (len(rows), widths[0])
    if shape[0] > canvas[0] or shape[1] > canvas[1] or (dataset.FILLS_CANVAS and shape != canvas):
        most = "" if dataset.FILLS_CANVAS else "at most "
        got = f"{shape[0]} rows of {shape[1]}" if len(rows) > 1 else str(len(cells))
        size = f"{most}{meta.seq_len} cells ({meta.height} x {meta.width})"
        raise DataError(f"{of} must have {size} for this --model. Got {got}")
    for index, symbol in enumerate(cells):
        if symbol not in values:
            raise _symbol_error(index, symbol, values, of)
    return np.array([values[symbol] for symbol in cells], dtype=np.uint8).reshape(shape)


def _symbol_error(index: int, symbol: str, values: Mapping[str, int], of: str) -> DataError:
    seen = describe_character(symbol) if len(symbol) == 1 else repr(symbol)
    return DataError(f"cell {index + 1} of {of} must be one of {' '.join(values)}. Got {seen}")


def _symbols(line: str, values: Mapping[str, int]) -> list[str]:
    if any(len(symbol) > 1 for symbol in values):
        return line.split()
    return list(line if " " in values else "".join(line.split()))
