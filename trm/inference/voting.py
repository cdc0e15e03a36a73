"""Ranking of answers: samples of a sequence, and votes of the augmentations of a puzzle. The same for every dataset.

All rankings follow one rule: verified answers first (if verification is on), then more votes, then the higher mean
halt probability sigmoid(halt logit), then the first seen. A sample has one vote.
"""

import hashlib
import math
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grid = np.ndarray
"""A grid of cells: uint8 [h, w]; h and w may be 0."""
COMPARISONS = 4_000_000
"""Pairs of votes compared at a time by `vote_winners`."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answer with at least one vote."""

    grid: Grid
    votes: int
    """Number of augmentations that gave this answer."""
    halt_probability: float
    """Mean of sigmoid(halt logit) over the votes."""


@dataclass(eq=False)
class _Tally:
    grid: Grid
    votes: int = 0
    probability_sum: float = 0.0


class VoteCounter:
    """Counts whole-grid votes per puzzle.

    The order of `add` settles the last ties: with several processes add the votes of rank 0 first, then those of rank
    1. Votes of several checkpoints are combined by adding them one after the other.
    """

    def __init__(self) -> None:
        self._tallies: dict[Hashable, dict[bytes, _Tally]] = {}

    def add(self, puzzle: Hashable, grid: Grid, halt_logit: float) -> None:
        """Count one vote, whose augmentation has been inverted.

        puzzle: identifies the puzzle, usually (task, `grid_hash` of the question).
        grid: uint8 [h, w], copied. Raises `ValueError` for another dtype or shape, or a logit that is NaN.
        """
        if math.isnan(halt_logit):
            raise ValueError(f"halt_logit of a vote for puzzle {puzzle!r} must be a number. Got nan")
        tallies = self._tallies.setdefault(puzzle, {})
        key = grid_hash(grid)
        if key not in tallies:
            tallies[key] = _Tally(grid.copy())
        tallies[key].votes += 1
        tallies[key].probability_sum += _sigmoid(float(halt_logit))

    def ranked(self, puzzle: Hashable, verified: Collection[bytes] = ()) -> list[Candidate]:
        """The candidates of a puzzle, best first; empty for a puzzle without votes.

        verified: hashes of the answers that obey the rules, which rank before all others.
        """
        tallies = self._tallies.get(puzzle, {}).items()
        found = [
            (key not in verified, Candidate(tally.grid, tally.votes, tally.probability_sum / tally.votes))
            for key, tally in tallies
        ]
        # dicts keep the order of insertion and sorted() is stable: the first seen wins the remaining ties.
        ordered = sorted(found, key=lambda item: (item[0], -item[1].votes, -item[1].halt_probability))
        return [candidate for _, candidate in ordered]

    def __iter__(self) -> Iterator[Hashable]:
        """The puzzles with votes, in the order of their first vote."""
        return iter(self._tallies)

    def __len__(self) -> int:
        """Number of puzzles with votes."""
        return len(self._tallies)


def best_samples(
    halt_logit: npt.NDArray[np.floating], verified: npt.NDArray[np.bool_], num_samples: int
) -> npt.NDArray[np.int64]:
    """Row of the winning sample of each sequence, int64 [B / num_samples].

    halt_logit, verified: [B], the samples of a sequence adjacent.
    """
    shape = (len(halt_logit) // num_samples, num_samples)
    order = np.lexsort((-halt_logit.reshape(shape), ~verified.reshape(shape)), axis=1)
    return order[:, 0] + np.arange(shape[0]) * num_samples


def vote_winners(
    answer: npt.NDArray[np.int32],
    halt_logit: npt.NDArray[np.float32],
    verified: npt.NDArray[np.bool_],
    exists: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int32]:
    """The winning answer of each of N puzzles, int32 [N]: the first candidate of `VoteCounter.ranked`.

    All arguments are [N, V]: the number of the answer that each of V augmentations gave, its halt logit, whether it is
    verified, and whether the augmentation exists.
    """
    N, V = answer.shape
    winners = np.zeros(N, np.int32)
    for rows in np.array_split(np.arange(N), max(-(-N * V * V // COMPARISONS), 1)):
        same = (answer[rows][:, :, None] == answer[rows][:, None]) & exists[rows][:, None]
        votes = same.sum(axis=2)
        probability = 1 / (1 + np.exp(-halt_logit[rows].astype(np.float64)))
        mean = (same * probability[:, None]).sum(axis=2) / np.maximum(votes, 1)
        order = np.lexsort((-mean, -votes, ~verified[rows], ~exists[rows]), axis=1)
        winners[rows] = np.take_along_axis(answer[rows], order[:, :1], axis=1)[:, 0]
    return winners


def grid_hash(grid: Grid) -> bytes:
    """SHA-256 (32 bytes) of height byte, width byte and the cells row by row.

    Raises `ValueError` unless the grid is uint8 [h, w] with h and w at most 255.
    """
    if grid.dtype != np.uint8 or grid.ndim != 2 or max(grid.shape) > 255:
        raise ValueError(f"expected a grid uint8 [h, w] of at most 255 x 255. Got {grid.dtype} {list(grid.shape)}")
    return hashlib.sha256(bytes(grid.shape) + grid.tobytes()).digest()


def same_grid(one: Grid, other: Grid | None) -> bool:
    """Whether two grids have the same shape and cells."""
    return other is not None and one.shape == other.shape and bool((one == other).all())


def _sigmoid(logit: float) -> float:
    # Two forms: exp of a large positive number overflows.
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)
