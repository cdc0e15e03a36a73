"""Is an answer to a maze right? An honest check that shares no code with what labels, checks or makes mazes."""

import numpy as np
import numpy.typing as npt

_WALL, _FREE, _START, _GOAL, _PATH = range(5)
_CHUNK = 1024
"""Mazes flooded at a time."""

Grids = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def maze_valid(questions: Grids, answers: Grids) -> Bools:
    """Which answers mark one path from S to G, free of walls and as short as any, and change nothing else: bool [N].

    questions, answers: uint8 [N, h, w] of cells, 0 `#`, 1 ` `, 2 `S`, 3 `G`, 4 `o`. A cell `o` beside the path makes
    an answer invalid. Raises `ValueError` for other shapes.
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
    # A path through the marked cells alone that needs all of them is simple, and leaves none beside it.
    shortest, marked = _moves(questions != _WALL, questions), _moves(path | ends, questions)
    return single & kept & (shortest > 0) & (shortest == marked) & (marked == path.sum(cells) + 1)


def _moves(passable: Bools, questions: Grids) -> npt.NDArray[np.int64]:
    """Moves from S to G through passable cells, int64 [N]; -1 where G is not reached. Floods level by level."""
    goal = questions == _GOAL
    reached = (questions == _START) & passable
    moves = np.full(len(questions), -1)
    running = np.arange(len(questions))
    for level in range(1, passable[0].size + 1 if len(passable) else 0):
        now = reached[running]
        wide = np.pad(now, ((0, 0), (1, 1), (1, 1)))
        spread = wide[:, :-2, 1:-1] | wide[:, 2:, 1:-1] | wide[:, 1:-1, :-2] | wide[:, 1:-1, 2:]
        spread = (spread & passable[running]) | now
        there = (spread & goal[running]).any((1, 2))
        moves[running[there]] = level
        reached[running] = spread
        running = running[~there & (spread != now).any((1, 2))]
        if not len(running):
            break
    return moves
