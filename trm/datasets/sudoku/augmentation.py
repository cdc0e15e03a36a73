"""Symmetries of Sudoku: relabelled digits, permuted bands, stacks, rows and columns, and transposition."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import njit, random_below, shuffle

Grids = npt.NDArray[np.uint8]
"""Digits, uint8 [..., n, n]; 0 is blank."""

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Grid size -> (height, width) of a box. A 6x6 grid has 3 bands of 2 rows and 2 stacks of 3 columns."""


def box_of_cell(size: int) -> npt.NDArray[np.int64]:
    """Box number of each cell, int64 [n, n], in row-major order."""
    height, width = BOXES[size]
    row, column = np.indices((size, size))
    return (row // height) * (size // width) + column // width


def violates_rules(answers: Grids) -> npt.NDArray[np.bool_]:
    """Whether a full grid lacks a digit in a row, column or box: uint8 [N, n, n] to bool [N]."""
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
class Transforms:
    """k symmetries; each maps `grid` to digits[grid'[rows][:, columns]], where grid' is `grid` or its transpose."""

    digits: npt.NDArray[np.uint8]
    """Image of each digit, uint8 [k, n + 1]; digits[:, 0] = 0."""
    rows: npt.NDArray[np.uint8]
    """Row permutations, uint8 [k, n]."""
    columns: npt.NDArray[np.uint8]
    """Column permutations, uint8 [k, n]."""
    transposed: npt.NDArray[np.bool_]
    """bool [k]."""

    def __len__(self) -> int:
        return len(self.transposed)

    def apply(self, grids: Grids) -> Grids:
        """Transform k grids, or one grid in k ways: uint8 [k, n, n] or [n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        out = np.empty((len(self), size * size), np.uint8)
        cells = np.broadcast_to(grids, (len(self), size, size)).reshape(len(self), -1)
        for k in range(len(self)):
            _apply(cells[k], 0, self.digits[k], self.rows[k], self.columns[k], self.transposed[k], out[k])
        return out.reshape(-1, size, size)

    def invert(self, grids: Grids) -> Grids:
        """The inverse of `apply`: uint8 [k, n, n] to uint8 [k, n, n]."""
        size = self.rows.shape[1]
        digits = np.argsort(self.digits, axis=1).astype(np.uint8)
        rows, columns = np.argsort(self.rows, axis=1)[:, :, None], np.argsort(self.columns, axis=1)[:, None, :]
        cells = rows * size + columns
        cells = np.where(self.transposed[:, None, None], cells.swapaxes(1, 2), cells)
        offsets = np.arange(len(self), dtype=np.intp)[:, None, None] * (size + 1)
        return digits.ravel()[offsets + _gather(grids, cells)]


def _gather(grids: Grids, cells: npt.NDArray[np.intp]) -> Grids:
    if grids.ndim == 2:
        return grids.ravel()[cells]
    offsets = np.arange(len(cells), dtype=np.intp)[:, None, None] * cells[0].size
    return grids.reshape(-1)[offsets + cells]


def identity_transform(size: int) -> Transforms:
    """The identity (k = 1)."""
    order = np.arange(size + 1, dtype=np.uint8)[None]
    return Transforms(order, order[:, :-1], order[:, :-1], np.zeros(1, dtype=np.bool_))


def concatenate(first: Transforms, second: Transforms) -> Transforms:
    """The transforms of `first`, followed by those of `second`."""
    return Transforms(
        np.concatenate([first.digits, second.digits]),
        np.concatenate([first.rows, second.rows]),
        np.concatenate([first.columns, second.columns]),
        np.concatenate([first.transposed, second.transposed]),
    )


def draw_transforms(rng: np.random.Generator, size: int, count: int) -> Transforms:
    """Draw `count` transforms, each uniformly from the symmetry group."""
    transforms = Transforms(
        np.zeros((count, size + 1), np.uint8),
        np.zeros((count, size), np.uint8),
        np.zeros((count, size), np.uint8),
        np.zeros(count, np.bool_),
    )
    state = rng.integers(0, 2**64, size=1, dtype=np.uint64)
    for k in range(count):
        drawn = _draw(state, *BOXES[size], transforms.digits[k], transforms.rows[k], transforms.columns[k])
        transforms.transposed[k] = drawn
    return transforms


def augment_puzzles(
    questions: Grids, answers: Grids, states: npt.NDArray[np.uint64], num_aug: int
) -> tuple[Grids, Grids]:
    """Each puzzle followed by `num_aug` random transforms of it: inputs and labels, uint8 [N * (1 + num_aug), n * n].

    `questions` and `answers` are tokens, uint8 [N, n * n]. `states`, uint64 [N], are the random states of the puzzles,
    so the result for a puzzle does not depend on the others. Releases the GIL.
    """
    size = {side * side: side for side in BOXES}[questions.shape[1]]
    inputs, labels = np.empty((2, len(questions) * (1 + num_aug), questions.shape[1]), np.uint8)
    _shuffle_puzzles(questions, answers, states, *BOXES[size], inputs, labels)
    return inputs, labels


@njit
def _draw(state, box_height, box_width, digits, rows, columns):  # noqa: ANN001, ANN202  (numba infers the types)
    """Write a random transform to digits uint8 [n + 1], rows and columns uint8 [n]; return whether it transposes."""
    size = len(rows)
    for digit in range(size + 1):
        digits[digit] = digit
    shuffle(digits[1:], state)
    _draw_lines(state, box_height, rows)
    _draw_lines(state, box_width, columns)
    # Transposition exchanges height and width of the boxes.
    return box_height == box_width and random_below(state, 2) == 1


@njit
def _draw_lines(state, thickness, lines):  # noqa: ANN001, ANN202
    """Permute the bands and the lines inside each band: uint8 [n]."""
    bands = np.arange(len(lines) // thickness)
    shuffle(bands, state)
    for place in range(len(bands)):
        part = lines[place * thickness : (place + 1) * thickness]
        for index in range(thickness):
            part[index] = bands[place] * thickness + index
        shuffle(part, state)


@njit
def _apply(cells, blank, digits, rows, columns, transposed, out):  # noqa: ANN001, ANN202
    """Write the transform of `cells` to `out`, both uint8 [n * n]; `blank` is the blank value: 0 for digits, 1 for
    tokens.
    """
    size = len(rows)
    along, across = (1, size) if transposed else (size, 1)
    for row in range(size):
        start = np.int64(rows[row]) * along
        for column in range(size):
            cell = cells[start + np.int64(columns[column]) * across]
            out[row * size + column] = digits[cell - blank] + blank


@njit
def _shuffle_puzzles(questions, answers, states, box_height, box_width, inputs, labels):  # noqa: ANN001, ANN202
    size = box_height * box_width
    copies = len(inputs) // len(questions)
    digits, rows, columns = np.empty(size + 1, np.uint8), np.empty(size, np.uint8), np.empty(size, np.uint8)
    for puzzle in range(len(questions)):
        first = puzzle * copies
        inputs[first], labels[first] = questions[puzzle], answers[puzzle]
        state = states[puzzle : puzzle + 1].copy()
        for place in range(first + 1, first + copies):
            transposed = _draw(state, box_height, box_width, digits, rows, columns)
            _apply(questions[puzzle], 1, digits, rows, columns, transposed, inputs[place])
            _apply(answers[puzzle], 1, digits, rows, columns, transposed, labels[place])
