"""A candidate and the champion on the same puzzles: which is better, and how sure is that.

Every puzzle is asked of both models, so the comparison is paired: only puzzles that one of them solves and the other
does not tell them apart. Test puzzles choose nothing: the validation groups decide, those that both held out of their
training; test puzzles only where there are none in common, and then the report says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pipeline.dvc import unlike
from pipeline.results import Result
from trm.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

ALPHA = 0.05
"""A smaller p calls a difference one; intervals are of 1 - ALPHA."""
RESAMPLES = 9999
EXIT_CODES = {"better": 0, "no difference": 3, "worse": 4}

Scores = dict[tuple[str, int], bool]
"""(task, which of its examples) -> whether every cell was right, the puzzle asked once as it is."""


@dataclass(frozen=True)
class Paired:
    """Two models on the same n tasks; fractions of tasks solved (a task of several examples counts by its share)."""

    n: int
    candidate: float
    champion: float
    difference: float
    low: float
    high: float
    """Of the difference: a 95 % interval by paired bootstrap over the tasks."""
    p: float
    test: str
    only_candidate: int
    """Tasks on which the candidate does better."""
    only_champion: int

    @property
    def verdict(self) -> str:
        """better, worse or no difference."""
        if self.p >= ALPHA or self.difference == 0:
            return "no difference"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """All that is to be told of a candidate and a champion."""

    candidate: Result
    champion: Result
    split: str
    """validation or test: whose puzzles decided."""
    paired: Paired
    params: tuple[tuple[str, Any, Any], ...]
    """Where they differ: name, the candidate's, the champion's."""
    modules: tuple[str, ...]
    """Files of the package that differ."""
    versions: tuple[tuple[str, Any, Any], ...]
    metrics: tuple[tuple[str, float | None, float | None], ...]

    @property
    def verdict(self) -> str:
        """better, worse or no difference."""
        return self.paired.verdict

    def as_json(self) -> dict[str, Any]:
        """The verdict and its numbers."""
        numbers = {name: getattr(self.paired, name) for name in self.paired.__dataclass_fields__}
        keys = {"candidate_key": self.candidate.key, "champion_key": self.champion.key}
        return {"verdict": self.verdict, "split": self.split, **keys, **numbers}


def compare(candidate: Result, champion: Result) -> Comparison:
    """Compare two results. Raises `UserError` where they have no puzzles in common."""
    if candidate.data_set != champion.data_set:
        raise UserError(
            f"{candidate.key[:12]} was scored on {candidate.data_set} and {champion.key[:12]} on {champion.data_set}: "
            "these are different puzzles; compare results of one experiment"
        )
    for split in ("validation", "test"):
        ours, theirs = _scores(candidate.predictions(split)), _scores(champion.predictions(split))
        common = sorted(ours.keys() & theirs.keys())
        if common:
            paired = pair({name: ours[name] for name in common}, {name: theirs[name] for name in common})
            return Comparison(
                candidate,
                champion,
                split,
                paired,
                tuple(unlike(candidate.sections, champion.sections)),
                tuple(sorted({name for name, *_ in _unlike_in(candidate, champion, "modules")})),
                tuple(dict.fromkeys(_unlike_in(candidate, champion, "versions"))),
                _metrics(candidate.metrics, champion.metrics),
            )
    raise UserError(
        f"{candidate.key[:12]} and {champion.key[:12]} have no puzzles with known answers in common; evaluate both "
        "with the same augment.seed, or the same evaluate.max_puzzles and evaluate.seed"
    )


def pair(ours: Scores, theirs: Scores) -> Paired:
    """The paired comparison of two models on the same examples. McNemar's exact test where each task has one example,
    else a permutation of the signs of the tasks' differences.
    """
    examples: dict[str, list[tuple[str, int]]] = {}
    for name in sorted(ours):
        examples.setdefault(name[0], []).append(name)
    a, b = (
        np.array([np.mean([scores[name] for name in task]) for task in examples.values()]) for scores in (ours, theirs)
    )
    difference = a - b
    rng = np.random.default_rng(0)
    more, less = int((difference > 0).sum()), int((difference < 0).sum())
    if not more + less:
        p, test = 1.0, "every puzzle is answered alike"
    elif len(examples) == len(ours):
        p, test = float(stats.binomtest(more, more + less).pvalue), "McNemar's exact test"
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
    return Paired(
        len(examples), float(a.mean()), float(b.mean()), float(difference.mean()), low, high, p, test, more, less
    )


def _scores(predictions: "pa.Table | None") -> Scores:
    """Of the puzzles as they are, whose answers are known."""
    if predictions is None:
        return {}
    import pyarrow.compute as pc

    lines = predictions.filter((pc.field("version") == 0) & pc.field("exact").is_valid())
    columns = (lines.column(name).to_pylist() for name in ("task", "pair", "exact"))
    return {(task, pair): exact for task, pair, exact in zip(*columns, strict=True)}


def _unlike_in(one: Result, other: Result, part: str) -> list[tuple[str, Any, Any]]:
    found = []
    for stage, manifest in one.manifests.items():
        here, there = manifest.get(part, {}), other.manifests[stage].get(part, {})
        found += [
            (name, here.get(name), there.get(name)) for name in {**here, **there} if here.get(name) != there.get(name)
        ]
    return found


def _metrics(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[tuple[str, float | None, float | None], ...]:
    names = [name for name in dict.fromkeys((*ours, *theirs)) if not isinstance((ours | theirs)[name], dict)]  # pyright: ignore[reportOperatorIssue]
    return tuple((name, ours.get(name), theirs.get(name)) for name in names)
