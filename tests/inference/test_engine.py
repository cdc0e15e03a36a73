"""The inference engine: early halting, noisy samples, verification."""

import numpy as np
import pytest
import torch

from tests.networks import inference_config, made_predictions
from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.config.model import ModelParams
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference import engine as module
from trm.inference.engine import InferenceEngine, Predictions, Verifier, predict
from trm.inference.solve import solve
from trm.models.act import TRM, build_model
from trm.utils.errors import ParamsError, UserError

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
OTHER = SOLVED[[0, 1, 3, 2]]
"""Also a valid grid."""


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    """A model that halts some sequences early."""
    net = build_model(model_params, META).eval()
    with torch.no_grad():
        dice = torch.Generator().manual_seed(1)
        net.q_head.weight.normal_(0, 0.3, generator=dice)
        assert net.q_head.bias is not None
        net.q_head.bias.zero_()
    return net


def questions(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (count, 16)).astype(np.uint8)


def answers_of(model: TRM, count: int, config: InferenceConfig, batch: int = 64, **more: object) -> Predictions:
    return predict(model, questions(count), np.zeros(count, int), config, batch, **more)  # pyright: ignore[reportArgumentType]


def test_default_settings_equal_the_model(model: TRM) -> None:
    found = answers_of(model, 9, inference_config(5), batch=4)
    batch = {"inputs": torch.from_numpy(questions(9).astype(np.int32)), "puzzle_identifiers": torch.zeros(9).int()}
    tokens, halt_logit, halt_step = model.answer(batch, 5)
    assert np.array_equal(found.tokens, tokens.numpy())
    assert found.halt_logit == pytest.approx(halt_logit.numpy(), abs=1e-5)
    assert np.array_equal(found.halt_step, halt_step.numpy())
    assert (found.steps == 5).all()


def test_early_halting_returns_the_answer_of_the_step(model: TRM) -> None:
    """Halted sequences leave the batch without effect on the others."""
    found = answers_of(model, 40, inference_config(6, early_halting=True), batch=16)
    assert np.array_equal(found.steps, found.halt_step)
    assert len(set(found.steps.tolist())) > 1
    for step in set(found.steps.tolist()):
        then = answers_of(model, 40, inference_config(step), batch=16)
        those = found.steps == step
        assert np.array_equal(found.tokens[those], then.tokens[those])
        assert found.halt_logit[those] == pytest.approx(then.halt_logit[those], abs=1e-5)


def test_the_sample_with_the_highest_halt_logit_wins(model: TRM) -> None:
    seeds = [[7, row] for row in range(5)]
    config = inference_config(3, num_samples=4, latent_noise_std=0.5)
    found = answers_of(model, 5, config, seeds=seeds)
    assert (found.steps == 4 * 3).all()
    answers, logits = [], []
    for sample in range(4):
        noise = [None if sample == 0 else [7, row, sample] for row in range(5)]
        engine = InferenceEngine(model, questions(5), np.zeros(5, int), 0.5, noise)
        outputs = [engine.step() for _ in range(3)][-1]
        answers.append(outputs[0])
        logits.append(outputs[1])
    plain = answers_of(model, 5, inference_config(3))
    assert np.array_equal(answers[0], plain.tokens)  # the first has no noise
    assert not np.allclose(logits[1], logits[2])
    best = np.argmax(logits, axis=0)
    assert len(set(best.tolist())) > 1
    assert np.array_equal(found.tokens, np.stack(answers)[best, range(5)])


def test_noise_depends_on_the_seed_of_the_sequence(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the rest of the batch, and has the requested standard deviation."""
    config, seeds = inference_config(2, num_samples=3, latent_noise_std=0.3), [[row] for row in range(6)]
    whole = answers_of(model, 6, config, seeds=seeds)
    pieces = answers_of(model, 6, config, batch=3, seeds=seeds)
    assert np.array_equal(whole.tokens, pieces.tokens)
    assert whole.halt_logit == pytest.approx(pieces.halt_logit, abs=1e-5)
    assert not np.allclose(
        whole.halt_logit, answers_of(model, 6, config, seeds=[[9, row] for row in range(6)]).halt_logit
    )
    engine = InferenceEngine(model, questions(200), np.zeros(200, int), 0.3, [[row] for row in range(200)])
    before = engine.states["z"]
    recorded = []
    monkeypatch.setattr(model, "deep_recursion", lambda x, states, hook=None: recorded.append(states) or states)
    engine.step()
    moved = recorded[0]["z"] - before
    assert moved.std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(recorded[0]["y"], model.initial_states(200)["y"])


def scripted(answers: list[list[np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers by sequence and step in place of a model; returns the numbers of sequences at each step."""
    sizes: list[int] = []

    class Script:
        def __init__(self, _model: object, tokens: np.ndarray, *_rest: object) -> None:
            self.alive, self.at = np.arange(len(tokens)), 0

        def step(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            tokens_found = np.stack([answers[row][self.at].ravel() + np.uint8(1) for row in self.alive])
            self.at += 1
            sizes.append(len(self.alive))
            return tokens_found, -self.alive.astype(np.float32), np.zeros(len(tokens_found), bool)

        def keep(self, which: np.ndarray) -> None:
            self.alive = self.alive[which]

    monkeypatch.setattr(module, "InferenceEngine", Script)
    return sizes


def test_a_puzzle_stops_at_the_first_valid_answer(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two augmentations of puzzle 0, one of puzzle 1: the second is valid after two steps, puzzle 1 never."""
    wrong, clue = np.zeros((4, 4), np.uint8), np.zeros((3, 16), np.uint8)
    clue[:, 0] = 1  # a 1 in the first cell
    sizes = scripted([[wrong] * 4, [wrong, SOLVED, wrong, wrong], [wrong, OTHER[::-1], wrong, wrong]], monkeypatch)
    verifier = Verifier(META, clue + np.uint8(1))
    found = predict(
        model,
        clue + np.uint8(1),
        np.zeros(3, int),
        inference_config(4),
        64,
        puzzles=np.array([0, 0, 1]),
        verifier=verifier,
    )
    assert found.steps.tolist() == [2, 2, 4]
    assert sizes == [3, 3, 1, 1]
    assert np.array_equal(found.tokens[1] - 1, SOLVED.ravel())


def test_a_valid_answer_beats_a_higher_halt_logit(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = np.ones((4, 4), np.uint8)
    scripted([[wrong] * 2, [wrong, SOLVED]], monkeypatch)  # the first sample has the higher halt logit
    blank = np.ones((1, 16), np.uint8)
    verifier = Verifier(META, blank)
    config = inference_config(2, num_samples=2, latent_noise_std=0.1)
    found = predict(model, blank, np.zeros(1, int), config, 64, seeds=[[0]], verifier=verifier)
    assert np.array_equal(found.tokens[0] - 1, SOLVED.ravel())
    assert found.steps.tolist() == [4]


def test_solve_passes_its_settings_on(model: TRM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three augmentations agree on a wrong answer; verification selects the fourth."""
    received: list[InferenceConfig] = []

    def predict(
        _model: object, tokens: np.ndarray, _ids: object, config: InferenceConfig, *_rest: object, **_more: object
    ) -> Predictions:
        received.append(config)
        tokens_found = np.full(tokens.shape, 2, np.uint8)
        tokens_found[0] = SOLVED.ravel() + 1
        return made_predictions(tokens_found, np.array([-9.0, 1, 1, 1]), 1)

    monkeypatch.setattr("trm.inference.solve.predict", predict)
    blank = np.zeros((4, 4), np.uint8)
    (voted,) = solve(model, META, [blank], max_steps=3, num_votes=4, early_halting=True)
    (verified,) = solve(
        model, META, [blank], max_steps=3, num_votes=4, num_samples=2, latent_noise_std=0.1, verify=True
    )
    assert not voted.valid
    assert verified.valid
    assert np.array_equal(verified.grid, SOLVED)
    assert received == [
        inference_config(3, num_votes=4, early_halting=True),
        inference_config(3, num_votes=4, num_samples=2, latent_noise_std=0.1, verify=True),
    ]


def test_invalid_arguments(model: TRM) -> None:
    with pytest.raises(ParamsError, match="num_samples above 1 requires latent_noise_std above 0"):
        solve(model, META, [np.zeros((4, 4))], num_samples=2)
    for name in ("arc", "custom"):
        without = META.model_copy(update={"name": name})
        with pytest.raises(UserError, match=f"verify must be false for dataset {name}, which has no rules to check"):
            Verifier(without, np.ones((1, 16), np.uint8))


def test_samples_of_a_model_with_random_start(model_params: ModelParams, meta: DatasetMeta) -> None:
    """The first sample has the start of all sequences; the others have their own, whatever else is in the batch."""
    model = build_model(ModelParams(**{**model_params.model_dump(), "random_start": "all"}), meta).eval()
    tokens, identifiers = np.ones((3, 16), np.uint8), np.zeros(3, np.int64)
    engine = InferenceEngine(model, tokens, identifiers, 0.1, [None, [1, 1], [1, 2]])
    start = model.initial_states(1)
    alone = InferenceEngine(model, tokens[:1], identifiers[:1], 0.1, [[1, 2]])
    for name in ("y", "z"):
        assert torch.equal(engine.states[name][0], start[name][0])
        assert not torch.equal(engine.states[name][1], engine.states[name][2])
        assert not torch.equal(engine.states[name][0], engine.states[name][1])
        assert torch.equal(engine.states[name][2], alone.states[name][0])
        assert engine.states[name].abs().max() <= 2
