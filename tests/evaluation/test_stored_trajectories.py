"""The steps that stage `evaluate` stores, and the sweep of the page that reuses them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.networks import evaluate_params
from trm.config.evaluation import SweepParams
from trm.config.model import ModelParams
from trm.data.parquet import read_meta
from trm.evaluation import trajectories
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.evaluate import evaluate
from trm.evaluation.stored_trajectories import FILE, StoredTrajectories, TrajectoryStore, write_trajectories
from trm.evaluation.sweep import run_sweep
from trm.inference.engine import InferenceEngine
from trm.models.act import TRM, build_model
from trm.training.checkpoint import FILE as CHECKPOINT
from trm.training.checkpoint import load_checkpoint, save_checkpoint
from trm.training.ema import ema_copy
from trm.utils.errors import DataError, UserError

SETTINGS = evaluate_params(max_steps=5, num_votes=3, trajectory_puzzles=3, seed=7)
GRID = SweepParams(
    max_steps=(1, 4), num_votes=(3,), selection=("votes",), num_samples=(2,), latent_noise_std=(0.5,), max_puzzles=3
)


@pytest.fixture(scope="module")
def model(dataset: Path, model_params: ModelParams, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights, some of whose sequences halt."""
    folder = tmp_path_factory.mktemp("model")
    net = build_model(model_params, read_meta(dataset))
    with torch.no_grad():
        net.q_head.weight.normal_(generator=torch.Generator().manual_seed(0))
        assert net.q_head.bias is not None
        net.q_head.bias.zero_()
    save_checkpoint(folder / CHECKPOINT, net, ema_copy(net), {"step": 0})
    return folder


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches of the sweep."""
    sizes: list[int] = []

    class Counting(InferenceEngine):
        def __init__(self, model: TRM, tokens: np.ndarray, *rest: object) -> None:
            sizes.append(len(tokens))
            super().__init__(model, tokens, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(trajectories, "InferenceEngine", Counting)
    return sizes


def evaluated(dataset: Path, model: Path, out: Path, **changes: object) -> Path:
    out.mkdir()
    evaluate(SETTINGS.model_copy(update=changes), dataset, model, out, "key")
    return out / FILE


def test_a_sweep_of_stored_trajectories_is_the_sweep(
    dataset: Path, model: Path, tmp_path: Path, computed: list[int]
) -> None:
    """3 test puzzles in 3 augmentations and 3 validation puzzles in 1 are stored, of 9 sequences of each split."""
    file = evaluated(dataset, model, tmp_path / "out")
    net, meta = load_checkpoint(model)
    expected = run_sweep(net, meta, dataset, GRID, 64, 7)
    assert sum(computed) == 2 * (9 + 9)
    computed.clear()
    reads: list[tuple[str, int]] = []

    def stored(split: str, steps: int) -> StoredTrajectories:
        reads.append((split, steps))
        return StoredTrajectories.read(file, split, steps)

    found = run_sweep(net, meta, dataset, GRID, 64, 7, stored)
    assert found == expected
    assert sum(computed) == (6 + 9) + (0 + 9)
    assert reads == [("validation", 4), ("test", 4)]
    rows = expected["splits"]["test"]["rows"]
    assert len({row["forward_passes"] for row in rows}) > 4, "some sequences must halt early"
    other = run_sweep(net, meta, dataset, GRID.model_copy(update={"selection": ("settled",)}), 64, 7, stored)
    assert len(reads) == 2, "movements are not stored"
    assert other == run_sweep(net, meta, dataset, GRID.model_copy(update={"selection": ("settled",)}), 64, 7)


def test_records_are_those_of_the_engine(dataset: Path, model: Path, tmp_path: Path) -> None:
    file = evaluated(dataset, model, tmp_path / "out", num_votes=1, batch_size=2)
    net, meta = load_checkpoint(model)
    tests = EvalDataset.read(dataset, meta, 1, 3, 7)
    examples = [example for task in tests.sample() for example in tests.examples(task)]
    records = StoredTrajectories.read(file, "test", 4)
    numbers = records.find(examples)
    assert sorted(numbers) == [0, 1, 2]
    for number, example in zip(numbers, examples, strict=True):
        engine = InferenceEngine(net, example.augmentations.tokens, example.identifiers)
        steps = [engine.step() for _ in range(4)]
        tokens, logits, halts = records.outputs(number)
        assert tokens.tolist() == [step[0][0].tolist() for step in steps]
        assert logits == pytest.approx([step[1][0] for step in steps], abs=1e-5)
        assert halts == [step[2][0] for step in steps]
    every = EvalDataset.read(dataset, meta, 1, None, 7)
    others = [example for task in every.sample() for example in every.examples(task)]
    assert sum(records.find(others) < 0) == 6 - 3


@pytest.mark.parametrize(
    "changes",
    [
        {"trajectory_puzzles": 0},
        {"early_halting": True},
        {"verify": True},
        {"selection": "halt_first"},
        {"num_samples": 2, "latent_noise_std": 0.5},
    ],
    ids=str,
)
def test_steps_that_cannot_be_reused_are_not_stored(
    dataset: Path, model: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    assert not evaluated(dataset, model, tmp_path / "out", **changes).exists()


def test_the_number_of_stored_puzzles_changes_no_other_file(dataset: Path, model: Path, tmp_path: Path) -> None:
    some = evaluated(dataset, model, tmp_path / "some").parent
    none = evaluated(dataset, model, tmp_path / "none", trajectory_puzzles=0).parent
    names = {path.name for path in none.iterdir()}
    assert {path.name for path in some.iterdir()} == {*names, FILE}
    assert all((some / name).read_bytes() == (none / name).read_bytes() for name in names)


def stores(dataset: Path, model: Path, parts: list[slice]) -> Iterator[TrajectoryStore]:
    """The stores of processes that answer some of the test puzzles each."""
    net, meta = load_checkpoint(model)
    tests = EvalDataset.read(dataset, meta, 3, None, 7)
    for part in parts:
        store = TrajectoryStore("test", tests, SETTINGS.model_copy(update={"trajectory_puzzles": 4}))
        examples = [example for task in tests.sample()[part] for example in tests.examples(task)]
        recorder = store.recorder(examples, 1)
        if recorder is not None:
            tokens = np.concatenate([example.augmentations.tokens for example in examples])
            outputs = InferenceEngine(net, tokens, np.zeros(len(tokens), np.int64)).step()
            recorder.add(np.arange(len(tokens)), 1, (outputs[0], np.zeros(len(tokens), np.float32), outputs[2]))
            store.add(recorder, examples)
        yield store


def test_the_file_does_not_depend_on_the_processes(dataset: Path, model: Path, tmp_path: Path) -> None:
    write_trajectories(tmp_path / "one", next(stores(dataset, model, [slice(6)])).tables)
    several = list(stores(dataset, model, [slice(4, 6), slice(2), slice(2, 4)]))
    write_trajectories(tmp_path / "several", [table for store in several for table in store.tables])
    assert len(pq.read_table(tmp_path / "one")) == 4 * 3
    assert (tmp_path / "one").read_bytes() == (tmp_path / "several").read_bytes()


def test_more_puzzles_than_the_memory_holds(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 test puzzles in 3 augmentations: 5 steps of 16 tokens and 5 bytes."""
    monkeypatch.setattr("trm.evaluation.stored_trajectories.check_memory", check := Check())
    evaluated(dataset, model, tmp_path / "out")
    name = "evaluate.trajectory_puzzles=3"
    assert check.calls == [(3 * 3 * 5 * (16 + 5), name), (3 * 5 * (16 + 5), name)]
    monkeypatch.undo()
    monkeypatch.setattr("trm.utils.memory.available_memory", lambda: 0)
    with pytest.raises(UserError, match="^evaluate.trajectory_puzzles=3 needs about 945 bytes of memory"):
        TrajectoryStore("test", EvalDataset.read(dataset, read_meta(dataset), 3, None, 7), SETTINGS)


class Check:
    """Records the calls of `check_memory`."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    def __call__(self, needed: int, setting: str) -> None:
        self.calls.append((needed, setting))


def test_a_damaged_file(dataset: Path, model: Path, tmp_path: Path) -> None:
    file = evaluated(dataset, model, tmp_path / "out")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match="trajectories.parquet: not a complete file .*; run `trm evaluate`"):
        StoredTrajectories.read(file, "test", 4)
