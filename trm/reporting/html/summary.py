"""The texts of the report: experiment, headline, metrics with their definitions, settings and lineage."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.drawings import get_drawing
from trm.models.act import TRM
from trm.storage.artifacts import read_manifest, timing_file

DEFINITIONS = {
    "exact_accuracy": "puzzles with every cell correct, single answer",
    "cell_accuracy": "fraction of correct cells, mean over puzzles",
    "halt_accuracy": "puzzles whose halt logit correctly predicts whether the answer is exact",
    "valid": "answers that obey the rules and match the question, whether or not they equal the label",
    "valid_voted": "the same for the winning answer of the vote",
    "coverage": "puzzles answered: their confidence is at least min_confidence",
    "answered_accuracy": "answered puzzles whose winning answer is correct",
}
COUNTS = {
    "mean_steps": "supervision steps per puzzle",
    "mean_forward_passes": "forward passes per puzzle, over all augmentations and samples",
    "mean_halt_step": (
        "supervision steps until the first positive halting decision, at most {halt_max_steps} (halt_max_steps)"
    ),
}
SELECTIONS = {
    "votes": "the vote of",
    "halt_logit": "the sequence with the highest halt logit of",
    "halt_first": "the first sequence to halt of",
    "settled": "the sequence that moved least of",
}
"""Selection -> phrase before the number of augmentations."""
LEAKS = 10
"""Most leaked tasks that are listed."""
DASH = "\u2013"
"""Placeholder for a missing number."""
NARROW = "\u00a0"
"""Non-breaking space between a number and its %."""


@dataclass(frozen=True)
class Score:
    """A row of the table of metrics; fractions."""

    name: str
    definition: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    published: float | None


@dataclass(frozen=True)
class Origin:
    """The manifest of a folder: settings and lineage."""

    folder: str
    key: str
    facts: list[tuple[str, str]]
    params: dict[str, list[tuple[str, str]]]
    modules: list[tuple[str, str]]
    inputs: dict[str, str]


def subject(meta: DatasetMeta) -> str:
    """The dataset and the size of its puzzles."""
    drawing = get_drawing(meta)
    size = f"{meta.height}x{meta.width}"
    return f"{drawing.title}, {f'up to {size}' if drawing.separate_question else size}"


def headline(
    meta: DatasetMeta, metrics: Mapping[str, Any], published: Mapping[str, float], selection: str = "votes"
) -> str:
    """The result in one sentence. selection: how the answer was selected among the augmentations."""
    name = "pass@2" if get_drawing(meta).has_tasks and metrics.get("pass@2") is not None else "exact_accuracy"
    unit = "tasks" if name == "pass@2" else "test puzzles"
    n = metrics["tasks"] if name == "pass@2" else metrics["puzzles"]
    if metrics[name] is None:
        return f"{n:,} {unit} were answered. Their solutions are unknown, so there is no score."
    low, high = metrics["interval_95"][name]
    bounds = f" (95{NARROW}% interval {_percent(low)} to {_percent(high)})" if low is not None else ""
    way = " with two attempts" if name == "pass@2" else ""
    text = f"{percent(metrics[name])} of {n:,} {unit} solved{way}{bounds}"
    if name == "exact_accuracy" and metrics["num_votes"] > 1 and metrics.get("pass@1") is not None:
        text += f"; {percent(metrics['pass@1'])} by {SELECTIONS[selection]} {metrics['num_votes']} augmentations"
    without_leaks = metrics.get("without_leaks", {}).get(name)
    if without_leaks is not None:
        text += f"; {percent(without_leaks)} without the {metrics['leaked_tasks']} leaked tasks"
    if name in published:
        text += f"; published: {percent(published[name])}"
    return f"{text}."


def scores(metrics: Mapping[str, Any], published: Mapping[str, float]) -> list[Score]:
    """All metrics, measured or published."""
    rows = []
    intervals = metrics["interval_95"]
    for name in [*intervals, *(name for name in published if name not in intervals)]:
        value, (low, high) = metrics.get(name), intervals.get(name, (None, None))
        if value is None and name not in published:
            continue
        n = metrics[_counted(name)] if value is not None else None
        rows.append(Score(name, _definition(name, metrics["num_votes"]), value, low, high, n, published.get(name)))
    return rows + _scores_without_leaks(metrics)


def _scores_without_leaks(metrics: Mapping[str, Any]) -> list[Score]:
    """The scores of the tasks that are not trained on under another name, if others are."""
    others, rows = metrics.get("without_leaks", {}), []
    definition = f"the same without the {metrics.get('leaked_tasks')} tasks that are trained on under another name"
    for name, (low, high) in others.get("interval_95", {}).items():
        if others[name] is not None:
            n = others[_counted(name)]
            rows.append(Score(f"{name} without leaks", definition, others[name], low, high, n, None))
    return rows


def _counted(name: str) -> str:
    """The key of metrics.json that counts what a metric is a fraction of."""
    if name == "answered_accuracy":
        return "answered"
    return "tasks" if name.startswith("pass@") or name == "valid_voted" else "puzzles"


def counts(metrics: Mapping[str, Any], halt_max_steps: int) -> list[tuple[str, str, str]]:
    """Metrics that are not fractions: name, value, definition."""
    return [
        (name, f"{metrics[name]:.4g}", definition.format(halt_max_steps=halt_max_steps))
        for name, definition in COUNTS.items()
        if metrics.get(name) is not None
    ]


def _definition(name: str, num_votes: int) -> str:
    first, _, k = name.partition("@")
    if first == "pass" and k:
        among = "the winning answer" if k == "1" else f"one of the {k} best answers"
        return (
            f"{among} of the vote of {num_votes} augmentations is correct" if num_votes > 1 else "the answer is correct"
        )
    return DEFINITIONS.get(name, "")


def experiment(
    meta: DatasetMeta,
    model: TRM,
    step: object,
    metrics: Mapping[str, Any],
    tests: int,
    leaks: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """The facts at the top of the page. leaks: test tasks that are trained on under other names."""
    config, table = model.config, model.puzzle_table
    evaluated, groups = f"{metrics['puzzles']:,}", "tasks" if get_drawing(meta).has_tasks else "groups"
    if metrics["tasks"] < tests:
        evaluated += f", of {metrics['tasks']:,} {groups} sampled from {tests:,}"
    elif metrics["tasks"] != metrics["puzzles"]:
        evaluated += f", of {tests:,} {groups}"
    facts = {
        "Dataset": subject(meta),
        "Network": f"{config.arch}, {config.block_width} wide, {'MLP' if config.mlp_t else 'attention'}",
        "Parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "Puzzle embedding": f"{table.shape[0]:,} x {table.shape[1]}" if table.numel() else "",
        "Weights": f"EMA, step {step:,}" if isinstance(step, int) else "EMA",
        "Test puzzles": evaluated,
        "Leaked test tasks": _leaks_text(leaks) if leaks else "",
        "Augmentations that vote": str(metrics["num_votes"]) if metrics["num_votes"] > 1 else "",
    }
    return [(name, value) for name, value in facts.items() if value]


def durations(folders: Mapping[str, Path]) -> list[tuple[str, str]]:
    """The wall time and the hardware of each stage, as far as its manifest and the timing file next to it have them."""
    found = []
    for name, folder in folders.items():
        manifest, file = read_manifest(folder), timing_file(folder)
        timing = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        timing = timing if timing.get("key") == manifest["key"] else {}
        facts = manifest.get("facts", {})
        words = (
            [duration(timing["train_seconds"] if "train_seconds" in timing else timing["seconds"])] if timing else []
        )
        words += [f"on {facts['device']}"] if "device" in facts else []
        words += [f"({timing['machine']}, {timing['cores']} cores)"] if timing else []
        processes = facts.get("processes", 1)
        words += [f"with {processes} processes"] if processes > 1 else []
        skipped = facts.get("skipped_batches")
        words += [f"without {skipped} batches whose loss or gradient was not finite"] if skipped else []
        if words:
            found.append((name, " ".join(words)))
    return found


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _leaks_text(leaks: Mapping[str, Sequence[str]]) -> str:
    shown = ", ".join(f"{name} = {', '.join(others)}" for name, others in list(leaks.items())[:LEAKS])
    more = f" and {len(leaks) - LEAKS} more" if len(leaks) > LEAKS else ""
    return f"{len(leaks)}, trained on under another name: {shown}{more}"


def origins(manifests: Mapping[str, Mapping[str, Any]], model_params: Mapping[str, Any]) -> list[Origin]:
    """Settings and lineage of each folder. model_params: settings in the checkpoint, for a manifest without them."""
    found = []
    for folder, manifest in manifests.items():
        params = dict(manifest.get("params") or ({"model": model_params} if folder == "model" else {}))
        facts = {**manifest.get("versions", {}), **manifest.get("facts", {})}
        facts.pop("metrics", None)  # they are in the table of metrics
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
    """A fraction as a percentage."""
    return DASH if fraction is None else f"{_percent(fraction)}{NARROW}%"


def with_interval(estimate: Mapping[str, Any]) -> str:
    """A score with its interval, as percentages."""
    if estimate["value"] is None:
        return DASH
    return f"{percent(estimate['value'])} [{100 * estimate['low']:.1f}, {100 * estimate['high']:.1f}]"


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "\u2212")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
