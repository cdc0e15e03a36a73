"""ARC tasks that the model was not trained on: for each task, a copy of the model is trained on the demonstrations and
their augmentations, then all augmentations of the test inputs vote.

The outputs of test pairs are never used, except for the score.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trm.config.arc_tasks import DEFAULT_ARC_TASK, ArcTaskConfig
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.config.recipes import recipe_values
from trm.config.training import TrainParams
from trm.data.parquet import Split
from trm.data.protocol import DatasetPlan
from trm.datasets.arc.dataset import SUBSETS, VOCABULARY, plan_tasks
from trm.datasets.arc.files import read_task_files
from trm.datasets.arc.tasks import Task
from trm.evaluation.eval_dataset import EvalDataset
from trm.evaluation.metrics import Estimate, proportion
from trm.evaluation.submission import ATTEMPTS, Entry, entry
from trm.inference.engine import predict
from trm.inference.solve import vote
from trm.inference.voting import Candidate, same_grid
from trm.models.act import TRM
from trm.training.adaptation import adapt
from trm.training.cost import check_training
from trm.training.non_finite import NonFiniteLossError
from trm.utils.errors import UserError
from trm.utils.memory import check_memory

RECIPE = "arc-agi-1"
"""The recipe of all settings of the training that `ArcTaskConfig` does not have."""
EDITION = "arc-agi-1"
"""The edition of the tasks: its name has no influence on the answers."""
SUBSET = SUBSETS[EDITION][1]
"""The subset of the tasks: of its test pairs, only the inputs are used."""
VOTING_SHARE = 0.5
"""Largest fraction of the time of a task that is kept for the vote."""
NO_TIME = "no time was left"


@dataclass(frozen=True)
class TaskAnswer:
    """The answers to the test inputs of a task."""

    task: Task
    """The task, with the outputs of its test pairs if they are known."""
    attempts: list[list[Candidate]]
    """The best candidates of each test input, best first: two, or one if all augmentations agree. Empty if the task is
    not answered."""
    train_steps: int = 0
    """Optimizer steps."""
    num_votes: int = 0
    """Augmentations that voted on each test input."""
    problem: str = ""
    """Why the task is not answered."""

    def correct(self, k: int) -> list[bool]:
        """Whether one of the first `k` attempts at each test input with a known output is correct."""
        attempts = self.attempts or [[]] * len(self.task.tests)
        return [
            any(same_grid(candidate.grid, output) for candidate in candidates[:k])
            for candidates, (_, output) in zip(attempts, self.task.tests, strict=True)
            if output is not None
        ]


class TimeBudget:
    """A time that is shared evenly by the tasks that remain: what a task leaves is shared by those after it."""

    def __init__(self, seconds: float, tasks: int, clock: Callable[[], float]) -> None:
        """seconds: the time from now on; infinity: no limit. clock: returns the time in seconds."""
        self._end, self._left, self._clock = clock() + seconds, tasks, clock

    def next_share(self) -> float:
        """The seconds of the next task: the remaining time divided by the number of tasks that remain, at least 0."""
        share = (self._end - self._clock()) / self._left
        self._left -= 1
        return max(share, 0.0)


def solve_arc(
    model: TRM,
    location: str | Path,
    config: ArcTaskConfig = DEFAULT_ARC_TASK,
    *,
    seed: int = 0,
    max_minutes: float | None = None,
    **settings: Any,  # noqa: ANN401 - fields of ArcTaskConfig
) -> list[TaskAnswer]:
    """Answer the ARC tasks of a file or folder that the ARC model `model` was not trained on; `model` does not change.

    location: a file of one task, a file of many (id -> task), or a folder of such files. config: training and voting of
    each task; `settings` override its fields by name, for example `train_steps=50`. seed: seed of augmentations and
    training. max_minutes: time for all tasks together; None: no limit. Raises `ParamsError` for invalid settings,
    `DataError` for invalid tasks, `UserError` for a model that is not of ARC, or a file without a task that fits its
    canvas.
    """
    if settings:
        config = parse(ArcTaskConfig, config.model_dump() | settings, "solve_arc")
    tasks = read_arc_tasks(location)
    check_arc_tasks(model, tasks, config, max_minutes)
    return list(solve_each_task(model, tasks, config, seed, max_minutes))


def read_arc_tasks(location: str | Path) -> list[Task]:
    """The tasks of a file or folder, in order. Raises `UserError` or `DataError` for the first error."""
    return read_task_files(str(location), SUBSET, "TASKS")


def check_arc_tasks(model: TRM, tasks: Sequence[Task], config: ArcTaskConfig, max_minutes: float | None = None) -> None:
    """Raise `UserError` if the model is not of ARC, nothing can be trained, no task fits the canvas, the time is not
    positive, or the memory is not sufficient.
    """
    if max_minutes is not None and not max_minutes > 0:
        raise UserError(f"max_minutes must be above 0. Got {max_minutes}")
    meta, side = model.meta, model.meta.height
    if meta.vocabulary != VOCABULARY or meta.width != side:
        raise UserError(
            f"the model must be of ARC. It was trained on {meta.name}, {side} x {meta.width} with {meta.vocab_size} "
            "tokens; give a model that was trained on an ARC dataset"
        )
    if not model.config.puzzle_emb_ndim and not config.train_network:
        raise UserError("the model has no puzzle embedding that could be trained for a task; set train_network")
    if all(_problem(task, side) for task in tasks):
        others = f" ({len(tasks)} tasks, and none fits)" if len(tasks) > 1 else ""
        raise UserError(f"task {tasks[0].name}: {_problem(tasks[0], side)}{others}; give a model of a larger canvas")
    pairs = max(len(task.pairs) + len(task.tests) for task in tasks)
    check_memory((1 + config.num_aug) * pairs * 4 * meta.seq_len, f"num_aug={config.num_aug}")
    check_training(model.config, meta, config.batch_size, train_params(config, 0), model.device, model.compute_dtype)


def solve_each_task(
    model: TRM,
    tasks: Iterable[Task],
    config: ArcTaskConfig,
    seed: int = 0,
    max_minutes: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[TaskAnswer]:
    """As `solve_arc`, one task at a time. A task that does not fit the canvas is not answered.

    With `max_minutes` each task gets an equal share of the time that is left: training ends when the rest of the share
    is needed for the vote. If the vote would need more than half of the share, fewer augmentations vote. `clock`
    returns the time in seconds. `advance` is called with parts of `work` of each task.
    """
    tasks, side = list(tasks), model.meta.height
    fitting = sum(not _problem(task, side) for task in tasks)
    budget = TimeBudget(math.inf if max_minutes is None else 60 * max_minutes, fitting, clock)
    solver = _Solver(model, config, seed, clock)
    for task in tasks:
        done = 0

        def count(amount: int) -> None:
            nonlocal done
            done += amount
            advance(amount)

        problem = _problem(task, side)
        if problem:
            yield TaskAnswer(task, [], problem=problem)
        else:
            yield solver.solve(task, budget.next_share(), count)
        advance(work(task, config) - done)


def work(task: Task, config: ArcTaskConfig) -> int:
    """Amount of work of a task, for a progress display: optimizer steps and sequences of the vote."""
    return config.train_steps + len(task.tests) * (1 + config.num_aug)


def _problem(task: Task, side: int) -> str:
    """Why the task does not fit a canvas of `side` x `side`; empty if it fits. Unknown outputs are not considered."""
    needed = _without_outputs(task).max_side
    return f"needs a canvas of {needed} x {needed}, the model has {side} x {side}" if needed > side else ""


def _without_outputs(task: Task) -> Task:
    return replace(task, tests=[(test_input, None) for test_input, _ in task.tests])


class _Solver:
    def __init__(self, model: TRM, config: ArcTaskConfig, seed: int, clock: Callable[[], float]) -> None:
        self._model, self._config, self._seed, self._clock = model, config, seed, clock
        self._settings = train_params(config, seed)
        self._inference = inference_config(config)
        self._seconds_per_sequence: float | None = None
        """Time of the vote of an augmentation; None: not measured yet."""

    def solve(self, task: Task, share: float, count: Callable[[int], None]) -> TaskAnswer:
        """Train and vote within `share` seconds."""
        if not share:
            return TaskAnswer(task, [], problem=NO_TIME)
        started = self._clock()
        augment = AugmentParams(num_aug=self._config.num_aug, validation_groups=0, seed=self._seed)
        plan = plan_tasks([_without_outputs(task)], EDITION, augment, self._model.meta.height)
        train, tests = (_in_memory(plan, name) for name in ("train", "test"))
        assert plan.names is not None
        names = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in plan.names])
        num_votes, reserved = self._plan_vote(tests, share)
        deadline = started + share - reserved
        try:
            model, steps = adapt(
                self._model,
                plan.meta,
                train,
                self._settings,
                self._config.train_steps,
                lambda: self._clock() >= deadline,
                count,
            )
        except NonFiniteLossError:
            return TaskAnswer(task, [], problem="its training diverged; lower lr or network_lr")
        voting = self._clock()
        examples = list(EvalDataset(tests, names, plan.meta, num_votes, None, self._seed).examples(0))
        ranked = vote(model, plan.meta, examples, self._inference, self._config.batch_size, advance=count)
        attempts = [candidates[: len(ATTEMPTS)] for candidates in ranked]
        self._seconds_per_sequence = (self._clock() - voting) / (num_votes * len(attempts))
        return TaskAnswer(task, attempts, steps, num_votes)

    def _plan_vote(self, tests: Split, share: float) -> tuple[int, float]:
        """The number of augmentations that vote, and the seconds they need together."""
        augmentations = len(tests.puzzle_starts) - 1
        pairs = len(tests) // augmentations
        if math.isinf(share):
            return augmentations, 0.0
        if self._seconds_per_sequence is None:
            self._seconds_per_sequence = self._measure(tests)
        seconds = pairs * self._seconds_per_sequence
        affordable = int(VOTING_SHARE * share / seconds) if seconds else augmentations
        num_votes = min(max(affordable, 1), augmentations)
        return num_votes, num_votes * seconds

    def _measure(self, tests: Split) -> float:
        """Seconds per sequence of a vote, measured on a batch."""
        tokens = np.asarray(tests.inputs[: self._config.batch_size])
        started = self._clock()
        predict(self._model, tokens, np.zeros(len(tokens), np.int64), self._inference, self._config.batch_size)
        return (self._clock() - started) / len(tokens)


def _in_memory(plan: DatasetPlan, name: str) -> Split:
    return Split.concatenate([make_block() for make_block in plan.splits[name].blocks])


def inference_config(config: ArcTaskConfig) -> InferenceConfig:
    """The settings of the vote: all augmentations, the published selection."""
    return DEFAULT_INFERENCE.model_copy(update={"max_steps": config.max_steps, "num_votes": 1 + config.num_aug})


def train_params(config: ArcTaskConfig, seed: int) -> TrainParams:
    """The settings of the training: those of the recipe, with constant learning rates and without an EMA."""
    changes = {
        "train.global_batch_size": config.batch_size,
        "train.lr": config.network_lr,
        "train.lr_warmup_steps": 0,
        "train.lr_min_ratio": 1.0,  # the time may end the training at any step
        "train.optimizer.puzzle_emb.lr": config.lr,
        "train.ema_rate": 0.0,  # an average over few steps would be that of the given model
        "train.seed": seed,
    }
    settings = parse(TrainParams, recipe_values(RECIPE, changes)["train"], "solve-arc")
    # Not a change of the recipe: settings of a file require `init_from` for frozen weights, here the model is given.
    return settings.model_copy(update={"freeze_weights": not config.train_network})


def submission_of(answers: Iterable[TaskAnswer]) -> dict[str, list[Entry]]:
    """Kaggle's submission: task -> an entry of two attempts for each test input. Unanswered ones are `[[0]]`."""
    return {
        answer.task.name: [
            entry({rank: candidate.grid.tolist() for rank, candidate in enumerate(candidates, 1)})
            for candidates in answer.attempts or [[]] * len(answer.task.tests)
        ]
        for answer in answers
    }


def pass_at(answers: Iterable[TaskAnswer], k: int) -> Estimate:
    """Fraction of the test inputs with a known output with a correct answer among the first `k` attempts."""
    correct = [each for answer in answers for each in answer.correct(k)]
    return proportion(sum(correct), len(correct))
