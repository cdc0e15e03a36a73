"""Compiled Sudoku solver: counts solutions, rates puzzles, and removes clues from full grids."""

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import njit, random_below, shuffle
from trm.datasets.sudoku.augmentation import Grids, box_of_cell


@njit
def _count(values):  # noqa: ANN001, ANN202
    """Number of values in a bit set."""
    count = 0
    while values:
        values &= values - 1
        count += 1
    return count


@njit
def _values(cell, used, units, full):  # noqa: ANN001, ANN202
    """Candidates of a cell as bits; bit d is digit d."""
    return full & ~(used[units[0, cell]] | used[units[1, cell]] | used[units[2, cell]])


@njit
def _single(cells, used, units, full):  # noqa: ANN001, ANN202
    """A cell and its hidden single (a value with one place in a unit); (-1, 0) if there is none, (0, 0) if a value has
    no place.
    """
    once, twice = np.zeros(used.size, np.int64), np.zeros(used.size, np.int64)
    for cell in range(cells.size):
        if cells[cell] == 0:
            values = _values(cell, used, units, full)
            for axis in range(3):
                unit = units[axis, cell]
                twice[unit] |= once[unit] & values
                once[unit] |= values
    for unit in range(used.size):
        if once[unit] | used[unit] != full:
            return 0, 0
    for cell in range(cells.size):
        if cells[cell] == 0:
            values = _values(cell, used, units, full)
            for axis in range(3):
                unit = units[axis, cell]
                single = values & once[unit] & ~twice[unit]
                if single:
                    return cell, single & -single
    return -1, 0


@njit
def _choose(cells, used, units, full):  # noqa: ANN001, ANN202
    """The blank cell to fill next and its candidates as bits; (-1, 0) if no cell is blank, (0, 0) for a contradiction.

    Order: a cell with one candidate, a hidden single, the first cell with the fewest candidates.
    """
    best, best_values, best_count = -1, 0, 99
    for cell in range(cells.size):
        if cells[cell] == 0:
            values = _values(cell, used, units, full)
            count = _count(values)
            if count < best_count:
                best, best_values, best_count = cell, values, count
                if count < 2:
                    break
    if best < 0 or best_count == 1:
        return best, best_values
    if best_count == 0:
        return 0, 0
    cell, value = _single(cells, used, units, full)
    if cell < 0:
        return best, best_values
    return cell, value


@njit
def _flip(cell, digit, used, units):  # noqa: ANN001, ANN202
    """Add a digit to the units of a cell, or remove it."""
    for axis in range(3):
        used[units[axis, cell]] ^= 1 << digit


@njit
def _pick(values, state):  # noqa: ANN001, ANN202
    """The smallest digit of the bit set, or a random one if `state` (uint64 [1]) is not 0."""
    if state[0]:
        for _ in range(random_below(state, _count(values))):
            values &= values - 1
    digit = 1
    while not (values >> digit) & 1:
        digit += 1
    return digit


@njit
def search(cells, units, limit, state):  # noqa: ANN001, ANN201
    """Depth-first search. Returns (number of solutions, at most `limit`; number of guesses).

    `cells`, uint8 [n * n], is overwritten with the last solution found. `units`: see `units_of`. Values are tried in
    ascending order, or at random if `state` is not 0.
    """
    size = units[0, -1] + 1
    full = 2 ** (size + 1) - 2
    used = np.zeros(3 * size, np.int64)
    for cell in range(cells.size):
        if cells[cell]:
            if not (_values(cell, used, units, full) >> cells[cell]) & 1:
                return 0, 0
            _flip(cell, cells[cell], used, units)
    solution = cells.copy()
    # For each depth: the cell, its current digit (0 for none), the values not yet tried.
    path, digits, untried = np.zeros((3, cells.size + 1), np.int64)
    depth, found, guesses = 0, 0, 0
    path[0], untried[0] = _choose(cells, used, units, full)
    while depth >= 0:
        cell = path[depth]
        if cell < 0:
            found += 1
            for index in range(cells.size):
                solution[index] = cells[index]
            if found >= limit:
                break
            depth -= 1
            continue
        if digits[depth]:  # backtracking: remove the digit
            _flip(cell, digits[depth], used, units)
            cells[cell] = digits[depth] = 0
        if untried[depth] == 0:
            depth -= 1
            continue
        digit = _pick(untried[depth], state)
        guesses += untried[depth] != 1 << digit
        untried[depth] ^= 1 << digit
        cells[cell] = digits[depth] = digit
        _flip(cell, digit, used, units)
        depth += 1
        path[depth], untried[depth] = _choose(cells, used, units, full)
    for index in range(cells.size):
        cells[index] = solution[index]
    return found, guesses


@njit
def dig_puzzles(units, clues, state, questions, answers, ratings):  # noqa: ANN001, ANN201
    """Generate one puzzle per row of `questions` and `answers` (uint8 [T, n * n]); a failed try has rating -1.

    clues: 0 for minimal puzzles, else the exact number of clues. `state`: random state, uint64 [1], not 0.
    """
    never = np.zeros(1, np.uint64)
    cells = questions.shape[1]
    for index in range(len(questions)):
        answer, question = answers[index], questions[index]
        for cell in range(cells):
            answer[cell] = 0
        search(answer, units, 1, state)
        for cell in range(cells):
            question[cell] = answer[cell]
        order = np.arange(cells)
        shuffle(order, state)
        left = cells
        for cell in order:
            if left == clues:
                break
            question[cell] = 0
            if search(question.copy(), units, 2, never)[0] == 1:
                left -= 1
            else:
                question[cell] = answer[cell]
        ratings[index] = search(question.copy(), units, 2, never)[1] if clues in (0, left) else -1


def units_of(size: int) -> npt.NDArray[np.int64]:
    """Row, column and box of each cell as numbers of the 3 n units, int64 [3, n * n]."""
    row, column = np.indices((size, size))
    return np.stack([row, size + column, 2 * size + box_of_cell(size)]).reshape(3, -1)


def count_solutions(grid: Grids, limit: int = 2) -> int:
    """Number of solutions of a puzzle uint8 [n, n], at most `limit`; 0 if the clues violate a rule."""
    return int(search(grid.ravel().copy(), units_of(len(grid)), limit, np.zeros(1, np.uint64))[0])


def solve_grid(grid: Grids) -> Grids | None:
    """A solution of a puzzle uint8 [n, n], or None if there is none."""
    cells = grid.ravel().copy()
    found, _ = search(cells, units_of(len(grid)), 1, np.zeros(1, np.uint64))
    return cells.reshape(grid.shape) if found else None


def rating(grid: Grids) -> int:
    """Guesses that the solver needs to decide uniqueness of a puzzle uint8 [n, n] (it stops at two solutions).

    A guess is a value tried in a cell with several candidates when there is neither a naked nor a hidden single. A
    puzzle with rating 0 is solved by singles alone.
    """
    return int(search(grid.ravel().copy(), units_of(len(grid)), 2, np.zeros(1, np.uint64))[1])
