"""Trajectories: the answers of a model after every step of every sample, recorded once for the test-time-compute sweep.

Samples and augmentations do not depend on each other. So the answer and the cost of any `InferenceConfig` follow from
the recorded trajectories without running the model again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trm.config.inference import InferenceConfig
from trm.data.protocol import Grid
from trm.evaluation.eval_dataset import EvalDataset, EvalExample
from trm.evaluation.stored_trajectories import StoredTrajectories
from trm.inference.engine import InferenceEngine, Tokens
from trm.inference.voting import grid_hash, same_grid, selection_score, vote_winners
from trm.models.act import TRM
from trm.utils.errors import UserError

Scalar = TypeVar("Scalar", bound=np.generic)
BYTES_PER_STEP = 13
"""Memory of a step of a sequence in `Trajectories`."""


@dataclass(frozen=True)
class Sample:
    """A sample of an augmentation; number 0 has no noise."""

    noise_std: float
    number: int


@dataclass(frozen=True)
class Trajectories:
    """N test examples with V augmentations and T samples each, over S supervision steps: arrays are [N, V, T, S]."""

    samples: tuple[Sample, ...]
    """The T samples."""
    answer: npt.NDArray[np.int32]
    """Number of the answer among the distinct answers of its example, in the order of their first occurrence."""
    halt_logit: npt.NDArray[np.float32]
    """Halt logit after the step."""
    halts: npt.NDArray[np.bool_]
    """Halting decision after the step."""
    movement: npt.NDArray[np.float32]
    """Movement of the latents in the step (`InferenceEngine.movement`); 0 in stored trajectories."""
    exists: npt.NDArray[np.bool_]
    """[N, V]: a task may have fewer augmentations than requested."""
    correct: npt.NDArray[np.bool_]
    """[N, A], by number of the answer: it equals the solution."""
    valid: npt.NDArray[np.bool_] | None
    """[N, A], by number of the answer: it obeys the rules. None if the dataset has no rules."""

    def replay(self, config: InferenceConfig) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The winning answer [N] and the supervision steps of all samples together [N] under `config`.

        Equal to `trm.inference.engine.predict` and the vote of `trm.evaluation.evaluate`.
        """
        V, S = config.num_votes, config.max_steps
        samples = [Sample(config.latent_noise_std if number else 0.0, number) for number in range(config.num_samples)]
        columns = [self.samples.index(sample) for sample in samples]
        part = np.ix_(range(len(self.answer)), range(V), columns, range(S))
        answer, halts, exists = self.answer[part], self.halts[part], self.exists[:, :V]
        last = np.full(answer.shape[:3], S)
        if config.early_halting:
            last = _first(halts, S)
        if config.selection == "halt_first":
            last = last.clip(max=_first(halts & exists[..., None, None], S).min(axis=(1, 2), keepdims=True))
        valid = np.zeros_like(answer, bool)
        if config.verify:
            assert self.valid is not None, "verify without rules"
            valid = np.take_along_axis(self.valid, answer.reshape(len(answer), -1), axis=1).reshape(answer.shape)
            computed = exists[..., None, None] & (np.arange(1, S + 1) <= last[..., None])
            last = np.minimum(last, _first(valid & computed, S).min(axis=(1, 2), keepdims=True))
        at = last[..., None] - 1
        final, logit, verified = _take(answer, at), _take(self.halt_logit[part], at), _take(valid, at)
        score = selection_score(config.selection, logit, _take(halts, at), _take(self.movement[part], at))
        best = np.lexsort((-score, ~verified), axis=2)[..., :1]  # [N, V, 1], the rule of `best_samples`
        scores = None if config.selection == "votes" else _take(score, best)
        winners = vote_winners(_take(final, best), _take(logit, best), _take(verified, best), exists, scores)
        return winners, (last.sum(axis=2) * exists).sum(axis=1)


def _take(values: npt.NDArray[Scalar], at: npt.NDArray[np.int64]) -> npt.NDArray[Scalar]:
    """One value of the last axis."""
    return np.take_along_axis(values, at, axis=-1)[..., 0]


def _first(condition: npt.NDArray[np.bool_], otherwise: int) -> npt.NDArray[np.int64]:
    """The first true place along the last axis, from 1."""
    return np.where(condition.any(axis=-1), condition.argmax(axis=-1) + 1, otherwise)


def record_trajectories(
    model: TRM,
    tests: EvalDataset,
    steps: int,
    samples: Sequence[Sample],
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
    stored: StoredTrajectories | None = None,
) -> Trajectories:
    """Run the model on the puzzles of `tests` in all augmentations and samples, and record every step.

    The noise of a sample is that of `trm evaluate` with the seed of `tests`. `advance` is called with the number of
    finished sequences. Sequences without noise whose trajectories are `stored` are not computed, and have no movement,
    which selection `settled` needs. Examples without a known solution are skipped; raises `UserError` if none is left.
    """
    examples = (example for task in tests.sample() for example in tests.examples(task) if example.solution is not None)
    parts = [
        _Part.record(model, tests.num_votes, part, steps, samples, batch_size, advance, stored)
        for part in _parts(examples, batch_size)
    ]
    if not parts:
        raise UserError("no solution of these puzzles is known, so test-time compute cannot be measured")
    answers = [grids for part in parts for grids in part.grids]
    examples = [example for part in parts for example in part.examples]
    correct = np.zeros((len(answers), max(len(grids) for grids in answers)), bool)
    has_rules = tests.dataset.valid(tests.meta, [examples[0].grid], [examples[0].grid]) is not None
    valid = np.zeros_like(correct) if has_rules else None
    for row, (example, grids) in enumerate(zip(examples, answers, strict=True)):
        correct[row, : len(grids)] = [same_grid(grid, example.solution) for grid in grids]
        if valid is not None:
            obeys = tests.dataset.valid(tests.meta, [example.grid] * len(grids), grids)
            valid[row, : len(grids)] = np.asarray(obeys, bool)
    exists = np.arange(tests.num_votes) < np.array([example.num_votes for example in examples])[:, None]
    return Trajectories(
        samples=tuple(samples),
        answer=np.concatenate([part.answer for part in parts]),
        halt_logit=np.concatenate([part.halt_logit for part in parts]),
        halts=np.concatenate([part.halts for part in parts]),
        movement=np.concatenate([part.movement for part in parts]),
        exists=exists,
        correct=correct,
        valid=valid,
    )


def _parts(examples: Iterator[EvalExample], size: int) -> Iterator[list[EvalExample]]:
    """Examples of about `size` augmentations together."""
    part: list[EvalExample] = []
    for example in examples:
        part.append(example)
        if sum(each.num_votes for each in part) >= size:
            yield part
            part = []
    if part:
        yield part


@dataclass(frozen=True)
class _Part:
    """The trajectories of some examples, with the distinct answers of each."""

    examples: list[EvalExample]
    grids: list[list[Grid]]
    answer: npt.NDArray[np.int32]
    halt_logit: npt.NDArray[np.float32]
    halts: npt.NDArray[np.bool_]
    movement: npt.NDArray[np.float32]

    @classmethod
    def record(
        cls,
        model: TRM,
        num_votes: int,
        examples: list[EvalExample],
        steps: int,
        samples: Sequence[Sample],
        batch_size: int,
        advance: Callable[[int], None],
        stored: StoredTrajectories | None,
    ) -> "_Part":
        shape = (len(examples), num_votes, len(samples), steps)
        answer, halts = np.zeros(shape, np.int32), np.zeros(shape, bool)
        logit, movement = np.zeros((2, *shape), np.float32)
        numbers: list[dict[bytes, int]] = [{} for _ in examples]
        grids: list[list[Grid]] = [[] for _ in examples]
        for index, sample in enumerate(samples):
            known = stored if sample == Sample(0.0, 0) else None
            all_tokens, all_logits, all_halts, all_movements = _run(model, examples, steps, sample, batch_size, known)
            start = 0
            for row, example in enumerate(examples):
                k = example.num_votes
                part, start = slice(start, start + k), start + k
                tokens = all_tokens[part]
                logit[row, :k, index], halts[row, :k, index] = all_logits[part], all_halts[part]
                movement[row, :k, index] = all_movements[part]
                for step in range(steps):
                    if step and (tokens[:, step] == tokens[:, step - 1]).all():
                        answer[row, :, index, step] = answer[row, :, index, step - 1]
                        continue
                    for number, grid in enumerate(example.augmentations.invert(tokens[:, step])):
                        key = grid_hash(grid)
                        if key not in numbers[row]:
                            numbers[row][key] = len(grids[row])
                            grids[row].append(grid)
                        answer[row, number, index, step] = numbers[row][key]
                advance(k)
        return cls(examples, grids, answer, logit, halts, movement)


def _run(
    model: TRM,
    examples: Sequence[EvalExample],
    steps: int,
    sample: Sample,
    batch_size: int,
    stored: StoredTrajectories | None,
) -> tuple[Tokens, npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """One sample of all augmentations: tokens [B, S, L]; halt logits, halting decisions and movements [B, S]."""
    tokens = np.concatenate([example.augmentations.tokens for example in examples])
    identifiers = np.concatenate([example.identifiers for example in examples])
    seeds = [seed for example in examples for seed in example.seeds]
    predicted = np.zeros((len(tokens), steps, tokens.shape[1]), np.uint8)
    (logits, movements), halts = np.zeros((2, len(tokens), steps), np.float32), np.zeros((len(tokens), steps), bool)
    missing = np.arange(len(tokens))
    if stored is not None:
        numbers = stored.find(examples)
        for row in np.flatnonzero(numbers >= 0):
            predicted[row], logits[row], halts[row] = stored.outputs(numbers[row])
        missing = np.flatnonzero(numbers < 0)
    for start in range(0, len(missing), batch_size):
        part = missing[start : start + batch_size]
        noise_seeds = [[*seeds[row], sample.number] if sample.number else None for row in part]
        engine = InferenceEngine(model, tokens[part], identifiers[part], sample.noise_std, noise_seeds)
        for step in range(steps):
            predicted[part, step], logits[part, step], halts[part, step] = engine.step()
            movements[part, step] = engine.movement()
    return predicted, logits, halts, movements
