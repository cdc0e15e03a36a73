"""Sudoku n x n: its boxes, its rules, and the shuffles under which a puzzle stays a puzzle (spec section 1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import compiled, random_below, shuffle

Grids = npt.NDArray[np.uint8]
"""Grids of digits, uint8 [..., n, n]: 0 blank, d digit d."""

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Height and width of a box for each grid size: a 6x6 grid has 3 bands of 2 rows and 2 stacks of 3 columns."""


def box_of_cell(size: int) -> npt.NDArray[np.int64]:
    """Number of the box of each cell, int64 [n, n], counted row by row of boxes."""
    height, width = BOXES[size]
    row, column = np.indices((size, size))
    return (row // height) * (size // width) + column // width


def breaks_rule(answers: Grids) -> npt.NDArray[np.bool_]:
    """True where a row, column or box of a full grid lacks a digit: uint8 [N, n, n] to bool [N]."""
    size = answers.shape[-1]
    full = np.uint16(2 ** (size + 1) - 2)
    bits = np.left_shift(np.uint16(1), answers.astype(np.uint16), dtype=np.uint16)
    cells_by_box = np.argsort(box_of_cell(size).ravel(), kind="stable")
    boxes = bits.reshape(-1, size * size)[:, cells_by_box].reshape(-1, size, size)
    wrong = np.zeros(len(answers), dtype=np.bool_)
    for units in (bits, bits.swapaxes(1, 2), boxes):
        wrong |= (np.bitwise_or.reduce(units, axis=2) != full).any(axis=1)
    return wrong


@dataclass(frozen=True)
class Shuffles:
    """k symmetries of Sudoku; each maps a grid to digits[(transposed if drawn)[rows][:, columns]].

    `digits` uint8 [k, n + 1] with digits[:, 0] = 0, `rows` and `columns` uint8 [k, n], `transposed` bool [k].
    """

    digits: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.uint8]
    columns: npt.NDArray[np.uint8]
    transposed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.transposed)

    def apply(self, grids: Grids) -> Grids:
        """Shuffle k grids, or one grid in k ways: uint8 [k, n, n] or [n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        out = np.empty((len(self), size * size), np.uint8)
        cells = np.broadcast_to(grids, (len(self), size, size)).reshape(len(self), -1)
        for k in range(len(self)):
            _apply(cells[k], 0, self.digits[k], self.rows[k], self.columns[k], self.transposed[k], out[k])
        return out.reshape(-1, size, size)

    def invert(self, grids: Grids) -> Grids:
        """Undo `apply`: uint8 [k, n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        digits = np.argsort(self.digits, axis=1).astype(np.uint8)
        rows, columns = np.argsort(self.rows, axis=1)[:, :, None], np.argsort(self.columns, axis=1)[:, None, :]
        cells = rows * size + columns
        cells = np.where(self.transposed[:, None, None], cells.swapaxes(1, 2), cells)
        which = np.arange(len(self), dtype=np.intp)[:, None, None] * (size + 1)
        return digits.ravel()[which + _gather(grids, cells)]


def _gather(grids: Grids, cells: npt.NDArray[np.intp]) -> Grids:
    if grids.ndim == 2:
        return grids.ravel()[cells]
    which = np.arange(len(cells), dtype=np.intp)[:, None, None] * cells[0].size
    return grids.reshape(-1)[which + cells]


def identity_shuffle(size: int) -> Shuffles:
    """The one shuffle (k = 1) that changes nothing."""
    order = np.arange(size + 1, dtype=np.uint8)[None]
    return Shuffles(order, order[:, :-1], order[:, :-1], np.zeros(1, dtype=np.bool_))


def concatenate(first: Shuffles, second: Shuffles) -> Shuffles:
    """The shuffles of `first`, then those of `second`."""
    return Shuffles(
        np.concatenate([first.digits, second.digits]),
        np.concatenate([first.rows, second.rows]),
        np.concatenate([first.columns, second.columns]),
        np.concatenate([first.transposed, second.transposed]),
    )


def draw_shuffles(rng: np.random.Generator, size: int, count: int) -> Shuffles:
    """Draw `count` shuffles, each uniformly from the whole group of symmetries."""
    shuffles = Shuffles(
        np.zeros((count, size + 1), np.uint8),
        np.zeros((count, size), np.uint8),
        np.zeros((count, size), np.uint8),
        np.zeros(count, np.bool_),
    )
    state = rng.integers(0, 2**64, size=1, dtype=np.uint64)
    for k in range(count):
        drawn = _draw(state, *BOXES[size], shuffles.digits[k], shuffles.rows[k], shuffles.columns[k])
        shuffles.transposed[k] = drawn
    return shuffles


def shuffle_puzzles(
    questions: Grids, answers: Grids, states: npt.NDArray[np.uint64], num_aug: int
) -> tuple[Grids, Grids]:
    """Each puzzle as it is, then `num_aug` shuffles of it, in tokens: two uint8 [N * (1 + num_aug), n * n].

    `questions` and `answers` are tokens uint8 [N, n * n]; `states` uint64 [N] are the random states of the puzzles,
    so that it does not matter which others are shuffled with them. The interpreter is free meanwhile.
    """
    size = {side * side: side for side in BOXES}[questions.shape[1]]
    inputs, labels = np.empty((2, len(questions) * (1 + num_aug), questions.shape[1]), np.uint8)
    _shuffle_puzzles(questions, answers, states, *BOXES[size], inputs, labels)
    return inputs, labels


@compiled
def _draw(state, box_height, box_width, digits, rows, columns):  # noqa: ANN001, ANN202  (numba infers the types)
    """Fill digits uint8 [n + 1], rows and columns uint8 [n] with a random shuffle; whether it is transposed."""
    size = len(rows)
    for digit in range(size + 1):
        digits[digit] = digit
    shuffle(digits[1:], state)
    _draw_lines(state, box_height, rows)
    _draw_lines(state, box_width, columns)
    # A box lying down has no place among boxes standing up.
    return box_height == box_width and random_below(state, 2) == 1


@compiled
def _draw_lines(state, thickness, lines):  # noqa: ANN001, ANN202
    """Permute the bands and the lines inside each band: uint8 [n]."""
    bands = np.arange(len(lines) // thickness)
    shuffle(bands, state)
    for place in range(len(bands)):
        part = lines[place * thickness : (place + 1) * thickness]
        for index in range(thickness):
            part[index] = bands[place] * thickness + index
        shuffle(part, state)


@compiled
def _apply(cells, lowest, digits, rows, columns, transposed, out):  # noqa: ANN001, ANN202
    """Shuffle `cells` into `out`, both uint8 [n * n]; `lowest` stands for a blank: 0 for cells, 1 for tokens."""
    size = len(rows)
    along, across = (1, size) if transposed else (size, 1)
    for row in range(size):
        start = np.int64(rows[row]) * along
        for column in range(size):
            cell = cells[start + np.int64(columns[column]) * across]
            out[row * size + column] = digits[cell - lowest] + lowest


@compiled
def _shuffle_puzzles(questions, answers, states, box_height, box_width, inputs, labels):  # noqa: ANN001, ANN202
    size = box_height * box_width
    versions = len(inputs) // len(questions)
    digits, rows, columns = np.empty(size + 1, np.uint8), np.empty(size, np.uint8), np.empty(size, np.uint8)
    for puzzle in range(len(questions)):
        first = puzzle * versions
        inputs[first], labels[first] = questions[puzzle], answers[puzzle]
        state = states[puzzle : puzzle + 1].copy()
        for place in range(first + 1, first + versions):
            transposed = _draw(state, box_height, box_width, digits, rows, columns)
            _apply(questions[puzzle], 1, digits, rows, columns, transposed, inputs[place])
            _apply(answers[puzzle], 1, digits, rows, columns, transposed, labels[place])
