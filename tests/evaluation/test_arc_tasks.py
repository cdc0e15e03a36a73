"""Unseen ARC tasks: training on demonstrations only, shared time, two attempts, submission and score."""

import copy
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

import trm
from tests.arc_tasks import FEW, LARGE, SIDE, SOLUTION, TASK, arc_model, write_json
from trm.config.arc_tasks import DEFAULT_ARC_TASK, ArcTaskConfig
from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.config.model import ModelParams
from trm.data.parquet import Split
from trm.datasets.arc.dataset import plan_tasks
from trm.datasets.arc.tasks import Task
from trm.evaluation.arc_tasks import (
    EDITION,
    NO_TIME,
    SUBSET,
    TaskAnswer,
    TimeBudget,
    check_arc_tasks,
    pass_at,
    read_arc_tasks,
    solve_arc,
    solve_each_task,
    submission_of,
    train_params,
    work,
)
from trm.inference.voting import Candidate
from trm.models.act import TRM, build_model
from trm.training.adaptation import adapt
from trm.utils.errors import DataError, ParamsError, UserError

CONFIG = DEFAULT_ARC_TASK.model_copy(update=FEW)


@pytest.fixture
def model(model_params: ModelParams) -> TRM:
    return arc_model(model_params)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return read_arc_tasks(write_json(tmp_path / "task.json", TASK))[0]


def splits(task: Task, num_aug: int = 3) -> tuple[DatasetMeta, Split, Split]:
    """Metadata, training split and test split of a task."""
    augment = AugmentParams(num_aug=num_aug, validation_groups=0, seed=0)
    plan = plan_tasks([task], EDITION, augment, SIDE)
    train, test = (Split.concatenate([make() for make in plan.splits[name].blocks]) for name in ("train", "test"))
    return plan.meta, train, test


def trained(model: TRM, task: Task, steps: int, config: ArcTaskConfig = CONFIG) -> TRM:
    meta, train, _ = splits(task)
    result, taken = adapt(model, meta, train, train_params(config, 0), steps)
    assert taken == steps
    return result


def test_only_the_embedding_moves(model: TRM, task: Task) -> None:
    before = copy.deepcopy(model.state_dict())
    mean = model.puzzle_table.mean(0)
    start = trained(model, task, 0)
    assert torch.equal(start.puzzle_table, mean.expand(5, -1))  # row 0 belongs to no puzzle
    result = trained(model, task, 1)
    after = result.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "puzzle_table")
    # Sign-SGD: a row of the batch becomes row * (1 - lr * decay) +- lr; decay 0.1 in the recipe.
    moved = (result.puzzle_table - mean).abs().amax(1) > 0
    assert moved.any() and not moved[0]
    change = result.puzzle_table[moved] - mean * (1 - CONFIG.lr * 0.1)
    assert torch.allclose(change.abs(), torch.full_like(change, CONFIG.lr), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_network_is_trained_on_request(model: TRM, task: Task) -> None:
    before = copy.deepcopy(model.state_dict())
    result = trained(model, task, 1, CONFIG.model_copy(update={"train_network": True}))
    changed = {name for name, value in result.named_parameters() if not torch.equal(value, before[name])}
    assert "token_embedding" in changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_contains_demonstrations_only(task: Task) -> None:
    """Four augmentations of two demonstrations, whose outputs have 3 and 6 cells; that of the test pair has 4."""
    meta, train, test = splits(task)
    assert (len(train), len(test), meta.num_identifiers) == (4 * 2, 4, 5)
    assert [int((labels >= 2).sum()) for labels in train.labels] == [3, 6] * 4


def test_outputs_are_never_used(model: TRM, tmp_path: Path) -> None:
    """With, without and with wrong outputs, the attempts are the same; only the score differs."""
    others = [TASK, {**TASK, "test": [{"input": TASK["test"][0]["input"]}]}]
    others.append({**TASK, "test": [{"input": TASK["test"][0]["input"], "output": [[7] * 5] * 5}]})
    answers = [solve_arc(model, write_json(tmp_path / "t.json", other), CONFIG) for other in others]
    submissions = [submission_of(each) for each in answers]
    assert submissions[0] == submissions[1] == submissions[2]
    assert [len(each[0].correct(2)) for each in answers] == [1, 0, 1]
    # Without its output the task has no other augmentation; with it the colors would distinguish some.
    plain = {"train": [{"input": [[0]], "output": [[0]]}], "test": [{"input": [[0]], "output": [[1, 2]]}]}
    (answer,) = solve_arc(model, write_json(tmp_path / "plain.json", plain), CONFIG)
    assert answer.num_votes == 1


def test_result_depends_on_task_and_seed_only(model: TRM, tmp_path: Path) -> None:
    alone = write_json(tmp_path / "b.json", TASK)
    both = write_json(tmp_path / "both.json", {"a": {**TASK, "train": TASK["train"][:1]}, "b": TASK})
    (expected,), (_, other) = solve_arc(model, alone, CONFIG), solve_arc(model, both, CONFIG)
    again, changed = solve_arc(model, alone, CONFIG)[0], solve_arc(model, alone, CONFIG, seed=1)[0]

    def numbers(answer: TaskAnswer) -> list[tuple[bytes, float]]:
        return [(each.grid.tobytes(), each.confidence) for pair in answer.attempts for each in pair]

    assert numbers(expected) == numbers(other) == numbers(again) != numbers(changed)


def test_time_is_shared_by_the_tasks_that_remain() -> None:
    times = iter([0.0, 0.0, 10.0, 70.0, 120.0])
    budget = TimeBudget(100, 4, lambda: next(times))
    # 100 s for four; after 10 s 90 s for three; after 70 s 30 s for two; after the end nothing.
    assert [budget.next_share() for _ in range(4)] == [25, 30, 15, 0]


def solve_with_ticks(model: TRM, tasks: list[Task], seconds: float, steps: int = 100) -> list[TaskAnswer]:
    """Solve with a clock that advances by a second whenever it is read."""
    ticks, config = count(), CONFIG.model_copy(update={"train_steps": steps})
    return list(solve_each_task(model, tasks, config, 0, seconds / 60, lambda: float(next(ticks))))


def test_training_ends_when_the_vote_needs_the_rest(model: TRM, task: Task) -> None:
    """The clock is read at 0 (start), 1 (share: 39 / 2 = 19.5 s), 2 (start of the task), 3 and 4 (a vote of four
    sequences takes 1 s). Training may last until 2 + 19.5 - 1 = 20.5: it is asked at 5, 6, ..., 21, after 16 steps.
    The vote lasts from 22 to 23. Share of the second task at 24: 16 s, from 25 to 25 + 16 - 1 = 40: asked at 26, ...,
    40, after 14 steps.
    """
    answers = solve_with_ticks(model, [task, task], 40)
    assert [(answer.train_steps, answer.num_votes) for answer in answers] == [(16, 4), (14, 4)]


def test_fewer_augmentations_vote_if_time_is_short(model: TRM, task: Task) -> None:
    """Share at 1: 1 s; at most half of it for the vote, at 0.25 s for a sequence: two augmentations, and no training.
    The second task starts after the end.
    """
    first, second = solve_with_ticks(model, [task, task], 3)
    assert (first.train_steps, first.num_votes, len(first.attempts)) == (0, 2, 1)
    assert (second.attempts, second.problem) == ([], NO_TIME)


def test_a_large_task_takes_no_time(model: TRM, tmp_path: Path) -> None:
    file = write_json(tmp_path / "tasks.json", {"large": LARGE, "fine": TASK})
    large, fine = solve_with_ticks(model, read_arc_tasks(file), 20)
    assert large.problem == "needs a canvas of 6 x 6, the model has 5 x 5"
    assert fine.train_steps == 15  # as a single task: the share at 1 is 19 s, until 20; asked at 5, ..., 20
    assert submission_of([large]) == {"large": [{"attempt_1": [[0]], "attempt_2": [[0]]}] * 2}


def test_progress_adds_up(model: TRM, tmp_path: Path) -> None:
    tasks = read_arc_tasks(write_json(tmp_path / "tasks.json", {"large": LARGE, "fine": TASK}))
    amounts: list[int] = []
    list(solve_each_task(model, tasks, CONFIG, advance=amounts.append))
    assert sum(amounts) == sum(work(task, CONFIG) for task in tasks) == (2 + 2 * 4) + (2 + 4)


def answer_of(grids: list[list[list[int]]]) -> TaskAnswer:
    candidates = [Candidate(np.array(grid, np.uint8), 1, 0.5, 0.5) for grid in grids]
    known = (np.array([[0]], np.uint8), np.array(SOLUTION, np.uint8))
    return TaskAnswer(Task("t", SUBSET, [], [known]), [candidates])


def test_submission_and_score_by_hand() -> None:
    first, second, wrong = answer_of([SOLUTION, [[1]]]), answer_of([[[1]], SOLUTION]), answer_of([[[2]]])
    assert submission_of([second]) == {"t": [{"attempt_1": [[1]], "attempt_2": SOLUTION}]}
    assert submission_of([wrong]) == {"t": [{"attempt_1": [[2]], "attempt_2": [[2]]}]}
    assert [(each.correct(1), each.correct(2)) for each in (first, second, wrong)] == [
        ([True], [True]),
        ([False], [True]),
        ([False], [False]),
    ]
    unanswered = TaskAnswer(first.task, [], problem=NO_TIME)
    assert [pass_at([first, second, wrong, unanswered], k)["value"] for k in (1, 2)] == [1 / 4, 2 / 4]


def test_refusals(model: TRM, model_params: ModelParams, tmp_path: Path, task: Task) -> None:
    sudoku = build_model(
        model_params, DatasetMeta(name="sudoku", height=4, width=4, vocabulary=("pad", *".1234"), num_identifiers=1)
    )
    with pytest.raises(UserError, match="must be of ARC. It was trained on sudoku, 4 x 4 with 6 tokens"):
        check_arc_tasks(sudoku, [task], CONFIG)
    plain = arc_model(model_params, puzzle_emb_ndim=0, puzzle_emb_len=0)
    with pytest.raises(UserError, match="no puzzle embedding"):
        check_arc_tasks(plain, [task], CONFIG)
    check_arc_tasks(plain, [task], CONFIG.model_copy(update={"train_network": True}))
    large = read_arc_tasks(write_json(tmp_path / "large.json", LARGE))
    with pytest.raises(UserError, match="^task large: needs a canvas of 6 x 6, the model has 5 x 5; give a model"):
        check_arc_tasks(model, large, CONFIG)
    for minutes in (0, -1, float("nan")):
        with pytest.raises(UserError, match="max_minutes must be above 0"):
            check_arc_tasks(model, [task], CONFIG, minutes)
    with pytest.raises(UserError, match="num_aug=1000000000000 needs about"):
        check_arc_tasks(model, [task], CONFIG.model_copy(update={"num_aug": 10**12}))
    with pytest.raises(ParamsError, match="train_step is not a setting; did you mean train_steps"):
        trm.solve_arc(model, tmp_path / "large.json", train_step=1)
    twice = tmp_path / "twice"
    twice.mkdir()
    write_json(twice / "one.json", {"same": TASK})
    write_json(twice / "two.json", {"same": TASK})
    with pytest.raises(DataError, match="'same' occurs in"):
        read_arc_tasks(twice)


def test_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_json(tmp_path / f"{name}.json", TASK)
    assert [task.name for task in read_arc_tasks(tmp_path)] == ["a", "b", "c"]
