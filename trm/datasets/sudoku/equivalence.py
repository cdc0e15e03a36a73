"""Equivalence of Sudoku puzzles under the symmetry group.

Two puzzles are equivalent if relabelled digits, permuted bands, stacks, rows inside bands and columns inside stacks
and, if boxes are square, a transposition map one to the other. Fingerprints are computed by color refinement
(Weisfeiler-Leman); they are equal for equivalent puzzles and almost always differ otherwise. An exact search decides.
"""

import numpy as np
import numpy.typing as npt

from trm.datasets.sudoku.augmentation import BOXES, Grids

Colors = npt.NDArray[np.uint64]
_BLOCK = 4096
"""Puzzles refined at a time, so that the working set fits into the processor cache."""


def fingerprints(puzzles: Grids) -> Colors:
    """One number per puzzle, equal for equivalent puzzles: uint8 [N, n, n] to uint64 [N]."""
    result = np.empty(len(puzzles), dtype=np.uint64)
    for start in range(0, len(puzzles), _BLOCK):
        block = puzzles[start : start + _BLOCK]
        cells = _refine(block, _start_colors(block), rounds=5)
        block_result = _mix(cells).sum(axis=(1, 2))
        ordered = np.sort(cells.reshape(len(block), -1), axis=1)
        colors = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
        for index in np.flatnonzero(colors < block.shape[-1]):
            block_result[index] = _deep_fingerprint(block[index], cells[index])
        result[start : start + _BLOCK] = block_result
    return result


def _deep_fingerprint(puzzle: Grids, colors: Colors) -> np.uint64:
    """Fingerprint of a puzzle with few distinct colors (a full grid): the sum over refinements that individualize each
    cell.
    """
    count = puzzle.size
    marked = np.tile(colors.ravel(), (count, 1))
    np.fill_diagonal(marked, ~colors.ravel())
    shape = (count, *puzzle.shape)
    cells = _refine(np.broadcast_to(puzzle, shape), marked.reshape(shape), rounds=5)
    return _mix(_mix(cells).sum(axis=(1, 2))).sum()


def are_equivalent(first: Grids, second: Grids) -> bool:
    """Whether two puzzles, uint8 [n, n], are equivalent. Exact: a symmetry is found and verified, or none exists."""
    if first.shape != second.shape or (first != 0).sum() != (second != 0).sum():
        return False
    one, other = first[None], second[None]
    return _extend(one, other, _start_colors(one), _start_colors(other))


def _mix(values: Colors) -> Colors:
    """Bijective hash (the final steps of splitmix64), so that sums of hashed values depend on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _start_colors(puzzles: Grids) -> Colors:
    """Blank or clue; the digit itself is not invariant under relabelling."""
    return np.where(puzzles == 0, np.uint64(1), np.uint64(2))


def _refine(puzzles: Grids, cells: Colors, rounds: int) -> Colors:
    """Refine the color of each cell `rounds` times by the colors of its row, column, box, band, stack and digit.

    Cells with equal colors and equal neighborhoods keep equal colors in any order, because hashed colors are summed.
    """
    count, size, _ = puzzles.shape
    height, width = BOXES[size]
    square = height == width
    bands, stacks = size // height, size // width
    same_digit = [puzzles == digit for digit in range(1, size + 1)]
    for _ in range(rounds):
        mixed = _mix(cells)
        boxes = _mix(mixed.reshape(count, bands, height, stacks, width).sum(axis=(2, 4)))
        rows = _mix(mixed.sum(axis=2) + np.uint64(3))
        # Rows and columns have the same constants if transposition is a symmetry, else different ones.
        columns = _mix(mixed.sum(axis=1) + np.uint64(3 if square else 5))
        band = rows.reshape(count, bands, height).sum(axis=2) + boxes.sum(axis=2)
        stack = columns.reshape(count, stacks, width).sum(axis=2) + boxes.sum(axis=1)
        rows = _mix(rows * np.uint64(7) + np.repeat(_mix(band), height, axis=1))
        columns = _mix(columns * np.uint64(7) + np.repeat(_mix(stack), width, axis=1))
        box = np.repeat(np.repeat(boxes, height, axis=1), width, axis=2)
        mixed += box * np.uint64(11)
        mixed += rows[:, :, None]
        mixed += columns[:, None, :]
        for same in same_digit:
            digit = _mix(np.where(same, mixed, np.uint64(0)).sum(axis=(1, 2)))
            mixed += np.where(same, digit[:, None, None] * np.uint64(13), np.uint64(0))
        cells = mixed
    return _mix(cells)


def _extend(first: Grids, second: Grids, one: Colors, other: Colors) -> bool:
    """Whether a symmetry maps `first` to `second` (each [1, n, n]) and every cell to a cell of the same color.

    Individualization and refinement: while several cells share a color, one of them in `first` and each candidate in
    `second` get a new color. Once all colors differ, they define the mapping, which is verified.
    """
    colors = _refine(np.concatenate([first, second]), np.concatenate([one, other]), rounds=3)
    first_colors, second_colors = colors.reshape(2, -1)
    if not np.array_equal(np.sort(first_colors), np.sort(second_colors)):
        return False
    values, counts = np.unique(first_colors, return_counts=True)
    shared = np.flatnonzero(counts > 1)
    if not len(shared):
        return is_symmetry(first[0], second[0], np.argsort(first_colors), np.argsort(second_colors))
    smallest = values[shared[np.argmin(counts[shared])]]
    cell = np.flatnonzero(first_colors == smallest)[0]
    return any(
        _extend(
            first,
            second,
            _individualize(first_colors, cell, first.shape),
            _individualize(second_colors, candidate, first.shape),
        )
        for candidate in np.flatnonzero(second_colors == smallest)
    )


def _individualize(colors: Colors, cell: np.intp, shape: tuple[int, ...]) -> Colors:
    marked = colors.copy()
    marked[cell] = ~marked[cell]
    return marked.reshape(shape)


def is_symmetry(first: Grids, second: Grids, source: npt.NDArray[np.intp], target: npt.NDArray[np.intp]) -> bool:
    """Whether the mapping of cell source[i] of `first` to cell target[i] of `second` is a symmetry that keeps the
    clues.
    """
    size = len(first)
    image = np.empty(size * size, dtype=np.int64)
    image[source] = target
    rows, columns = (image // size).reshape(size, size), (image % size).reshape(size, size)
    height, width = BOXES[size]
    if height == width and rows[0, 0] != rows[0, 1]:  # rows map to columns
        first, rows, columns = first.T, rows.T, columns.T
    if not ((rows == rows[:, :1]).all() and (columns == columns[:1]).all()):
        return False
    row, column = rows[:, 0], columns[0]
    band, stack = (row // height).reshape(-1, height), (column // width).reshape(-1, width)
    if not ((band == band[:, :1]).all() and (stack == stack[:, :1]).all()):
        return False
    moved = second[row][:, column]
    pairs = np.unique(np.stack([first.ravel(), moved.ravel()]), axis=1)
    # The digits map one to one, and blank maps to blank.
    bijective = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return bijective and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
