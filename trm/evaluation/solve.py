"""Ask a model: tokens in, tokens out; and the library call behind `trm solve`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trm.errors import DataError
from trm.evaluation.checkers import CHECKERS, valid
from trm.evaluation.versions import draw_versions
from trm.evaluation.voting import Ballots
from trm.meta import DatasetMeta
from trm.model.supervision import TRM


@dataclass(frozen=True)
class Predictions:
    """What a model answers to N sequences."""

    tokens: np.ndarray
    """uint8 [N, L]."""
    halt_logit: np.ndarray
    """float32 [N], after the last step."""
    first_halt: np.ndarray
    """int64 [N]: the first supervision step at which training would have halted, or the last."""


def predict(
    model: TRM,
    tokens: np.ndarray,
    identifiers: np.ndarray,
    steps: int,
    batch_size: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Predictions:
    """Answer the sequences `tokens` (uint8 [N, L]) with puzzle `identifiers` (int [N]), `batch_size` at a time."""
    parts = []
    for start in range(0, len(tokens), batch_size):
        part = slice(start, start + batch_size)
        batch = {
            "inputs": torch.from_numpy(tokens[part].astype(np.int32)).to(model.device),
            "puzzle_identifiers": torch.from_numpy(identifiers[part].astype(np.int32)).to(model.device),
        }
        answer, halt_logit, first_halt = (value.cpu().numpy() for value in model.answer(batch, steps))
        parts.append((answer.astype(np.uint8), halt_logit, first_halt))
        advance(len(answer))
    joined = [np.concatenate(values) for values in zip(*parts, strict=True)]
    return Predictions(*joined)


@dataclass(frozen=True)
class Answer:
    """The answer to one puzzle."""

    grid: np.ndarray
    """uint8 [height, width] of cell values."""
    halt_probability: float
    """The model's own estimate that the grid is right: mean sigmoid(halt logit) of its votes."""
    votes: int
    """Versions of the puzzle that gave this grid."""
    valid: bool | None
    """Whether it obeys the puzzle's rules; None where no rules are known."""


def solve(
    model: TRM,
    meta: DatasetMeta,
    grids: Iterable[np.ndarray | Sequence],
    steps: int = 16,
    votes: int = 1,
    seed: int = 0,
) -> list[Answer]:
    """Answer each of `grids` ([height, width] of cell values, 0 blank) with `steps` supervision steps.

    With `votes` above 1, so many versions of the puzzle, shuffled by `seed`, vote on the answer. Raises `DataError`
    for a grid of another shape or with values that are not cells.
    """
    if steps < 1 or votes < 1:
        raise DataError(f"steps and votes must be at least 1. Got {steps} and {votes}")
    answers = []
    for number, given in enumerate(grids):
        grid = np.asarray(given)
        if grid.shape != (meta.height, meta.width):
            raise DataError(f"a puzzle must be {meta.height} x {meta.width}. Got shape {grid.shape}")
        if not np.isin(grid, np.arange(meta.vocab_size - 1)).all():
            raise DataError(f"a puzzle's cells must be 0..{meta.vocab_size - 2}. Got {grid.min()}..{grid.max()}")
        question = grid.astype(np.uint8)
        rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
        versions = draw_versions(meta, (question + np.uint8(1)).ravel(), rng, votes)
        predictions = predict(model, versions.tokens, np.zeros(votes, dtype=np.int32), steps, batch_size=64)
        ballots = Ballots()
        for undone, halt_logit in zip(versions.undo(predictions.tokens), predictions.halt_logit, strict=True):
            ballots.add(number, undone, halt_logit)
        best = ballots.ranked(number)[0]
        obeys = bool(valid(meta, question[None], best.grid[None])[0]) if meta.kind in CHECKERS else None
        answers.append(Answer(best.grid, best.halt_probability, best.votes, obeys))
    return answers


def parse_puzzle(text: str, meta: DatasetMeta) -> np.ndarray:
    """A puzzle typed as characters, row by row, as uint8 [height, width]; white space does not count.

    `.`, `_` and `0` are blanks. Raises `DataError` for another length or character.
    """
    symbols = "".join(text.split())
    if len(symbols) != meta.seq_len:
        raise DataError(
            f"the puzzle must have {meta.seq_len} cells ({meta.height} x {meta.width}), '.' for a blank one. "
            f"Got {len(symbols)}"
        )
    values = {symbol: token - 1 for token, symbol in enumerate(meta.vocabulary) if token}
    values |= {"_": 0, "0": 0}
    for place, symbol in enumerate(symbols):
        if symbol not in values:
            raise DataError(
                f"cell {place + 1} of the puzzle must be one of {''.join(meta.vocabulary[1:])}. Got {symbol!r}"
            )
    return np.array([values[symbol] for symbol in symbols], dtype=np.uint8).reshape(meta.height, meta.width)
