"""The metrics of `metrics.json` with 95 % confidence intervals; null if a metric is not defined."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import special  # scipy.stats takes 0.5 s to import

CONFIDENCE = 0.95
SINGLE_ANSWER = ("exact_accuracy", "cell_accuracy", "halt_accuracy", "valid")
"""Metrics of the puzzle itself (augmentation 0)."""
ABSTAINING = ("coverage", "answered_accuracy")
"""Metrics of answer-or-abstain."""


class Estimate(TypedDict):
    """A fraction (not percent) with the bounds of its 95 % confidence interval and the number of puzzles."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def proportion(successes: int, n: int) -> Estimate:
    """The fraction `successes / n` with its 95 % Wilson score interval (Wilson, 1927); null for n = 0.

    Raises `ValueError` unless 0 <= successes <= n.
    """
    successes, n = int(successes), int(n)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n. Got {successes} of {n}")
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    p, z = successes / n, float(special.ndtri((1 + CONFIDENCE) / 2))
    middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + z * z / n) for side in (-width, width))
    # The formula gives exactly 0 and 1 at the ends, but for rounding.
    return Estimate(value=p, low=low if successes else 0.0, high=high if successes < n else 1.0, n=n)


def mean_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of one fraction per puzzle, [n], with its 95 % interval (Student's t), clipped to 0..1.

    Puzzles are assumed independent; cells of a puzzle are not. There is no interval for fewer than two puzzles. Raises
    `ValueError` for another shape or values outside 0..1.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"values must be fractions, one per puzzle. Got {x}")
    n = len(x)
    if n < 2:
        return Estimate(value=float(x[0]) if n else None, low=None, high=None, n=n)
    mean = min(max(float(x.mean()), 0.0), 1.0)  # rounding must not leave 0..1
    reach = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * float(x.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=max(mean - reach, 0.0), high=min(mean + reach, 1.0), n=n)


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """The difference of two accuracies on the same puzzles (`ours` and `theirs` bool [n]), with its 95 % interval.

    The Wald interval after adding half a puzzle to each cell of the 2 x 2 table (Agresti and Min, 2005, "Simple
    improved confidence intervals for comparing matched proportions"); its width is positive even if the two never
    differ. Null for n = 0.
    """
    n = len(ours)
    if n == 0:
        return Estimate(value=None, low=None, high=None, n=0)
    more, less = int((ours & ~theirs).sum()) + 0.5, int((theirs & ~ours).sum()) + 0.5
    middle = (more - less) / (n + 2)
    deviation = math.sqrt(more + less - (more - less) ** 2 / (n + 2)) / (n + 2)
    reach = float(special.ndtri((1 + CONFIDENCE) / 2)) * deviation
    return Estimate(value=(more - less) / n, low=max(middle - reach, -1.0), high=min(middle + reach, 1.0), n=n)


def leak_metrics(
    predictions: pa.Table,
    tasks: Mapping[str, int],
    leaked: Collection[str],
    num_votes: int,
    pass_at_k: Sequence[int],
    passes: int,
    min_confidence: float = 0.0,
) -> dict[str, object]:
    """The number of evaluated tasks that are trained on under another name and, if there are any, the metrics of the
    others, without the means.

    leaked: names of the leaked tasks. Other arguments as in `compute_metrics`.
    """
    kept = {name: pairs for name, pairs in tasks.items() if name not in leaked}
    facts: dict[str, object] = {"leaked_tasks": len(tasks) - len(kept)}
    if not facts["leaked_tasks"]:
        return facts
    rows = predictions.filter(pc.field("task").isin(pa.array(sorted(kept), pa.string())))
    names = [*SINGLE_ANSWER, "valid_voted", *(f"pass@{k}" for k in pass_at_k), *(ABSTAINING if min_confidence else ())]
    others: dict[str, object] = {**dict.fromkeys(names), "puzzles": 0, "tasks": len(kept), "interval_95": {}}
    if len(rows):
        metrics = compute_metrics(rows, kept, num_votes, pass_at_k, passes, min_confidence)
        others = {name: value for name, value in metrics.items() if not name.startswith(("mean_", "num_"))}
    return {**facts, "without_leaks": others}


def compute_metrics(
    predictions: pa.Table,
    tasks: Mapping[str, int],
    num_votes: int,
    pass_at_k: Sequence[int],
    passes: int,
    min_confidence: float = 0.0,
) -> dict[str, object]:
    """The contents of `metrics.json` from the rows of predictions.parquet, those of a test example adjacent.

    tasks: name -> number of test examples of every evaluated task. passes: forward passes of a supervision step.

    `pass@k` and `valid_voted` are metrics of the vote: the score of a task is the mean over its test examples (0
    without predictions), the result is the mean over the tasks. `mean_forward_passes` counts the forward passes of a
    test example over all augmentations and samples. With `min_confidence` above 0 there are two more: `coverage` is the
    fraction of the test examples whose confidence reaches it, and `answered_accuracy` the fraction of these whose
    winning answer is correct; the rest counts every test example, answered or not. All other metrics are those of the
    puzzle itself (augmentation 0).
    Values are fractions, their bounds are under `interval_95`. Metrics without solutions or rules are null.
    """
    first = np.flatnonzero(_column(predictions, "augmentation") == 0)
    rows = predictions.take(first)
    names, task_of = np.unique(rows.column("task").to_pylist(), return_inverse=True)
    pairs = np.array([tasks[name] for name in names], dtype=np.float64)
    known = rows.column("exact").is_valid().to_numpy(zero_copy_only=False)
    rank = _column(predictions, "rank")

    def fraction(name: str) -> Estimate:
        values = rows.column(name).drop_null().to_pylist()
        return proportion(sum(values), len(values))

    def of_vote(successes: np.ndarray, is_known: bool) -> Estimate:
        """From rows whose test example succeeds if any of its rows does."""
        if not is_known:
            return proportion(0, 0)
        hits = np.logical_or.reduceat(successes, first).astype(np.float64)
        scores = np.zeros(len(tasks))
        scores[: len(names)] = np.bincount(task_of, hits, len(names)) / pairs
        if max(tasks.values()) == 1:
            return proportion(int(scores.sum()), len(scores))
        return mean_interval(scores)

    correct, valid = (_true(predictions, name) for name in ("correct", "valid"))
    exact, halts = _true(rows, "exact")[known], (_column(rows, "halt_logit") >= 0)[known]
    has_rules = rows.column("valid").null_count < len(rows)
    estimates = {
        "exact_accuracy": fraction("exact"),
        "cell_accuracy": mean_interval(_column(rows, "cell_accuracy")[known]),
        "halt_accuracy": proportion(int((halts == exact).sum()), len(exact)),
        "valid": fraction("valid"),
        "valid_voted": of_vote(valid & (rank == 1), has_rules),
    }
    estimates |= {f"pass@{k}": of_vote(correct & (rank <= k), bool(known.any())) for k in pass_at_k}
    answered = _column(rows, "confidence") >= min_confidence if min_confidence else np.ones(len(rows), bool)
    if min_confidence:
        won = np.logical_or.reduceat(correct & (rank == 1), first)[answered & known]
        estimates["coverage"] = proportion(int(answered.sum()), len(rows))
        estimates["answered_accuracy"] = proportion(int(won.sum()), len(won))
    return {
        **{name: estimate["value"] for name, estimate in estimates.items()},
        "mean_steps": float(_column(rows, "steps").mean()),
        "mean_forward_passes": passes * float(_column(predictions, "steps").sum()) / len(rows),
        "mean_halt_step": float(_column(rows, "halt_step").mean()),
        "puzzles": len(rows),
        "tasks": len(tasks),
        "num_votes": num_votes,
        **({"answered": int(answered.sum())} if min_confidence else {}),
        "interval_95": {name: [estimate["low"], estimate["high"]] for name, estimate in estimates.items()},
    }


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy(zero_copy_only=False)


def _true(table: pa.Table, name: str) -> np.ndarray:
    """A boolean column, with null as false."""
    return table.column(name).fill_null(False).to_numpy(zero_copy_only=False)
