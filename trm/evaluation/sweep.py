"""The test-time-compute sweep: accuracy against forward passes for many inference settings.

Validation puzzles select a setting, test puzzles score it.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from trm.config.dataset_meta import DatasetMeta
from trm.config.evaluation import SweepParams
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig, Selection
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.metrics import Estimate, paired_difference, proportion
from trm.evaluation.stored_trajectories import StoredTrajectories
from trm.evaluation.trajectories import BYTES_PER_STEP, Sample, Trajectories, record_trajectories
from trm.inference.cost import check_inference, estimate
from trm.models.act import TRM
from trm.utils.memory import check_memory
from trm.utils.progress import progress

SELECTION_SPLIT, SCORING_SPLIT = "validation", "test"
TOLERANCE = 0.01
"""The cheapest setting within this distance of the best accuracy is selected."""
SETTINGS = tuple(InferenceConfig.model_fields)
"""The names of the settings, in the order of their effects in tables."""
StoredSource = Callable[[str, int], StoredTrajectories | None]


class Row(TypedDict):
    """The result of a setting. Fractions; `forward_passes` is the mean per test example, over all samples."""

    settings: dict[str, Any]
    """The fields of its `InferenceConfig`."""
    forward_passes: float
    exact: float
    low: float
    high: float
    """Bounds of the 95 % interval of `exact`."""
    difference: float
    """`exact` minus that of the published setting, on the same puzzles."""
    difference_low: float
    difference_high: float
    valid: float | None
    """Fraction of answers that obey the rules; None without rules."""


class SplitResults(TypedDict):
    """The rows of a split, sorted by forward passes."""

    puzzles: int
    rows: list[Row]


class SweepResults(TypedDict):
    """The contents of `sweep.json`."""

    passes_per_step: int
    published: dict[str, Any]
    """The published setting: `halt_max_steps` steps, nothing else."""
    selected: dict[str, Any] | None
    """The cheapest setting within `TOLERANCE` of the best on validation puzzles; None without validation puzzles."""
    splits: dict[str, SplitResults]


def run_sweep(
    model: TRM,
    meta: DatasetMeta,
    dataset: Path,
    grid: SweepParams,
    batch_size: int,
    seed: int,
    stored: StoredSource = lambda _split, _steps: None,
) -> SweepResults:
    """Evaluate `model` on the validation and test puzzles of `dataset` in every setting of `grid`.

    stored: returns the trajectories of this model for a split and a number of steps that need not be computed.
    Raises `UserError` if the dataset has fewer augmentations than votes, or no known solutions.
    """
    most = {name: max(getattr(grid, name)) for name in ("max_steps", "num_votes", "num_samples")}
    largest = DEFAULT_INFERENCE.model_copy(update=most)
    check_inference(model, largest)
    published = DEFAULT_INFERENCE.model_copy(update={"max_steps": model.config.halt_max_steps})
    steps = sorted({*grid.max_steps, published.max_steps})
    results: dict[str, SplitResults] = {}
    for split in (name for name in (SELECTION_SPLIT, SCORING_SPLIT) if (dataset / name).is_dir()):
        tests = EvalDataset.read(dataset, meta, max(grid.num_votes), grid.max_puzzles, seed, split)
        noisy = [Sample(std, n) for std in grid.latent_noise_std for n in range(1, max(grid.num_samples))]
        samples = [Sample(0.0, 0), *noisy]
        total = len(samples) * sum(tests.num_sequences(task) for task in tests.sample())
        # The trajectories of all sequences, and the answers of a batch.
        needed = max(steps) * (total * BYTES_PER_STEP + min(batch_size, total) * (meta.seq_len + BYTES_PER_STEP))
        check_memory(needed, f"max_steps={max(steps)}")
        # Movements are not stored.
        known = None if "settled" in grid.selection else stored(split, max(steps))
        # Samples are in `total` already.
        expected = estimate(model, total, largest.model_copy(update={"num_samples": 1}), batch_size)
        if expected:
            print(f"test-time compute, {split}: {expected}", file=sys.stderr, flush=True)
        with progress(f"test-time compute, {split}", total) as bar:
            trajectories = record_trajectories(model, tests, max(steps), samples, batch_size, bar.advance, known)
        can_verify = trajectories.valid is not None and not hasattr(tests.dataset, "recall")
        rows = _rows(trajectories, list(_settings(grid, steps, can_verify)), published, model.passes)
        results[split] = {"puzzles": len(trajectories.answer), "rows": rows}
    selected = cheapest(results[SELECTION_SPLIT]["rows"])["settings"] if SELECTION_SPLIT in results else None
    return {
        "passes_per_step": model.passes,
        "published": published.model_dump(),
        "selected": selected,
        "splits": results,
    }


def _settings(grid: SweepParams, steps: Sequence[int], can_verify: bool) -> Iterator[InferenceConfig]:
    noisy = [
        (num_samples, std)
        for num_samples in sorted(set(grid.num_samples))
        if num_samples > 1
        for std in sorted(set(grid.latent_noise_std))
    ]
    checks = (False, True) if can_verify else (False,)
    votes = sorted({1, *grid.num_votes})
    selections: list[Selection] = sorted({DEFAULT_INFERENCE.selection, *grid.selection})
    for max_steps, early_halting, verify, num_votes, (num_samples, std), selection in itertools.product(
        steps, (False, True), checks, votes, [(1, 0.0), *noisy], selections
    ):
        # With one sequence there is nothing to select; halt_first always halts early.
        is_single, always_halts = num_votes * num_samples == 1, selection == "halt_first"
        if selection != DEFAULT_INFERENCE.selection and (is_single or (always_halts and early_halting)):
            continue
        yield InferenceConfig(
            max_steps=max_steps,
            early_halting=early_halting,
            num_samples=num_samples,
            latent_noise_std=std,
            verify=verify,
            num_votes=num_votes,
            selection=selection,
            min_confidence=DEFAULT_INFERENCE.min_confidence,
        )


def _rows(
    trajectories: Trajectories, settings: Sequence[InferenceConfig], published: InferenceConfig, passes: int
) -> list[Row]:
    baseline = _correct(trajectories, trajectories.replay(published)[0])
    rows = []
    for config in settings:
        answer, steps = trajectories.replay(config)
        correct = _correct(trajectories, answer)
        exact, low, high = _numbers(proportion(int(correct.sum()), len(correct)))
        difference, difference_low, difference_high = _numbers(paired_difference(correct, baseline))
        valid = trajectories.valid
        rows.append(
            Row(
                settings=config.model_dump(),
                forward_passes=passes * float(steps.mean()),
                exact=exact,
                low=low,
                high=high,
                difference=difference,
                difference_low=difference_low,
                difference_high=difference_high,
                valid=None if valid is None else float(valid[np.arange(len(answer)), answer].mean()),
            )
        )
    return sorted(rows, key=lambda row: row["forward_passes"])


def _correct(trajectories: Trajectories, answer: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    return trajectories.correct[np.arange(len(answer)), answer]


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    assert value is not None  # there is at least one puzzle
    assert low is not None
    assert high is not None
    return value, low, high


def cheapest(rows: Sequence[Row]) -> Row:
    """The row with the fewest forward passes among those within `TOLERANCE` of the best accuracy."""
    best = max(row["exact"] for row in rows)
    return min((row for row in rows if row["exact"] >= best - TOLERANCE - 1e-9), key=lambda row: row["forward_passes"])


def find_row(rows: Sequence[Row], settings: Mapping[str, Any]) -> Row:
    """The row of these settings."""
    return next(row for row in rows if row["settings"] == settings)


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no cheaper row matches in accuracy, sorted by forward passes."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["forward_passes"], -row["exact"])):
        if not front or row["exact"] > front[-1]["exact"]:
            front.append(row)
    return front


def single_changes(rows: Sequence[Row], published: Mapping[str, Any]) -> list[tuple[str, Row]]:
    """The rows that differ from the published setting in one respect, each with the name of the changed setting.

    `num_samples` and `latent_noise_std` count as one; so does a selection with its votes or its samples.
    """
    changes = []
    for row in rows:
        changed = [name for name in SETTINGS if row["settings"][name] != published[name] and name != "latent_noise_std"]
        if changed in (["num_samples", "selection"], ["num_votes", "selection"]):
            changes.append(("selection", row))
        elif len(changed) == 1:
            changes.append((changed[0], row))
    return sorted(changes, key=lambda change: (SETTINGS.index(change[0]), *map(float, _order(change[1]))))


def _order(row: Row) -> tuple[Any, ...]:
    return tuple(row["settings"][name] for name in ("max_steps", "num_votes", "num_samples", "latent_noise_std"))
