"""Making mazes as hard as Maze-Hard: cells that are walls by chance, start and goal far apart, the path labelled.

Maze-Hard's own mazes look as if drawn so: its shares of walls and its lengths of paths come out the same.
"""

import numpy as np
import numpy.typing as npt

from trm.data.numba_utils import random_state
from trm.datasets.maze.grid import Mazes, draw_mazes, fingerprints, label, same
from trm.data.deduplication import Representatives
from trm.utils.errors import UserError
from trm.utils.progress import progress

FRUITLESS_CELLS = 1_500_000_000
"""Cells of grids drawn in a row without a maze after which there seem to be none: some 20 seconds."""
FRUITLESS_MAZES = 20_000
"""Mazes drawn in a row that are all known after which there seem to be no others."""
_BLOCK = 16
"""Mazes at most that are made by one compiled call."""


def generate_mazes(
    size: int, count: int, wall_density: tuple[float, float], min_path: int, seed: int
) -> tuple[Mazes, Mazes, npt.NDArray[np.int32]]:
    """`count` mazes n x n: questions and answers, uint8 [count, n, n], and the moves of their paths, int32 [count].

    Each maze has a chance of walls drawn between the two of `wall_density`, so walls may cover a little more or less
    than that, and a shortest path of `min_path` moves or more. No two are equal up to a symmetry. A pure function of
    its arguments; a lesser count gives the first of these mazes. Raises `UserError` where such mazes are not found.
    """
    low, high = wall_density
    if not 0 <= low <= high < 1:
        raise UserError(
            "data.source.wall_density must be two shares from 0 to below 1, the lower first. "
            f"Got {low} and {high}; Maze-Hard has 0.28 and 0.45"
        )
    if not 1 <= min_path < size * size:
        raise UserError(
            f"data.source.min_path must be from 1 to {size * size - 1}, the cells of a {size}x{size} maze less one. "
            f"Got {min_path}"
        )
    state = random_state(seed, size)
    block = np.empty((_BLOCK, size, size), dtype=np.uint8)
    # Half a second or so a call, so that progress is shown and Ctrl-C is heard.
    tries_of_a_call = max(40_000_000 // (size * size), 1)
    kept: list[Mazes] = []
    known = Representatives(same)
    drawn = fruitless_tries = fruitless_mazes = 0
    with progress(f"generate {size}x{size} mazes", count) as shown:
        while len(kept) < count:
            made, tried = draw_mazes(low, high, min_path, tries_of_a_call, state, block)
            before = len(kept)
            for maze, mark in zip(block[:made], fingerprints(block[:made]), strict=True):
                drawn += 1
                question = maze.copy()
                if known.find_or_add(question, int(mark), drawn) == drawn:
                    kept.append(question)
                    fruitless_mazes = 0
                    if len(kept) == count:
                        break
                else:
                    fruitless_mazes += 1
            shown.advance(len(kept) - before)
            fruitless_tries = 0 if made else fruitless_tries + tried
            if fruitless_tries * size * size >= FRUITLESS_CELLS:
                raise UserError(
                    f"data.source.min_path: only {len(kept)} of {count} {size}x{size} mazes with a shortest path of "
                    f"{min_path} moves or more found, and none in the last {fruitless_tries} tries; ask for a shorter "
                    "path, or another data.source.wall_density (0.28 and 0.45 allow the longest)"
                )
            if fruitless_mazes >= FRUITLESS_MAZES:
                raise UserError(
                    f"data.source.train_puzzles and test_puzzles: only {len(kept)} different {size}x{size} mazes found "
                    f"where {count} are wanted, and none in the last {fruitless_mazes} drawn; ask for fewer, or widen "
                    "data.source.wall_density"
                )
    questions = np.stack(kept)
    return questions, *label(questions)
