"""Scores with their 95 % intervals, as they stand in `metrics.json`: plain numbers, and null where there is none."""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Estimate(TypedDict):
    """A score: fractions (not percent), the bounds of its 95 % interval, and the number of puzzles it rests on."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def proportion(successes: int, n: int) -> Estimate:
    """The fraction `successes / n` with its Wilson 95 % interval; all null for n = 0.

    Raises `ValueError` unless 0 <= successes <= n.
    """
    successes, n = int(successes), int(n)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n. Got {successes} of {n}")
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    bounds = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=successes / n, low=float(bounds.low), high=float(bounds.high), n=n)


def mean_interval(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate:
    """The weighted mean of one value per puzzle with its 95 % interval, cut to `bounds`.

    values: [n]; for cell accuracy, the fraction of each puzzle's labelled cells that is right.
    weights: [n], positive; for cell accuracy, each puzzle's labelled cells. None: all alike.
    bounds: what the values can be at all.

    The interval takes puzzles (not cells, which fall together) as independent: Student's t with n - 1 degrees of
    freedom around the mean, its variance that of a ratio of two sums, n / (n - 1) * sum(w^2 (x - mean)^2) / sum(w)^2,
    which for equal weights is the usual s^2 / n. Fewer than two puzzles have no interval; equal values have one of no
    width. Raises `ValueError` for other shapes, weights that are not positive, or values out of bounds.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    if x.ndim != 1 or w.shape != x.shape:
        raise ValueError(f"values and weights must both have shape [n]. Got {list(x.shape)} and {list(w.shape)}")
    if not (w > 0).all() or not np.isfinite(w).all():
        raise ValueError("weights must be positive and finite")
    least, most = bounds
    if not ((x >= least) & (x <= most)).all():
        raise ValueError(f"values must lie between {least} and {most}. Got {float(x.min())} to {float(x.max())}")
    n = len(x)
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    mean = float((w * x).sum() / w.sum())
    if n == 1:
        return Estimate(value=mean, low=None, high=None, n=1)
    error = math.sqrt(n / (n - 1) * float((w**2 * (x - mean) ** 2).sum())) / float(w.sum())
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Estimate(value=mean, low=max(mean - reach, least), high=min(mean + reach, most), n=n)
