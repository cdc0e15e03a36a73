"""Params files for tests: a base with changed keys, edited as YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from trm.config.recipes import changed

DEFAULT = ROOT / "params.yaml"
TINY: dict[str, Any] = {
    "data.size": 4,
    "data.source.train_puzzles": 30,
    "data.source.test_puzzles": 10,
    "data.allow_leakage": True,
    "augment.num_aug": 2,
    "augment.validation_groups": 5,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "train.epochs": 4,
    "train.global_batch_size": 10,
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
    "report.num_examples": 2,
    "report.test_time_compute": None,  # tested separately
}
"""4x4 Sudoku with a short training."""


def params_text(changes: Mapping[str, Any], base: str | None = None) -> str:
    """The text of `base` (default: params.yaml) with other values at some keys: dotted key -> value."""
    return changed(DEFAULT.read_text(encoding="utf-8") if base is None else base, changes)


def edit_params(path: Path, changes: Mapping[str, Any]) -> str:
    """Change some keys of a params file; returns its previous text."""
    text = path.read_text(encoding="utf-8")
    path.write_text(changed(text, changes), encoding="utf-8")
    return text
