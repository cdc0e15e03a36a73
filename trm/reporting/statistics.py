"""Statistics of predictions: difficulty, agreement of votes, calibration of the halt logit, selective prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from trm.evaluation.metrics import Estimate, proportion
from trm.reporting.predictions import Mask, PredictionTable

BINS = 8
"""Maximum number of bins of a difficulty."""
FRACTIONS = 10
"""Number of bins of a probability, of equal width."""
FEW_VOTES = 16
"""Up to this number of votes each count is a bin; above, fractions of the votes are binned."""

TO = "\u2013"
"""En dash between the bounds of a bin."""


@dataclass(frozen=True)
class Bin:
    """Some test puzzles and their accuracies."""

    label: str
    n: int
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class Calibration:
    """Reliability of the halt logit: predicted probability against the fraction of exact answers."""

    bins: list[Bin]
    """Non-empty bins of equal width over the probability; score `exact`."""
    probability: list[float]
    """The mean probability of each bin."""
    error: float
    """Expected calibration error: |probability - accuracy| of a bin, averaged over the puzzles."""


@dataclass(frozen=True)
class RiskCoverage:
    """Answer-or-abstain with every possible `min_confidence`: arrays over its values, from the highest."""

    min_confidence: npt.NDArray[np.float64]
    answered: npt.NDArray[np.int64]
    """Number of puzzles whose confidence is at least `min_confidence`."""
    correct: npt.NDArray[np.int64]
    """Those of them whose winning answer is correct."""
    area: float
    """Area under the risk-coverage curve: for each puzzle the error rate of the puzzles that are at least as confident,
    averaged over the puzzles."""

    @property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Fraction of the puzzles that is answered."""
        return self.answered / self.answered[-1]

    def at(self, coverage: float) -> int:
        """Index of the highest `min_confidence` that answers at least this fraction of the puzzles."""
        return int(np.searchsorted(self.answered, coverage * self.answered[-1] - 1e-9))


@dataclass(frozen=True)
class Votes:
    """Agreement of the augmentations of a puzzle."""

    bins: list[Bin]
    """By the votes for the winning answer; score `correct`: that answer is the solution."""
    by_fraction: bool
    """True: bins are fractions of the votes; False: numbers of votes."""
    table: dict[tuple[bool, bool], int]
    """(single answer correct, winning answer correct) -> number of puzzles."""


def bin_values(values: npt.NDArray[np.integer], most: int = BINS) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Group integers [N] into at most `most` bins of about equal size; equal values share a bin.

    Returns the labels of the bins in order, and the bin of each value, int64 [N].
    """
    different = np.unique(values)
    if len(different) <= most:
        cuts = different
    else:
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[:-1], method="higher"))
    place = np.searchsorted(cuts, values, side="right") - 1
    starts = np.flatnonzero(np.diff(np.sort(place), prepend=-1))
    ordered = np.sort(values)  # in the order of the bins
    bounds = zip(np.minimum.reduceat(ordered, starts), np.maximum.reduceat(ordered, starts), strict=True)
    labels = [str(low) if low == high else f"{low}{TO}{high}" for low, high in bounds]
    return labels, place


def by_difficulty(values: npt.NDArray[np.integer], solved: Mapping[str, Mask]) -> list[Bin]:
    """Accuracies by difficulty. values: [N], the difficulty; solved: score name -> bool [N]."""
    labels, place = bin_values(values)
    return _make_bins(labels, place, solved)


def calibration(halt_logit: npt.NDArray[np.floating], exact: Mask) -> Calibration:
    """Calibration of halt logits [N > 0] against `exact` [N]."""
    probability = expit(halt_logit.astype(np.float64))
    place = np.minimum((probability * FRACTIONS).astype(np.int64), FRACTIONS - 1)
    counts = np.bincount(place, minlength=FRACTIONS)
    nonempty = np.flatnonzero(counts)
    means = (np.bincount(place, probability, FRACTIONS)[nonempty] / counts[nonempty]).tolist()
    bins = [each for each in _make_bins(_fractions(), place, {"exact": exact}) if each.n]
    gaps = [abs(mean - (each.scores["exact"]["value"] or 0)) for mean, each in zip(means, bins, strict=True)]
    return Calibration(bins, means, float(np.average(gaps, weights=counts[nonempty])))


def risk_coverage(confidence: npt.NDArray[np.floating], correct: Mask) -> RiskCoverage:
    """The risk-coverage curve of confidences [N > 0] and correct answers [N]. Equal confidences answer together."""
    negated, place = np.unique(-confidence.astype(np.float64), return_inverse=True)
    counts = np.bincount(place)
    answered, right = np.cumsum(counts), np.cumsum(np.bincount(place[correct], minlength=len(counts)))
    return RiskCoverage(-negated, answered, right, float(np.average(1 - right / answered, weights=counts)))


def halting(table: PredictionTable, halt_max_steps: int) -> dict[str, float]:
    """The mean first step with a positive halting decision; puzzles without one within `halt_max_steps` count as that.

    An evaluation may take more steps than a sequence of the training, which ends there.
    """
    return {"mean_halt_step": float(np.minimum(table.halt_step, halt_max_steps).mean())}


def votes(table: PredictionTable) -> Votes:
    """Agreement of the votes on puzzles with known solutions."""
    known = table.known
    most = int(table.num_votes.max())
    won, total = table.votes[known].astype(np.int64), table.num_votes[known]
    solved = {"correct": table.vote_correct[known]}
    if most <= FEW_VOTES:
        bins = _make_bins([str(count) for count in range(1, most + 1)], won - 1, solved)
    else:
        # Exactly 10 % of the votes belongs to the first bin.
        bins = _make_bins(_fractions(), (won * FRACTIONS - 1) // total, solved)
    single, voted = table.correct[known], solved["correct"]
    outcomes = [(one, other) for one in (True, False) for other in (True, False)]
    counts = {(one, other): int(((single == one) & (voted == other)).sum()) for one, other in outcomes}
    return Votes(bins, most > FEW_VOTES, counts)


def _fractions() -> list[str]:
    return [f"{100 * part // FRACTIONS}{TO}{100 * (part + 1) // FRACTIONS} %" for part in range(FRACTIONS)]


def _make_bins(labels: Sequence[str], place: npt.NDArray[np.integer], solved: Mapping[str, Mask]) -> list[Bin]:
    counts = np.bincount(place, minlength=len(labels)).tolist()
    hits = {name: np.bincount(place[true], minlength=len(labels)).tolist() for name, true in solved.items()}
    return [
        Bin(label, counts[at], {name: proportion(hit[at], counts[at]) for name, hit in hits.items()})
        for at, label in enumerate(labels)
    ]
