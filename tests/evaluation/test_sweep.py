"""Accuracy against passes: a replayed record is what really thinking would have said, and what is made of it."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.networks import ScriptedNetwork
from trm.config.evaluation import CurveParams, EvaluateParams
from trm.config.model import ModelParams
from trm.data.parquet import read_meta, read_split, write_split
from trm.datasets.sudoku.solver import solve_grid
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.evaluate import _answer
from trm.evaluation.metrics import paired_difference
from trm.evaluation.sweep import Knobs, Row, cheapest, find, frontier, knobs, measure_curve, one_dial
from trm.evaluation.trajectories import Noisy, Record, Setting, record
from trm.inference.engine import Dials
from trm.models.act import TRM
from trm.utils.errors import UserError

PLAIN = Knobs(steps=4, early_halting=False, verify=False, votes=1, rollouts=1, noise=0.0)
TRIES = [Noisy(0.0, 0), *(Noisy(scale, number) for scale in (0.3, 1.0) for number in (1, 2))]
SETTINGS = [
    Setting(Dials(4), 1, False),
    Setting(Dials(6, early_halting=True), 1, False),
    Setting(Dials(5), 4, False),
    Setting(Dials(6), 1, True),
    Setting(Dials(6, early_halting=True), 2, True),
    Setting(Dials(6, True, 3, 1.0), 1, False),
    Setting(Dials(6, False, 2, 0.3), 3, False),
    Setting(Dials(6, True, 3, 0.3), 4, True),
]


@pytest.fixture(scope="module")
def model(dataset: Path, model_params: ModelParams) -> TRM:
    """A network that is right here and wrong there, by a checksum of the question, the step and its noise."""

    def script(question: np.ndarray, step: int, noise: float) -> tuple[np.ndarray, float]:
        known = question.tobytes() + bytes([step, round(noise * 4) % 256])
        dice = np.random.default_rng(zlib.crc32(known))
        right = solve_grid((question - 1).reshape(4, 4))
        assert right is not None
        answer = right.ravel() + np.uint8(1)
        if dice.random() < 0.75:
            answer[dice.integers(3)] = 2  # three wrong answers at most, so that they gather votes
        return answer, dice.normal(-0.7, 1)

    return ScriptedNetwork(model_params, read_meta(dataset), script)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_replay_is_what_evaluating_says(dataset: Path, model: TRM, setting: Setting) -> None:
    meta = read_meta(dataset)
    tests = EvalDataset(dataset, meta, 4, None, 7)
    seen = record(model, tests, 6, TRIES, batch_size=5)
    answer, steps = seen.replay(setting)
    share = np.take_along_axis(seen.right, seen.answer.reshape(len(answer), -1), axis=1).mean()
    assert 0.05 < share < 0.95, "the model must be right here and wrong there"
    assert seen.halts.any(axis=-1).any() and not seen.halts.any(axis=-1).all(), "and halt now and then"
    asked = EvaluateParams(
        **knobs(setting), pass_at_k=(1,), max_puzzles=None, batch_size=64, precision="float32", device="cpu", seed=7
    )
    fewer = EvalDataset(dataset, meta, setting.votes, None, 7)
    lines = _answer(model, fewer, asked, fewer.sample().tolist(), lambda _: None).to_pylist()
    for row in range(len(answer)):
        versions = lines[row * setting.votes : (row + 1) * setting.votes]
        assert steps[row] == sum(version["steps"] for version in versions)
        (elected,) = {
            (version["right"], version["valid"], version["answer"]) for version in versions if version["rank"] == 1
        }
        assert seen.valid is not None
        assert (seen.right[row, answer[row]], seen.valid[row, answer[row]]) == elected[:2]


def test_the_record_by_hand() -> None:
    """One example, two versions, two tries, three steps: right at answer 1, which obeys the rules too."""
    answer = np.array([[[[0, 1, 0], [2, 2, 2]], [[0, 0, 1], [2, 1, 2]]]], np.int32)
    logit = np.array([[[[0, 1, 2], [3, 3, 3]], [[0, 0, 9], [1, 1, 1]]]], np.float32)
    halts = np.array([[[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [1, 1, 1]]]], bool)
    right = np.array([[False, True, False]])
    seen = Record((Noisy(0.0, 0), Noisy(0.5, 1)), answer, logit, halts, np.ones((1, 2), bool), right, right)

    def said(dials: Dials, votes: int, verify: bool) -> tuple[int, int]:
        won, steps = seen.replay(Setting(dials, votes, verify))
        return int(won[0]), int(steps[0])

    assert said(Dials(3), 1, False) == (0, 3)
    assert said(Dials(3, early_halting=True), 1, False) == (1, 2)
    assert said(Dials(3), 1, True) == (1, 2)
    assert said(Dials(1), 1, True) == (0, 1)
    assert said(Dials(3, rollouts=2, noise=0.5), 1, False) == (2, 6)  # surer
    assert said(Dials(3, rollouts=2, noise=0.5), 2, False) == (1, 12)  # one vote each: 1 is surer than 2
    assert said(Dials(3, rollouts=2, noise=0.5), 2, True) == (1, 8)
    assert said(Dials(3), 2, False) == (1, 6)
    assert said(Dials(3, True, 2, 0.5), 2, False) == (1, 2 + 3 + 3 + 1)  # 2 and 1, as sure as 3 and 9
    alone = Record(seen.tries, answer, logit, halts, np.array([[True, False]]), right, right)
    assert alone.replay(Setting(Dials(3), 2, False))[1].tolist() == [3]  # a version that is not there costs nothing
    halts = np.array([[[[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]]]], bool)
    halted = Record(seen.tries, answer, logit, halts, np.ones((1, 2), bool), right, right)
    # The first try has halted at step 1: that it would obey at step 2 does not stop the second.
    assert halted.replay(Setting(Dials(3, True, 2, 0.5), 1, True))[1].tolist() == [1 + 3]


def test_the_curve_of_a_data_set(dataset: Path, model: TRM) -> None:
    grid = CurveParams(steps=(1, 2), votes=(3,), rollouts=(2,), noise=(0.5,), max_puzzles=None)
    meta = read_meta(dataset)
    curve = measure_curve(model, meta, dataset, grid, 64, 0)
    assert curve == measure_curve(model, meta, dataset, grid, 5, 0)
    assert curve["plain"] == PLAIN
    assert {name: split["puzzles"] for name, split in curve["splits"].items()} == {"validation": 4, "test": 6}
    for split in curve["splits"].values():
        assert len(split["settings"]) == 3 * 2 * 2 * 2 * 2
        plain = find(split["settings"], PLAIN)
        assert plain["passes"] == 4 * curve["passes_per_step"] == 4 * model.passes
        assert plain["difference"] == 0
        assert plain["difference_low"] < 0 < plain["difference_high"]
    assert curve["chosen"] is not None
    assert {dial for dial, _ in one_dial(curve["splits"]["test"]["settings"], PLAIN)} == {
        *("steps", "early_halting", "verify", "votes", "rollouts")
    }
    few = measure_curve(model, meta, dataset, grid.model_copy(update={"max_puzzles": 2}), 64, 0)
    assert {split["puzzles"] for split in few["splits"].values()} == {2}


def test_without_validation_puzzles_nothing_is_chosen(dataset: Path, model: TRM, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(dataset, tmp_path / "dataset")
    shutil.rmtree(copy / "validation")
    grid = CurveParams(steps=(1,), votes=(1,), rollouts=(1,), noise=(), max_puzzles=None)
    curve = measure_curve(model, read_meta(dataset), copy, grid, 64, 0)
    assert curve["chosen"] is None
    assert list(curve["splits"]) == ["test"]


def row(passes: float, exact: float, **dials: object) -> Row:
    spread = {"low": 0.0, "high": 1.0, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0, "valid": None}
    return Row(**(PLAIN | dials), passes=passes, exact=exact, **spread)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_the_frontier_and_the_cheapest_by_hand() -> None:
    rows = [row(10, 0.5), row(10, 0.6), row(20, 0.6), row(30, 0.9), row(40, 0.85), row(80, 0.91), row(90, 0.91)]
    assert [(each["passes"], each["exact"]) for each in frontier(rows)] == [(10, 0.6), (30, 0.9), (80, 0.91)]
    assert cheapest(rows)["passes"] == 30
    assert cheapest(rows[:3])["passes"] == 10


def test_the_rows_that_turn_one_dial() -> None:
    rows = [row(1, 0), row(2, 0, steps=8), row(3, 0, votes=4), row(4, 0, steps=8, votes=4)]
    rows += [row(5, 0, rollouts=4, noise=0.2)]
    assert [(dial, each["passes"]) for dial, each in one_dial(rows, PLAIN)] == [
        ("steps", 2),
        ("votes", 3),
        ("rollouts", 5),
    ]


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


def test_mistakes(dataset: Path, model: TRM, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="rollouts above 1 need a noise, and the other way round. Got rollouts=\\[2\\]"
    ):
        CurveParams(steps=(1,), votes=(1,), rollouts=(2,), noise=(), max_puzzles=None)
    unknown = tmp_path / "dataset"
    unknown.mkdir()
    split = read_split(dataset / "test")
    write_split(unknown / "test", [replace(split, labels=np.zeros_like(split.labels[:]))], 16, {})
    grid = CurveParams(steps=(1,), votes=(1,), rollouts=(1,), noise=(), max_puzzles=None)
    with pytest.raises(UserError, match="no answer to any of these puzzles is known"):
        measure_curve(model, read_meta(dataset), unknown, grid, 64, 0)
