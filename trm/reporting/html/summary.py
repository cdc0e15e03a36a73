"""What the page says in words: the experiment, its result, every score and what it means, settings and lineage."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM

KINDS = {"sudoku": "Sudoku", "maze": "Mazes", "arithmetic": "Sums", "custom": "Own puzzles"}
MEANINGS = {
    "exact_accuracy": "puzzles with every cell right, asked once as they are",
    "cell_accuracy": "cells that are right, the mean over puzzles",
    "halt_accuracy": "puzzles of which the halt logit says rightly whether the answer is exact",
    "valid": "answers that obey the rules and keep the question, whether they are the labelled ones or not",
    "valid_voted": "the same of the answer that won the vote",
}
COUNTS = {
    "mean_steps": "supervision steps taken for a puzzle",
    "mean_forward_passes": "network passes for a puzzle, over all versions and rollouts",
    "mean_halt_step": "supervision steps after which training would have halted",
}
NOTHING = "\u2013"
"""Where there is no number."""
NARROW = "\u00a0"
"""Between a number and its %, so that no line ends there."""


@dataclass(frozen=True)
class Score:
    """A row of the table of scores; fractions."""

    name: str
    meaning: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    published: float | None


@dataclass(frozen=True)
class Origin:
    """What the manifest of a folder says."""

    folder: str
    key: str
    facts: list[tuple[str, str]]
    params: dict[str, list[tuple[str, str]]]
    modules: list[tuple[str, str]]
    inputs: dict[str, str]


def subject(meta: DatasetMeta) -> str:
    """Which puzzles these are."""
    name = meta.edition.upper() or KINDS.get(meta.name, meta.name)
    size = f"up to {meta.height}x{meta.width}" if meta.name in ("arc", "custom") else f"{meta.height}x{meta.width}"
    return f"{name}, {size}"


def headline(meta: DatasetMeta, metrics: Mapping[str, Any], published: Mapping[str, float]) -> str:
    """The result in one sentence."""
    name = "pass@2" if meta.name == "arc" and metrics.get("pass@2") is not None else "exact_accuracy"
    unit = "tasks" if name == "pass@2" else "test puzzles"
    n = metrics["tasks"] if name == "pass@2" else metrics["puzzles"]
    if metrics[name] is None:
        return f"{n:,} {unit} were answered. Their right answers are not known, so there is no score."
    low, high = metrics["interval_95"][name]
    bounds = f" (95{NARROW}% interval {_percent(low)} to {_percent(high)})" if low is not None else ""
    way = " with two attempts" if name == "pass@2" else ""
    said = f"{percent(metrics[name])} of {n:,} {unit} solved{way}{bounds}"
    if name == "exact_accuracy" and metrics["votes"] > 1 and metrics.get("pass@1") is not None:
        said += f"; {percent(metrics['pass@1'])} by the vote of {metrics['votes']} versions"
    if name in published:
        said += f"; published: {percent(published[name])}"
    return f"{said}."


def scores(metrics: Mapping[str, Any], published: Mapping[str, float]) -> list[Score]:
    """Every score that there is, ours or published."""
    rows = []
    intervals = metrics["interval_95"]
    for name in [*intervals, *(name for name in published if name not in intervals)]:
        value, (low, high) = metrics.get(name), intervals.get(name, (None, None))
        if value is None and name not in published:
            continue
        of_vote = name.startswith("pass@") or name == "valid_voted"
        n = metrics["tasks" if of_vote else "puzzles"] if value is not None else None
        rows.append(Score(name, _meaning(name, metrics["votes"]), value, low, high, n, published.get(name)))
    return rows


def counts(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Numbers that are no fractions: name, value, meaning."""
    return [
        (name, f"{metrics[name]:.4g}", meaning) for name, meaning in COUNTS.items() if metrics.get(name) is not None
    ]


def _meaning(name: str, votes: int) -> str:
    first, _, k = name.partition("@")
    if first == "pass" and k:
        among = "the answer that won" if k == "1" else f"one of the {k} best answers of"
        return f"{among} the vote of {votes} versions is right" if votes > 1 else "the answer is right, of one version"
    return MEANINGS.get(name, "")


def experiment(
    meta: DatasetMeta, model: TRM, step: object, metrics: Mapping[str, Any], tests: int
) -> list[tuple[str, str]]:
    """The facts at the head of the page."""
    config, table = model.config, model.puzzle_table
    asked, groups = f"{metrics['puzzles']:,}", "tasks" if meta.name == "arc" else "groups"
    if metrics["tasks"] < tests:
        asked += f", of {metrics['tasks']:,} {groups} drawn from {tests:,}"
    elif metrics["tasks"] != metrics["puzzles"]:
        asked += f", of {tests:,} {groups}"
    facts = {
        "Puzzles": subject(meta),
        "Network": f"{config.arch}, {config.block_width} wide, {'MLP' if config.mlp_t else 'attention'}",
        "Parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "Puzzle table": f"{table.shape[0]:,} x {table.shape[1]}" if table.numel() else "",
        "Weights": f"averaged, of step {step:,}" if isinstance(step, int) else "averaged",
        "Test puzzles": asked,
        "Versions that vote": str(metrics["votes"]) if metrics["votes"] > 1 else "",
    }
    return [(name, value) for name, value in facts.items() if value]


def origins(manifests: Mapping[str, Mapping[str, Any]], model_params: Mapping[str, Any]) -> list[Origin]:
    """Settings and lineage of each folder. `model_params` are the checkpoint's own, for a manifest without any."""
    found = []
    for folder, manifest in manifests.items():
        params = dict(manifest.get("params") or ({"model": model_params} if folder == "model" else {}))
        facts = {**manifest.get("versions", {}), **manifest.get("facts", {})}
        facts.pop("metrics", None)  # the table of scores has them
        found.append(
            Origin(
                folder,
                manifest["key"],
                list(_flat(facts)),
                {section: list(_flat(values)) for section, values in params.items()},
                [(name, digest[:12]) for name, digest in manifest.get("modules", {}).items()],
                manifest.get("inputs", {}),
            )
        )
    return found


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def percent(fraction: float | None) -> str:
    """A fraction for people."""
    return NOTHING if fraction is None else f"{_percent(fraction)}{NARROW}%"


def with_interval(estimate: Mapping[str, Any]) -> str:
    """A score with its interval, for people."""
    if estimate["value"] is None:
        return NOTHING
    return f"{percent(estimate['value'])} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
