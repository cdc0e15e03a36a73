"""Verification of Sudoku answers (metric `valid`).

Independent of the code that generates, solves or augments puzzles, so that an error there cannot remain unnoticed.
"""

import numpy as np

BOX_SHAPES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Grid size -> (rows, columns) of a box."""


def sudoku_valid(questions: np.ndarray, answers: np.ndarray, box_height: int, box_width: int) -> np.ndarray:
    """Which answers contain each digit 1..n once in every row, column and box, and keep every clue: bool [N].

    questions, answers: uint8 [N, n, n] of digits, 0 for a blank. Answers with other values are invalid. Raises
    `ValueError` unless both have this shape with n = box_height * box_width.
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
