"""Does an answer obey the rules of its puzzle? The score `valid` beside `exact` (spec section 6).

A checker knows the rules alone. It shares no code with what generates, solves or shuffles puzzles, so that a mistake
there cannot hide here.
"""

from collections.abc import Callable

import numpy as np

from trm.errors import DataError
from trm.meta import DatasetMeta

BOX_SHAPES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Sudoku size: (rows, columns) of a box."""


def valid(meta: DatasetMeta, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Which answers obey the rules of their data set and fit their question: bool [N].

    questions, answers: uint8 [N, height, width] of cell values (not tokens). Raises `DataError` where no rules are
    known for the kind or size of the data set, `ValueError` for other shapes.
    """
    if meta.kind not in CHECKERS:
        raise DataError(f"data set kind {meta.kind!r} has no rule checker; there are {', '.join(CHECKERS)}")
    expected = (len(questions), meta.height, meta.width)
    if questions.shape != expected:
        raise ValueError(f"questions must have shape {list(expected)}. Got {list(questions.shape)}")
    return CHECKERS[meta.kind](meta, questions, answers)


def sudoku_valid(questions: np.ndarray, answers: np.ndarray, box_height: int, box_width: int) -> np.ndarray:
    """Which answers hold each digit 1..n once in every row, column and box, and keep every clue: bool [N].

    questions, answers: uint8 [N, n, n] of digits, 0 for a blank; an answer with any other value is not valid.
    Raises `ValueError` unless both have that shape and n = box_height * box_width.
    """
    n = box_height * box_width
    if questions.shape != answers.shape or answers.shape[1:] != (n, n):
        raise ValueError(
            f"questions and answers must both have shape [N, {n}, {n}]. "
            f"Got {list(questions.shape)} and {list(answers.shape)}"
        )
    columns = answers.transpose(0, 2, 1)
    bands_and_stacks = answers.reshape(-1, box_width, box_height, box_height, box_width)  # N, band, row, stack, column
    boxes = bands_and_stacks.transpose(0, 1, 3, 2, 4).reshape(-1, n, n)
    digits = np.arange(1, n + 1)
    ok = ((questions == 0) | (questions == answers)).all(axis=(1, 2))
    for units in (answers, columns, boxes):
        ok &= (np.sort(units, axis=2) == digits).all(axis=(1, 2))
    return ok


def _sudoku(meta: DatasetMeta, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
    if meta.height != meta.width or meta.height not in BOX_SHAPES:
        sizes = ", ".join(map(str, BOX_SHAPES))
        raise DataError(f"a Sudoku is a square of size {sizes}; this data set is {meta.height} x {meta.width}")
    return sudoku_valid(questions, answers, *BOX_SHAPES[meta.height])


CHECKERS: dict[str, Callable[[DatasetMeta, np.ndarray, np.ndarray], np.ndarray]] = {"sudoku": _sudoku}
"""Kind of data set: its checker."""
