"""Mazes: cells and characters, the labelled shortest path, the checks of a labelled maze, and the compiled code."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import compiled, random_below
from trm.data.symmetries import apply_symmetry

WALL, FREE, START, GOAL, PATH = range(5)
"""The values of a cell; a cell's token is one more."""
CHARACTERS = "# SGo"
"""How the cells 0 to 4 are written. A free cell is a space, so text of a maze must never be stripped."""
PAIRS = 50
"""Random pairs of cells tried as start and goal of one maze; see `draw_mazes`."""
_CLOSED, _OPEN = -2, -1

Mazes = npt.NDArray[np.uint8]
"""Cells uint8 [N, height, width], 0 to 4."""


@compiled
def _flood(board, start, width, moves, parents, queue):  # noqa: ANN001, ANN202  (compiled: numba infers the types)
    """Breadth-first search on a board with a closed border; the number of cells reached, `queue` holds them in order.

    First in, first out; neighbours down, left, right, up; the first to reach a cell is its parent (spec section 6).
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


@compiled
def _label(mazes, moves_to_goal):  # noqa: ANN001, ANN202
    """Draw the path into each maze, in place, and note its moves."""
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


@compiled
def draw_mazes(low, high, min_path, tries, state, mazes):  # noqa: ANN001, ANN201
    """Fill `mazes` (uint8 [B, n, n]) with drawn mazes, in at most `tries` tries; how many mazes, how many tries.

    A try: a share of walls between `low` and `high`, each cell a wall with that chance, then start and goal drawn
    among the free cells, kept if the shortest path has `min_path` moves or more. Such pairs are rare (one in 80,000
    for Maze-Hard), so a grid gets `PAIRS` draws, and none where two searches, from any cell and from the cell farthest
    from it, find no long path. Random numbers from `state` (uint64 [1]).
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
        if 2 * moves[last] < min_path:  # then no two cells reached from there are so far apart
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


def label(questions: Mazes) -> tuple[Mazes, npt.NDArray[np.int32]]:
    """The mazes with their path, uint8 [N, h, w], and its moves, int32 [N], by the rule of Maze-Hard (spec section 6).

    Of all shortest paths it is the one of breadth-first search from S. A maze without path, or without exactly one S
    and one G, comes back as it is, with moves -1.
    """
    answers = np.array(questions, dtype=np.uint8, order="C")
    moves = np.empty(len(answers), dtype=np.int32)
    _label(answers, moves)
    return answers, moves


def check(questions: Mazes, answers: Mazes) -> Iterator[tuple[npt.NDArray[np.bool_], str, str]]:
    """What may be wrong with labelled mazes uint8 [N, h, w]: (bad bool [N], problem, remedy), one after the other.

    Each finding supposes that those before it found nothing. Any shortest path will do, not only that of `label`.
    """
    remedy = "correct or remove the row"
    for cell in (START, GOAL):
        name = CHARACTERS[cell]
        bad = (questions == cell).sum(axis=(1, 2)) != 1
        yield bad, f"the question must have exactly one {name}", remedy
    yield (questions == PATH).any(axis=(1, 2)), "the question holds o, which marks the path of an answer", remedy
    drawn = (questions == FREE) & (answers == PATH)
    bad = ((questions != answers) & ~drawn).any(axis=(1, 2))
    yield bad, "the answer differs from the question elsewhere than in free cells that became o", remedy
    shortest = label(questions)[1]
    yield shortest < 0, "there is no path from S to G", remedy
    only_path = np.where(answers == FREE, np.uint8(WALL), answers)
    yield label(only_path)[1] < 0, "the cells o of the answer do not connect S with G", remedy
    bad = drawn.sum(axis=(1, 2)) + 1 != shortest
    yield bad, "the labels are no shortest path: there are more cells o than a shortest path has", remedy


def fingerprints(mazes: Mazes) -> npt.NDArray[np.uint64]:
    """A number for each of the square mazes uint8 [N, n, n], uint64 [N]: equal for those that `same` calls equal."""
    cells = mazes.shape[-1] ** 2
    weights = np.random.default_rng(0).integers(2**64, size=cells, dtype=np.uint64)
    sums = [apply_symmetry(mazes, symmetry).reshape(-1, cells) @ weights for symmetry in range(8)]
    return np.min(sums, axis=0)


def same(one: Mazes, other: Mazes) -> bool:
    """Whether two square mazes, uint8 [n, n], are equal up to one of the eight symmetries."""
    return any(np.array_equal(one, apply_symmetry(other, symmetry)) for symmetry in range(8))
