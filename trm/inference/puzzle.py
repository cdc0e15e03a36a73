"""A puzzle with the augmentations that vote on its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trm.config.dataset_meta import DatasetMeta
from trm.data.canvas import FIRST_CELL, draw_ends
from trm.data.protocol import Augmentations, Dataset, Grid
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError, UserError


@dataclass(frozen=True)
class EvalPuzzle:
    """A puzzle and its k augmentations."""

    grid: Grid
    """The question without padding."""
    augmentations: Augmentations
    """The k augmentations; the first is the puzzle itself."""
    identifiers: np.ndarray
    """Puzzle identifier of each augmentation, int [k]."""
    seeds: Sequence[Sequence[int]]
    """Seed of the noise of each augmentation, [k]."""

    @property
    def num_votes(self) -> int:
        """The number of augmentations, k."""
        return len(self.identifiers)


def make_puzzle(meta: DatasetMeta, tokens: np.ndarray, num_votes: int, seed: int, number: int = 0) -> EvalPuzzle:
    """The puzzle `tokens` (uint8 [L]), the `number`-th of a list, with augmentations drawn by `seed`.

    Raises `UserError` if the dataset does not have so many augmentations.
    """
    dataset = get_solvable_dataset(meta)
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    augmentations = dataset.augmentations(meta, tokens, rng, num_votes)
    (grid,) = dataset.augmentations(meta, tokens, rng, 1).invert(tokens[None])
    seeds = [[seed, number, index] for index in range(num_votes)]
    return EvalPuzzle(grid, augmentations, np.zeros(num_votes, np.int64), seeds)


def get_solvable_dataset(meta: DatasetMeta) -> Dataset:
    """The dataset of a model. Raises `UserError` if a model of it cannot solve puzzles from outside the dataset."""
    if meta.name == "tokens":  # the name that `trm.models.conversion` gives to an unknown dataset
        raise UserError(
            "the dataset of this model is unknown because the checkpoint was imported without one; import it again "
            "with `trm checkpoint import … --dataset` and the dataset it was trained on"
        )
    dataset = get_dataset(meta.name)
    if hasattr(dataset, "recall"):  # puzzles have trained identifiers; `augmentations` raises if there are no others
        dataset.augmentations(meta, np.zeros(meta.seq_len, np.uint8), np.random.default_rng(0), 1)
    return dataset


def to_tokens(meta: DatasetMeta, dataset: Dataset, grid: np.ndarray) -> np.ndarray:
    """Convert cells [height, width] to the tokens of the canvas, uint8 [L].

    Raises `DataError` if the grid does not fit the canvas or has values outside the alphabet.
    """
    fits = grid.ndim == 2 and 0 < grid.shape[0] <= meta.height and 0 < grid.shape[1] <= meta.width
    if not fits or (dataset.FILLS_CANVAS and grid.shape != (meta.height, meta.width)):
        most = "" if dataset.FILLS_CANVAS else "at most "
        raise DataError(f"a puzzle must be {most}{meta.height} x {meta.width}. Got shape {grid.shape}")
    first = meta.first_cell_token
    if not np.isin(grid, np.arange(meta.vocab_size - first)).all():
        raise DataError(
            f"the cells of a puzzle must be 0..{meta.vocab_size - 1 - first}. Got {grid.min()}..{grid.max()}"
        )
    tokens = np.zeros((meta.height, meta.width), np.uint8)
    tokens[: grid.shape[0], : grid.shape[1]] = grid.astype(np.uint8) + np.uint8(first)
    if first == FIRST_CELL:
        draw_ends(tokens, 0, 0, (grid.shape[0], grid.shape[1]))
    return tokens.ravel()
