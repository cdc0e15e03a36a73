"""Traces: the answer equals that of `solve` for all settings; the contents of the frames."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from tests.networks import ScriptedNetwork, inference_config
from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.config.model import ModelParams
from trm.datasets.arc import dataset as arc
from trm.datasets.maze import dataset as maze
from trm.datasets.sudoku import dataset as sudoku
from trm.datasets.sudoku.solver import solve_grid
from trm.inference.puzzle import make_puzzle
from trm.inference.solve import Answer, solve
from trm.inference.trace import Frame, origin, trace_puzzle
from trm.models.act import TRM, build_model
from trm.utils.errors import UserError

META = sudoku.sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
QUESTION = SOLVED * np.array([[1, 0, 1, 0]] * 4, np.uint8)


def model_of(params: ModelParams, **changes: object) -> TRM:
    """A new model that halts some sequences early."""
    net = build_model(params.model_copy(update=changes), META).eval()
    with torch.no_grad():
        net.q_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        assert net.q_head.bias is not None
        net.q_head.bias.zero_()
    return net


def traced(
    model: TRM,
    meta: DatasetMeta,
    question: np.ndarray,
    config: InferenceConfig,
    seed: int = 0,
) -> tuple[Answer, list[Frame]]:
    frames: list[Frame] = []
    puzzle = make_puzzle(meta, question.ravel() + np.uint8(1), config.num_votes, seed)
    return trace_puzzle(model, meta, puzzle, config, frames.append), frames


@pytest.mark.parametrize("arch", ["trm", "trm_singlez", "trm_hier6", "hrm", "transformers_baseline"])
def test_last_frame_of_a_step_equals_the_answer_of_the_model(model_params: ModelParams, arch: str) -> None:
    model = model_of(model_params, arch=arch)
    _, frames = traced(model, META, QUESTION, inference_config(3))
    assert len(frames) == 3 * model.passes
    ends = [frame for frame in frames if frame.ends_step]
    assert [frame.step for frame in ends] == [1, 2, 3]
    inputs = torch.from_numpy(QUESTION.astype(np.int32).reshape(1, -1) + 1)
    for frame in ends:
        tokens, halt_logit, _ = model.answer({"inputs": inputs, "puzzle_identifiers": torch.zeros(1).int()}, frame.step)
        assert np.array_equal(frame.answer, sudoku.cells(tokens.numpy().astype(np.uint8), 4)[0])
        assert frame.halt_logit == pytest.approx(float(halt_logit[0]), abs=1e-5)


PLAIN, EARLY = inference_config(4), inference_config(4, early_halting=True)
NOISY, BOTH = (
    inference_config(3, num_samples=3, latent_noise_std=0.5),
    inference_config(5, early_halting=True, num_samples=4, latent_noise_std=1.0),
)
FIRST = inference_config(5, num_samples=3, latent_noise_std=0.5, selection="halt_first")
SETTLED = inference_config(4, num_samples=3, latent_noise_std=0.5, selection="settled")
MANY = inference_config(2, num_samples=20, latent_noise_std=0.5, num_votes=5)
"""More samples than a batch holds, with five votes."""


def of_solve(model: TRM, meta: DatasetMeta, question: np.ndarray, config: InferenceConfig, seed: int = 0) -> Answer:
    (answer,) = solve(model, meta, [question], config, seed=seed)
    return answer


def same(answer: Answer, frames: list[Frame], expected: Answer) -> None:
    """The answer, and what the last frame shows, are the expected ones to the last bit."""
    assert np.array_equal(answer.grid, expected.grid)
    assert np.array_equal(frames[-1].answer, expected.grid)
    assert (answer.votes, answer.valid) == (expected.votes, expected.valid)
    assert answer.halt_probability == expected.halt_probability
    votes = Counter(one.letter for one in frames[-1].samples if one.votes)
    (shown,) = [one for one in frames[-1].samples if one.shown]
    assert votes[shown.letter] == expected.votes
    assert frames[-1].halt_logit == shown.halt_logit


@pytest.mark.parametrize("arch", ["trm", "trm_singlez", "hrm", "transformers_baseline"])
@pytest.mark.parametrize(
    "config",
    [PLAIN, EARLY, NOISY, BOTH, FIRST, SETTLED],
    ids=["plain", "early", "noisy", "both", "halt_first", "settled"],
)
@pytest.mark.parametrize("votes", [1, 5])
def test_answer_equals_solve(model_params: ModelParams, arch: str, config: InferenceConfig, votes: int) -> None:
    model, config = model_of(model_params, arch=arch), config.model_copy(update={"num_votes": votes})
    answer, frames = traced(model, META, QUESTION, config, seed=7)
    same(answer, frames, of_solve(model, META, QUESTION, config, seed=7))
    assert len(frames[-1].samples) == votes * config.num_samples


def test_more_samples_than_the_batch_size(model_params: ModelParams) -> None:
    model = model_of(model_params)
    answer, frames = traced(model, META, QUESTION, MANY)
    same(answer, frames, of_solve(model, META, QUESTION, MANY))
    assert [one.status for one in frames[0].samples] == ["running"] * 60 + ["pending"] * 40
    assert {one.status for one in frames[-1].samples} == {"done"}


@pytest.mark.parametrize(("votes", "config"), [(1, PLAIN), (4, inference_config(16)), (1, BOTH), (3, NOISY)])
def test_verification(model_params: ModelParams, votes: int, config: InferenceConfig) -> None:
    """Samples stop at the first valid answer."""
    question = SOLVED * (SOLVED != 4)  # has one solution

    config = config.model_copy(update={"num_votes": votes, "verify": True})
    augmentations = make_puzzle(META, question.ravel() + np.uint8(1), votes, 0).augmentations.tokens

    def script(tokens: np.ndarray, step: int, noise: float) -> tuple[np.ndarray, float]:
        """Noisy samples find the answer in step 2, unless they halt before, and the last of several augmentations in
        step 3. All others leave the blanks, with a higher halt logit.
        """
        solution = solve_grid((tokens - 1).reshape(4, 4))
        assert solution is not None
        is_last = votes > 1 and np.array_equal(tokens, augmentations[-1])
        if (noise and step >= 2) or (is_last and step >= 3):
            return solution.ravel() + np.uint8(1), -2.0
        return tokens, 0.5 if noise > 0.8 else -1.0

    model = ScriptedNetwork(model_params, META, script)
    answer, frames = traced(model, META, question, config)
    same(answer, frames, of_solve(model, META, question, config))
    statuses = {one.status for one in frames[-1].samples}
    if votes * config.num_samples == 1:
        assert (answer.valid, statuses) == (False, {"done"})
        return
    assert np.array_equal(answer.grid, SOLVED)
    assert "valid" in statuses
    assert statuses <= {"valid", "stopped", "halted"}  # none continues
    assert ("halted" in statuses) == config.early_halting
    valid = {one.letter for one in frames[-1].samples if one.status == "valid"}
    assert valid == {one.letter for one in frames[-1].samples if one.shown}
    assert not [one for frame in frames[:-1] for one in frame.samples if one.status == "valid"]


def test_early_halting_in_frames(model_params: ModelParams) -> None:
    model = model_of(model_params)
    _, frames = traced(
        model, META, QUESTION, inference_config(2, early_halting=True, num_samples=12, latent_noise_std=1.0)
    )
    states = [[one.status for one in frame.samples] for frame in frames]
    assert set(itertools.chain(*states)) == {"running", "halted", "done"}
    for before, after in itertools.pairwise(states):
        assert all(new == "halted" for old, new in zip(before, after, strict=True) if old == "halted")
    for frame in frames:
        for one in frame.samples:
            assert one.status != "done" or (frame.step == 2 and frame.ends_step)
            if frame.ends_step:  # a new model halts on a positive logit, and on no other
                assert (one.status == "halted") == (one.halt_logit > 0)


def test_statuses_of_halt_first(model_params: ModelParams) -> None:
    """The first sequences to halt stop all others; one of them answers."""
    config = inference_config(16, selection="halt_first", num_votes=3, num_samples=4, latent_noise_std=1.0)
    _, frames = traced(model_of(model_params), META, QUESTION, config)
    assert frames[-1].step < 16
    assert {one.status for frame in frames[:-1] for one in frame.samples} == {"running"}
    assert {one.status for one in frames[-1].samples} == {"halted", "stopped"}
    (shown,) = [one for one in frames[-1].samples if one.shown]
    halted = [one.halt_logit for one in frames[-1].samples if one.status == "halted"]
    assert (shown.status, shown.halt_logit) == ("halted", max(halted))


def test_the_shown_sample_of_halt_first(model_params: ModelParams) -> None:
    """Of several augmentations with the winning answer, the one with the highest halt logit."""
    question = SOLVED * (SOLVED != 4)  # has one solution
    augmentations = make_puzzle(META, question.ravel() + np.uint8(1), 3, 0).augmentations.tokens

    def script(tokens: np.ndarray, _step: int, _noise: float) -> tuple[np.ndarray, float]:
        solution = solve_grid((tokens - 1).reshape(4, 4))
        assert solution is not None
        return solution.ravel() + np.uint8(1), [1.0, 3.0, 2.0][(augmentations == tokens).all(axis=1).argmax()]

    config = inference_config(2, selection="halt_first", num_votes=3)
    answer, frames = traced(ScriptedNetwork(model_params, META, script), META, question, config)
    same(answer, frames, of_solve(ScriptedNetwork(model_params, META, script), META, question, config))
    assert [one.shown for one in frames[-1].samples] == [False, True, False]
    assert frames[-1].halt_logit == 3
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-3)))


def test_samples_and_their_letters(model_params: ModelParams) -> None:
    _, frames = traced(model_of(model_params), META, QUESTION, NOISY.model_copy(update={"num_votes": 2}))
    names = [one.name for one in frames[0].samples]
    assert names == ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3"]
    for frame in frames:
        letters = [one.letter for one in frame.samples]
        firsts = list(dict.fromkeys(letters))
        assert firsts == [chr(ord("A") + number) for number in range(len(firsts))]
        for of_augmentation in (frame.samples[:3], frame.samples[3:]):
            (voter,) = [one for one in of_augmentation if one.votes]
            assert voter.halt_logit == max(one.halt_logit for one in of_augmentation)


def test_latents_move_before_the_answer_does(model_params: ModelParams) -> None:
    _, frames = traced(model_of(model_params, H_cycles=2, L_cycles=3), META, QUESTION, inference_config(1))
    assert [(frame.round, frame.number) for frame in frames] == [(r, n) for r in (1, 2) for n in (1, 2, 3, 4)]
    for first, second in itertools.pairwise(frames):
        if second.number < 4 and second.round == first.round:
            assert np.array_equal(first.answer, second.answer)  # y is renewed by a round's last pass
    moved = frames[0].moved
    assert moved is not None
    assert moved.shape == (4, 4)
    assert (moved > 0).all()
    assert np.array_equal(frames[2].moved, frames[3].moved)  # type: ignore[arg-type] - the answer's pass moves no latent
    assert (
        traced(model_of(model_params, arch="transformers_baseline"), META, QUESTION, inference_config(1))[1][0].moved
        is None
    )


def test_movement_is_relative_to_the_start_of_the_round(model_params: ModelParams) -> None:
    model = model_of(model_params, H_cycles=1, L_cycles=1)
    _, frames = traced(model, META, QUESTION, inference_config(2))
    x = model.embed(torch.from_numpy(QUESTION.astype(np.int32).reshape(1, -1) + 1), torch.zeros(1, 0))
    with torch.no_grad():
        first = model.deep_recursion(x, model.initial_states(1))
        second = model.deep_recursion(x, first)
    expected = (second["z"] - first["z"]).norm(dim=-1) / second["z"].norm(dim=-1)
    assert frames[-1].moved == pytest.approx(expected.numpy().reshape(4, 4), rel=1e-4)


def test_origin_of_the_cells_of_an_augmentation() -> None:
    rng = np.random.default_rng(0)
    made = make_puzzle(META, QUESTION.ravel() + np.uint8(1), 6, 3)
    for index, tokens in enumerate(made.augmentations.tokens):
        cells = origin(META, made.augmentations, index, rng.integers(0, 6, 16).astype(np.uint8))
        assert np.array_equal(tokens[cells] == 1, QUESTION == 0)  # blanks have the places of the question
        assert sorted(cells.ravel()) == list(range(16))
    grid = rng.integers(0, 4, (5, 5)).astype(np.uint8)
    mazes = make_puzzle(maze.maze_meta(5), grid.ravel() + np.uint8(1), 8, 0)
    for index, tokens in enumerate(mazes.augmentations.tokens):
        cells = origin(maze.maze_meta(5), mazes.augmentations, index, np.zeros(25, np.uint8))
        assert np.array_equal(tokens[cells] - 1, grid)


def test_origin_of_the_cells_of_an_arc_grid() -> None:
    """A 2 x 3 grid, rotated and recolored, in the corner of its canvas."""
    canvas = np.zeros((2, 30, 30), np.uint8)
    canvas[:, :3, :2] = [[3, 4], [5, 6], [7, 8]]
    canvas[:, 3, :2] = canvas[:, :3, 2] = 1
    tokens = canvas.reshape(2, -1)
    meta = DatasetMeta(name="arc", height=30, width=30, vocabulary=arc.VOCABULARY, num_identifiers=9)
    versions = arc.recall(meta, tokens, ["task", "task|||t1|||0213456789"])
    assert origin(meta, versions, 0, tokens[0]).tolist() == [[0, 1], [30, 31], [60, 61]]
    (_, turned) = versions.invert(tokens)
    assert turned.shape == (2, 3)
    cells = origin(meta, versions, 1, tokens[1])
    back = np.array([0, 2, 1, 3, 4, 5, 6, 7, 8, 9])
    assert np.array_equal(back[tokens[1][cells] - 2], turned)
    assert origin(meta, versions, 1, np.zeros(900, np.uint8)).shape == (0, 0)


def test_invalid_arguments(model_params: ModelParams) -> None:
    without = META.model_copy(update={"name": "custom"})
    with pytest.raises(UserError, match="verify must be false for dataset custom"):
        traced(model_of(model_params), without, QUESTION, PLAIN.model_copy(update={"verify": True}))
