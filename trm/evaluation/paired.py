"""Paired statistics: two models on the same puzzles.

Only puzzles that exactly one of the two models solves distinguish them.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from trm.evaluation.metrics import paired_difference

ALPHA = 0.05
"""Significance level. Intervals have the confidence level 1 - ALPHA."""
RESAMPLES = 9999
EXIT_CODES = {"better": 0, "no difference": 3, "worse": 4}
"""Verdict -> exit code of `trm compare` and `python -m pipeline compare`."""

Scores = dict[tuple[str, int], bool]
"""(task, index of its example) -> whether every cell is correct, for the puzzle without augmentation."""


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same n tasks. A task with several examples counts by the fraction that is solved."""

    n: int
    candidate: float
    """Fraction of tasks that the candidate solves."""
    champion: float
    """Fraction of tasks that the champion solves."""
    difference: float
    """`candidate` - `champion`."""
    low: float
    high: float
    """95 % confidence interval of the difference: of two proportions (`paired_difference`), or by paired bootstrap over
    tasks with several examples."""
    p: float
    """Two-sided p-value."""
    test: str
    """Name of the statistical test."""
    only_candidate: int
    """Tasks on which the candidate is better."""
    only_champion: int
    """Tasks on which the champion is better."""

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference`."""
        if self.p >= ALPHA or self.difference == 0:
            return "no difference"
        return "better" if self.difference > 0 else "worse"


def compare_paired(candidate: Scores, champion: Scores) -> PairedComparison:
    """Compare the scores of two models on the same examples.

    The test is McNemar's exact test if each task has one example, else a permutation test of the signs of the tasks'
    differences.
    """
    examples: dict[str, list[tuple[str, int]]] = {}
    for name in sorted(candidate):
        examples.setdefault(name[0], []).append(name)
    a, b = (
        np.array([np.mean([scores[name] for name in task]) for task in examples.values()])
        for scores in (candidate, champion)
    )
    difference = a - b
    rng = np.random.default_rng(0)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    if not wins + losses:
        p, test = 1.0, "all scores are equal"
    elif len(examples) == len(candidate):
        p, test = float(stats.binomtest(wins, wins + losses).pvalue), "McNemar's exact test"
    else:
        permuted = stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=rng
        )
        p, test = float(permuted.pvalue), "permutation test over tasks"
    low, high = _interval(difference, len(examples) == len(candidate), rng)
    return PairedComparison(
        len(examples), float(a.mean()), float(b.mean()), float(difference.mean()), low, high, p, test, wins, losses
    )


def _interval(difference: np.ndarray, is_single: bool, rng: np.random.Generator) -> tuple[float, float]:
    """95 % interval of the mean of the tasks' differences [n]; never of width 0.

    is_single: each task has one example.
    """
    bounds = paired_difference(difference > 0, difference < 0)
    assert bounds["low"] is not None and bounds["high"] is not None
    if is_single:
        return bounds["low"], bounds["high"]
    mean = float(difference.mean())
    if np.ptp(difference) == 0:  # all resamples are equal, so the width is that of signs
        return min(bounds["low"], mean), max(bounds["high"], mean)
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        confidence_level=1 - ALPHA,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=100,
        rng=rng,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def scores_of(predictions: pa.Table | None) -> Scores:
    """Return the scores of puzzles without augmentation and with known solutions."""
    if predictions is None:
        return {}
    rows = predictions.filter((pc.field("augmentation") == 0) & pc.field("exact").is_valid())
    columns = (rows.column(name).to_pylist() for name in ("task", "pair", "exact"))
    return {(task, pair): exact for task, pair, exact in zip(*columns, strict=True)}
