"""Checks of a maze that a user gives."""

import numpy as np

from trm.data.protocol import Grid
from trm.datasets.maze.grid import CHARACTERS
from trm.utils.errors import DataError

_WALL, _FREE, _START, _GOAL = range(4)


def check_maze(grid: Grid) -> None:
    """Raise `DataError` unless a maze, uint8 [n, n] of cells, has one start and one goal, connected by free cells."""
    for cell in (_START, _GOAL):
        places = [f"row {row + 1}, column {column + 1}" for row, column in np.argwhere(grid == cell)]
        symbol = CHARACTERS[cell]
        if not places:
            raise DataError(f"has no {symbol}; mark one cell with it")
        if len(places) > 1:
            raise DataError(f"has {symbol} twice: at {places[0]} and at {places[1]}; remove one of them")
    reached = grid == _START
    while True:
        padded = np.pad(reached, 1)
        near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        spread = reached | (near & (grid != _WALL))
        if (spread == reached).all():
            break
        reached = spread
    if not reached[grid == _GOAL].any():
        raise DataError("has no path from S to G; remove a wall between them")
