"""Mazes: cell values, shortest paths, checks, and their compiled code."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import njit, random_below
from trm.data.symmetries import apply_symmetry

WALL, FREE, START, GOAL, PATH = range(5)
"""Cell values; the token of a cell is its value + 1."""
CHARACTERS = "# SGo"
"""Characters of the cells 0 to 4. A free cell is a space: text of a maze must not be stripped."""
PAIRS = 50
"""Random pairs of start and goal tried per grid; see `draw_mazes`."""
_CLOSED, _OPEN = -2, -1

Mazes = npt.NDArray[np.uint8]
"""Cells, uint8 [N, height, width], 0 to 4."""


@njit
def _flood(board, start, width, moves, parents, queue):  # noqa: ANN001, ANN202  (numba infers the types)
    """Breadth-first search on a board with a closed border. Returns the number of reached cells; `queue` contains them
    in order.

    Neighbors are visited down, left, right, up, and the first visit sets the parent, as in Maze-Hard.
    """
    moves[:] = board
    moves[start] = 0
    queue[0] = start
    reached, at = 1, 0
    while at < reached:
        cell = queue[at]
        at += 1
        for step in (width, -1, 1, -width):
            other = cell + step
            if moves[other] == _OPEN:
                moves[other] = moves[cell] + 1
                parents[other] = cell
                queue[reached] = other
                reached += 1
    return reached


@njit
def _label(mazes, moves_to_goal):  # noqa: ANN001, ANN202
    """Mark the path in each maze, in place, and store its number of moves."""
    height, width = mazes.shape[1] + 2, mazes.shape[2] + 2
    board, moves, parents, queue = np.full((4, height * width), _CLOSED, np.int32)
    for index in range(len(mazes)):
        maze = mazes[index]
        starts = goals = start = goal = 0
        for row in range(height - 2):
            for column in range(width - 2):
                cell = (row + 1) * width + column + 1
                board[cell] = _CLOSED if maze[row, column] == WALL else _OPEN
                if maze[row, column] == START:
                    start = cell
                    starts += 1
                elif maze[row, column] == GOAL:
                    goal = cell
                    goals += 1
        moves_to_goal[index] = -1
        if starts != 1 or goals != 1:
            continue
        _flood(board, start, width, moves, parents, queue)
        if moves[goal] == _OPEN:
            continue
        moves_to_goal[index] = moves[goal]
        cell = parents[goal]
        while cell != start:
            maze[cell // width - 1, cell % width - 1] = PATH
            cell = parents[cell]


@njit
def draw_mazes(low, high, min_path, tries, state, mazes):  # noqa: ANN001, ANN201
    """Fill `mazes` (uint8 [B, n, n]) with random mazes; return (number of mazes, number of tries, at most `tries`).

    A try draws a wall density between `low` and `high`, each cell as a wall with this probability, then start and goal
    among the free cells; it succeeds if the shortest path has at least `min_path` moves. Such pairs are rare (one in
    80,000 for Maze-Hard). Therefore each grid gets `PAIRS` pairs, and none if two searches, from a random cell and from
    the cell farthest from it, find no long path. `state`: random state, uint64 [1].
    """
    size = mazes.shape[1]
    width = size + 2
    board, moves, parents, queue = np.full((4, width * width), _CLOSED, np.int32)
    open_cells = np.empty(size * size, np.int32)
    made = tried = 0
    while made < len(mazes) and tried < tries:
        tried += 1
        parts = 2**30
        walls = np.int64((low + (high - low) * random_below(state, parts) / (parts - 1)) * parts)
        free = 0
        for cell in range(width + 1, width * (width - 1) - 1):
            if 0 < cell % width <= size:
                board[cell] = _CLOSED
                if random_below(state, parts) >= walls:
                    board[cell] = _OPEN
                    open_cells[free] = cell
                    free += 1
        if free < 2:
            continue
        last = queue[_flood(board, open_cells[random_below(state, free)], width, moves, parents, queue) - 1]
        if 2 * moves[last] < min_path:  # the distance of two reachable cells is at most twice this
            continue
        if moves[queue[_flood(board, last, width, moves, parents, queue) - 1]] < min_path:
            continue
        for _ in range(PAIRS):
            start, goal = open_cells[random_below(state, free)], open_cells[random_below(state, free)]
            _flood(board, start, width, moves, parents, queue)
            if start != goal and moves[goal] >= min_path:
                for row in range(size):
                    for column in range(size):
                        cell = (row + 1) * width + column + 1
                        mazes[made, row, column] = WALL if board[cell] == _CLOSED else FREE
                mazes[made, start // width - 1, start % width - 1] = START
                mazes[made, goal // width - 1, goal % width - 1] = GOAL
                made += 1
                break
    return made, tried


def label_mazes(questions: Mazes) -> tuple[Mazes, npt.NDArray[np.int32]]:
    """Mazes with their shortest path, uint8 [N, h, w], and its moves, int32 [N].

    Of several shortest paths, the result is that of the breadth-first search from S, as in Maze-Hard. A maze without a
    path, or without exactly one S and one G, is unchanged and has moves -1.
    """
    answers = np.array(questions, dtype=np.uint8, order="C")
    moves = np.empty(len(answers), dtype=np.int32)
    _label(answers, moves)
    return answers, moves


def check_mazes(questions: Mazes, answers: Mazes) -> Iterator[tuple[npt.NDArray[np.bool_], str, str]]:
    """Rules of mazes with paths, uint8 [N, h, w]: yields (invalid bool [N], problem, remedy) for each rule.

    Each rule presumes that the previous ones hold. Any shortest path is accepted, not only that of `label_mazes`.
    """
    remedy = "correct or remove the row"
    for cell in (START, GOAL):
        name = CHARACTERS[cell]
        invalid = (questions == cell).sum(axis=(1, 2)) != 1
        yield invalid, f"the question must have exactly one {name}", remedy
    yield (questions == PATH).any(axis=(1, 2)), "the question contains o, which marks the path of an answer", remedy
    drawn = (questions == FREE) & (answers == PATH)
    invalid = ((questions != answers) & ~drawn).any(axis=(1, 2))
    yield invalid, "the answer differs from the question in other cells than free cells that became o", remedy
    shortest = label_mazes(questions)[1]
    yield shortest < 0, "there is no path from S to G", remedy
    only_path = np.where(answers == FREE, np.uint8(WALL), answers)
    yield label_mazes(only_path)[1] < 0, "the cells o of the answer do not connect S with G", remedy
    invalid = drawn.sum(axis=(1, 2)) + 1 != shortest
    yield invalid, "the path is not a shortest one: it has too many cells o", remedy


def fingerprints(mazes: Mazes) -> npt.NDArray[np.uint64]:
    """One number per square maze, uint8 [N, n, n] to uint64 [N], equal for equivalent mazes."""
    cells = mazes.shape[-1] ** 2
    weights = np.random.default_rng(0).integers(2**64, size=cells, dtype=np.uint64)
    sums = [apply_symmetry(mazes, symmetry).reshape(-1, cells) @ weights for symmetry in range(8)]
    return np.min(sums, axis=0)


def are_equivalent(one: Mazes, other: Mazes) -> bool:
    """Whether two square mazes, uint8 [n, n], are equal up to one of the eight symmetries."""
    return any(np.array_equal(one, apply_symmetry(other, symmetry)) for symmetry in range(8))
