"""Selection of the answer: halt_first, settled, their confidences, and the memory of many steps."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.networks import ScriptedNetwork, halting_network, inference_config
from trm.config.inference import InferenceConfig
from trm.config.model import ModelParams
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.engine import InferenceEngine, Predictions, predict
from trm.inference.solve import solve
from trm.inference.voting import Selection, VoteCounter, best_samples, grid_hash, selection_score
from trm.models.act import TRM, build_model

META = sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
A, B, C = (np.full((1, 1), cell, np.uint8) for cell in (1, 2, 3))


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    return halting_network(model_params, META)


def questions(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (count, 16)).astype(np.uint8)


def answers_of(
    model: TRM, puzzles: list[int], config: InferenceConfig, batch: int = 64, tokens: np.ndarray | None = None
) -> Predictions:
    """The answers to a sequence for each item of `puzzles`, the number of its puzzle."""
    count = len(puzzles)
    seeds = [[7, row] for row in range(count)]
    tokens = questions(count) if tokens is None else tokens
    return predict(model, tokens, np.zeros(count, int), config, batch, seeds=seeds, puzzles=np.array(puzzles))


def scripted(params: ModelParams, scripts: list[list[tuple[int, float]]]) -> tuple[TRM, np.ndarray]:
    """A network and one question for each script: the value of all cells of the answer, and the halt logit, by step."""
    tokens = np.ones((len(scripts), 16), np.uint8)
    tokens[:, 0] = np.arange(len(scripts)) + 1

    def script(question: np.ndarray, step: int, _noise: float) -> tuple[np.ndarray, float]:
        cell, logit = scripts[question[0] - 1][step - 1]
        return np.full(16, cell, np.uint8), logit

    return ScriptedNetwork(params, META, script), tokens


def test_the_highest_halt_logit_wins_over_more_votes() -> None:
    """A has two votes of -1 and 0.5, B one of 2: confidence sigmoid(2). Verified answers rank before both."""
    counter = VoteCounter("halt_logit")
    for grid, logit in ((A, -1.0), (B, 2.0), (A, 0.5), (C, -4.0)):
        counter.add(0, grid, logit, logit)
    ranked = counter.ranked(0)
    assert [candidate.grid.item() for candidate in ranked] == [2, 1, 3]
    assert [candidate.votes for candidate in ranked] == [1, 2, 1]
    assert ranked[0].confidence == pytest.approx(1 / (1 + np.exp(-2)))
    assert ranked[1].confidence == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert counter.ranked(0, {grid_hash(C)})[0].grid.item() == 3
    logits = np.array([-1.0, 2.0])
    assert selection_score("halt_logit", logits, np.array([True, False]), None).tolist() == [-1, 2]


HALTING = [
    [(1, -1.0), (2, -1.0), (3, -1.0), (3, 5.0)],
    [(1, -2.0), (1, -1.0), (4, 1.0), (4, 3.0)],
    [(1, -1.0), (1, -1.0), (5, 2.0), (1, 1.0)],
    [(1, -3.0), (1, -2.5), (2, -2.0), (2, -1.5)],
    [(1, -3.0), (1, -2.5), (3, -1.0), (2, -3.0)],
]
"""Puzzle 0: two sequences halt in step 3, another one in step 4; puzzle 1: none halts."""


def test_the_first_sequence_to_halt_answers(model_params: ModelParams) -> None:
    model, tokens = scripted(model_params, HALTING)
    found = answers_of(model, [0, 0, 0, 1, 1], inference_config(4, selection="halt_first"), tokens=tokens)
    assert found.steps.tolist() == [3, 3, 3, 4, 4]
    assert found.tokens[:, 0].tolist() == [3, 4, 5, 2, 2]
    assert found.halt_logit.tolist() == [-1, 1, 2, -1.5, -3]
    assert found.score[:3].argmax() == 2  # the higher halt logit of the two that halted
    assert found.score[3:].argmax() == 0  # none halted: the highest halt logit
    alone = answers_of(model, [0, 1, 2, 3, 4], inference_config(4, selection="halt_first"), tokens=tokens)
    assert alone.steps.tolist() == [4, 3, 3, 4, 4]


def test_a_halting_decision_beats_a_higher_halt_logit() -> None:
    """A model with a continue logit may halt at a lower halt logit."""
    logit, halted = np.array([3.0, 1.0, 2.0, 9.0], np.float32), np.array([False, True, True, False])
    score = selection_score("halt_first", logit, halted, None)
    assert np.argsort(-score).tolist() == [2, 1, 3, 0]
    assert np.argsort(-selection_score("votes", logit, halted, None)).tolist() == [3, 0, 2, 1]
    assert np.argsort(-selection_score("settled", logit, halted, logit)).tolist() == [1, 2, 0, 3]
    assert best_samples(score, np.array([True, False, False, False]), 2).tolist() == [0, 2]


@pytest.mark.parametrize("max_steps", [1, 2, 6])
def test_halt_first_of_one_sequence_is_early_halting(model: TRM, max_steps: int) -> None:
    first = answers_of(model, list(range(40)), inference_config(max_steps, selection="halt_first"))
    early = answers_of(model, list(range(40)), inference_config(max_steps, early_halting=True))
    for name in ("tokens", "halt_logit", "halt_step", "steps", "settled"):
        assert np.array_equal(getattr(first, name), getattr(early, name)), name
    if max_steps == 6:
        assert len(set(first.steps.tolist())) > 1


@pytest.mark.parametrize(("num_samples", "bias"), [(1, 0.0), (3, -1.5)])
def test_halt_first_equals_the_sequences_run_alone(model: TRM, num_samples: int, bias: float) -> None:
    """Also independent of the batch size and of `early_halting`. bias: halts later the more sequences there are."""
    with torch.no_grad():
        model.q_head.bias[0] = bias  # pyright: ignore[reportOptionalSubscript]
    puzzles = [0] * 3 + [1] * 2 + [2] + [3] * 6
    noise = {"num_samples": num_samples, "latent_noise_std": 0.5 if num_samples > 1 else 0.0}
    config = inference_config(5, selection="halt_first", **noise)
    found = answers_of(model, puzzles, config)
    for other in (answers_of(model, puzzles, config, 1), answers_of(model, puzzles, config, 4)):
        assert np.array_equal(found.tokens, other.tokens)
        assert np.array_equal(found.steps, other.steps)
    early = answers_of(model, puzzles, config.model_copy(update={"early_halting": True}))
    assert np.array_equal(found.tokens, early.tokens)

    outputs = []
    for sample in range(num_samples):
        seeds = [[7, row, sample] if sample else None for row in range(len(puzzles))]
        engine = InferenceEngine(model, questions(len(puzzles)), np.zeros(len(puzzles), int), 0.5, seeds)
        steps = [engine.step() for _ in range(5)]
        outputs.append([np.stack(part) for part in zip(*steps, strict=True)])
    tokens, logits, halts = (np.stack(part) for part in zip(*outputs, strict=True))  # [samples, steps, sequences, ...]
    stops = set()
    for puzzle in set(puzzles):
        rows = np.flatnonzero(np.array(puzzles) == puzzle)
        halting = halts[:, :, rows].any(axis=(0, 2))
        step = halting.argmax() if halting.any() else 4
        stops.add((int(step), bool(halting.any())))
        assert (found.steps[rows] == num_samples * (step + 1)).all()
        place = np.unravel_index(logits[:, step, rows].argmax(), (num_samples, len(rows)))
        winner = rows[found.score[rows].argmax()]
        assert winner == rows[place[1]]
        assert np.array_equal(found.tokens[winner], tokens[place[0], step, rows[place[1]]])
        assert found.halt_logit[winner] == pytest.approx(logits[:, step, rows].max(), abs=1e-5)
    assert len(stops) > 1


def test_movement_by_hand(model: TRM) -> None:
    """Of the latents alone, since the end of the previous step: the noise of the step counts."""
    engine = InferenceEngine(model, questions(3), np.zeros(3, int), 0.3, [[0], [1], [2]])
    engine.step()
    before = engine.states["z"].clone()
    engine.step()
    now = engine.states["z"]
    expected = ((now - before).norm(dim=-1) / now.norm(dim=-1)).mean(dim=1)
    assert engine.movement() == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.mark.parametrize("arch", ["trm_singlez", "trm_hier6", "hrm", "transformers_baseline"])
def test_movement_of_other_variants(model_params: ModelParams, arch: str) -> None:
    """Without latents it is that of the answer; puzzle tokens do not count."""
    params = model_params.model_copy(update={"arch": arch, "puzzle_emb_ndim": 16, "puzzle_emb_len": 2})
    engine = InferenceEngine(build_model(params, META), questions(3), np.zeros(3, int))
    names = engine.model.variant.latents or ("y",)
    before = torch.cat([engine.states[name] for name in names], -1)
    engine.step()
    now = torch.cat([engine.states[name] for name in names], -1)
    relative = (now - before).norm(dim=-1) / now.norm(dim=-1)
    assert engine.movement() == pytest.approx(relative[:, 2:].mean(dim=1).detach().numpy(), rel=1e-5)


def test_the_sample_that_moved_least_answers(model: TRM) -> None:
    noise = {"num_samples": 4, "latent_noise_std": 0.5}
    found = answers_of(model, list(range(8)), inference_config(3, selection="settled", **noise))
    assert (found.steps == 4 * 3).all()
    tokens, movements = [], []
    for sample in range(4):
        seeds = [[7, row, sample] if sample else None for row in range(8)]
        engine = InferenceEngine(model, questions(8), np.zeros(8, int), 0.5, seeds)
        tokens.append([engine.step() for _ in range(3)][-1][0])
        movements.append(engine.movement())
    best = np.argmin(movements, axis=0)
    # Noise moves the latents, so the sample without noise moves least; not so among noisy samples.
    assert np.array_equal(found.tokens, np.stack(tokens)[best, range(8)])
    assert found.score == pytest.approx(-np.min(movements, axis=0), rel=1e-4)


def test_the_settled_share_by_hand(model_params: ModelParams) -> None:
    """An answer is settled if it is that of the step before; after a single step none is."""
    model, tokens = scripted(model_params, HALTING)
    settled = [answers_of(model, [0, 0, 0, 1, 1], inference_config(n), tokens=tokens).settled for n in (1, 2, 3, 4)]
    assert [each.tolist() for each in settled] == [[0] * 5, [0, 1, 1, 1, 1], [0] * 5, [1, 1, 0, 1, 0]]
    early = answers_of(model, [0, 0, 0, 1, 1], inference_config(4, early_halting=True), tokens=tokens)
    assert early.settled.tolist() == [1, 0, 0, 1, 0]
    noise = {"num_samples": 2, "latent_noise_std": 1e-9}
    assert answers_of(model, [0] * 5, inference_config(4, **noise), tokens=tokens).settled.tolist() == [1, 1, 0, 1, 0]


def counted(selection: Selection) -> VoteCounter:
    """Two votes for A, one each for B and C: (halt logit, score, settled)."""
    counter = VoteCounter(selection)
    for grid, logit, score, settled in [(A, 0.0, 1.0, 1.0), (B, 3.0, 5.0, 0.5), (A, 0.0, 2.0, 0.0), (C, 1.0, 5.0, 1.0)]:
        counter.add("p", grid, logit, score, settled)
    return counter


def test_candidates_of_each_selection_by_hand() -> None:
    sigmoid_1, sigmoid_3 = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-3.0))
    expected: dict[Selection, list[tuple[int, float]]] = {
        "votes": [(1, (0.5 + 0.5) / 4), (2, sigmoid_3 / 4), (3, sigmoid_1 / 4)],
        "halt_first": [(2, sigmoid_3), (3, sigmoid_1), (1, 0.5)],  # B and C tie, and B was seen first
        "settled": [(2, 2.5 / 4), (3, 2.5 / 4), (1, 2.5 / 4)],
    }
    for selection, candidates in expected.items():
        ranked = counted(selection).ranked("p")
        assert [int(each.grid[0, 0]) for each in ranked] == [cell for cell, _ in candidates], selection
        assert [each.confidence for each in ranked] == pytest.approx([value for _, value in candidates])
        assert [each.votes for each in ranked if each.grid[0, 0] == 1] == [2]


def test_one_vote_has_the_confidence_of_its_halt_logit() -> None:
    counter = VoteCounter()
    counter.add("p", A, -1.0)
    assert counter.ranked("p")[0].confidence == counter.ranked("p")[0].halt_probability == pytest.approx(0.26894142)


@given(
    st.sampled_from(("votes", "halt_logit", "halt_first", "settled")),
    st.lists(
        st.tuples(st.sampled_from(range(4)), st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 1)),
        min_size=1,
        max_size=12,
    ),
)
def test_confidences_are_fractions(selection: Selection, votes: list[tuple[int, float, float, float]]) -> None:
    counter = VoteCounter(selection)
    for cell, *values in votes:
        counter.add("p", np.full((1, 1), cell, np.uint8), *values)
    ranked = counter.ranked("p")
    assert all(0 <= each.confidence <= 1 for each in ranked)
    assert sorted(int(each.grid[0, 0]) for each in ranked) == sorted({cell for cell, *_ in votes})
    if selection != "votes":
        best = max(votes, key=lambda vote: vote[2])
        assert best[2] == max(score for cell, _, score, _ in votes if cell == ranked[0].grid[0, 0])


def test_a_puzzle_below_the_minimum_is_left_unanswered(model_params: ModelParams) -> None:
    """The halt probability is 60 %; rules do not enter the confidence, not even those of a valid answer."""

    def script(_question: np.ndarray, step: int, _noise: float) -> tuple[np.ndarray, float]:
        return SOLVED.ravel() + np.uint8(1) if step == 2 else np.full(16, 2, np.uint8), float(np.log(0.6 / 0.4))

    model, blank = ScriptedNetwork(model_params, META, script), np.zeros((4, 4), np.uint8)
    for verify in (False, True):
        for max_steps in (1, 2):
            settings = {"max_steps": max_steps, "verify": verify}
            (below,) = solve(model, META, [blank], min_confidence=0.61, **settings)
            (above,) = solve(model, META, [blank], min_confidence=0.59, **settings)
            assert below.confidence == above.confidence == pytest.approx(0.6)
            assert (below.answered, above.answered) == (False, True)
            assert below.valid == above.valid == (max_steps == 2)
    (one,) = solve(model, META, [blank], min_confidence=0.6, max_steps=2, selection="settled", num_votes=2)
    assert (one.confidence, one.answered) == (0, False)
    (zero,) = solve(model, META, [blank], min_confidence=0, max_steps=2, selection="settled")
    assert zero.answered


@pytest.mark.parametrize("selection", ["votes", "halt_logit", "halt_first", "settled"])
def test_memory_does_not_grow_with_the_steps(
    model_params: ModelParams, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, selection: str
) -> None:
    """Neither the tensors that are alive in the last step, nor the peak of all other memory."""
    # A new model never halts.
    model = build_model(model_params.model_copy(update={"H_cycles": 1, "L_cycles": 1}), META).eval()
    alive: list[int] = []
    taken = 0
    step = InferenceEngine.step

    def counting_step(self: InferenceEngine) -> object:
        nonlocal taken
        taken += 1
        if taken == config.max_steps:
            alive.append(sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))
        return step(self)

    monkeypatch.setattr(InferenceEngine, "step", counting_step)
    gc.disable()  # a collection would clear the free lists of the interpreter, which the first run fills
    request.addfinalizer(gc.enable)
    peaks = []
    for max_steps in (512, 32, 256, 256):
        taken = 0
        config = inference_config(max_steps, selection=selection, num_samples=2, latent_noise_std=0.1)
        tracemalloc.start()
        answers_of(model, [0, 0], config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert alive[1] == alive[2]
    # A reference and an integer per step would be 7 kB. The interpreter sometimes enlarges a table of its own.
    assert min(peaks[2:]) < peaks[1] + 4_000
