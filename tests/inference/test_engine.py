"""More and less thinking: early halting, rollouts with noise, the check of the rules."""

import numpy as np
import pytest
import torch

from trm.config.model import ModelParams
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference import engine as thinking
from trm.inference.engine import Dials, InferenceEngine, Predictions, Rules, predict
from trm.inference.solve import solve
from trm.models.act import TRM, build_model
from trm.utils.errors import DataError, UserError

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
OTHER = SOLVED[[0, 1, 3, 2]]
"""Obeys the rules too."""


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    """A model that halts here and there."""
    net = build_model(model_params, META).eval()
    with torch.no_grad():
        dice = torch.Generator().manual_seed(1)
        net.q_head.weight.normal_(0, 0.3, generator=dice)
        assert net.q_head.bias is not None
        net.q_head.bias.zero_()
    return net


def questions(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (count, 16)).astype(np.uint8)


def asked(model: TRM, count: int, dials: Dials, batch: int = 64, **more: object) -> Predictions:
    return predict(model, questions(count), np.zeros(count, int), dials, batch, **more)  # pyright: ignore[reportArgumentType]


def test_plain_thinking_is_the_models_own(model: TRM) -> None:
    found = asked(model, 9, Dials(steps=5), batch=4)
    batch = {"inputs": torch.from_numpy(questions(9).astype(np.int32)), "puzzle_identifiers": torch.zeros(9).int()}
    tokens, halt_logit, first_halt = model.answer(batch, 5)
    assert np.array_equal(found.tokens, tokens.numpy())
    assert found.halt_logit == pytest.approx(halt_logit.numpy(), abs=1e-5)
    assert np.array_equal(found.first_halt, first_halt.numpy())
    assert (found.steps == 5).all()


def test_early_halting_answers_as_at_that_step(model: TRM) -> None:
    """Whoever halts leaves; the others never notice."""
    found = asked(model, 40, Dials(steps=6, early_halting=True), batch=16)
    assert np.array_equal(found.steps, found.first_halt)
    assert len(set(found.steps.tolist())) > 1
    for step in set(found.steps.tolist()):
        then = asked(model, 40, Dials(steps=step), batch=16)
        those = found.steps == step
        assert np.array_equal(found.tokens[those], then.tokens[those])
        assert found.halt_logit[those] == pytest.approx(then.halt_logit[those], abs=1e-5)


def test_the_surest_rollout_wins(model: TRM) -> None:
    seeds = [[7, row] for row in range(5)]
    dials = Dials(steps=3, rollouts=4, noise=0.5)
    found = asked(model, 5, dials, seeds=seeds)
    assert (found.steps == 4 * 3).all()
    answers, logits = [], []
    for roll in range(4):
        noise = [None if roll == 0 else [7, row, roll] for row in range(5)]
        engine = InferenceEngine(model, questions(5), np.zeros(5, int), 0.5, noise)
        said = [engine.step() for _ in range(3)][-1]
        answers.append(said[0])
        logits.append(said[1])
    plain = asked(model, 5, Dials(steps=3))
    assert np.array_equal(answers[0], plain.tokens)  # the first has no noise
    assert not np.allclose(logits[1], logits[2])
    best = np.argmax(logits, axis=0)
    assert len(set(best.tolist())) > 1
    assert np.array_equal(found.tokens, np.stack(answers)[best, range(5)])


def test_noise_is_the_sequences_own(model: TRM) -> None:
    """The same whatever else is in the batch, and another for another seed; its scale is what is asked for."""
    dials, seeds = Dials(steps=2, rollouts=3, noise=0.3), [[row] for row in range(6)]
    whole = asked(model, 6, dials, seeds=seeds)
    pieces = asked(model, 6, dials, batch=3, seeds=seeds)
    assert np.array_equal(whole.tokens, pieces.tokens)
    assert whole.halt_logit == pytest.approx(pieces.halt_logit, abs=1e-5)
    assert not np.allclose(whole.halt_logit, asked(model, 6, dials, seeds=[[9, row] for row in range(6)]).halt_logit)
    engine = InferenceEngine(model, questions(200), np.zeros(200, int), 0.3, [[row] for row in range(200)])
    before = engine._states["z"]
    engine._add_noise()
    moved = engine._states["z"] - before
    assert moved.std().item() == pytest.approx(0.3, rel=0.02)
    assert engine._states["y"] is not None
    assert torch.equal(engine._states["y"], model.initial_states(200)["y"])


def scripted(answers: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers by sequence and step in place of a model; returns the numbers of sequences at each step."""
    sizes: list[int] = []

    class Script:
        def __init__(self, _model: object, tokens: np.ndarray, *_rest: object) -> None:
            self.alive, self.at = np.arange(len(tokens)), 0

        def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            said = np.stack([answers[row][self.at].ravel() + np.uint8(1) for row in self.alive])
            self.at += 1
            sizes.append(len(self.alive))
            return said, -self.alive.astype(np.float32), np.zeros(len(said), bool)

        def keep(self, which: np.ndarray) -> None:
            self.alive = self.alive[which]

    monkeypatch.setattr(thinking, "InferenceEngine", Script)
    return sizes


def test_the_work_on_a_puzzle_stops_at_an_answer_that_obeys(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of puzzle 0, one of puzzle 1: the second version is right after two steps, puzzle 1 never."""
    wrong, clue = np.zeros((4, 4), np.uint8), np.zeros((3, 16), np.uint8)
    clue[:, 0] = 1  # a 1 in the first cell
    sizes = scripted([[wrong] * 4, [wrong, SOLVED, wrong, wrong], [wrong, OTHER[::-1], wrong, wrong]], monkeypatch)
    rules = Rules(META, clue + np.uint8(1), np.array([0, 0, 1]))
    found = predict(model, clue + np.uint8(1), np.zeros(3, int), Dials(steps=4), 64, rules=rules)
    assert found.steps.tolist() == [2, 2, 4]
    assert sizes == [3, 3, 1, 1]
    assert np.array_equal(found.tokens[1] - 1, SOLVED.ravel())


def test_an_answer_that_obeys_beats_a_surer_one(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.ones((4, 4), np.uint8)
    scripted([[wrong] * 2, [wrong, SOLVED]], monkeypatch)  # the first rollout has the higher halt logit
    blank = np.ones((1, 16), np.uint8)
    rules = Rules(META, blank, np.array([0]))
    dials = Dials(steps=2, rollouts=2, noise=0.1)
    found = predict(model, blank, np.zeros(1, int), dials, 64, seeds=[[0]], rules=rules)
    assert np.array_equal(found.tokens[0] - 1, SOLVED.ravel())
    assert found.steps.tolist() == [4]


def test_solve_has_the_same_dials(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three versions agree on a wrong answer; the rules choose the fourth's."""
    asked_of: list[Dials] = []

    def predict(
        _model: object, tokens: np.ndarray, _ids: object, dials: Dials, *_rest: object, **_more: object
    ) -> Predictions:
        asked_of.append(dials)
        said = np.full(tokens.shape, 2, np.uint8)
        said[0] = SOLVED.ravel() + 1
        return Predictions(said, np.array([-9.0, 1, 1, 1], np.float32), *[np.ones(4, np.int64)] * 2)

    monkeypatch.setattr("trm.inference.solve.predict", predict)
    blank = np.zeros((4, 4), np.uint8)
    (voted,) = solve(model, META, [blank], steps=3, votes=4, early_halting=True)
    (judged,) = solve(model, META, [blank], steps=3, votes=4, rollouts=2, noise=0.1, verify=True)
    assert not voted.valid
    assert judged.valid
    assert np.array_equal(judged.grid, SOLVED)
    assert asked_of == [Dials(3, early_halting=True), Dials(3, rollouts=2, noise=0.1)]


def test_mistakes(model: TRM) -> None:
    with pytest.raises(DataError, match="rollouts above 1 need noise above 0"):
        solve(model, META, [np.zeros((4, 4))], rollouts=2)
    for kind in ("arc", "custom"):
        without = META.model_copy(update={"kind": kind})
        with pytest.raises(UserError, match=f"no rules are known of {kind}; leave verify false"):
            Rules(without, np.ones((1, 16), np.uint8), np.zeros(1, int))
