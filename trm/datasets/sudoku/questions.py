"""Checks of a question that a user gives: contradictory clues, and the number of solutions.

In plain Python, because `trm.datasets.sudoku.solver` takes seconds to compile, which one puzzle does not repay.
"""

from trm.data.protocol import Grid
from trm.datasets.sudoku.rules import BOX_SHAPES
from trm.utils.errors import DataError

MAX_NODES = 20_000
"""Digits tried before the number of solutions counts as unknown: less than a second."""


def check_sudoku(grid: Grid) -> str | None:
    """A note about a question uint8 [n, n] with 0 for a blank: that it has several solutions; None if there is none.

    Raises `DataError` for two equal clues in a row, column or box, with both cells, and for a question without a
    solution.
    """
    units = _units(len(grid))
    cells = [int(digit) for digit in grid.ravel()]
    _check_clues(cells, units, len(grid))
    count = _count_solutions(cells, units, len(grid))
    if count == 0:
        raise DataError("has no solution, its clues contradict each other; correct them")
    return "has several solutions; the answer can be only one of them" if count == 2 else None


def _units(n: int) -> list[tuple[int, int, int]]:
    """The numbers of row, column and box of each cell, among all units."""
    height, width = BOX_SHAPES[n]
    boxes_in_row = n // width
    return [(r, n + c, 2 * n + r // height * boxes_in_row + c // width) for r in range(n) for c in range(n)]


def _check_clues(cells: list[int], units: list[tuple[int, int, int]], n: int) -> None:
    seen: dict[tuple[int, int], int] = {}
    for cell, digit in enumerate(cells):
        for name, unit in zip(("row", "column", "box"), units[cell], strict=True):
            other = seen.setdefault((unit, digit), cell) if digit else cell
            if other != cell:
                first, second = (f"row {c // n + 1}, column {c % n + 1}" for c in (other, cell))
                raise DataError(f"has {digit} twice in a {name}: at {first} and at {second}; correct one of them")


def _count_solutions(cells: list[int], units: list[tuple[int, int, int]], n: int) -> int | None:
    """The number of solutions, at most 2; None if `MAX_NODES` digits do not decide it."""
    used = [0] * (3 * n)
    blanks = []
    for cell, digit in enumerate(cells):
        if digit:
            for unit in units[cell]:
                used[unit] |= 1 << digit
        else:
            blanks.append(cell)
    full, nodes = 2 ** (n + 1) - 2, 0

    def search(left: list[int]) -> int:
        nonlocal nodes
        if not left:
            return 1
        best, best_values = left[0], full
        for cell in left:
            row, column, box = units[cell]
            values = full & ~(used[row] | used[column] | used[box])
            if values.bit_count() < best_values.bit_count() or cell == left[0]:
                best, best_values = cell, values
                if values.bit_count() < 2:
                    break
        rest, found = [cell for cell in left if cell != best], 0
        while best_values and found < 2 and nodes < MAX_NODES:
            nodes += 1
            bit = best_values & -best_values
            best_values ^= bit
            for unit in units[best]:
                used[unit] ^= bit
            found += search(rest)
            for unit in units[best]:
                used[unit] ^= bit
        return min(found, 2)

    count = search(blanks)
    return count if count == 2 or nodes < MAX_NODES else None
