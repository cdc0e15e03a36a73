"""What a model says at every step of every try, recorded once: any setting of the dials is then only counted.

A try is a version of a puzzle, without noise or in a rollout with noise of some scale. It does not depend on the other
tries, so what any setting of the dials (`trm.inference.engine`) would answer, and at which cost, follows from the
record without the model (spec section 6).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trm.data.protocol import Grid
from trm.utils.errors import UserError
from trm.evaluation.eval_dataset import Question, EvalDataset
from trm.inference.engine import Dials, InferenceEngine
from trm.inference.voting import grid_hash
from trm.models.act import TRM

Scalar = TypeVar("Scalar", bound=np.generic)
AT_ONCE = 4_000_000
"""Pairs of votes that are compared at a time."""


@dataclass(frozen=True)
class Noisy:
    """A try of a version: rollout 0 has no noise."""

    noise: float
    rollout: int


@dataclass(frozen=True)
class Setting:
    """How a puzzle is thought about."""

    dials: Dials
    votes: int
    verify: bool


@dataclass(frozen=True)
class Record:
    """N test examples of V versions, each tried in T ways for S supervision steps. Arrays are [N, V, T, S]."""

    tries: tuple[Noisy, ...]
    answer: npt.NDArray[np.int32]
    """Which of the answers that its example ever got, numbered as they came."""
    halt_logit: npt.NDArray[np.float32]
    halts: npt.NDArray[np.bool_]
    """Training would have halted it."""
    exists: npt.NDArray[np.bool_]
    """[N, V]: a task may have fewer versions than are asked for."""
    right: npt.NDArray[np.bool_]
    """[N, A]: by number of the answer: it is the right grid."""
    valid: npt.NDArray[np.bool_] | None
    """[N, A]: it obeys the rules; None where the kind of data has none."""

    def replay(self, setting: Setting) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The answer that wins [N], and the supervision steps that all tries took together [N].

        The same as `predict` and the vote in `trm.evaluation.evaluate`; a test compares them.
        """
        dials, V, S = setting.dials, setting.votes, setting.dials.steps
        roll = [Noisy(dials.noise if number else 0.0, number) for number in range(dials.rollouts)]
        part = np.ix_(range(len(self.answer)), range(V), [self.tries.index(each) for each in roll], range(S))
        answer, exists = self.answer[part], self.exists[:, :V]
        last = np.full(answer.shape[:3], S)
        if dials.early_halting:
            last = _first(self.halts[part], S)
        obeys = np.zeros_like(answer, bool)
        if setting.verify:
            assert self.valid is not None, "verify where there are no rules"
            obeys = np.take_along_axis(self.valid, answer.reshape(len(answer), -1), axis=1).reshape(answer.shape)
            counted = exists[..., None, None] & (np.arange(1, S + 1) <= last[..., None])
            last = np.minimum(last, _first(obeys & counted, S).min(axis=(1, 2), keepdims=True))
        at = last[..., None] - 1
        final, logit, obeyed = _pick(answer, at), _pick(self.halt_logit[part], at), _pick(obeys, at)
        best = np.lexsort((-logit, ~obeyed), axis=2)[..., :1]  # [N, V, 1]
        elected = _vote(_pick(final, best), _pick(logit, best), _pick(obeyed, best), exists)
        return elected, (last.sum(axis=2) * exists).sum(axis=1)


def _pick(values: npt.NDArray[Scalar], at: npt.NDArray[np.int64]) -> npt.NDArray[Scalar]:
    """One value of the last axis."""
    return np.take_along_axis(values, at, axis=-1)[..., 0]


def _first(holds: npt.NDArray[np.bool_], otherwise: int) -> npt.NDArray[np.int64]:
    """The first place along the last axis, from 1."""
    return np.where(holds.any(axis=-1), holds.argmax(axis=-1) + 1, otherwise)


def _vote(
    answer: npt.NDArray[np.int32],
    logit: npt.NDArray[np.float32],
    wins: npt.NDArray[np.bool_],
    exists: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int32]:
    """The answer [N] that the versions [N, V] elect: one that obeys, more votes, surer, the first; as `VoteCounter`."""
    N, V = answer.shape
    elected = np.zeros(N, np.int32)
    for rows in np.array_split(np.arange(N), max(-(-N * V * V // AT_ONCE), 1)):
        same = (answer[rows][:, :, None] == answer[rows][:, None]) & exists[rows][:, None]
        votes = same.sum(axis=2)
        sure = 1 / (1 + np.exp(-logit[rows].astype(np.float64)))
        mean = (same * sure[:, None]).sum(axis=2) / np.maximum(votes, 1)
        order = np.lexsort((-mean, -votes, ~wins[rows], ~exists[rows]), axis=1)
        elected[rows] = np.take_along_axis(answer[rows], order[:, :1], axis=1)[:, 0]
    return elected


def record(
    model: TRM,
    tests: EvalDataset,
    steps: int,
    tries: Sequence[Noisy],
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Record:
    """Ask the model the puzzles of `tests`, each version in all `tries`, and keep what it says after each step.

    The noise of a rollout is that of `trm evaluate` with the seed of `tests`. `advance` is told of every version of a
    puzzle that is done. Test examples whose answer nobody knows are left out; raises `UserError` where none is left.
    """
    asked = (question for task in tests.sample() for question in tests.questions(task) if question.right is not None)
    seen = [_Seen.of(model, tests, part, steps, tries, batch_size, advance) for part in _parts(asked, batch_size)]
    if not seen:
        raise UserError("no answer to any of these puzzles is known, so more thinking cannot be measured")
    answers = [each for part in seen for each in part.answers]
    most = max((len(grids) for grids in answers), default=1)
    questions = [question for part in seen for question in part.questions]
    right = np.zeros((len(answers), most), bool)
    has_rules = tests.kind.valid(tests.meta, [questions[0].grid], [questions[0].grid]) is not None
    valid = np.zeros_like(right) if has_rules else None
    for row, (question, grids) in enumerate(zip(questions, answers, strict=True)):
        right[row, : len(grids)] = [_same(grid, question.right) for grid in grids]
        if valid is not None:
            obey = tests.kind.valid(tests.meta, [question.grid] * len(grids), grids)
            valid[row, : len(grids)] = np.asarray(obey, bool)
    exists = np.arange(tests.votes) < np.array([question.count for question in questions])[:, None]
    answer = np.concatenate([part.answer for part in seen])
    logit, halts = np.concatenate([part.halt_logit for part in seen]), np.concatenate([part.halts for part in seen])
    return Record(tuple(tries), answer, logit, halts, exists, right, valid)


def _parts(questions: Iterator[Question], size: int) -> Iterator[list[Question]]:
    """Questions of about `size` versions together."""
    waiting: list[Question] = []
    for question in questions:
        waiting.append(question)
        if sum(each.count for each in waiting) >= size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


@dataclass(frozen=True)
class _Seen:
    """The record of some questions."""

    questions: list[Question]
    answers: list[list[Grid]]
    answer: npt.NDArray[np.int32]
    halt_logit: npt.NDArray[np.float32]
    halts: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        model: TRM,
        tests: EvalDataset,
        questions: list[Question],
        steps: int,
        tries: Sequence[Noisy],
        batch_size: int,
        advance: Callable[[int], None],
    ) -> "_Seen":
        shape = (len(questions), tests.votes, len(tries), steps)
        answer, logit, halts = np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, bool)
        numbers: list[dict[bytes, int]] = [{} for _ in questions]
        grids: list[list[Grid]] = [[] for _ in questions]
        for number, each in enumerate(tries):
            told = _told(model, tests, questions, steps, each, batch_size)
            start = 0
            for row, question in enumerate(questions):
                k = question.count
                part, start = slice(start, start + k), start + k
                said = told[0][part]
                logit[row, :k, number], halts[row, :k, number] = told[1][part], told[2][part]
                for step in range(steps):
                    if step and (said[:, step] == said[:, step - 1]).all():
                        answer[row, :, number, step] = answer[row, :, number, step - 1]
                        continue
                    for version, grid in enumerate(question.versions.undo(said[:, step])):
                        name = grid_hash(grid)
                        if name not in numbers[row]:
                            numbers[row][name] = len(grids[row])
                            grids[row].append(grid)
                        answer[row, version, number, step] = numbers[row][name]
                advance(k)
        return cls(questions, grids, answer, logit, halts)


def _told(
    model: TRM, tests: EvalDataset, questions: Sequence[Question], steps: int, each: Noisy, batch_size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """One try of all versions of the questions: tokens [B, S, L], halt logits and halting [B, S]."""
    tokens = np.concatenate([question.versions.tokens for question in questions])
    identifiers = np.concatenate([question.identifiers for question in questions])
    seeds = [[tests.seed, question.row, 2, version] for question in questions for version in range(question.count)]
    said = np.zeros((len(tokens), steps, tokens.shape[1]), np.uint8)
    logits, halts = np.zeros((len(tokens), steps), np.float32), np.zeros((len(tokens), steps), bool)
    for start in range(0, len(tokens), batch_size):
        part = slice(start, start + batch_size)
        noise_of = [[*seed, each.rollout] if each.rollout else None for seed in seeds[part]]
        engine = InferenceEngine(model, tokens[part], identifiers[part], each.noise, noise_of)
        for step in range(steps):
            said[part, step], logits[part, step], halts[part, step] = engine.step()
    return said, logits, halts


def _same(one: Grid, other: Grid | None) -> bool:
    return other is not None and one.shape == other.shape and bool((one == other).all())
