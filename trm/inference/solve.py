"""Ask a model: tokens in, tokens out; and the library call behind `trm solve`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trm.data.protocol import Grid, Kind, Augmentations
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError, UserError
from trm.inference.engine import Dials, Look, Rules, predict
from trm.inference.voting import VoteCounter, Candidate
from trm.config.dataset_meta import DatasetMeta
from trm.models.act import TRM

BATCH = 64
"""Sequences that are answered at a time."""
BLANKS = {"sudoku": ".", "maze": " "}
"""The symbol of a puzzle for which a person may type `.`, `_` or `0`."""


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
    rollouts: int = 1,
    noise: float = 0.0,
    early_halting: bool = False,
    verify: bool = False,
) -> list[Answer]:
    """Answer each of `grids` ([height, width] of cell values; in a Sudoku 0 is blank) with `steps` supervision steps.

    With `votes` above 1, so many versions of the puzzle, drawn by `seed`, vote on the answer. The other dials are those
    of section `evaluate`. Raises `DataError` for a grid of another shape or with values that are not cells, `UserError`
    for data that has no such versions, has no rules to check or cannot be asked.
    """
    dials, kind = checked_dials(steps, votes, rollouts, noise, early_halting), find_askable(meta)
    answers = []
    for number, given in enumerate(grids):
        tokens = to_tokens(meta, kind, np.asarray(given))
        answers.append(answer(model, meta, asked(meta, tokens, votes, seed, number), dials, verify))
    return answers


def checked_dials(steps: int, votes: int, rollouts: int, noise: float, early_halting: bool) -> Dials:
    """These dials. Raises `DataError` for those that do not go together."""
    if steps < 1 or votes < 1 or rollouts < 1:
        raise DataError(f"steps, votes and rollouts must be at least 1. Got {steps}, {votes} and {rollouts}")
    if (rollouts > 1) != (noise > 0):
        raise DataError(f"rollouts above 1 need noise above 0, and the other way round. Got {rollouts} and {noise}")
    return Dials(steps, early_halting, rollouts, noise)


@dataclass(frozen=True)
class Asked:
    """A puzzle in the k versions that vote on its answer."""

    grid: Grid
    """As a person sees it."""
    versions: Augmentations
    identifiers: np.ndarray
    """int [k]."""
    seeds: Sequence[Sequence[int]]
    """k seeds of noise."""


def asked(meta: DatasetMeta, tokens: np.ndarray, votes: int, seed: int, number: int = 0) -> Asked:
    """The puzzle `tokens` (uint8 [L]), the `number`-th of a list, in versions drawn by `seed`.

    Raises `UserError` where there are no such versions.
    """
    kind = find_askable(meta)
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    versions = kind.versions(meta, tokens, rng, votes)
    (grid,) = kind.versions(meta, tokens, rng, 1).undo(tokens[None])
    return Asked(grid, versions, np.zeros(votes, np.int64), [[seed, number, version] for version in range(votes)])


def answer(
    model: TRM, meta: DatasetMeta, asked: Asked, dials: Dials, verify: bool, look: Look | None = None
) -> Answer:
    """Let all versions vote on the answer; `look` is shown the tries after every network pass, as by `predict`.

    Raises `UserError` where there are no rules to check.
    """
    tokens, same_puzzle = asked.versions.tokens, np.zeros(len(asked.identifiers), np.int64)
    rules = Rules(meta, tokens, same_puzzle) if verify else None
    said = predict(model, tokens, asked.identifiers, dials, BATCH, seeds=asked.seeds, rules=rules, look=look)
    best = ranked(meta, asked, asked.versions.undo(said.tokens), said.halt_logit, verify)[0]
    obeys = get_dataset(meta.name).valid(meta, [asked.grid], [best.grid])
    return Answer(best.grid, best.halt_probability, best.votes, None if obeys is None else bool(obeys[0]))


def ranked(
    meta: DatasetMeta, asked: Asked, grids: Sequence[Grid], halt_logits: Sequence[float] | np.ndarray, verify: bool
) -> list[Candidate]:
    """The candidates of a vote by `grids`, best first; with `verify` those that obey the rules before others."""
    counter = VoteCounter()
    for grid, halt_logit in zip(grids, halt_logits, strict=True):
        counter.add(0, grid, halt_logit)
    candidates = counter.ranked(0)
    if not verify:
        return candidates
    right = get_dataset(meta.name).valid(meta, [asked.grid] * len(candidates), [each.grid for each in candidates])
    assert right is not None  # `Rules` has asked
    return [candidates[place] for place in np.argsort(~np.asarray(right), kind="stable")]


def find_askable(meta: DatasetMeta) -> Kind:
    """The kind of the model's data. Raises `UserError` where no puzzle from outside the data set can be asked."""
    if meta.name == "tokens":  # as `trm.models.conversion` calls what it cannot tell
        raise UserError(
            "the model's data set is not known, for it was imported without one; import it again with "
            "`trm checkpoint import … --dataset` and the data set it was trained on"
        )
    kind = get_dataset(meta.name)
    if hasattr(kind, "recall"):  # its puzzles have names, and it may know no others
        kind.versions(meta, np.zeros(meta.seq_len, np.uint8), np.random.default_rng(0), 1)
    return kind


def to_tokens(meta: DatasetMeta, kind: Kind, grid: np.ndarray) -> np.ndarray:
    """A grid of cells [height, width] as the tokens of its canvas, uint8 [L]. Raises `DataError` where it does not fit
    the canvas or the alphabet.
    """
    fits = grid.ndim == 2 and 0 < grid.shape[0] <= meta.height and 0 < grid.shape[1] <= meta.width
    if not fits or (kind.FILLS_CANVAS and grid.shape != (meta.height, meta.width)):
        most = "" if kind.FILLS_CANVAS else "at most "
        raise DataError(f"a puzzle must be {most}{meta.height} x {meta.width}. Got shape {grid.shape}")
    if not np.isin(grid, np.arange(meta.vocab_size - 1)).all():
        raise DataError(f"a puzzle's cells must be 0..{meta.vocab_size - 2}. Got {grid.min()}..{grid.max()}")
    tokens = np.zeros((meta.height, meta.width), np.uint8)
    tokens[: grid.shape[0], : grid.shape[1]] = grid.astype(np.uint8) + np.uint8(1)
    return tokens.ravel()


def parse_puzzle(text: str, meta: DatasetMeta) -> np.ndarray:
    """A puzzle typed as characters, row by row, as uint8 [height, width] of cells.

    White space does not count, unless it is a symbol of the puzzle (a maze): then line breaks alone do not. `.`, `_`
    and `0` are the blank of a Sudoku and the open cell of a maze. Symbols of several characters (numbers) are told
    apart by spaces. Rows may be told apart by line breaks or `/`, and must be where the puzzle is smaller than the
    canvas and has more than one. Raises `DataError` for another length, shape or symbol, `UserError` for data that
    cannot be asked.
    """
    kind, symbols = find_askable(meta), meta.vocabulary[1:]
    values = {symbol: cell for cell, symbol in enumerate(symbols)}
    if meta.name in BLANKS:
        values |= dict.fromkeys("._0", values[BLANKS[meta.name]])
    if "/" not in values:
        text = text.replace("/", "\n")
    if meta.name == "arithmetic":
        text = text.rstrip().rstrip(".")  # the places of a sum that are to be filled
    lines = [line for line in (_cells_of(line, values) for line in text.strip("\r\n").splitlines()) if line]
    cells = [symbol for line in lines for symbol in line]
    widths = {len(line) for line in lines}
    if len(lines) > 1 and len(widths) > 1:
        raise DataError(
            f"the rows of the puzzle must be of one length. Got {', '.join(map(str, sorted(widths)))} cells"
        )
    canvas, shape = (meta.height, meta.width), (len(lines), max(widths, default=0))
    if len(lines) == 1 and len(cells) == meta.seq_len:
        shape = canvas
    if not cells or shape[0] > canvas[0] or shape[1] > canvas[1] or (kind.FILLS_CANVAS and shape != canvas):
        most = "" if kind.FILLS_CANVAS else "at most "
        got = f"{shape[0]} rows of {shape[1]}" if len(lines) > 1 else str(len(cells))
        raise DataError(f"the puzzle must have {most}{meta.seq_len} cells ({meta.height} x {meta.width}). Got {got}")
    for place, symbol in enumerate(cells):
        if symbol not in values:
            raise DataError(f"cell {place + 1} of the puzzle must be one of {' '.join(symbols)}. Got {symbol!r}")
    return np.array([values[symbol] for symbol in cells], dtype=np.uint8).reshape(shape)


def _cells_of(line: str, values: Mapping[str, int]) -> list[str]:
    if any(len(symbol) > 1 for symbol in values):
        return line.split()
    return list(line if " " in values else "".join(line.split()))
