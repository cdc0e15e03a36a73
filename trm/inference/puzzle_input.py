"""Reads a puzzle from the command line: as text, from a file, or from stdin."""

import errno
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.protocol import Grid
from trm.inference.puzzle import get_solvable_dataset
from trm.utils.errors import DataError


def read_puzzle(puzzle: str, meta: DatasetMeta) -> Grid:
    """The cells of a puzzle, uint8 [height, width]. `puzzle` is its text, the path of a text file, or `-` for stdin.

    Raises `DataError` and `UserError` as `parse_puzzle`, and `DataError` for an unreadable file.
    """
    get_solvable_dataset(meta)  # raises before stdin is read
    text = _text(puzzle)
    try:
        return parse_puzzle(text, meta)
    except DataError as error:
        if text == puzzle and Path(puzzle).suffix and len(puzzle) < 256:
            raise DataError(f"{puzzle}: no such file, and not a puzzle ({error}); - reads stdin") from None
        raise


def _text(puzzle: str) -> str:
    if puzzle == "-":
        return sys.stdin.read()
    path = Path(puzzle)
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) != errno.ENAMETOOLONG:  # too long for a path: it is the puzzle itself
            raise DataError(f"{puzzle}: cannot be read as a puzzle ({error})") from None
    return puzzle


def parse_puzzle(text: str, meta: DatasetMeta) -> Grid:
    """Parse a puzzle given as characters, row by row, to cells uint8 [height, width].

    White space is ignored, except line breaks, and spaces if they are symbols of the puzzle (mazes). Symbols of several
    characters (numbers) are separated by spaces. Line breaks or `/` separate rows; they are required if the puzzle is
    smaller than the canvas and has several rows. Each dataset accepts further notations (`normalize_text`). Raises
    `DataError` for another length, shape or symbol, `UserError` for a dataset that cannot be solved from outside.
    """
    dataset, symbols = get_solvable_dataset(meta), meta.vocabulary[1:]
    values = {symbol: cell for cell, symbol in enumerate(symbols)}
    if "/" not in values:
        text = text.replace("/", "\n")
    text = dataset.normalize_text(text)
    lines = [line for line in (_symbols(line, values) for line in text.strip("\r\n").splitlines()) if line]
    cells = [symbol for line in lines for symbol in line]
    widths = {len(line) for line in lines}
    if len(lines) > 1 and len(widths) > 1:
        raise DataError(f"the rows of the puzzle must have one length. Got {', '.join(map(str, sorted(widths)))} cells")
    canvas, shape = (meta.height, meta.width), (len(lines), max(widths, default=0))
    if len(lines) == 1 and len(cells) == meta.seq_len:
        shape = canvas
    if not cells or shape[0] > canvas[0] or shape[1] > canvas[1] or (dataset.FILLS_CANVAS and shape != canvas):
        most = "" if dataset.FILLS_CANVAS else "at most "
        got = f"{shape[0]} rows of {shape[1]}" if len(lines) > 1 else str(len(cells))
        raise DataError(f"the puzzle must have {most}{meta.seq_len} cells ({meta.height} x {meta.width}). Got {got}")
    for number, symbol in enumerate(cells, 1):
        if symbol not in values:
            raise DataError(f"cell {number} of the puzzle must be one of {' '.join(symbols)}. Got {symbol!r}")
    return np.array([values[symbol] for symbol in cells], dtype=np.uint8).reshape(shape)


def _symbols(line: str, values: Mapping[str, int]) -> list[str]:
    if any(len(symbol) > 1 for symbol in values):
        return line.split()
    return list(line if " " in values else "".join(line.split()))
