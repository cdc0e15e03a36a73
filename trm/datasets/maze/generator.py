"""Generation of mazes as hard as Maze-Hard: random walls, distant start and goal, labelled shortest path.

Wall densities and path lengths match the distribution of Maze-Hard.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from trm.data.deduplication import Representatives
from trm.data.numba_utils import random_state
from trm.datasets.maze.grid import Mazes, are_equivalent, draw_mazes, fingerprints, label_mazes
from trm.utils.errors import UserError
from trm.utils.memory import check_memory, generation_announcement
from trm.utils.progress import progress

MAX_CELLS_WITHOUT_MAZE = 1_500_000_000
"""Cells of consecutive grids without a maze after which generation fails: about 20 seconds."""
MAX_DUPLICATE_MAZES = 20_000
"""Consecutive duplicates after which generation fails."""
BYTES_PER_PUZZLE = 300
"""Memory of a generated maze besides its cells: objects, and its entry among the mazes seen."""
_BLOCK = 16
"""Largest number of mazes per compiled call."""


def generate_mazes(
    size: int, count: int, wall_density: tuple[float, float], min_path: int, seed: int
) -> tuple[Mazes, Mazes, npt.NDArray[np.int32]]:
    """Generate `count` mazes n x n: questions and answers, uint8 [count, n, n], and the moves of their paths, int32
    [count].

    The wall probability of each maze is drawn uniformly between the two values of `wall_density`; the fraction of walls
    may deviate slightly. Shortest paths have at least `min_path` moves. No two mazes are equal up to a symmetry. The
    result depends only on the arguments, and a smaller count gives a prefix of it. Raises `UserError` if not enough
    mazes are found.
    """
    low, high = wall_density
    if not 0 <= low <= high < 1:
        raise UserError(
            "data.source.wall_density must be two numbers in [0, 1), the lower first. "
            f"Got {low} and {high}; Maze-Hard has 0.28 and 0.45"
        )
    if not 1 <= min_path < size * size:
        raise UserError(
            f"data.source.min_path must be from 1 to {size * size - 1} for a {size}x{size} maze. Got {min_path}"
        )
    needed = count * (BYTES_PER_PUZZLE + 4 * size * size)
    check_memory(needed, f"data.source: generating {count} puzzles")
    state = random_state(seed, size)
    block = np.empty((_BLOCK, size, size), dtype=np.uint8)
    # About half a second per call, so that progress and Ctrl-C are handled.
    tries_per_call = max(40_000_000 // (size * size), 1)
    mazes: list[Mazes] = []
    representatives = Representatives(are_equivalent)
    drawn = tries_without_maze = consecutive_duplicates = 0
    announce = partial(generation_announcement, count, "mazes", needed)
    with progress(f"generate {size}x{size} mazes", count, announce=announce) as bar:
        while len(mazes) < count:
            num_mazes, num_tries = draw_mazes(low, high, min_path, tries_per_call, state, block)
            previous = len(mazes)
            for maze, mark in zip(block[:num_mazes], fingerprints(block[:num_mazes]), strict=True):
                drawn += 1
                question = maze.copy()
                if representatives.find_or_add(question, int(mark), drawn) == drawn:
                    mazes.append(question)
                    consecutive_duplicates = 0
                    if len(mazes) == count:
                        break
                else:
                    consecutive_duplicates += 1
            bar.advance(len(mazes) - previous)
            tries_without_maze = 0 if num_mazes else tries_without_maze + num_tries
            if tries_without_maze * size * size >= MAX_CELLS_WITHOUT_MAZE:
                raise UserError(
                    f"data.source.min_path: only {len(mazes)} of {count} {size}x{size} mazes with a shortest path of "
                    f"{min_path} moves or more found; none in the last {tries_without_maze} tries; reduce it, or "
                    "change data.source.wall_density (0.28 and 0.45 allow the longest paths)"
                )
            if consecutive_duplicates >= MAX_DUPLICATE_MAZES:
                raise UserError(
                    "data.source.train_puzzles and test_puzzles: only "
                    f"{len(mazes)} different {size}x{size} mazes found. Expected {count}; no new one in the last "
                    f"{consecutive_duplicates} draws; reduce them, or widen data.source.wall_density"
                )
    questions = np.stack(mazes)
    return questions, *label_mazes(questions)
