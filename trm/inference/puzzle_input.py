"""A puzzle as the command line is given it: typed, in a file, or on stdin."""

import errno
import sys
from pathlib import Path

from trm.data.protocol import Grid
from trm.utils.errors import DataError
from trm.inference.solve import find_askable, parse_puzzle
from trm.config.dataset_meta import DatasetMeta


def read_puzzle(puzzle: str, meta: DatasetMeta) -> Grid:
    """The cells of a puzzle, uint8 [height, width]: `puzzle` is its text, the name of a file of it, or `-` for stdin.

    Raises `DataError` and `UserError` as `parse_puzzle`, and `DataError` for a file that cannot be read.
    """
    find_askable(meta)  # before stdin is read
    text = _text(puzzle)
    try:
        return parse_puzzle(text, meta)
    except DataError as error:
        if text == puzzle and Path(puzzle).suffix and len(puzzle) < 256:
            raise DataError(f"{puzzle}: no such file, and no puzzle either ({error}); - reads stdin") from None
        raise


def _text(puzzle: str) -> str:
    if puzzle == "-":
        return sys.stdin.read()
    path = Path(puzzle)
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) != errno.ENAMETOOLONG:  # a puzzle too long for a file name is no file
            raise DataError(f"{puzzle}: cannot be read as a puzzle ({error})") from None
    return puzzle
