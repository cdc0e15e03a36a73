"""Scores with their 95 % intervals, as they stand in `metrics.json`: plain numbers, and null where there is none."""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
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


def mean_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of one fraction per puzzle, [n], with its 95 % interval (Student's t), cut to 0..1.

    Puzzles are taken as independent, not cells, which fall together. Fewer than two puzzles have no interval; equal
    values have one of no width. Raises `ValueError` for another shape or values that are no fractions.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"values must be fractions, one a puzzle. Got {x}")
    n = len(x)
    if n < 2:
        return Estimate(value=float(x[0]) if n else None, low=None, high=None, n=n)
    mean = min(max(float(x.mean()), 0.0), 1.0)  # a rounding must not leave the bounds
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(x.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=max(mean - reach, 0.0), high=min(mean + reach, 1.0), n=n)


def scores(predictions: pa.Table, votes: int, pass_at: Sequence[int]) -> dict[str, object]:
    """What `metrics.json` says of the lines of predictions.parquet, `votes` lines a puzzle.

    Fractions, with their bounds under `interval_95`. `pass@K` and `voted_valid` are of the vote; everything else is of
    the puzzle as it is (version 0).
    """

    def column(name: str) -> np.ndarray:
        return predictions.column(name).to_numpy(zero_copy_only=False).reshape(-1, votes)

    exact, valid, rank = column("exact"), column("valid"), column("rank")
    n = len(exact)

    def share(holds: npt.ArrayLike) -> Estimate:
        return proportion(int(np.count_nonzero(holds)), n)

    estimates = {
        "exact_accuracy": share(exact[:, 0]),
        "cell_accuracy": mean_interval(column("cell_accuracy")[:, 0]),
        "halt_accuracy": share((column("halt_logit")[:, 0] >= 0) == exact[:, 0]),
        "valid": share(valid[:, 0]),
        "voted_valid": share((valid & (rank == 1)).any(axis=1)),
    }
    # The right grid is among the first K candidates where a version that gave it has such a rank.
    estimates |= {f"pass@{k}": share((exact & (rank <= k)).any(axis=1)) for k in pass_at}
    return {
        **{name: estimate["value"] for name, estimate in estimates.items()},
        "mean_steps": float(column("steps")[:, 0].mean()),
        "mean_first_halt": float(column("first_halt")[:, 0].mean()),
        "puzzles": n,
        "votes": votes,
        "interval_95": {name: [estimate["low"], estimate["high"]] for name, estimate in estimates.items()},
    }
