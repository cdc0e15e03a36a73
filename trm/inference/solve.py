"""Solves puzzles with a trained model: the library call behind `trm solve`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm.config.base import parse
from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.data.protocol import Grid
from trm.datasets.registry import get_dataset
from trm.inference.engine import TraceCallback, Verifier, predict
from trm.inference.puzzle import EvalPuzzle, get_solvable_dataset, make_puzzle, to_tokens
from trm.inference.voting import Candidate, VoteCounter, grid_hash
from trm.models.act import TRM
from trm.utils.errors import UserError

BATCH = 64
"""Sequences computed at a time."""


@dataclass(frozen=True)
class Answer:
    """The answer to a puzzle."""

    grid: np.ndarray
    """uint8 [height, width] of cell values."""
    halt_probability: float
    """The model's estimate that the grid is correct: mean sigmoid(halt logit) of its votes."""
    votes: int
    """Augmentations of the puzzle that gave this grid."""
    valid: bool | None
    """Whether the grid obeys the rules; None if the dataset has no rules."""
    confidence: float
    """Confidence that the grid is correct, 0 to 1 (`trm.inference.voting.Candidate`). Rules do not affect it."""
    answered: bool
    """Whether the confidence is at least `min_confidence`; if not, `grid` is the answer that is withheld."""


def solve(
    model: TRM,
    meta: DatasetMeta,
    grids: Iterable[np.ndarray | Sequence],
    config: InferenceConfig = DEFAULT_INFERENCE,
    *,
    seed: int = 0,
    **settings: Any,  # noqa: ANN401 - fields of InferenceConfig
) -> list[Answer]:
    """Solve `grids`, each [height, width] of cell values (in a Sudoku 0 is blank).

    config: test-time compute; `settings` override its fields by name, for example `max_steps=64`. seed: seed of the
    augmentations and the noise. Raises `ParamsError` for invalid settings, `DataError` for a grid of another shape or
    with other values, `UserError` for a dataset that lacks such augmentations or rules or cannot be solved from
    outside.
    """
    if settings:
        config = parse(InferenceConfig, config.model_dump() | settings, "solve")
    return list(solve_each(model, meta, grids, config, seed))


def solve_each(
    model: TRM,
    meta: DatasetMeta,
    grids: Iterable[np.ndarray | Sequence],
    config: InferenceConfig,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Answer]:
    """As `solve`, one answer at a time. `advance` is called with the number of finished sequences."""
    for puzzles in _growing_lists(make_puzzles(meta, grids, config, seed), max(BATCH // config.num_votes, 1)):
        yield from solve_puzzles(model, meta, puzzles, config, advance=advance)


def make_puzzles(
    meta: DatasetMeta, grids: Iterable[np.ndarray | Sequence], config: InferenceConfig, seed: int
) -> Iterator[EvalPuzzle]:
    """The `grids` with the augmentations that vote on their answers. Raises as `solve`."""
    dataset = get_solvable_dataset(meta)
    for number, grid in enumerate(grids):
        yield make_puzzle(meta, to_tokens(meta, dataset, np.asarray(grid)), config.num_votes, seed, number)


def _growing_lists(puzzles: Iterable[EvalPuzzle], most: int) -> Iterator[list[EvalPuzzle]]:
    """Lists of 1, 2, 4, ..., `most` puzzles: the first answer comes soon, and many puzzles share batches."""
    iterator, size = iter(puzzles), 1
    while chosen := list(itertools.islice(iterator, size)):
        yield chosen
        size = min(2 * size, most)


def confidence_text(answer: Answer, config: InferenceConfig) -> str:
    """The confidence in words, and whether the puzzle is left unanswered; empty with the default selection of answers,
    all of which are shown.
    """
    if not answer.answered:
        return f"left unanswered: confidence {answer.confidence:.1%} is below {config.min_confidence:.1%}"
    is_default = (config.selection, config.min_confidence) == ("votes", 0)
    return "" if is_default else f"confidence {answer.confidence:.1%}"


def can_vote(meta: DatasetMeta, grid: np.ndarray | Sequence) -> bool:
    """Whether the puzzle has an augmentation besides itself."""
    try:
        make_puzzle(meta, to_tokens(meta, get_solvable_dataset(meta), np.asarray(grid)), 2, 0, 0)
    except UserError:
        return False
    return True


def solve_puzzle(
    model: TRM,
    meta: DatasetMeta,
    puzzle: EvalPuzzle,
    config: InferenceConfig,
    on_trace: TraceCallback | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Answer:
    """Answer all augmentations of a puzzle and vote. `on_trace` and `advance` are called as by `predict`.

    Raises `UserError` if `config.verify` is set and the dataset has no rules.
    """
    return solve_puzzles(model, meta, [puzzle], config, BATCH, on_trace, advance)[0]


def solve_puzzles(
    model: TRM,
    meta: DatasetMeta,
    puzzles: Sequence[EvalPuzzle],
    config: InferenceConfig,
    batch_size: int = BATCH,
    on_trace: TraceCallback | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """As `solve_puzzle`, for several puzzles whose sequences share batches of about `batch_size`."""
    best = [candidates[0] for candidates in vote(model, meta, puzzles, config, batch_size, on_trace, advance)]
    valid = get_dataset(meta.name).valid(meta, [puzzle.grid for puzzle in puzzles], [each.grid for each in best])
    return [
        Answer(
            grid=each.grid,
            halt_probability=each.halt_probability,
            votes=each.votes,
            valid=None if is_valid is None else bool(is_valid),
            confidence=each.confidence,
            answered=each.confidence >= config.min_confidence,
        )
        for each, is_valid in zip(best, [None] * len(best) if valid is None else valid, strict=True)
    ]


def vote(
    model: TRM,
    meta: DatasetMeta,
    puzzles: Sequence[EvalPuzzle],
    config: InferenceConfig,
    batch_size: int,
    on_trace: TraceCallback | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[list[Candidate]]:
    """Answer all augmentations of the puzzles, about `batch_size` sequences at a time; return the candidates of each
    puzzle, best first.

    `on_trace`, `advance` and errors as in `solve_puzzle`.
    """
    tokens = np.concatenate([puzzle.augmentations.tokens for puzzle in puzzles])
    predictions = predict(
        model,
        tokens,
        np.concatenate([puzzle.identifiers for puzzle in puzzles]),
        config,
        batch_size,
        advance,
        [seed for puzzle in puzzles for seed in puzzle.seeds],
        np.repeat(np.arange(len(puzzles)), [puzzle.num_votes for puzzle in puzzles]),
        Verifier(meta, tokens) if config.verify else None,
        on_trace,
    )
    ranked, start = [], 0
    for puzzle in puzzles:
        rows = slice(start, start + puzzle.num_votes)
        grids = puzzle.augmentations.invert(predictions.tokens[rows])
        outputs = (predictions.halt_logit[rows], predictions.score[rows], predictions.settled[rows])
        ranked.append(rank_answers(meta, puzzle, config, grids, *outputs))
        start += puzzle.num_votes
    return ranked


def rank_answers(
    meta: DatasetMeta,
    puzzle: EvalPuzzle,
    config: InferenceConfig,
    grids: Sequence[Grid],
    halt_logit: np.ndarray,
    score: np.ndarray,
    settled: np.ndarray,
) -> list[Candidate]:
    """The candidates among `grids`, best first, by `config.selection`; with `config.verify`, valid ones rank first.

    halt_logit, score, settled: [number of grids], as in `Predictions`.
    """
    counter = VoteCounter(config.selection)
    for grid, *outputs in zip(grids, halt_logit.tolist(), score.tolist(), settled.tolist(), strict=True):
        counter.add(0, grid, *outputs)
    if not config.verify:
        return counter.ranked(0)
    distinct = {grid_hash(grid): grid for grid in grids}
    valid = get_dataset(meta.name).valid(meta, [puzzle.grid] * len(distinct), list(distinct.values()))
    assert valid is not None  # `Verifier` has raised otherwise
    return counter.ranked(0, {key for key, is_valid in zip(distinct, valid, strict=True) if is_valid})
