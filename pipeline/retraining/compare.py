"""Paired comparison of a candidate with the champion on the same puzzles.

Only puzzles that exactly one of the two models solves distinguish them. Test puzzles are never used for selection if it
can be avoided: the comparison uses validation puzzles that both models held out of training, and test puzzles only if
the models have no validation puzzles in common, which the report states.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.results import Result
from trm.config.base import differences
from trm.evaluation.paired import PairedComparison, compare_paired, scores_of
from trm.utils.errors import UserError


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
        ours, theirs = scores_of(candidate.predictions(split)), scores_of(champion.predictions(split))
        common = sorted(ours.keys() & theirs.keys())
        if common:
            paired = compare_paired({name: ours[name] for name in common}, {name: theirs[name] for name in common})
            return Comparison(
                candidate,
                champion,
                split,
                paired,
                tuple(differences(candidate.sections, champion.sections)),
                tuple(sorted({name for name, *_ in _manifest_diff(candidate, champion, "modules")})),
                tuple(dict.fromkeys(_manifest_diff(candidate, champion, "versions"))),
                _metric_pairs(candidate.metrics, champion.metrics),
            )
    raise UserError(
        f"{candidate.key[:12]} and {champion.key[:12]} have no puzzles with known solutions in common; evaluate both "
        "with the same augment.seed, or the same evaluate.max_puzzles and evaluate.seed"
    )


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
