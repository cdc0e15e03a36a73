"""`trm recipe suggest`: settings for a file of custom puzzles, each with its reason."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.config.recipes import changed_by_text
from trm.config.training import TrainParams
from trm.datasets.custom.augmentation import augmentation_space
from trm.datasets.custom.dataset import custom_meta, split_rows
from trm.datasets.custom.evidence import Symmetries, contradictions, find_symmetries
from trm.datasets.custom.files import SUFFIXES, CustomPuzzles, read_custom_file
from trm.datasets.custom.settings import Settings
from trm.stages.params import parse_params
from trm.training.cost import training_operations
from trm.training.pace import seconds_per_step
from trm.utils.errors import DataError
from trm.utils.file_formats import printable
from trm.utils.progress import duration

BASE = "custom-puzzles"
MAX_MLP_CELLS = 100
"""Cells of a canvas up to which the MLP over the positions is suggested."""
FEW_GROUPS, FEW_STEPS, MANY_SYMBOLS = 300, 1000, 64
"""Limits of the warnings."""
MAX_STEPS = 20_000
TRAINING_SHARE = 0.8
"""Fraction of the time for the training; the rest is for validation, evaluation and report."""
VALIDATIONS = 20
DEPTH_SCHEDULE = [{"until": 0.3, "H_cycles": 1, "L_cycles": 2}, {"until": 0.6, "H_cycles": 2, "L_cycles": 2}]
Pace = Callable[[ModelParams, DatasetMeta, TrainParams], float]
"""Measures the seconds of a training step."""


@dataclass(frozen=True)
class Suggestion:
    """Settings for a file of puzzles."""

    text: str
    """A complete params file with comments."""
    summary: list[str]
    """What was chosen, a line each."""
    warnings: list[str]
    """What may keep a model from learning, a line each."""


@dataclass(frozen=True)
class _Choice:
    """A setting and the reason for it."""

    key: str
    value: Any
    reason: str

    def line(self) -> str:
        """The line of section `changes`."""
        return f"  {self.key}: {json.dumps(self.value, ensure_ascii=False)} # {printable(self.reason)}\n"


def suggest(file: Path, minutes: float, pace: Pace = seconds_per_step) -> Suggestion:
    """Settings for the puzzles of `file` that train for about `minutes` minutes on this machine.

    Raises `DataError` for a file that is no CSV or JSONL file of puzzles, or has too few, and `UserError` for puzzles
    that cannot be split.
    """
    if file.suffix not in SUFFIXES:
        raise DataError(f"{file}: must end in {' or '.join(SUFFIXES)}; convert it to one of these formats")
    puzzles = read_custom_file(file, None, None, None)
    groups = len(puzzles.group_names)
    if groups < 3:
        raise DataError(f"{file}: training, validation and test need at least 3 groups. Got {groups}; add puzzles")
    symmetries = find_symmetries(puzzles)
    choices = _data(file, puzzles, symmetries) + _model(puzzles)
    params = parse_params(_text(choices), str(file))
    data = params.data
    assert isinstance(data, Settings)
    meta = custom_meta(data, puzzles)
    rows = split_rows(data, params.augment, puzzles, augmentation_space(meta), file)
    train_groups = len(np.unique(puzzles.groups[rows["train"]]))
    batch = params.train.global_batch_size
    seconds = pace(params.model, meta, params.train) * _mean_depth(params.model, params.train, meta)
    steps = max(min(int(TRAINING_SHARE * 60 * minutes / seconds), MAX_STEPS), 1)
    epochs = _rounded(steps * batch / train_groups)
    steps = epochs * train_groups // batch
    expected = duration(steps * seconds)
    choices += _schedule(epochs, steps, f"{steps:,} steps of {seconds:.3g} s (measured): about {expected}")
    warnings = _warnings(puzzles, meta, steps, minutes)
    head = [f"Suggestion of `trm recipe suggest` for {len(puzzles):,} puzzles: exact accuracy not measured", ""]
    head += [f"Time:     about {expected} of training on the machine that made the suggestion"]
    for name, evidence in (("dihedral", symmetries.dihedral), ("permute_symbols", symmetries.permute_symbols)):
        head.append(f"Symmetry: {name} {'is used' if evidence.supported else 'is not used'}: {evidence.reason}")
    head.append("Symmetry: translate is not used: it does not change the puzzles, only their place on the canvas")
    head += [f"Warning:  {warning}" for warning in warnings]
    summary = [
        f"{len(puzzles):,} puzzles, {groups:,} groups, {meta.height} x {meta.width}, {len(puzzles.alphabet)} symbols",
        f"symmetries: {', '.join(symmetries.names) or 'none'}",
        f"{'MLP over the positions' if params.model.mlp_t else 'attention'}, hidden size {params.model.hidden_size}",
        f"{steps:,} steps of {batch} puzzles, about {expected}",
    ]
    comment = "".join(f"# {printable(line)}".rstrip() + "\n" for line in head)
    return Suggestion(f"{comment}\n{_text(choices)}", summary, warnings)


def _mean_depth(model: ModelParams, train: TrainParams, meta: DatasetMeta) -> float:
    """The operations of a training relative to one at full depth."""
    steps = 1000
    full = training_operations(model, train.model_copy(update={"depth_schedule": ()}), meta, steps)
    return training_operations(model, train, meta, steps) / full


def _text(choices: list[_Choice]) -> str:
    return changed_by_text(BASE, "".join(choice.line() for choice in choices))


def _rounded(number: float) -> int:
    """A positive integer with two significant digits."""
    return max(int(float(f"{number:.2g}")), 1)


def _data(file: Path, puzzles: CustomPuzzles, symmetries: Symmetries) -> list[_Choice]:
    groups = len(puzzles.group_names)
    validation, test = (max(min(groups // 10, most), 1) for most in (100, 200))
    height, width = puzzles.inputs.shape[1:]
    canvas = f"the largest of {len(puzzles):,} puzzles"
    if puzzles.first_cell_token > 1:
        canvas += "; some outputs have another shape than their input, so end tokens delimit the grids"
    unit = "groups" if groups < len(puzzles) else "puzzles"
    augmented = 100 if "permute_symbols" in symmetries.names else 7 if symmetries.names else 0
    return [
        _Choice("data.source.file", str(file), "relative to the folder in which `trm` runs"),
        _Choice("data.alphabet", list(puzzles.alphabet), "the symbols of the file"),
        _Choice("data.height", height, canvas),
        _Choice("data.width", width, canvas),
        _Choice("data.test_groups", test, f"a tenth of {groups:,} {unit}, at most 200; equal inputs stay together"),
        _Choice("data.symmetries", list(symmetries.names), "verified, see the top of this file"),
        _Choice("data.fixed_symbols", list(symmetries.fixed), "symbols that are not exchanged"),
        _Choice("augment.num_aug", augmented, "augmentations of each puzzle, fewer where they are equal"),
        _Choice("augment.validation_groups", validation, f"a tenth of the {unit}, at most 100"),
        _Choice("evaluate.num_votes", 8 if symmetries.names else 1, "augmentations vote, so they need symmetries"),
        _Choice("evaluate.early_halting", True, "steps after the halt are trained less, and can spoil an answer"),
    ]


def _model(puzzles: CustomPuzzles) -> list[_Choice]:
    cells = puzzles.inputs[0].size
    fills = bool((puzzles.shapes == puzzles.inputs.shape[1:]).all())
    if fills and cells <= MAX_MLP_CELLS:
        mixing = [
            _Choice("model.mlp_t", True, f"every grid fills the canvas of {cells} cells: an MLP is fast"),
            _Choice("model.pos_encodings", "none", "the MLP has weights for each position"),
        ]
    else:
        reason = "the grids have different sizes" if not fills else f"an MLP over {cells} cells has many weights"
        mixing = [
            _Choice("model.mlp_t", False, f"attention: {reason}"),
            _Choice("model.pos_encodings", "rope_2d", "rows and columns of a cell"),
        ]
    batch = next(batch for most, batch in ((150, 32), (400, 16), (1024, 8), (cells, 4)) if cells <= most)
    return [
        *mixing,
        _Choice("model.hidden_size", 64, "small, so that many steps fit in the time"),
        _Choice("train.global_batch_size", batch, f"{cells} cells a puzzle"),
        _Choice(
            "model.halt_exploration_prob",
            0.5,
            "some sequences go on after the halt, so that later steps are trained, too",
        ),
        _Choice("train.lr", 2.0e-3, "faster than 1e-3 on small puzzles"),
        _Choice("train.halt_loss_weight", 0.05, "better than 0.5 in docs/methods.md"),
        _Choice("train.depth_schedule", DEPTH_SCHEDULE, "shallow first: more steps in the same time (docs/methods.md)"),
    ]


def _schedule(epochs: int, steps: int, time: str) -> list[_Choice]:
    average = min(max(round(1 - 20 / steps, 3), 0.9), 0.999)
    return [
        _Choice("train.epochs", epochs, time),
        _Choice("train.lr_warmup_steps", min(100, steps // 10), "at most a tenth of the steps"),
        _Choice("train.ema_rate", average, "averages a twentieth of the steps, at most 1,000"),
        _Choice("train.eval_interval", max(epochs // VALIDATIONS, 1), f"about {VALIDATIONS} validations"),
    ]


def _warnings(puzzles: CustomPuzzles, meta: DatasetMeta, steps: int, minutes: float) -> list[str]:
    warnings = []
    _, pairs = contradictions(puzzles, augmentation_space(meta.model_copy(update={"symmetries": ()})))
    if pairs:
        one, other = (int(puzzles.lines[row]) for row in pairs[0])
        more = f" (and {len(pairs) - 1} more)" if len(pairs) > 1 else ""
        warnings.append(f"lines {one} and {other} have one input and two outputs{more}: no model learns both")
    groups = len(puzzles.group_names)
    if groups < FEW_GROUPS:
        warnings.append(f"{groups} groups are few: a model may learn them but no rule; add some hundred")
    if len(puzzles.alphabet) > MANY_SYMBOLS:
        warnings.append(f"{len(puzzles.alphabet)} different symbols: check that the columns contain grids")
    if steps < FEW_STEPS:
        warnings.append(
            f"only {steps:,} steps fit in {minutes:g} minutes, too few to learn: raise --minutes, or use smaller grids"
        )
    return warnings
