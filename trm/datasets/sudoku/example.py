"""Single Sudoku puzzles, for demonstrations."""

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.numba_utils import random_state
from trm.data.protocol import Grid
from trm.datasets.sudoku.solver import dig_puzzles, units_of

STREAM = 2
"""Random stream of the puzzles, different from that of generated datasets."""


def generate_puzzle(size: int, seed: int) -> tuple[Grid, Grid]:
    """A minimal puzzle and its only solution: uint8 [n, n] of digits, 0 for a blank."""
    cells = np.zeros((2, 1, size * size), np.uint8)
    state = random_state(seed, size, STREAM) | np.uint64(1)
    dig_puzzles(units_of(size), 0, state, *cells, np.zeros(1, np.int32))
    question, solution = cells.reshape(2, size, size)
    return question, solution


def generate_question(meta: DatasetMeta, seed: int) -> Grid:
    """A minimal puzzle with one solution."""
    return generate_puzzle(meta.height, seed)[0]
