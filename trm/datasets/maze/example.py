"""Single mazes, for demonstrations."""

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.numba_utils import random_state
from trm.data.protocol import Grid
from trm.datasets.maze.grid import draw_mazes

STREAM = 2
"""Random stream of the mazes, different from that of generated datasets."""
WALL_DENSITY = (0.28, 0.45)
"""Lowest and highest probability of a wall, those of Maze-Hard."""
ATTEMPTS = 10_000
"""Mazes drawn in one compiled call, at most."""


def generate_question(meta: DatasetMeta, seed: int) -> Grid:
    """A maze whose shortest path has at least as many moves as the maze has rows."""
    size = meta.height
    state, maze = random_state(seed, size, STREAM), np.empty((1, size, size), np.uint8)
    found = 0
    while not found:
        found, _ = draw_mazes(*WALL_DENSITY, size, ATTEMPTS, state, maze)
    return maze[0]
