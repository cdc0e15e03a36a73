"""Paired comparison of a candidate with the champion on the same puzzles.

Only puzzles that exactly one of the two models solves distinguish them. Test puzzles are never used for selection if it
can be avoided: the comparison uses validation puzzles that both models held out of training, and test puzzles only if
the models have no validation puzzles in common, which the report states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pipeline.dvc import diff
from pipeline.results import Result
from trm.utils.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ALPHA = 0.05
"""Significance level. Intervals have the confidence level 1 - ALPHA."""
RESAMPLES = 9999
EXIT_CODES = {"better": 0, "no difference": 3, "worse": 4}

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
    """95 % confidence interval of the difference, by paired bootstrap over the tasks."""
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


@dataclass(frozen=True)
class Comparison:
    """Comparison of two results: scores, and differences in params, code, libraries and metrics."""

    candidate: Result
    champion: Result
    split: str
    """Split of the compared puzzles: validation or test."""
    paired: PairedComparison
    params: tuple[tuple[str, Any, Any], ...]
    """Params that differ: name, value of the candidate, value of the champion."""
    modules: tuple[str, ...]
    """Files of the package that differ."""
    versions: tuple[tuple[str, Any, Any], ...]
    """Library versions that differ."""
    metrics: tuple[tuple[str, float | None, float | None], ...]
    """All metrics on the test puzzles."""

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference`."""
        return self.paired.verdict

    def as_json(self) -> dict[str, Any]:
        """Return verdict, keys and statistics as JSON values."""
        statistics = {name: getattr(self.paired, name) for name in self.paired.__dataclass_fields__}
        keys = {"candidate_key": self.candidate.key, "champion_key": self.champion.key}
        return {"verdict": self.verdict, "split": self.split, **keys, **statistics}


def compare(candidate: Result, champion: Result) -> Comparison:
    """Compare two results. Raises `UserError` if they have no puzzles in common."""
    if candidate.dataset != champion.dataset:
        raise UserError(
            f"{candidate.key[:12]} was evaluated on {candidate.dataset} and {champion.key[:12]} on {champion.dataset}: "
            "different puzzles; compare results with the same raw data"
        )
    for split in ("validation", "test"):
        ours, theirs = _scores(candidate.predictions(split)), _scores(champion.predictions(split))
        common = sorted(ours.keys() & theirs.keys())
        if common:
            paired = compare_paired({name: ours[name] for name in common}, {name: theirs[name] for name in common})
            return Comparison(
                candidate,
                champion,
                split,
                paired,
                tuple(diff(candidate.sections, champion.sections)),
                tuple(sorted({name for name, *_ in _manifest_diff(candidate, champion, "modules")})),
                tuple(dict.fromkeys(_manifest_diff(candidate, champion, "versions"))),
                _metric_pairs(candidate.metrics, champion.metrics),
            )
    raise UserError(
        f"{candidate.key[:12]} and {champion.key[:12]} have no puzzles with known solutions in common; evaluate both "
        "with the same augment.seed, or the same evaluate.max_puzzles and evaluate.seed"
    )


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
    low, high = float(difference.mean()), float(difference.mean())
    if len(difference) > 1 and np.ptp(difference) > 0:
        interval = stats.bootstrap(
            (difference,),
            np.mean,
            confidence_level=1 - ALPHA,
            n_resamples=RESAMPLES,
            method="percentile",
            batch=100,
            rng=rng,
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return PairedComparison(
        len(examples), float(a.mean()), float(b.mean()), float(difference.mean()), low, high, p, test, wins, losses
    )


def _scores(predictions: "pa.Table | None") -> Scores:
    """Return the scores of puzzles without augmentation and with known solutions."""
    if predictions is None:
        return {}
    import pyarrow.compute as pc

    rows = predictions.filter((pc.field("augmentation") == 0) & pc.field("exact").is_valid())
    columns = (rows.column(name).to_pylist() for name in ("task", "pair", "exact"))
    return {(task, pair): exact for task, pair, exact in zip(*columns, strict=True)}


def _manifest_diff(one: Result, other: Result, part: str) -> list[tuple[str, Any, Any]]:
    """Return the differences in one mapping of the manifests, over all stages."""
    differences = []
    for stage, manifest in one.manifests.items():
        ours, theirs = manifest.get(part, {}), other.manifests[stage].get(part, {})
        differences += [
            (name, ours.get(name), theirs.get(name))
            for name in {**ours, **theirs}
            if ours.get(name) != theirs.get(name)
        ]
    return differences


def _metric_pairs(
    ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> tuple[tuple[str, float | None, float | None], ...]:
    names = [name for name in dict.fromkeys((*ours, *theirs)) if not isinstance((ours | theirs)[name], dict)]  # pyright: ignore[reportOperatorIssue]
    return tuple((name, ours.get(name), theirs.get(name)) for name in names)
