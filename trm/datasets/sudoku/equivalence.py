"""Which puzzles are the same but for a symmetry of Sudoku.

Two puzzles are equivalent if relabelled digits, permuted bands, stacks, rows inside bands and columns inside stacks
and, where boxes are square, a transposition turn one into the other. Fingerprints (colour refinement after Weisfeiler
and Leman) are equal for equivalent puzzles and almost always differ otherwise; where two are equal, a search decides.
"""

import numpy as np
import numpy.typing as npt

from trm.datasets.sudoku.augmentation import BOXES, Grids

Colours = npt.NDArray[np.uint64]
_BLOCK = 4096
"""Puzzles refined at a time: keeps the working set inside the processor's cache."""


def fingerprints(puzzles: Grids) -> Colours:
    """One number for each puzzle, uint8 [N, n, n] to uint64 [N], equal for equivalent puzzles."""
    result = np.empty(len(puzzles), dtype=np.uint64)
    for start in range(0, len(puzzles), _BLOCK):
        block = puzzles[start : start + _BLOCK]
        cells = _refine(block, _start_colours(block), rounds=5)
        block_result = _mix(cells).sum(axis=(1, 2))
        ordered = np.sort(cells.reshape(len(block), -1), axis=1)
        colours = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
        for alike in np.flatnonzero(colours < block.shape[-1]):
            block_result[alike] = _deep_fingerprint(block[alike], cells[alike])
        result[start : start + _BLOCK] = block_result
    return result


def _deep_fingerprint(puzzle: Grids, colours: Colours) -> np.uint64:
    """For a puzzle whose cells look too much alike (a full grid): the sum over what each cell sees, singled out."""
    count = puzzle.size
    marked = np.tile(colours.ravel(), (count, 1))
    np.fill_diagonal(marked, ~colours.ravel())
    shape = (count, *puzzle.shape)
    cells = _refine(np.broadcast_to(puzzle, shape), marked.reshape(shape), rounds=5)
    return _mix(_mix(cells).sum(axis=(1, 2))).sum()


def equivalent(first: Grids, second: Grids) -> bool:
    """Whether two puzzles, uint8 [n, n], are equivalent. Exact: a mapping is found and checked, or there is none."""
    if first.shape != second.shape or (first != 0).sum() != (second != 0).sum():
        return False
    one, other = first[None], second[None]
    return _extend(one, other, _start_colours(one), _start_colours(other))


def _mix(values: Colours) -> Colours:
    """A bijective scrambling (splitmix64's last steps), so that sums of mixed values depend on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _start_colours(puzzles: Grids) -> Colours:
    """Blank or clue: which digit it is, is no part of the class."""
    return np.where(puzzles == 0, np.uint64(1), np.uint64(2))


def _refine(puzzles: Grids, cells: Colours, rounds: int) -> Colours:
    """Recolour each cell `rounds` times by the colours in its row, column, box, band, stack and of its digit.

    Equal colours before and equal surroundings give equal colours after, whatever the order: sums of mixed colours.
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
        # Rows and columns take the same constants where a transposition may swap them, different ones elsewhere.
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


def _extend(first: Grids, second: Grids, one: Colours, other: Colours) -> bool:
    """Whether a symmetry maps `first` to `second` (each [1, n, n]) and each cell to one of the same colour.

    Refine; while several cells share a colour, single out one of them in `first` and try each of its candidates in
    `second` with one colour of its own; once all colours differ, the colours are the mapping, and it is checked.
    """
    colours = _refine(np.concatenate([first, second]), np.concatenate([one, other]), rounds=3)
    mine, yours = colours.reshape(2, -1)
    if not np.array_equal(np.sort(mine), np.sort(yours)):
        return False
    values, counts = np.unique(mine, return_counts=True)
    shared = np.flatnonzero(counts > 1)
    if not len(shared):
        return _is_symmetry(first[0], second[0], np.argsort(mine), np.argsort(yours))
    smallest = values[shared[np.argmin(counts[shared])]]
    cell = np.flatnonzero(mine == smallest)[0]
    return any(
        _extend(first, second, _single_out(mine, cell, first.shape), _single_out(yours, candidate, first.shape))
        for candidate in np.flatnonzero(yours == smallest)
    )


def _single_out(colours: Colours, cell: np.intp, shape: tuple[int, ...]) -> Colours:
    marked = colours.copy()
    marked[cell] = ~marked[cell]
    return marked.reshape(shape)


def _is_symmetry(first: Grids, second: Grids, source: npt.NDArray[np.intp], target: npt.NDArray[np.intp]) -> bool:
    """Whether sending cell source[i] of `first` to cell target[i] of `second` is a symmetry that keeps the clues."""
    size = len(first)
    image = np.empty(size * size, dtype=np.int64)
    image[source] = target
    rows, columns = (image // size).reshape(size, size), (image % size).reshape(size, size)
    height, width = BOXES[size]
    if height == width and rows[0, 0] != rows[0, 1]:  # the transposed case: rows go to columns
        first, rows, columns = first.T, rows.T, columns.T
    if not ((rows == rows[:, :1]).all() and (columns == columns[:1]).all()):
        return False
    row, column = rows[:, 0], columns[0]
    band, stack = (row // height).reshape(-1, height), (column // width).reshape(-1, width)
    if not ((band == band[:, :1]).all() and (stack == stack[:, :1]).all()):
        return False
    moved = second[row][:, column]
    pairs = np.unique(np.stack([first.ravel(), moved.ravel()]), axis=1)
    # Each digit has one image, no two the same, and blank stays blank.
    same = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return same and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())
