import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.networks import evaluate_params, inference_config, made_predictions
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.data.parquet import read_meta, read_split
from trm.datasets.sudoku.dataset import augmentations, cells
from trm.datasets.sudoku.solver import count_solutions, solve_grid
from trm.evaluation import evaluate as stage
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.evaluate import evaluate
from trm.evaluation.stored_trajectories import TrajectoryStore
from trm.inference import cost, engine
from trm.inference.batch_size import BatchSize
from trm.inference.engine import Predictions, predict
from trm.inference.solve import solve_puzzle
from trm.models import compilation
from trm.models.act import TRM, build_model
from trm.models.model_summary import flops
from trm.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from trm.training.distributed import World
from trm.training.ema import ema_copy
from trm.utils.errors import UserError
from trm.utils.memory import GpuMemory

SETTINGS = evaluate_params(max_steps=4, num_votes=5, pass_at_k=(1, 2, 5), batch_size=7)


@pytest.fixture
def model(dataset: Path, model_params: ModelParams, tmp_path: Path) -> Path:
    """A model folder with random weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    net = build_model(model_params, read_meta(dataset))
    with torch.no_grad():
        net.q_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    save_checkpoint(folder / FILE, net, ema_copy(net), {"step": 0})
    return folder


def _evaluate(dataset: Path, model: Path, out: Path, **changes: object) -> tuple[dict, dict]:
    out.mkdir()
    evaluate(SETTINGS.model_copy(update=changes), dataset, model, out, "key")
    return json.loads((out / "metrics.json").read_text()), pq.read_table(out / "predictions.parquet").to_pydict()


def test_a_solver_of_all_augmentations_has_perfect_scores(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Augmentations are inverted: solutions of the augmentations become solutions of the puzzle."""

    def solver(_model: object, tokens: np.ndarray, *_rest: object, **_more: object) -> Predictions:
        solved = [solve_grid((row - 1).reshape(4, 4)) for row in tokens]
        solutions = np.stack([grid for grid in solved if grid is not None]).reshape(len(tokens), -1) + 1
        return made_predictions(solutions, np.linspace(-1, 1, len(tokens)), 3)

    monkeypatch.setattr(stage, "predict", solver)
    metrics, rows = _evaluate(dataset, model, tmp_path / "out")
    split = read_split(dataset / "test")
    unique = [count_solutions((row - 1).reshape(4, 4)) == 1 for row in split.inputs]
    assert sum(unique) >= 3
    assert metrics["valid"] == metrics["valid_voted"] == 1
    for puzzle, exact, votes in zip(rows["puzzle"], rows["exact"], rows["votes"], strict=True):
        if unique[puzzle]:
            assert exact
            assert votes == 5
    assert len(set(rows["transform"])) > 10


def test_predictions_and_metrics_agree_with_the_model(dataset: Path, model: Path, tmp_path: Path) -> None:
    metrics, rows = _evaluate(dataset, model, tmp_path / "out")
    split = read_split(dataset / "test")
    assert rows["puzzle"] == [row for row in range(6) for _ in range(5)]
    assert rows["augmentation"] == [0, 1, 2, 3, 4] * 6
    net = stage.load_checkpoint(model)[0]
    plain = predict(net, split.inputs[:], split.identifiers, inference_config(4), 100)
    answers = [np.frombuffer(answer, np.uint8) for answer in rows["answer"][::5]]
    assert np.array_equal(np.stack(answers), cells(plain.tokens, 4).reshape(6, -1))
    correct = (plain.tokens == split.labels).mean(axis=1)
    assert metrics["cell_accuracy"] == pytest.approx(correct.mean())
    assert metrics["exact_accuracy"] == (correct == 1).mean()
    assert metrics["mean_halt_step"] == pytest.approx(plain.halt_step.mean())
    assert metrics["mean_steps"] == 4
    for row in range(6):
        of_puzzle = [line for line in range(30) if rows["puzzle"][line] == row]
        for line in of_puzzle:
            same = [other for other in of_puzzle if rows["answer"][other] == rows["answer"][line]]
            assert rows["votes"][line] == len(same)
            assert len({rows["rank"][other] for other in same}) == 1
        assert min(rows["rank"][line] for line in of_puzzle) == 1
        assert rows["rating"][of_puzzle[0]] == split.ratings[row]


def test_the_chunk_size_does_not_change_the_bytes(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _evaluate(dataset, model, tmp_path / "a")
    monkeypatch.setattr(stage, "MAX_SEQUENCES", 10)
    assert _evaluate(dataset, model, tmp_path / "b") == first
    assert (tmp_path / "a/metrics.json").read_bytes() == (tmp_path / "b/metrics.json").read_bytes()


SELECTIONS: list[dict[str, object]] = [
    {"selection": "votes", "num_samples": 2, "latent_noise_std": 0.5},
    {"selection": "halt_first", "num_votes": 3},
    {"selection": "halt_first", "num_votes": 3, "num_samples": 2, "latent_noise_std": 0.5, "verify": True},
    {"selection": "settled", "num_samples": 2, "latent_noise_std": 0.5},
]


@pytest.mark.parametrize("changes", SELECTIONS)
def test_rows_of_a_selection(dataset: Path, model: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    """The winning answers and confidences are those of the puzzles alone, and do not depend on the batch size."""
    metrics, rows = _evaluate(dataset, model, tmp_path / "out", **changes, min_confidence=0.5)
    other, same = _evaluate(dataset, model, tmp_path / "other", **changes, min_confidence=0.5, batch_size=100)
    assert [rows[name] for name in ("answer", "rank", "steps")] == [same[name] for name in ("answer", "rank", "steps")]
    assert rows["confidence"] == pytest.approx(same["confidence"], abs=1e-5)
    assert metrics["coverage"] == other["coverage"]
    settings = SETTINGS.model_copy(update=changes)
    net, meta = load_checkpoint(model)
    tests = EvalDataset.read(dataset, meta, settings.num_votes, None, settings.seed)
    answered = 0
    for task in tests.sample():
        (example,) = tests.examples(task)
        answer = solve_puzzle(net, meta, example, settings)
        of_puzzle = [line for line, puzzle in enumerate(rows["puzzle"]) if puzzle == example.row]
        (winner,) = {rows["answer"][line] for line in of_puzzle if rows["rank"][line] == 1}
        assert winner == answer.grid.tobytes()
        (confidence,) = {rows["confidence"][line] for line in of_puzzle}
        assert confidence == pytest.approx(answer.confidence, abs=1e-5)
        answered += answer.confidence >= 0.5
        if changes["selection"] == "halt_first":
            assert len({rows["steps"][line] for line in of_puzzle}) == 1
    assert metrics["coverage"] == answered / 6


@pytest.mark.parametrize("changes", SELECTIONS)
def test_two_processes_give_the_rows_of_one(dataset: Path, model: Path, changes: dict[str, object]) -> None:
    sent: list[bytes] = []

    class Other(World):
        def gather_object(self, value: bytes) -> list[bytes]:
            sent.append(value)
            return []

    class Main(World):
        def gather_object(self, value: bytes) -> list[bytes]:
            return [value, sent.pop(0)]

    settings = SETTINGS.model_copy(update=changes)
    net, meta = load_checkpoint(model)
    tests = EvalDataset.read(dataset, meta, settings.num_votes, None, settings.seed)
    store = TrajectoryStore("test", tests, settings)
    single, other, main = (
        list(stage.answer_rows(net, tests, settings, processes, store, BatchSize(64)))
        for processes in (World(), Other(1, 2), Main(0, 2))
    )
    assert other == []
    one, two = (pa.concat_tables(tables).to_pydict() for tables in (single, main))
    for name in ("halt_logit", "confidence"):
        assert two.pop(name) == pytest.approx(one.pop(name), abs=1e-5)
    assert two == one


class _Gpu(GpuMemory):
    """A GPU with memory for 23 sequences; a batch may use the memory of 16."""

    def free(self) -> int:
        return 23_000

    def peak(self, compute: Callable[[], object]) -> int:
        compute()
        return 8 * 1000


def test_a_batch_size_found_by_the_memory(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The memory suffices for 3 sequences only. All files are as before, but for rounding."""
    _evaluate(dataset, model, tmp_path / "fixed", trajectory_puzzles=3)
    sizes: list[int] = []

    class Limited(engine.InferenceEngine):
        def __init__(self, net: TRM, tokens: np.ndarray, *rest: object) -> None:
            sizes.append(len(tokens))
            super().__init__(net, tokens, *rest)  # pyright: ignore[reportArgumentType]

        def step(self) -> engine.Outputs:
            outputs = super().step()
            if len(outputs[0]) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return outputs

    monkeypatch.setattr(engine, "InferenceEngine", Limited)
    monkeypatch.setattr(cost, "gpu_memory", _Gpu)
    capsys.readouterr()
    _evaluate(dataset, model, tmp_path / "auto", trajectory_puzzles=3, batch_size="auto")
    assert sizes == [16, 8, 4, *[2] * 15, 2, 2], "30 test sequences, 4 validation puzzles"
    lines = capsys.readouterr().err.splitlines()
    assert "evaluate: 16 sequences at a time" in lines
    exceeded = [line for line in lines if "exceed" in line]
    assert exceeded == [
        f"{size} sequences at a time exceed the memory of the GPU; the batch size is now {size // 2}"
        for size in (16, 8, 4)
    ]
    for name in ("predictions.parquet", "validation.parquet", "trajectories.parquet"):
        fixed, auto = (pq.read_table(tmp_path / folder / name).to_pydict() for folder in ("fixed", "auto"))
        for column in {"halt_logit", "confidence"} & set(fixed):
            assert np.array(auto.pop(column)) == pytest.approx(np.array(fixed.pop(column)), abs=1e-5)
        assert auto == fixed


def test_a_sample_gets_the_same_augmentations(dataset: Path, model: Path, tmp_path: Path) -> None:
    _, everything = _evaluate(dataset, model, tmp_path / "all")
    metrics, some = _evaluate(dataset, model, tmp_path / "some", max_puzzles=3)
    assert metrics["puzzles"] == 3
    assert len(set(some["puzzle"])) == 3
    transforms = dict(
        zip(zip(everything["puzzle"], everything["augmentation"], strict=True), everything["transform"], strict=True)
    )
    for puzzle, number, transform in zip(some["puzzle"], some["augmentation"], some["transform"], strict=True):
        assert transforms[puzzle, number] == transform


def test_a_model_of_another_dataset_is_an_error(
    dataset: Path, model_params: ModelParams, meta: DatasetMeta, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "out").mkdir()
    net = build_model(model_params, meta.model_copy(update={"num_identifiers": 7}))
    save_checkpoint(tmp_path / "other" / FILE, net, ema_copy(net), {})
    with pytest.raises(UserError, match="give the dataset that the model was trained on"):
        evaluate(SETTINGS, dataset, tmp_path / "other", tmp_path / "out", "key")


def test_augmentations_start_with_the_puzzle_and_are_inverted(meta: DatasetMeta) -> None:
    tokens = np.array([1, 2, 3, 4, 5, 1, 1, 1, 2, 3, 1, 1, 1, 1, 5, 4], dtype=np.uint8)
    drawn = augmentations(meta, tokens, np.random.default_rng(0), 50)
    assert np.array_equal(drawn.tokens[0], tokens)
    assert drawn.names[0] == "digits=1234,rows=0123,columns=0123,transposed=0"
    assert (np.stack(drawn.invert(drawn.tokens)) == cells(tokens, 4)).all()
    assert len({row.tobytes() for row in drawn.tokens}) > 30
    # Padding predicted by a model is inverted to a blank, never to a digit.
    assert (np.stack(drawn.invert(np.zeros_like(drawn.tokens))) == 0).all()


def test_all_validation_puzzles_are_answered_once(dataset: Path, model: Path, tmp_path: Path) -> None:
    """Models are compared on them; test puzzles are never used for selection."""
    _evaluate(dataset, model, tmp_path / "out", max_puzzles=2)
    rows = pq.read_table(tmp_path / "out/validation.parquet").to_pydict()
    split = read_split(dataset / "validation")
    assert rows["task"] == [str(group) for group in split.groups]
    assert set(rows["augmentation"]) == {0}
    net, meta = load_checkpoint(model)
    answered = predict(
        net, split.inputs[:], np.zeros(len(split), np.int32), inference_config(SETTINGS.max_steps), batch_size=3
    ).tokens
    assert rows["exact"] == (answered == split.labels[:]).all(axis=1).tolist()
    assert meta == read_meta(dataset)


def test_no_validation_file_without_validation_puzzles(dataset: Path, model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(dataset, alone)
    shutil.rmtree(alone / "validation")
    _evaluate(alone, model, tmp_path / "out")
    assert not (tmp_path / "out/validation.parquet").exists()


def test_a_compiled_evaluation_has_the_same_answers(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[int] = []

    def recording(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        def run(*tensors: torch.Tensor | int) -> object:
            sizes.append(next(len(x) for x in tensors if isinstance(x, torch.Tensor) and x.ndim == 3))
            return graph(*tensors)

        return run

    # torch traces the passes as usual; the code that it would generate takes a C++ compiler 15 seconds.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=recording))
    monkeypatch.setattr(compilation, "require_compiler", lambda _: None)
    changes = {"early_halting": True, "num_votes": 1, "batch_size": 4}
    eager = _evaluate(dataset, model, tmp_path / "eager", **changes)
    assert sizes == []
    assert _evaluate(dataset, model, tmp_path / "compiled", **changes, compile=True) == eager
    assert sizes[0] == 4 and {4, 2} <= set(sizes)  # six test puzzles
    assert "evaluate: with torch.compile" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["auto", True])
def test_a_failed_compilation_only_ends_evaluations_that_ask_for_it(
    dataset: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str | bool,
) -> None:
    def failing(_: object) -> object:
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(torch, "compile", lambda _: failing)
    monkeypatch.setattr(compilation, "has_compiler", lambda: True)
    monkeypatch.setattr(compilation, "require_compiler", lambda _: None)
    monkeypatch.setattr(compilation, "WORTHWHILE", {"cpu": 1})
    if setting == "auto":
        _evaluate(dataset, model, tmp_path / "out", compile=setting)
        assert "evaluate: not compiled: torch.compile failed" in capsys.readouterr().err
        return
    with pytest.raises(UserError, match=r"^torch.compile failed \(.*\); set evaluate.compile to false"):
        _evaluate(dataset, model, tmp_path / "out", compile=setting)
    assert list((tmp_path / "out").iterdir()) == []


def test_auto_counts_the_operations_of_all_steps(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def recorded(*inputs: object) -> bool:
        seen.append(inputs[-1])  # type: ignore[arg-type]
        return False

    monkeypatch.setattr(stage, "should_compile", recorded)
    _evaluate(dataset, model, tmp_path / "out", num_samples=2, latent_noise_std=0.1)
    net = stage.load_checkpoint(model)[0]
    of_step, _ = flops(net.config, net.meta)
    held_out = len(read_split(dataset / "validation").inputs) if (dataset / "validation").is_dir() else 0
    assert seen == [of_step * (6 * 5 + held_out) * 2 * 4]
