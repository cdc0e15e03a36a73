"""The trace of a puzzle: its answer is that of `solve`, whatever the dials; what its frames say on the way."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from tests.networks import ScriptedNetwork
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.datasets.arc import dataset as arc
from trm.datasets.maze import dataset as maze
from trm.datasets.sudoku import dataset as sudoku
from trm.datasets.sudoku.solver import solve_grid
from trm.inference.engine import Dials
from trm.inference.solve import Answer, asked, solve
from trm.inference.trace import Frame, origin, trace
from trm.models.act import TRM, build_model
from trm.utils.errors import UserError

META = sudoku.sudoku_meta(4)
SOLVED = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], np.uint8)
QUESTION = SOLVED * np.array([[1, 0, 1, 0]] * 4, np.uint8)


def model_of(params: ModelParams, **changes: object) -> TRM:
    """A new model that halts here and there."""
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
    dials: Dials,
    votes: int = 1,
    verify: bool = False,
    seed: int = 0,
) -> tuple[Answer, list[Frame]]:
    frames: list[Frame] = []
    puzzle = asked(meta, question.ravel() + np.uint8(1), votes, seed)
    return trace(model, meta, puzzle, dials, verify, frames.append), frames


@pytest.mark.parametrize("arch", ["trm", "trm_singlez", "trm_hier6", "hrm", "transformers_baseline"])
def test_the_end_of_each_step_is_the_models_own_answer(model_params: ModelParams, arch: str) -> None:
    model = model_of(model_params, arch=arch)
    _, frames = traced(model, META, QUESTION, Dials(3))
    assert len(frames) == 3 * model.passes
    ends = [frame for frame in frames if frame.ends_step]
    assert [frame.step for frame in ends] == [1, 2, 3]
    inputs = torch.from_numpy(QUESTION.astype(np.int32).reshape(1, -1) + 1)
    for frame in ends:
        tokens, halt_logit, _ = model.answer({"inputs": inputs, "puzzle_identifiers": torch.zeros(1).int()}, frame.step)
        assert np.array_equal(frame.answer, sudoku.cells(tokens.numpy().astype(np.uint8), 4)[0])
        assert frame.halt_logit == pytest.approx(float(halt_logit[0]), abs=1e-5)


PLAIN, EARLY = Dials(4), Dials(4, early_halting=True)
NOISY, BOTH = Dials(3, rollouts=3, noise=0.5), Dials(5, early_halting=True, rollouts=4, noise=1.0)
MANY = Dials(2, rollouts=20, noise=0.5)
"""More tries than a batch holds, with five votes."""


def of_solve(model: TRM, meta: DatasetMeta, question: np.ndarray, dials: Dials, **more: object) -> Answer:
    settings = {
        "steps": dials.steps,
        "rollouts": dials.rollouts,
        "noise": dials.noise,
        "early_halting": dials.early_halting,
    }
    (answer,) = solve(model, meta, [question], **settings, **more)  # pyright: ignore[reportArgumentType]
    return answer


def same(answer: Answer, frames: list[Frame], expected: Answer) -> None:
    """The answer, and what the last frame shows, are the expected ones to the last bit."""
    assert np.array_equal(answer.grid, expected.grid)
    assert np.array_equal(frames[-1].answer, expected.grid)
    assert (answer.votes, answer.valid) == (expected.votes, expected.valid)
    assert answer.halt_probability == expected.halt_probability
    votes = Counter(one.letter for one in frames[-1].tries if one.votes)
    (shown,) = [one for one in frames[-1].tries if one.shown]
    assert votes[shown.letter] == expected.votes
    assert frames[-1].halt_logit == shown.halt_logit


@pytest.mark.parametrize("arch", ["trm", "trm_singlez", "hrm", "transformers_baseline"])
@pytest.mark.parametrize("dials", [PLAIN, EARLY, NOISY, BOTH], ids=["plain", "early", "noisy", "both"])
@pytest.mark.parametrize("votes", [1, 5])
def test_the_answer_is_that_of_solve(model_params: ModelParams, arch: str, dials: Dials, votes: int) -> None:
    model = model_of(model_params, arch=arch)
    answer, frames = traced(model, META, QUESTION, dials, votes, seed=7)
    same(answer, frames, of_solve(model, META, QUESTION, dials, votes=votes, seed=7))
    assert len(frames[-1].tries) == votes * dials.rollouts


def test_more_tries_than_a_batch_holds(model_params: ModelParams) -> None:
    model = model_of(model_params)
    answer, frames = traced(model, META, QUESTION, MANY, votes=5)
    same(answer, frames, of_solve(model, META, QUESTION, MANY, votes=5))
    assert [one.state for one in frames[0].tries] == ["thinks"] * 60 + ["waits"] * 40
    assert {one.state for one in frames[-1].tries} == {"done"}


@pytest.mark.parametrize(("votes", "dials"), [(1, PLAIN), (4, Dials(16)), (1, BOTH), (3, NOISY)])
def test_with_rules_and_a_model_that_obeys_them(model_params: ModelParams, votes: int, dials: Dials) -> None:
    """On their way to an answer that obeys the rules the tries stop."""
    question = SOLVED * (SOLVED != 4)  # has one solution

    versions = asked(META, question.ravel() + np.uint8(1), votes, 0).versions.tokens

    def script(tokens: np.ndarray, step: int, noise: float) -> tuple[np.ndarray, float]:
        """Noisy tries find the answer in step 2, some of which halt before, and the last of several versions in
        step 3. All others leave the blanks as they are, and are surer.
        """
        right = solve_grid((tokens - 1).reshape(4, 4))
        assert right is not None
        is_last = votes > 1 and np.array_equal(tokens, versions[-1])
        if (noise and step >= 2) or (is_last and step >= 3):
            return right.ravel() + np.uint8(1), -2.0
        return tokens, 0.5 if noise > 0.8 else -1.0

    model, meta, right = ScriptedNetwork(model_params, META, script), META, SOLVED
    answer, frames = traced(model, meta, question, dials, votes, True)
    same(answer, frames, of_solve(model, meta, question, dials, votes=votes, verify=True))
    states = {one.state for one in frames[-1].tries}
    if votes * dials.rollouts == 1:
        assert (answer.valid, states) == (False, {"done"})
        return
    assert np.array_equal(answer.grid, right)
    assert "obeys" in states
    assert states <= {"obeys", "stopped", "halted"}  # nobody works on
    assert ("halted" in states) == dials.early_halting
    obeying = {one.letter for one in frames[-1].tries if one.state == "obeys"}
    assert obeying == {one.letter for one in frames[-1].tries if one.shown}
    assert not [one for frame in frames[:-1] for one in frame.tries if one.state == "obeys"]


def test_early_halting_is_told(model_params: ModelParams) -> None:
    model = model_of(model_params)
    _, frames = traced(model, META, QUESTION, Dials(2, True, 12, 1.0))
    states = [[one.state for one in frame.tries] for frame in frames]
    assert set(itertools.chain(*states)) == {"thinks", "halted", "done"}
    for before, after in itertools.pairwise(states):
        assert all(new == "halted" for old, new in zip(before, after, strict=True) if old == "halted")
    for frame in frames:
        for one in frame.tries:
            assert one.state != "done" or (frame.step == 2 and frame.ends_step)
            if frame.ends_step:  # a new model halts on a positive logit, and on no other
                assert (one.state == "halted") == (one.halt_logit > 0)


def test_tries_and_their_letters(model_params: ModelParams) -> None:
    _, frames = traced(model_of(model_params), META, QUESTION, NOISY, votes=2)
    names = [one.name for one in frames[0].tries]
    assert names == ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3"]
    for frame in frames:
        letters = [one.letter for one in frame.tries]
        firsts = list(dict.fromkeys(letters))
        assert firsts == [chr(ord("A") + number) for number in range(len(firsts))]
        for version in (frame.tries[:3], frame.tries[3:]):
            (voter,) = [one for one in version if one.votes]
            assert voter.halt_logit == max(one.halt_logit for one in version)


def test_latents_move_before_the_answer_does(model_params: ModelParams) -> None:
    _, frames = traced(model_of(model_params, H_cycles=2, L_cycles=3), META, QUESTION, Dials(1))
    assert [(frame.round, frame.number) for frame in frames] == [(r, n) for r in (1, 2) for n in (1, 2, 3, 4)]
    for first, second in itertools.pairwise(frames):
        if second.number < 4 and second.round == first.round:
            assert np.array_equal(first.answer, second.answer)  # y is renewed by a round's last pass
    moved = frames[0].moved
    assert moved is not None
    assert moved.shape == (4, 4)
    assert (moved > 0).all()
    assert np.array_equal(frames[2].moved, frames[3].moved)  # type: ignore[arg-type] - the answer's pass moves no latent
    assert traced(model_of(model_params, arch="transformers_baseline"), META, QUESTION, Dials(1))[1][0].moved is None


def test_movement_is_relative_to_the_start_of_the_round(model_params: ModelParams) -> None:
    model = model_of(model_params, H_cycles=1, L_cycles=1)
    _, frames = traced(model, META, QUESTION, Dials(2))
    x = model.embed(torch.from_numpy(QUESTION.astype(np.int32).reshape(1, -1) + 1), torch.zeros(1, 0))
    with torch.no_grad():
        first = model.deep_recursion(x, model.start(1))
        second = model.deep_recursion(x, first)
    expected = (second["z"] - first["z"]).norm(dim=-1) / second["z"].norm(dim=-1)
    assert frames[-1].moved == pytest.approx(expected.numpy().reshape(4, 4), rel=1e-4)


def test_where_the_cells_of_a_version_come_from() -> None:
    rng = np.random.default_rng(0)
    made = asked(META, QUESTION.ravel() + np.uint8(1), 6, 3)
    for version, tokens in enumerate(made.versions.tokens):
        cells = origin(META, made.versions, version, rng.integers(0, 6, 16).astype(np.uint8))
        assert np.array_equal(tokens[cells] == 1, QUESTION == 0)  # blanks lie where they lie in the question
        assert sorted(cells.ravel()) == list(range(16))
    grid = rng.integers(0, 4, (5, 5)).astype(np.uint8)
    mazes = asked(maze.maze_meta(5), grid.ravel() + np.uint8(1), 8, 0)
    for version, tokens in enumerate(mazes.versions.tokens):
        cells = origin(maze.maze_meta(5), mazes.versions, version, np.zeros(25, np.uint8))
        assert np.array_equal(tokens[cells] - 1, grid)


def test_where_the_cells_of_an_arc_grid_come_from() -> None:
    """A 2 x 3 grid, turned and in other colours, in the corner of its canvas."""
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


def test_mistakes(model_params: ModelParams) -> None:
    without = META.model_copy(update={"name": "custom"})
    with pytest.raises(UserError, match="no rules are known of own"):
        traced(model_of(model_params), without, QUESTION, PLAIN, verify=True)
