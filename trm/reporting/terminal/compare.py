"""`trm compare`: two evaluations, puzzle by puzzle."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from trm.config.base import differences
from trm.evaluation.paired import PairedComparison, compare_paired, scores_of
from trm.reporting.terminal.tables import columns, facts
from trm.storage.artifacts import MANIFEST, read_manifest, verified_manifest
from trm.utils.errors import DataError, UserError

SPLITS = {"validation": "validation.parquet", "test": "predictions.parquet"}
"""Split -> file of an evaluation. Validation puzzles come first: test puzzles should not select a model."""
VERDICTS = {"better": "the first model is better", "worse": "the first model is worse"}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, and the outputs of earlier stages next to it."""

    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The numbers of metrics.json."""
        values = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    @cached_property
    def manifests(self) -> dict[str, Mapping[str, Any]]:
        """Output name -> manifest, of this evaluation and of its inputs in the folders next to it."""
        found, pending = {"evaluation": self.manifest}, dict(self.manifest["inputs"])
        while pending:
            name, key = pending.popitem()
            folder = self.folder.parent / name
            manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
            if manifest is not None and manifest["key"] == key:
                found[name] = manifest
                pending |= manifest["inputs"]
        return found

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of the params that the known manifests contain."""
        return {name: values for manifest in self.manifests.values() for name, values in manifest["params"].items()}

    def predictions(self, split: str) -> pa.Table | None:
        """The predictions for a split; None if the evaluation has none."""
        file = self.folder / SPLITS[split]
        return pq.read_table(file) if file.is_file() else None


def load_evaluation(folder: Path) -> Evaluation:
    """Load the evaluation in `folder`, in its subfolder `evaluation`, or next to the model folder `folder`.

    Raises `DataError` if there is none, or if it is damaged.
    """
    for candidate in (folder, folder / "evaluation", folder.parent / "evaluation"):
        if not (candidate / MANIFEST).is_file():
            continue
        manifest = read_manifest(candidate)
        is_of_model = candidate.parent == folder.parent and candidate != folder
        if manifest["stage"] != "evaluate":
            continue
        if is_of_model and not _is_model(folder, manifest["inputs"]["model"]):
            continue
        return Evaluation(candidate, verified_manifest(candidate, "evaluate"))
    raise DataError(f"{folder}: no evaluation there; give the output folder of `trm evaluate`, or the folder above it")


def _is_model(folder: Path, key: str) -> bool:
    return (folder / MANIFEST).is_file() and read_manifest(folder)["key"] == key


def compare_evaluations(first: Evaluation, second: Evaluation) -> tuple[str, PairedComparison]:
    """Compare two evaluations. Returns the split whose puzzles decide, and the statistics.

    Raises `UserError` if they have no puzzles in common, or if the puzzles differ.
    """
    folders = f"{first.folder} and {second.folder}"
    raw = [evaluation.manifests.get("dataset", {"inputs": {}})["inputs"].get("raw") for evaluation in (first, second)]
    if None not in raw and raw[0] != raw[1]:
        raise UserError(f"{folders}: computed from different raw data; compare on the same data")
    for split in SPLITS:
        tables = first.predictions(split), second.predictions(split)
        ours, theirs = (scores_of(table) for table in tables)
        common = sorted(ours.keys() & theirs.keys())
        if not common:
            continue
        solutions = [_solutions(table) for table in tables if table is not None]
        if any(solutions[0][name] != solutions[1][name] for name in solutions[0].keys() & solutions[1].keys()):
            raise UserError(f"{folders}: different puzzles have the same names; compare on the same data")
        return split, compare_paired({name: ours[name] for name in common}, {name: theirs[name] for name in common})
    raise UserError(
        f"{folders}: no puzzles with known solutions in common; evaluate both with the same "
        "augment.seed, or the same evaluate.max_puzzles and evaluate.seed"
    )


def _solutions(table: pa.Table) -> dict[tuple[str, int], bytes]:
    """(task, example) -> the solution, of the puzzles that the model solved."""
    rows = table.filter((pc.field("augmentation") == 0) & pc.field("correct"))
    columns = (rows.column(name).to_pylist() for name in ("task", "pair", "answer"))
    return {(task, pair): answer for task, pair, answer in zip(*columns, strict=True)}


def print_comparison(first: Evaluation, second: Evaluation, console: Console) -> PairedComparison:
    """Print metrics, params that differ and the paired statistics of two evaluations."""
    split, paired = compare_evaluations(first, second)
    names = dict.fromkeys((*first.metrics, *second.metrics))
    rows = [(name, _number(first.metrics.get(name)), _number(second.metrics.get(name))) for name in names]
    console.print(columns("", ("", "first", "second"), rows))
    if changed := [(name, f"{ours} -> {theirs}") for name, ours, theirs in _params(first, second)]:
        console.print(facts("params that differ, first -> second", changed))
    console.print(f"\n{split} puzzles, solved exactly: {paired.candidate:.1%} and {paired.champion:.1%}")
    bounds = f"95 % interval {100 * paired.low:+.1f} to {100 * paired.high:+.1f}"
    console.print(f"difference: {100 * paired.difference:+.1f} points ({bounds}); p = {paired.p:.2g} ({paired.test})")
    counts = f"{paired.only_candidate} solved by the first only, {paired.only_champion} by the second only"
    console.print(f"of {paired.n}: {counts}")
    console.print(VERDICTS.get(paired.verdict, "no significant difference"))
    return paired


def _params(first: Evaluation, second: Evaluation) -> Iterator[tuple[str, Any, Any]]:
    """The params that differ, of the sections that both have."""
    common = first.sections.keys() & second.sections.keys()
    ours, theirs = ({name: each.sections[name] for name in sorted(common)} for each in (first, second))
    yield from differences(ours, theirs)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
