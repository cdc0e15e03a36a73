"""Real 9x9 puzzles through all four stages: a tiny attention model with a puzzle table, as nobody would train it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trm import load_checkpoint
from trm.config.recipes import recipe_text

SMALL = {
    r"num_aug: \d+": "num_aug: 5",
    r"hidden_size: \d+": "hidden_size: 32",
    r"num_heads: \d+": "num_heads: 2",
    r"puzzle_emb_ndim: \d+": "puzzle_emb_ndim: 32",
    r"puzzle_emb_len: \d+": "puzzle_emb_len: 1",
    r"H_cycles: \d+": "H_cycles: 2",
    r"L_cycles: \d+": "L_cycles: 1",
    r"epochs: \d+": "epochs: 1",
    r"global_batch_size: \d+": "global_batch_size: 48",
    r"max_puzzles: \w+": "max_puzzles: 20",
    r"\bsteps: 16": "steps: 2",
    r"votes: 1": "votes: 3",
    r"device: auto": "device: cpu",
}


@pytest.mark.slow
def test_real_puzzles_end_to_end(shared_data: Path, tmp_path: Path) -> None:
    text = recipe_text("sudoku-extreme-att")
    text, count = re.subn(r"    type: huggingface\n    repo: .*\n    revision: .*\n", "    type: path\n", text)
    assert count == 1
    text = text.replace("train: train.csv", f"train: {shared_data / 'sudoku-extreme/train.csv'}")
    text = text.replace("test: test.csv", f"test: {shared_data / 'sudoku-tdoku-hard/test.csv'}")
    for old, new in SMALL.items():
        text, count = re.subn(old, new, text)
        assert count, old
    (tmp_path / "params.yaml").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("fetch", "augment", "train", "evaluate"):
        command = [sys.executable, "-m", "trm", stage]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "outputs/dataset/meta.json").read_text())["splits"]
    assert counts["train"] == {"groups": 1000, "puzzles": 6000, "examples": 6000}
    metrics = json.loads((tmp_path / "outputs/evaluation/metrics.json").read_text())
    assert (metrics["puzzles"], metrics["votes"], metrics["valid"]) == (20, 3, 0)
    manifest = json.loads((tmp_path / "outputs/model/manifest.json").read_text())
    assert manifest["facts"]["steps"] == 20
    model, _ = load_checkpoint(tmp_path / "outputs/model")
    assert model.puzzle_table.shape == (1, 32)
    # 20 warm-up steps out of 2,000 at 1e-4 move the shared row by lr * 20 * 21 / 2 / 2000 at most.
    assert 0 < model.puzzle_table.abs().max() <= 1e-4 * 210 / 2000 * 1.001
