"""Verification of maze answers (metric `valid`), independent of the code that generates, labels or checks mazes."""

import numpy as np
import numpy.typing as npt

_WALL, _FREE, _START, _GOAL, _PATH = range(5)
_CHUNK = 1024
"""Mazes processed at a time."""

Grids = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def maze_valid(questions: Grids, answers: Grids) -> Bools:
    """Which answers mark exactly one shortest path from S to G in free cells and change nothing else: bool [N].

    questions, answers: uint8 [N, h, w] of cells: 0 `#`, 1 ` `, 2 `S`, 3 `G`, 4 `o`. Additional cells `o` make an answer
    invalid. Raises `ValueError` for other shapes.
    """
    if questions.shape != answers.shape or questions.ndim != 3:
        raise ValueError(
            "questions and answers must both have shape [N, h, w]. "
            f"Got {list(questions.shape)} and {list(answers.shape)}"
        )
    parts = [slice(start, start + _CHUNK) for start in range(0, len(questions), _CHUNK)]
    return np.concatenate([np.zeros(0, bool), *(_valid(questions[part], answers[part]) for part in parts)])


def _valid(questions: Grids, answers: Grids) -> Bools:
    cells = (1, 2)
    single = ((questions == _START).sum(cells) == 1) & ((questions == _GOAL).sum(cells) == 1)
    path = answers == _PATH
    kept = (np.where(path, np.uint8(_FREE), answers) == questions).all(cells)
    ends = (questions == _START) | (questions == _GOAL)
    # A path that uses all marked cells is simple, and no other cell is marked.
    shortest, marked = _moves(questions != _WALL, questions), _moves(path | ends, questions)
    return single & kept & (shortest > 0) & (shortest == marked) & (marked == path.sum(cells) + 1)


def _moves(passable: Bools, questions: Grids) -> npt.NDArray[np.int64]:
    """Moves from S to G through passable cells, int64 [N]; -1 if G is not reached. Breadth-first, level by level."""
    goal = questions == _GOAL
    reached = (questions == _START) & passable
    moves = np.full(len(questions), -1)
    active = np.arange(len(questions))
    for level in range(1, passable[0].size + 1 if len(passable) else 0):
        current = reached[active]
        padded = np.pad(current, ((0, 0), (1, 1), (1, 1)))
        spread = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
        spread = (spread & passable[active]) | current
        arrived = (spread & goal[active]).any((1, 2))
        moves[active[arrived]] = level
        reached[active] = spread
        active = active[~arrived & (spread != current).any((1, 2))]
        if not len(active):
            break
    return moves
