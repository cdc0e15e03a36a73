"""The test-time-compute sweep: replayed trajectories equal the evaluation; selection and tables."""

import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.networks import ScriptedNetwork, evaluate_params, inference_config
from trm.config.evaluation import SweepParams
from trm.config.inference import InferenceConfig
from trm.config.model import ModelParams
from trm.data.parquet import read_meta, read_split, write_split
from trm.datasets.sudoku.solver import solve_grid
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.evaluate import answer_rows
from trm.evaluation.metrics import paired_difference
from trm.evaluation.stored_trajectories import TrajectoryStore
from trm.evaluation.sweep import Row, cheapest, find_row, pareto_front, run_sweep, single_changes
from trm.evaluation.trajectories import Sample, Trajectories, record_trajectories
from trm.inference.batch_size import BatchSize
from trm.models.act import TRM
from trm.training.distributed import SINGLE_PROCESS
from trm.utils.errors import UserError

PUBLISHED = inference_config(4)
SAMPLES = [Sample(0.0, 0), *(Sample(std, number) for std in (0.3, 1.0) for number in (1, 2))]
SETTINGS = [
    inference_config(4),
    inference_config(6, early_halting=True),
    inference_config(5, num_votes=4),
    inference_config(6, verify=True),
    inference_config(6, early_halting=True, num_votes=2, verify=True),
    inference_config(6, early_halting=True, num_samples=3, latent_noise_std=1.0),
    inference_config(6, num_samples=2, latent_noise_std=0.3, num_votes=3),
    inference_config(6, early_halting=True, num_samples=3, latent_noise_std=0.3, num_votes=4, verify=True),
    inference_config(6, num_votes=4, selection="halt_first"),
    inference_config(4, num_samples=2, latent_noise_std=0.3, num_votes=3, selection="halt_logit"),
    inference_config(6, num_samples=3, latent_noise_std=0.3, num_votes=2, selection="halt_first"),
    inference_config(6, num_samples=2, latent_noise_std=1.0, num_votes=4, selection="halt_first", verify=True),
    inference_config(5, num_votes=4, selection="settled"),
    inference_config(6, num_samples=3, latent_noise_std=0.3, num_votes=3, selection="settled", early_halting=True),
    inference_config(6, num_samples=3, latent_noise_std=1.0, num_votes=2, selection="settled", verify=True),
]


@pytest.fixture(scope="module")
def model(dataset: Path, model_params: ModelParams) -> TRM:
    """A network that is correct for some inputs, by a checksum of the question, the step and the noise."""

    def script(question: np.ndarray, step: int, noise: float) -> tuple[np.ndarray, float]:
        seed = question.tobytes() + bytes([step, round(noise * 4) % 256])
        rng = np.random.default_rng(zlib.crc32(seed))
        solution = solve_grid((question - 1).reshape(4, 4))
        assert solution is not None
        answer = solution.ravel() + np.uint8(1)
        if rng.random() < 0.75:
            answer[rng.integers(3)] = 2  # at most three wrong answers, so that they gather votes
        return answer, rng.normal(-0.7, 1)

    return ScriptedNetwork(model_params, read_meta(dataset), script)


@pytest.mark.parametrize("config", SETTINGS, ids=str)
def test_a_replay_equals_the_evaluation(dataset: Path, model: TRM, config: InferenceConfig) -> None:
    meta = read_meta(dataset)
    tests = EvalDataset.read(dataset, meta, 4, None, 7)
    trajectories = record_trajectories(model, tests, 6, SAMPLES, batch_size=5)
    answer, steps = trajectories.replay(config)
    flat = trajectories.answer.reshape(len(answer), -1)
    fraction = np.take_along_axis(trajectories.correct, flat, axis=1).mean()
    assert 0.05 < fraction < 0.95, "the model must be correct for some inputs and wrong for others"
    halts = trajectories.halts.any(axis=-1)
    assert halts.any() and not halts.all(), "and halt some sequences"
    settings = evaluate_params(**config.model_dump(), seed=7)
    fewer = EvalDataset.read(dataset, meta, config.num_votes, None, 7)
    store = TrajectoryStore("test", fewer, settings)
    rows = pa.concat_tables(answer_rows(model, fewer, settings, SINGLE_PROCESS, store, BatchSize(64))).to_pylist()
    for number in range(len(answer)):
        of_puzzle = rows[number * config.num_votes : (number + 1) * config.num_votes]
        assert steps[number] == sum(row["steps"] for row in of_puzzle)
        (elected,) = {(row["correct"], row["valid"], row["answer"]) for row in of_puzzle if row["rank"] == 1}
        assert trajectories.valid is not None
        won = answer[number]
        assert (trajectories.correct[number, won], trajectories.valid[number, won]) == elected[:2]


def test_replays_by_hand() -> None:
    """One example, two augmentations, two samples, three steps: answer 1 is correct and valid."""
    answer = np.array([[[[0, 1, 0], [2, 2, 2]], [[0, 0, 1], [2, 1, 2]]]], np.int32)
    logit = np.array([[[[0, 1, 2], [3, 3, 3]], [[0, 0, 9], [1, 1, 1]]]], np.float32)
    halts = np.array([[[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [1, 1, 1]]]], bool)
    correct = np.array([[False, True, False]])
    samples = (Sample(0.0, 0), Sample(0.5, 1))
    both = np.ones((1, 2), bool)
    movement = np.array([[[[9, 4, 3], [9, 1, 2]], [[9, 4, 1], [9, 3, 2]]]], np.float32)
    trajectories = Trajectories(samples, answer, logit, halts, movement, both, correct, correct)

    def replay(max_steps: int, **changes: object) -> tuple[int, int]:
        won, steps = trajectories.replay(inference_config(max_steps, **changes))
        return int(won[0]), int(steps[0])

    noisy = {"num_samples": 2, "latent_noise_std": 0.5}
    assert replay(3) == (0, 3)
    assert replay(3, early_halting=True) == (1, 2)
    assert replay(3, verify=True) == (1, 2)
    assert replay(1, verify=True) == (0, 1)
    assert replay(3, **noisy) == (2, 6)  # the higher logit
    assert replay(3, **noisy, num_votes=2) == (1, 12)  # one vote each: 1 has the higher logit
    assert replay(3, **noisy, num_votes=2, verify=True) == (1, 8)
    assert replay(3, num_votes=2) == (1, 6)
    assert replay(3, **noisy, num_votes=2, early_halting=True) == (1, 2 + 3 + 3 + 1)  # 2 and 1, logits 3 and 9
    assert replay(3, selection="settled") == (0, 3)
    assert replay(3, **noisy, selection="settled") == (2, 6)  # 2 moved less than 3
    assert replay(3, **noisy, selection="settled", early_halting=True) == (2, 2 + 3)  # at their last steps: 4 and 2
    assert replay(3, num_votes=2, selection="settled") == (1, 6)
    assert replay(2, **noisy, num_votes=2, selection="settled") == (2, 8)
    assert replay(3, **noisy, selection="halt_first") == (1, 2 + 2)  # the first sample halts in step 2
    assert replay(3, **noisy, num_votes=2, selection="halt_first") == (2, 4)  # the last sample halts in step 1
    assert replay(1, **noisy, selection="halt_first") == (2, 2)  # none has halted: the higher logit
    alone = Trajectories(samples, answer, logit, halts, movement, np.array([[True, False]]), correct, correct)
    assert alone.replay(inference_config(3, **noisy, num_votes=2, selection="halt_first"))[1].tolist() == [4]
    assert alone.replay(inference_config(3, num_votes=2))[1].tolist() == [3]  # a missing augmentation costs nothing
    halts = np.array([[[[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]]]], bool)
    halted = Trajectories(samples, answer, logit, halts, movement, both, correct, correct)
    # The first sample halts at step 1: that it would be valid at step 2 does not stop the second.
    config = inference_config(3, **noisy, early_halting=True, verify=True)
    assert halted.replay(config)[1].tolist() == [1 + 3]


def test_a_sweep(dataset: Path, model: TRM) -> None:
    grid = SweepParams(
        max_steps=(1, 2),
        num_votes=(3,),
        selection=("votes",),
        num_samples=(2,),
        latent_noise_std=(0.5,),
        max_puzzles=None,
    )
    meta = read_meta(dataset)
    results = run_sweep(model, meta, dataset, grid, 64, 0)
    assert results == run_sweep(model, meta, dataset, grid, 5, 0)
    published = PUBLISHED.model_dump()
    assert results["published"] == published
    assert {name: split["puzzles"] for name, split in results["splits"].items()} == {"validation": 4, "test": 6}
    for split in results["splits"].values():
        assert len(split["rows"]) == 3 * 2 * 2 * 2 * 2
        baseline = find_row(split["rows"], published)
        assert baseline["forward_passes"] == 4 * results["passes_per_step"] == 4 * model.passes
        assert baseline["difference"] == 0
        assert baseline["difference_low"] < 0 < baseline["difference_high"]
    assert results["selected"] is not None
    assert {name for name, _ in single_changes(results["splits"]["test"]["rows"], published)} == {
        *("max_steps", "early_halting", "verify", "num_votes", "num_samples")
    }
    few = run_sweep(model, meta, dataset, grid.model_copy(update={"max_puzzles": 2}), 64, 0)
    assert {split["puzzles"] for split in few["splits"].values()} == {2}


def test_a_sweep_of_selections(dataset: Path, model: TRM) -> None:
    """With one sequence there is nothing to select, and halt_first always halts early."""
    grid = SweepParams(
        max_steps=(2,),
        num_votes=(3,),
        selection=("halt_first", "settled"),
        num_samples=(1,),
        latent_noise_std=(),
        max_puzzles=None,
    )
    results = run_sweep(model, read_meta(dataset), dataset, grid, 64, 0)
    rows = results["splits"]["test"]["rows"]
    names = ("num_votes", "selection", "early_halting")
    found = {tuple(row["settings"][name] for name in names) for row in rows}
    votes = {(count, "votes", early) for count in (1, 3) for early in (False, True)}
    assert found == votes | {(3, "settled", False), (3, "settled", True), (3, "halt_first", False)}
    changes = [
        row["settings"]["selection"] for name, row in single_changes(rows, results["published"]) if name == "selection"
    ]
    assert changes == ["halt_first", "settled"]


def test_trajectories_beyond_the_memory(dataset: Path, model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 validation puzzles in 2 augmentations and 1 sample: 4,096 steps of 8 * 13 + 8 * (16 + 13) bytes."""
    grid = SweepParams(
        max_steps=(4096,), num_votes=(2,), selection=("votes",), num_samples=(1,), latent_noise_std=(), max_puzzles=None
    )
    monkeypatch.setattr("trm.utils.memory.available_memory", lambda: 4096 * (8 * 13 + 8 * 29) - 1)
    with pytest.raises(UserError, match=r"^max_steps=4096 needs about 1\.4 MB of memory, and this machine has 1\.4 MB"):
        run_sweep(model, read_meta(dataset), dataset, grid, 64, 0)


def test_without_validation_puzzles_nothing_is_selected(dataset: Path, model: TRM, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    shutil.rmtree(copy / "validation")
    grid = SweepParams(
        max_steps=(1,), num_votes=(1,), selection=("votes",), num_samples=(1,), latent_noise_std=(), max_puzzles=None
    )
    results = run_sweep(model, read_meta(dataset), copy, grid, 64, 0)
    assert results["selected"] is None
    assert list(results["splits"]) == ["test"]


def row(passes: float, exact: float, **changes: object) -> Row:
    spread = {"low": 0.0, "high": 1.0, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "valid": None}
    settings = PUBLISHED.model_dump() | changes
    return Row(settings=settings, forward_passes=passes, exact=exact, **spread)  # pyright: ignore[reportArgumentType]


def test_the_pareto_front_and_the_cheapest_by_hand() -> None:
    rows = [row(10, 0.5), row(10, 0.6), row(20, 0.6), row(30, 0.9), row(40, 0.85), row(80, 0.91), row(90, 0.91)]
    front = [(each["forward_passes"], each["exact"]) for each in pareto_front(rows)]
    assert front == [(10, 0.6), (30, 0.9), (80, 0.91)]
    assert cheapest(rows)["forward_passes"] == 30
    assert cheapest(rows[:3])["forward_passes"] == 10


def test_rows_with_a_single_change() -> None:
    rows = [row(1, 0), row(2, 0, max_steps=8), row(3, 0, num_votes=4), row(4, 0, max_steps=8, num_votes=4)]
    rows += [row(5, 0, num_samples=4, latent_noise_std=0.2)]
    changes = [(name, each["forward_passes"]) for name, each in single_changes(rows, PUBLISHED.model_dump())]
    assert changes == [("max_steps", 2), ("num_samples", 5), ("num_votes", 3)]


def test_a_paired_difference_by_hand() -> None:
    """10 puzzles, 4 won and 1 lost: (4 - 1) / 10; its interval 3 / 12 +- 1.96 * sqrt(6 - 9 / 12) / 12."""
    ours = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0], bool)
    theirs = np.array([0, 0, 0, 0, 1, 1, 1, 0, 0, 0], bool)
    found = paired_difference(ours, theirs)
    assert found["low"] is not None and found["high"] is not None
    reach = 1.959964 * 5.25**0.5 / 12
    assert found["value"] == pytest.approx(0.3)
    assert (found["low"], found["high"]) == pytest.approx((0.25 - reach, 0.25 + reach))
    assert paired_difference(ours[:0], theirs[:0])["value"] is None


def test_invalid_arguments(dataset: Path, model: TRM, tmp_path: Path) -> None:
    message = "num_samples above 1 requires a latent_noise_std, and vice versa. Got num_samples=\\[2\\]"
    with pytest.raises(ValueError, match=message):
        SweepParams(
            max_steps=(1,),
            num_votes=(1,),
            selection=("votes",),
            num_samples=(2,),
            latent_noise_std=(),
            max_puzzles=None,
        )
    unknown = tmp_path / "dataset"
    unknown.mkdir()
    split = read_split(dataset / "test")
    write_split(unknown / "test", [replace(split, labels=np.zeros_like(split.labels[:]))], 16, {})
    grid = SweepParams(
        max_steps=(1,), num_votes=(1,), selection=("votes",), num_samples=(1,), latent_noise_std=(), max_puzzles=None
    )
    with pytest.raises(UserError, match="no solution of these puzzles is known"):
        run_sweep(model, read_meta(dataset), unknown, grid, 64, 0)
