"""Scores with their 95 % intervals, as they stand in `metrics.json`: plain numbers, and null where there is none."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
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


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """The difference of two accuracies on the same puzzles (`ours` and `theirs` bool [n]), with its 95 % interval.

    The interval is Wald's after half a puzzle is added to each of the four cells of agreement (Agresti and Min, 2005,
    "Simple improved confidence intervals for comparing matched proportions"), so that it has a width where the two
    never differ. All null for n = 0.
    """
    n = len(ours)
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    more, less = int((ours & ~theirs).sum()) + 0.5, int((theirs & ~ours).sum()) + 0.5
    middle = (more - less) / (n + 2)
    deviation = math.sqrt(more + less - (more - less) ** 2 / (n + 2)) / (n + 2)
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * deviation
    return Estimate(value=(more - less) / n, low=max(middle - reach, -1.0), high=min(middle + reach, 1.0), n=n)


def scores(
    predictions: pa.Table, asked: Mapping[str, int], votes: int, pass_at_k: Sequence[int], passes: int
) -> dict[str, object]:
    """What `metrics.json` says of the lines of predictions.parquet, which stand together for each test example.

    `asked` holds the number of test examples of every task that was asked. Fractions, with their bounds under
    `interval_95`. `pass@K` and `valid_voted` are of the vote: a task's score is the mean over its test examples, one
    without predictions scoring 0, and the result is the mean over the tasks. `mean_forward_passes` is the network passes that a
    test example took, over all versions and rollouts; a supervision step has `passes` of them. Everything else is of
    the puzzle as it is (version 0). What nobody knows the answer to, or has no rules for, is null.
    """
    first = np.flatnonzero(_column(predictions, "version") == 0)
    lines = predictions.take(first)
    names, task_of = np.unique(lines.column("task").to_pylist(), return_inverse=True)
    pairs = np.array([asked[name] for name in names], dtype=np.float64)
    known = lines.column("exact").is_valid().to_numpy(zero_copy_only=False)
    rank = _column(predictions, "rank")

    def share(name: str) -> Estimate:
        holds = lines.column(name).drop_null().to_pylist()
        return proportion(sum(holds), len(holds))

    def of_vote(holds: np.ndarray, is_known: bool) -> Estimate:
        """From lines that make their test example a success; any one of them does."""
        if not is_known:
            return proportion(0, 0)
        hits = np.logical_or.reduceat(holds, first).astype(np.float64)
        values = np.zeros(len(asked))
        values[: len(names)] = np.bincount(task_of, hits, len(names)) / pairs
        if max(asked.values()) == 1:
            return proportion(int(values.sum()), len(values))
        return mean_interval(values)

    right, valid = (_holds(predictions, name) for name in ("right", "valid"))
    exact, halts = _holds(lines, "exact")[known], (_column(lines, "halt_logit") >= 0)[known]
    has_rules = lines.column("valid").null_count < len(lines)
    estimates = {
        "exact_accuracy": share("exact"),
        "cell_accuracy": mean_interval(_column(lines, "cell_accuracy")[known]),
        "halt_accuracy": proportion(int((halts == exact).sum()), len(exact)),
        "valid": share("valid"),
        "valid_voted": of_vote(valid & (rank == 1), has_rules),
    }
    # The right grid is among the first K candidates where a version that gave it has such a rank.
    estimates |= {f"pass@{k}": of_vote(right & (rank <= k), bool(known.any())) for k in pass_at_k}
    return {
        **{name: estimate["value"] for name, estimate in estimates.items()},
        "mean_steps": float(_column(lines, "steps").mean()),
        "mean_forward_passes": passes * float(_column(predictions, "steps").sum()) / len(lines),
        "mean_halt_step": float(_column(lines, "first_halt").mean()),
        "puzzles": len(lines),
        "tasks": len(asked),
        "votes": votes,
        "interval_95": {name: [estimate["low"], estimate["high"]] for name, estimate in estimates.items()},
    }


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy(zero_copy_only=False)


def _holds(table: pa.Table, name: str) -> np.ndarray:
    """A column of truth values, bool; unknown ones do not hold."""
    return table.column(name).fill_null(False).to_numpy(zero_copy_only=False)
