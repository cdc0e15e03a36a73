"""Voting over stored versions of ARC tasks, from canvases to metrics.json and submission.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.networks import evaluate_params, made_predictions
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.data.parquet import read_meta, read_names, read_split
from trm.datasets.arc import dataset as arc
from trm.datasets.augment import augment
from trm.evaluation import evaluate as stage
from trm.evaluation.evaluate import evaluate
from trm.inference.engine import Predictions
from trm.inference.solve import solve
from trm.models.act import build_model
from trm.training.checkpoint import FILE, save_checkpoint
from trm.training.ema import ema_copy
from trm.utils.errors import UserError

Grid = list[list[int]]
TEST_INPUTS: list[Grid] = [[[1, 2], [0, 3]], [[4, 5, 6]]]
SOLUTIONS: list[Grid] = [[[1, 2, 3]], [[7, 8], [8, 7]]]
WRONG: list[Grid] = [[[5]], [[6, 6, 6]]]
AUGMENTATIONS = 6
SETTINGS = evaluate_params(max_steps=1, num_votes=AUGMENTATIONS, pass_at_k=(1, 2), batch_size=4)


def make(folder: Path, edition: str = "arc-agi-1", solutions: bool = True, seed: int = 0, held_out: int = 0) -> Path:
    """A dataset: task `two` with two test pairs and task `gap` with one, and a training task."""
    pair = {"input": [[1]], "output": [[2, 3]]}
    tests = {"two": TEST_INPUTS, "gap": [[[9, 9], [0, 1]]]}
    known = {"two": SOLUTIONS, "gap": [[[8]]]}
    evaluation = {name: {"train": [pair], "test": [{"input": grid} for grid in grids]} for name, grids in tests.items()}
    files = {
        "training_challenges": {"other": {"train": [pair], "test": [{"input": [[3, 4]]}]}},
        "training_solutions": {"other": [[[4, 3]]]},
        "evaluation_challenges": evaluation,
        "evaluation_solutions": known,
    }
    raw, out = folder / "raw", folder / "dataset"
    raw.mkdir(parents=True)
    out.mkdir()
    source: dict[str, Any] = {"type": "path", "concept": None}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
        key, _, part = name.partition("_")
        place = str(folder / f"{name}.json") if solutions or name != "evaluation_solutions" else None
        source.setdefault(key, {})[part] = place
        source[key][f"{part}_sha256"] = None
    values = {"name": "arc", "edition": edition, "source": source, "seed": seed}
    data = parse(arc.Settings, values, "test")
    arc.fetch(data, raw)
    augment(data, AugmentParams(num_aug=AUGMENTATIONS - 1, validation_groups=held_out, seed=seed), raw, out, "key")
    return out


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make(tmp_path / "data")


def model_of(dataset: Path, folder: Path, params: ModelParams) -> Path:
    """A model folder with untrained weights."""
    folder.mkdir()
    net = build_model(params.model_copy(update={"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}), read_meta(dataset))
    save_checkpoint(folder / FILE, net, ema_copy(net), {})
    return folder


def canvas(grid: Grid, name: str) -> np.ndarray:
    """The augmentation `name` of a grid at (0, 0) of a canvas; independent of the code under test."""
    cells = np.array(grid, np.uint8)
    _, symmetry, digits = name.split("|||") if "|||" in name else (name, "t0", "0123456789")
    cells = np.array([int(digit) for digit in digits], np.uint8)[cells]
    turn = int(symmetry[1])
    cells = np.rot90(cells, turn) if turn < 4 else cells
    cells = {4: np.fliplr, 5: np.flipud, 6: np.transpose, 7: lambda g: np.fliplr(np.rot90(g))}.get(turn, np.copy)(cells)
    tokens = np.zeros((30, 30), np.uint8)
    tokens[: cells.shape[0], : cells.shape[1]] = cells + 2
    return tokens.ravel()


def run(
    dataset: Path,
    model: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[int, list[Grid]],
    **changes: object,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, list]]:
    """Evaluate a model that answers pair p of task `two` with answers[augmentation][p], others with empty grids."""
    names = read_names(dataset).to_pylist()

    def answer(
        _model: object, tokens: np.ndarray, identifiers: np.ndarray, *_rest: object, **_more: object
    ) -> Predictions:
        found = np.zeros_like(tokens)
        seen: list[str] = [name for name in names if name.startswith("two")]
        for row, (question, identifier) in enumerate(zip(tokens, identifiers.tolist(), strict=True)):
            name = names[identifier - 1]
            grid_only = np.where(question >= 2, question, 0)
            if name.startswith("two"):
                pair = next(p for p in (0, 1) if np.array_equal(canvas(TEST_INPUTS[p], name), grid_only))
                found[row] = canvas(answers[seen.index(name)][pair], name)
        return made_predictions(found, np.zeros(len(tokens)), 1)

    monkeypatch.setattr(stage, "predict", answer)
    out.mkdir()
    evaluate(SETTINGS.model_copy(update=changes), dataset, model, out, "key")
    texts = [json.loads((out / name).read_text()) for name in ("metrics.json", "submission.json")]
    return texts[0], texts[1], pq.read_table(out / "predictions.parquet").to_pydict()


def test_votes_are_inverted_and_counted(
    dataset: Path, model_params: ModelParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(dataset, tmp_path / "model", model_params)
    # Pair 0: four of six votes are correct. Pair 1: two are correct, four agree on a wrong grid.
    answers = {
        v: [SOLUTIONS[0] if v < 4 else WRONG[0], SOLUTIONS[1] if v < 2 else WRONG[1]] for v in range(AUGMENTATIONS)
    }
    metrics, submitted, lines = run(dataset, model, tmp_path / "out", monkeypatch, answers)
    assert submitted["two"] == [
        {"attempt_1": SOLUTIONS[0], "attempt_2": WRONG[0]},
        {"attempt_1": WRONG[1], "attempt_2": SOLUTIONS[1]},
    ]
    assert submitted["gap"] == [{"attempt_1": [], "attempt_2": []}]  # all augmentations have empty answers
    assert metrics["pass@1"] == pytest.approx((0.5 + 0) / 2)
    assert metrics["pass@2"] == pytest.approx((1 + 0) / 2)
    assert (metrics["puzzles"], metrics["tasks"], metrics["valid"]) == (3, 2, None)
    # `exact` requires every labelled token, including the end tokens, which this model never predicts.
    assert metrics["exact_accuracy"] == 0
    assert 0 < metrics["cell_accuracy"] < 1
    two = [row for row, task in enumerate(lines["task"]) if task == "two"]
    assert [lines["votes"][row] for row in two] == [4] * 4 + [2] * 2 + [2] * 2 + [4] * 4
    assert [lines["correct"][row] for row in two] == [True] * 4 + [False] * 2 + [True] * 2 + [False] * 4
    assert [lines["augmentation"][row] for row in two] == [*range(AUGMENTATIONS)] * 2
    assert lines["transform"][two[0]] == "two"
    assert all(lines["transform"][row].startswith("two|||t") for row in two[1:AUGMENTATIONS])


def test_num_votes_and_max_puzzles(
    dataset: Path, model_params: ModelParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(dataset, tmp_path / "model", model_params)
    answers = {v: [SOLUTIONS[0], SOLUTIONS[1]] for v in range(AUGMENTATIONS)}
    for seed in range(4):
        out = tmp_path / f"out{seed}"
        metrics, submitted, lines = run(
            dataset, model, out, monkeypatch, answers, num_votes=2, max_puzzles=1, seed=seed
        )
        (task,) = set(lines["task"])
        assert set(submitted) == {"two", "gap"}  # the submission includes tasks that were not evaluated
        other = ({"two", "gap"} - {task}).pop()
        assert submitted[other] == [{"attempt_1": [[0]], "attempt_2": [[0]]}] * (2 if other == "two" else 1)
        assert metrics["pass@1"] == (1 if task == "two" else 0)
        assert max(lines["augmentation"]) == 1


def test_without_solutions(model_params: ModelParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(tmp_path / "data", solutions=False)
    model = model_of(dataset, tmp_path / "model", model_params)
    answers = {v: [SOLUTIONS[0], WRONG[1]] for v in range(AUGMENTATIONS)}
    metrics, submitted, lines = run(dataset, model, tmp_path / "out", monkeypatch, answers)
    assert submitted["two"] == [{"attempt_1": grid, "attempt_2": grid} for grid in (SOLUTIONS[0], WRONG[1])]
    assert all(metrics[name] is None for name in ("exact_accuracy", "pass@1", "pass@2", "halt_accuracy"))
    assert set(lines["exact"]) == {None}


def test_model_of_other_puzzles_is_rejected(model_params: ModelParams, tmp_path: Path) -> None:
    one, other = make(tmp_path / "a"), make(tmp_path / "c", seed=1)
    second = make(tmp_path / "b", "arc-agi-2")
    for trained, words in (
        (second, "ARC-AGI-2, whose training tasks include evaluation tasks"),
        (other, "other puzzles"),
    ):
        model = model_of(trained, tmp_path / f"model-{trained.parent.name}", model_params)
        with pytest.raises(UserError, match=words):
            evaluate(SETTINGS, one, model, tmp_path, "key")
    assert read_split(one / "test").counts() == read_split(other / "test").counts()


def test_tasks_outside_the_dataset_are_rejected(dataset: Path, model_params: ModelParams) -> None:
    meta: DatasetMeta = read_meta(dataset)
    net = build_model(model_params, meta).eval()
    with pytest.raises(UserError, match="use `trm evaluate`"):
        solve(net, meta, [[[1, 2]]])


def test_validation_tasks_are_evaluated(
    tmp_path: Path, model_params: ModelParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path / "data", held_out=1)
    run(
        dataset,
        model_of(dataset, tmp_path / "model", model_params),
        tmp_path / "out",
        monkeypatch,
        dict.fromkeys(range(AUGMENTATIONS), SOLUTIONS),
    )
    lines = pq.read_table(tmp_path / "out/validation.parquet").to_pydict()
    assert {name: lines[name] for name in ("task", "pair", "augmentation", "exact")} == {
        "task": ["other"],
        "pair": [0],
        "augmentation": [0],
        "exact": [False],
    }


def test_score_without_leaked_tasks(
    dataset: Path, model_params: ModelParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(dataset, tmp_path / "model", model_params)
    answers = {v: [SOLUTIONS[0], SOLUTIONS[1]] for v in range(AUGMENTATIONS)}
    meta = json.loads((dataset / "meta.json").read_text())
    assert set(meta["leaks"]) == {"two", "gap"}  # their demonstrations are equal up to colors
    metrics = run(dataset, model, tmp_path / "all", monkeypatch, answers)[0]
    assert (metrics["pass@1"], metrics["leaked_tasks"], metrics["without_leaks"]["tasks"]) == (0.5, 2, 0)
    (dataset / "meta.json").write_text(json.dumps(meta | {"leaks": {"two": ["other"]}}))
    metrics, submitted, _ = run(dataset, model, tmp_path / "out", monkeypatch, answers)
    assert (metrics["pass@1"], metrics["tasks"], metrics["leaked_tasks"]) == (0.5, 2, 1)
    others = metrics["without_leaks"]
    assert (others["pass@1"], others["tasks"], others["puzzles"]) == (0, 1, 1)
    assert set(submitted) == {"two", "gap"}
