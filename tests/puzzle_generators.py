"""Generators of six kinds of puzzles, for files of custom puzzles. Every solution is unique."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np

Rows = list[str]
Puzzle = tuple[Rows, Rows]


def latin(rng: np.random.Generator, size: int = 5) -> Puzzle:
    """A Latin square with blanks `.`, as many as are possible in a random order."""
    base = (np.arange(size)[:, None] + np.arange(size)) % size
    answer = rng.permutation(size)[base[rng.permutation(size)][:, rng.permutation(size)]]
    peers = {(r, c): [*product([r], range(size)), *product(range(size), [c])] for r, c in np.ndindex(size, size)}
    return _blanked(rng, answer, peers, "12345", size * size // 2)


def sudoku_letters(rng: np.random.Generator) -> Puzzle:
    """A 4x4 Sudoku whose digits are letters."""
    base = np.array([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    rows, columns = (rng.permutation([rng.permutation([0, 1]), 2 + rng.permutation([0, 1])]).ravel() for _ in range(2))
    boxes = {(r, c): [(r // 2 * 2 + i, c // 2 * 2 + j) for i in (0, 1) for j in (0, 1)] for r, c in np.ndindex(4, 4)}
    peers = {(r, c): [*product([r], range(4)), *product(range(4), [c]), *boxes[r, c]] for r, c in boxes}
    return _blanked(rng, rng.permutation(4)[base[rows][:, columns]], peers, "ABCD", 10)


def _blanked(rng: np.random.Generator, answer: np.ndarray, peers: dict, symbols: str, blanks: int) -> Puzzle:
    """Remove up to `blanks` symbols at random, each only if the solution stays unique."""
    cells = {place: int(value) for place, value in np.ndenumerate(answer)}
    for cell in rng.permutation(answer.size)[: 2 * blanks]:
        place = divmod(int(cell), answer.shape[1])
        value, cells[place] = cells[place], -1
        if _solutions(cells, peers, len(symbols)) != 1 or list(cells.values()).count(-1) > blanks:
            cells[place] = value
    question = np.array([*cells.values()]).reshape(answer.shape)
    return tuple([["".join((*symbols, ".")[cell] for cell in row) for row in grid] for grid in (question, answer)])  # type: ignore[return-value]


def _solutions(cells: dict, peers: dict, count: int) -> int:
    """The number of solutions, at most 2. `cells`: place -> value, or -1."""
    options = {
        place: set(range(count)) - {cells[peer] for peer in peers[place]} for place, value in cells.items() if value < 0
    }
    if not options:
        return 1
    place, found = min(options, key=lambda each: len(options[each])), 0
    for value in options[place]:
        cells[place] = value
        found += _solutions(cells, peers, count)
        cells[place] = -1
        if found > 1:
            break
    return min(found, 2)


def enclosed(rng: np.random.Generator, size: int = 8) -> Puzzle:
    """Walls `#`; the cells `.` that no path connects to the border become `o`, at least three."""
    inside = walls = np.zeros((size, size), bool)
    while inside.sum() < 3:
        walls = rng.random((size, size)) < 0.45
        outside = np.pad(np.zeros((size, size), bool), 1, constant_values=True)
        for _ in range(size * size):
            near = outside[:-2, 1:-1] | outside[2:, 1:-1] | outside[1:-1, :-2] | outside[1:-1, 2:]
            outside[1:-1, 1:-1] |= near & ~walls
        inside = ~walls & ~outside[1:-1, 1:-1]
    return _text(np.where(walls, "#", ".")), _text(np.where(walls, "#", np.where(inside, "o", ".")))


def sorted_rows(rng: np.random.Generator, height: int = 6, width: int = 8) -> Puzzle:
    """Bars of different lengths, each of one letter; the answer has them from short to long."""
    lengths, letters = (rng.permutation(width)[:height] + 1).tolist(), rng.choice(list("abc"), height).tolist()
    rows = [letter * length + "." * (width - length) for letter, length in zip(letters, lengths, strict=True)]
    return rows, [rows[index] for index in np.argsort(lengths)]


def mirror(rng: np.random.Generator, size: int = 8) -> Puzzle:
    """A left half; the right half of the answer is its mirror image."""
    half = rng.choice(list("abcd"), (size, size // 2))
    return _text(np.hstack([half, np.full_like(half, ".")])), _text(np.hstack([half, half[:, ::-1]]))


def path(rng: np.random.Generator, size: int = 7) -> Puzzle:
    """Weights 1 and 2, a start S and a goal G; the answer marks the one path of least weight with `*`."""
    while True:
        weights = rng.integers(1, 3, (size, size))
        start, goal = (divmod(int(cell), size) for cell in rng.choice(size * size, 2, replace=False))
        weights[start] = weights[goal] = 0
        there, back = _distances(weights, start), _distances(weights, goal)
        on_path = there[0] + back[0] - weights == there[0][goal]
        if there[1][goal] == 1 and there[0][goal] > size // 2:
            question = weights.astype(str)
            question[start], question[goal] = "S", "G"
            return _text(question), _text(np.where(on_path & (weights > 0), "*", question))


def _distances(weights: np.ndarray, start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The least weight of a path from `start` to each cell, and the number of paths of this weight."""
    size = len(weights)
    least, count = np.full(weights.shape, 10**6), np.zeros(weights.shape, int)
    least[start], count[start], open_cells = 0, 1, set(np.ndindex(size, size))
    while open_cells:
        row, column = min(open_cells, key=lambda cell: least[cell])
        open_cells.remove((row, column))
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if cell in open_cells:
                through = least[row, column] + weights[cell]
                if through < least[cell]:
                    least[cell], count[cell] = through, 0
                count[cell] += count[row, column] * (through == least[cell])
    return least, count


def _text(grid: np.ndarray) -> Rows:
    return ["".join(row) for row in grid]


PUZZLES: dict[str, Callable[[np.random.Generator], Puzzle]] = {
    "latin": latin,
    "enclosed": enclosed,
    "sorted-rows": sorted_rows,
    "mirror": mirror,
    "path": path,
    "sudoku-letters": sudoku_letters,
}
"""Name -> generator."""


def puzzles(name: str, rows: int, seed: int = 0) -> Iterator[Puzzle]:
    """`rows` puzzles with different inputs."""
    rng, seen = np.random.default_rng(seed), set[tuple[str, ...]]()
    while len(seen) < rows:
        question, answer = PUZZLES[name](rng)
        if tuple(question) not in seen:
            seen.add(tuple(question))
            yield question, answer


def write_puzzles(file: Path, name: str, rows: int, seed: int = 0) -> None:
    """Write a CSV file."""
    lines = [",".join("/".join(grid) for grid in pair) for pair in puzzles(name, rows, seed)]
    file.write_text("\n".join(["input,output", *lines]) + "\n", encoding="utf-8")
