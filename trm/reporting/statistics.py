"""A million predictions as a few numbers: accuracy by difficulty, how the votes fell, calibration of the halt logit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from trm.evaluation.metrics import Estimate, proportion
from trm.reporting.predictions import Answered, Holds

BINS = 8
"""Bins of a difficulty, at most."""
SHARES = 10
"""Bins of a probability, all of the same width."""
FEW_VOTES = 16
"""Versions up to which each number of votes is a bin of its own; above, shares of the votes are binned."""

TO = "\u2013"
"""Between the bounds of a bin."""


@dataclass(frozen=True)
class Bin:
    """Some test puzzles, and how many of them are solved."""

    label: str
    n: int
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class Calibration:
    """How far the halt logit can be believed: its probabilities against the share that is really exact."""

    bins: list[Bin]
    """Of equal width over the probability, empty ones left out; score `exact`."""
    sure: list[float]
    """The mean probability of each bin."""
    error: float
    """Expected calibration error: the distance of probability and share in a bin, averaged over the puzzles."""


@dataclass(frozen=True)
class Votes:
    """How the versions of a puzzle agreed."""

    bins: list[Bin]
    """By the votes of the answer that won; score `right`: that answer is right."""
    by_share: bool
    """Whether the bins are shares of the votes, and not numbers of them."""
    table: dict[tuple[bool, bool], int]
    """Puzzles by (the single answer is right, the vote's answer is right)."""


def binned(values: npt.NDArray[np.integer], most: int = BINS) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Whole numbers [N] in at most `most` bins of about the same number of them, each value in one bin alone: the
    labels, in order, and the bin of each value [N]. So few different values have a bin each.
    """
    different = np.unique(values)
    if len(different) <= most:
        cuts = different
    else:
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[:-1], method="higher"))
    place = np.searchsorted(cuts, values, side="right") - 1
    starts = np.flatnonzero(np.diff(np.sort(place), prepend=-1))
    ordered = np.sort(values)  # as the bins are
    bounds = zip(np.minimum.reduceat(ordered, starts), np.maximum.reduceat(ordered, starts), strict=True)
    labels = [str(low) if low == high else f"{low}{TO}{high}" for low, high in bounds]
    return labels, place


def by_difficulty(values: npt.NDArray[np.integer], holds: Mapping[str, Holds]) -> list[Bin]:
    """Solved puzzles by difficulty: `values` [N] say how hard each is, `holds` [N] whether it is solved."""
    labels, place = binned(values)
    return _tallied(labels, place, holds)


def calibration(halt_logit: npt.NDArray[np.floating], exact: Holds) -> Calibration:
    """The halt logits [N > 0] of puzzles as they are, and which of their answers are `exact`."""
    sure = expit(halt_logit.astype(np.float64))
    place = np.minimum((sure * SHARES).astype(np.int64), SHARES - 1)
    counts = np.bincount(place, minlength=SHARES)
    there = np.flatnonzero(counts)
    means = (np.bincount(place, sure, SHARES)[there] / counts[there]).tolist()
    bins = [each for each in _tallied(_shares(), place, {"exact": exact}) if each.n]
    gaps = [abs(mean - (each.scores["exact"]["value"] or 0)) for mean, each in zip(means, bins, strict=True)]
    return Calibration(bins, means, float(np.average(gaps, weights=counts[there])))


def votes(answered: Answered) -> Votes:
    """How the votes fell on puzzles whose answers are known."""
    known = answered.known
    most = int(answered.versions.max())
    won, asked = answered.votes[known].astype(np.int64), answered.versions[known]
    holds = {"right": answered.voted_right[known]}
    if most <= FEW_VOTES:
        bins = _tallied([str(count) for count in range(1, most + 1)], won - 1, holds)
    else:
        bins = _tallied(_shares(), (won * SHARES - 1) // asked, holds)  # 10 % of the votes is in the first bin
    single, voted = answered.right[known], holds["right"]
    answers = [(one, other) for one in (True, False) for other in (True, False)]
    table = {(one, other): int(((single == one) & (voted == other)).sum()) for one, other in answers}
    return Votes(bins, most > FEW_VOTES, table)


def _shares() -> list[str]:
    return [f"{100 * part // SHARES}{TO}{100 * (part + 1) // SHARES} %" for part in range(SHARES)]


def _tallied(labels: Sequence[str], place: npt.NDArray[np.integer], holds: Mapping[str, Holds]) -> list[Bin]:
    counts = np.bincount(place, minlength=len(labels)).tolist()
    hits = {name: np.bincount(place[true], minlength=len(labels)).tolist() for name, true in holds.items()}
    return [
        Bin(label, counts[at], {name: proportion(hit[at], counts[at]) for name, hit in hits.items()})
        for at, label in enumerate(labels)
    ]
