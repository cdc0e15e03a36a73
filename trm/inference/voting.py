"""Ranking of answers: samples of a sequence, and votes of the augmentations of a puzzle. The same for every dataset.

Verified answers rank first (if verification is on). With selection `votes` the others follow by votes, then by the mean
halt probability sigmoid(halt logit) of their votes; with the other selections by the score of their best vote. The
first seen wins the remaining ties. A sample has one vote.
"""

import hashlib
import math
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.config.inference import Selection

Grid = np.ndarray
"""A grid of cells: uint8 [h, w]; h and w may be 0."""
COMPARISONS = 4_000_000
"""Pairs of votes compared at a time by `vote_winners`."""
NOT_HALTED = 1e6
"""Lowers the score of a sequence that has not halted below that of every sequence that has."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An answer with at least one vote."""

    grid: Grid
    votes: int
    """Number of augmentations that gave this answer."""
    halt_probability: float
    """Mean of sigmoid(halt logit) over the votes."""
    confidence: float
    """Confidence that the answer is correct, 0 to 1. It does not depend on verification.

    votes: sum of sigmoid(halt logit) over its votes, divided by the number of votes of the puzzle. halt_logit and
    halt_first: sigmoid(halt logit) of its best vote. settled: fraction of the sequences of the puzzle that are settled.
    """


@dataclass(eq=False)
class _Tally:
    grid: Grid
    votes: int = 0
    probability_sum: float = 0.0
    best_score: float = -math.inf
    best_probability: float = 0.0
    settled_sum: float = 0.0


class VoteCounter:
    """Counts whole-grid votes per puzzle.

    The order of `add` settles the last ties: with several processes add the votes of rank 0 first, then those of rank
    1. Votes of several checkpoints are combined by adding them one after the other.
    """

    def __init__(self, selection: Selection = "votes") -> None:
        self._selection: Selection = selection
        self._tallies: dict[Hashable, dict[bytes, _Tally]] = {}

    def add(self, puzzle: Hashable, grid: Grid, halt_logit: float, score: float = 0.0, settled: float = 0.0) -> None:
        """Count one vote, whose augmentation has been inverted.

        puzzle: identifies the puzzle, usually (task, `grid_hash` of the question).
        grid: uint8 [h, w], copied. score: see `selection_score`; not used by selection `votes`. settled: fraction of
        the samples of the augmentation that are settled; used by selection `settled` only.
        Raises `ValueError` for another dtype or shape, or a logit that is NaN.
        """
        if math.isnan(halt_logit):
            raise ValueError(f"halt_logit of a vote for puzzle {puzzle!r} must be a number. Got nan")
        tallies = self._tallies.setdefault(puzzle, {})
        key = grid_hash(grid)
        if key not in tallies:
            tallies[key] = _Tally(grid.copy())
        tally, probability = tallies[key], _sigmoid(float(halt_logit))
        tally.votes += 1
        tally.probability_sum += probability
        tally.settled_sum += settled
        if score > tally.best_score:
            tally.best_score, tally.best_probability = score, probability

    def ranked(self, puzzle: Hashable, verified: Collection[bytes] = ()) -> list[Candidate]:
        """The candidates of a puzzle, best first; empty for a puzzle without votes.

        verified: hashes of the answers that obey the rules, which rank before all others.
        """
        tallies = self._tallies.get(puzzle, {})
        votes = sum(tally.votes for tally in tallies.values())
        settled = sum(tally.settled_sum for tally in tallies.values())
        found = []
        for key, tally in tallies.items():
            confidence = {
                "votes": tally.probability_sum / votes,
                "halt_logit": tally.best_probability,
                "halt_first": tally.best_probability,
                "settled": settled / votes,
            }[self._selection]
            probability = tally.probability_sum / tally.votes
            order = (-tally.votes, -probability) if self._selection == "votes" else (-tally.best_score,)
            found.append(((key not in verified, *order), Candidate(tally.grid, tally.votes, probability, confidence)))
        # dicts keep the order of insertion and sorted() is stable: the first seen wins the remaining ties.
        return [candidate for _, candidate in sorted(found, key=lambda item: item[0])]

    def __iter__(self) -> Iterator[Hashable]:
        """The puzzles with votes, in the order of their first vote."""
        return iter(self._tallies)

    def __len__(self) -> int:
        """Number of puzzles with votes."""
        return len(self._tallies)


def selection_score(
    selection: Selection,
    halt_logit: npt.NDArray[np.floating],
    halted: npt.NDArray[np.bool_],
    movement: npt.NDArray[np.floating] | None,
) -> npt.NDArray[np.float64]:
    """How much `selection` prefers a sequence to the others of its puzzle after a step: float64 [...], the shape of all
    arguments.

    settled: the less its latents have moved in the step (`movement`; else None). halt_first: those whose halting
    decision is positive (`halted`) first, then by the halt logit. halt_logit: by the halt logit. votes: the same, but
    only between the samples of an augmentation.
    """
    if selection == "settled":
        assert movement is not None
        return -movement.astype(np.float64)
    score = halt_logit.astype(np.float64)
    if selection == "halt_first":
        # A positive decision may have the lower halt logit if the model also has a continue logit.
        return np.where(halted, score, score - NOT_HALTED)
    return score


def best_samples(
    score: npt.NDArray[np.floating], verified: npt.NDArray[np.bool_], num_samples: int
) -> npt.NDArray[np.int64]:
    """Row of the winning sample of each sequence, int64 [B / num_samples].

    score, verified: [B], the samples of a sequence adjacent.
    """
    shape = (len(score) // num_samples, num_samples)
    order = np.lexsort((-score.reshape(shape), ~verified.reshape(shape)), axis=1)
    return order[:, 0] + np.arange(shape[0]) * num_samples


def vote_winners(
    answer: npt.NDArray[np.int32],
    halt_logit: npt.NDArray[np.float32],
    verified: npt.NDArray[np.bool_],
    exists: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.int32]:
    """The winning answer of each of N puzzles, int32 [N]: the first candidate of `VoteCounter.ranked`.

    All arguments are [N, V]: the number of the answer that each of V augmentations gave, its halt logit, whether it is
    verified, whether the augmentation exists, and its score (None: selection `votes`).
    """
    N, V = answer.shape
    winners = np.zeros(N, np.int32)
    for rows in np.array_split(np.arange(N), max(-(-N * V * V // COMPARISONS), 1)):
        same = (answer[rows][:, :, None] == answer[rows][:, None]) & exists[rows][:, None]
        if score is None:
            votes = same.sum(axis=2)
            probability = 1 / (1 + np.exp(-halt_logit[rows].astype(np.float64)))
            mean = (same * probability[:, None]).sum(axis=2) / np.maximum(votes, 1)
            keys = (-mean, -votes)
        else:
            keys = (-np.where(same, score[rows][:, None], -np.inf).max(axis=2),)
        order = np.lexsort((*keys, ~verified[rows], ~exists[rows]), axis=1)
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
