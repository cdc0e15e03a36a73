"""Solves puzzles with a trained model: the library call behind `trm solve`."""

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
    dataset = get_solvable_dataset(meta)
    for number, grid in enumerate(grids):
        tokens = to_tokens(meta, dataset, np.asarray(grid))
        puzzle = make_puzzle(meta, tokens, config.num_votes, seed, number)
        yield solve_puzzle(model, meta, puzzle, config, advance=advance)


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
    best = vote(model, meta, puzzle, config, BATCH, on_trace, advance)[0]
    valid = get_dataset(meta.name).valid(meta, [puzzle.grid], [best.grid])
    return Answer(
        grid=best.grid,
        halt_probability=best.halt_probability,
        votes=best.votes,
        valid=None if valid is None else bool(valid[0]),
        confidence=best.confidence,
        answered=best.confidence >= config.min_confidence,
    )


def vote(
    model: TRM,
    meta: DatasetMeta,
    puzzle: EvalPuzzle,
    config: InferenceConfig,
    batch_size: int,
    on_trace: TraceCallback | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Candidate]:
    """Answer all augmentations of a puzzle, about `batch_size` sequences at a time; return the candidates, best first.

    `on_trace`, `advance` and errors as in `solve_puzzle`.
    """
    tokens, same_puzzle = puzzle.augmentations.tokens, np.zeros(puzzle.num_votes, np.int64)
    predictions = predict(
        model,
        tokens,
        puzzle.identifiers,
        config,
        batch_size,
        advance,
        puzzle.seeds,
        same_puzzle,
        Verifier(meta, tokens) if config.verify else None,
        on_trace,
    )
    grids = puzzle.augmentations.invert(predictions.tokens)
    outputs = (predictions.halt_logit, predictions.score, predictions.settled)
    return rank_answers(meta, puzzle, config, grids, *outputs)


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
