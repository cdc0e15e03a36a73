"""Real 9x9 puzzles through all stages, with a tiny attention model and a puzzle embedding."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.params import params_text
from tests.preload import python
from trm import load_checkpoint
from trm.config.recipes import recipe_text

SMALL: dict[str, Any] = {
    "augment.num_aug": 5,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 32,
    "model.puzzle_emb_len": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 1,
    "train.epochs": 1,
    "train.global_batch_size": 48,
    "evaluate.max_puzzles": 20,
    "evaluate.max_steps": 2,
    "evaluate.num_votes": 3,
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}


@pytest.mark.slow
def test_real_puzzles_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    source = {
        "type": "path",
        "train": str(shared_data / "sudoku-extreme/train.csv"),
        "test": str(shared_data / "sudoku-tdoku-hard/test.csv"),
        "train_sha256": None,
        "test_sha256": None,
        "min_rating": None,
        "subsample": 1000,
        "seed": 0,
    }
    text = params_text(SMALL | {"data.source": source}, recipe_text("sudoku-extreme-att"))
    (tmp_path / "params.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("fetch", "augment", "train", "evaluate"):
        command = [python(), "-m", "trm", stage]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "outputs/dataset/meta.json").read_text())["splits"]
    assert counts["train"] == {"groups": 1000, "puzzles": 6000, "examples": 6000}
    metrics = json.loads((tmp_path / "outputs/evaluation/metrics.json").read_text())
    assert (metrics["puzzles"], metrics["num_votes"], metrics["valid"]) == (20, 3, 0)
    manifest = json.loads((tmp_path / "outputs/model/manifest.json").read_text())
    assert manifest["facts"]["steps"] == 20
    model, _ = load_checkpoint(tmp_path / "outputs/model")
    assert model.puzzle_table.shape == (1, 32)
    # 20 warm-up steps out of 2,000 at 1e-4 move the shared row by lr * 20 * 21 / 2 / 2000 at most.
    assert 0 < model.puzzle_table.abs().max() <= 1e-4 * 210 / 2000 * 1.001
