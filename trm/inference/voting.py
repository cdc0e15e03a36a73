"""Whole-grid answers to the same puzzle vote on its answer (spec section 6). The same for every data set."""

import hashlib
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

Grid = np.ndarray
"""A grid of cells: uint8 [h, w]; h and w may be 0."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answer that somebody voted for."""

    grid: Grid
    votes: int
    halt_probability: float
    """Mean of sigmoid(halt logit) over the votes."""


@dataclass(eq=False)
class _Tally:
    grid: Grid
    votes: int = 0
    probability_sum: float = 0.0


class VoteCounter:
    """Votes per puzzle, counted as they are fed.

    The order of feeding decides the last ties: with several processes feed rank 0's votes first, then rank 1's.
    Votes of several checkpoints are gathered by feeding one after the other.
    """

    def __init__(self) -> None:
        self._tallies: dict[Hashable, dict[bytes, _Tally]] = {}

    def add(self, puzzle: Hashable, grid: Grid, halt_logit: float) -> None:
        """Count one vote, with its augmentation already undone.

        puzzle: what the vote is about, usually (task, `grid_hash` of the question with its augmentation undone).
        grid: uint8 [h, w], copied. Raises `ValueError` for another type or shape, or for a logit that is NaN.
        """
        if math.isnan(halt_logit):
            raise ValueError(f"halt_logit of a vote for puzzle {puzzle!r} must be a number. Got nan")
        tallies = self._tallies.setdefault(puzzle, {})
        key = grid_hash(grid)
        if key not in tallies:
            tallies[key] = _Tally(grid.copy())
        tallies[key].votes += 1
        tallies[key].probability_sum += _sigmoid(float(halt_logit))

    def ranked(self, puzzle: Hashable) -> list[Candidate]:
        """The puzzle's candidates, best first; empty for a puzzle nobody voted on.

        More votes first, then the greater mean of sigmoid(halt logit), then the one seen first.
        """
        tallies = self._tallies.get(puzzle, {}).values()
        found = [Candidate(tally.grid, tally.votes, tally.probability_sum / tally.votes) for tally in tallies]
        # A dict keeps the order of feeding and sorted() is stable: that settles the remaining ties.
        return sorted(found, key=lambda candidate: (-candidate.votes, -candidate.halt_probability))

    def __iter__(self) -> Iterator[Hashable]:
        """Every puzzle that has a vote, in feeding order."""
        return iter(self._tallies)

    def __len__(self) -> int:
        """Puzzles that have a vote."""
        return len(self._tallies)


def grid_hash(grid: Grid) -> bytes:
    """SHA-256 (32 bytes) of height byte, width byte, cell bytes row by row (spec section 6).

    Raises `ValueError` unless the grid is uint8 [h, w] with h and w at most 255.
    """
    if grid.dtype != np.uint8 or grid.ndim != 2 or max(grid.shape) > 255:
        raise ValueError(f"expected a grid uint8 [h, w] of at most 255 x 255. Got {grid.dtype} {list(grid.shape)}")
    return hashlib.sha256(bytes(grid.shape) + grid.tobytes()).digest()


def _sigmoid(logit: float) -> float:
    # Two forms, as exp of a large positive number overflows.
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
