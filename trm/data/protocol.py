"""The protocol of a dataset: the functions that `trm/datasets/<name>/dataset.py` defines."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams, DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import Split

Grid = npt.NDArray[np.uint8]
"""Cells without padding, uint8 [h, w]. Each dataset defines the mapping to tokens, in most
cell = token - `DatasetMeta.first_cell_token`.
"""


@dataclass(frozen=True)
class SplitPlan:
    """How a split is generated: its number of examples and, in order, functions that return blocks of whole puzzles.

    The functions run in threads; their expensive parts should be compiled code that releases the GIL.
    """

    examples: int
    """Number of examples of the split."""
    blocks: Iterator[Callable[[], Split]]
    """The functions."""


@dataclass(frozen=True)
class DatasetPlan:
    """The result of `prepare`: the metadata of the dataset and the plan of each split."""

    meta: DatasetMeta
    """Canvas, vocabulary and number of identifiers."""
    splits: Mapping[str, SplitPlan]
    """train, validation (only if groups are held out) and test, in this order."""
    names: Iterable[Sequence[str]] | None = None
    """The names of identifiers 1, 2, … in chunks, if puzzles have identifiers of their own."""
    leaks: Mapping[str, Sequence[str]] | None = None
    """Name of each test group that is trained on under other names -> these names; None: leakage is an error."""


@dataclass(frozen=True)
class Augmentations:
    """k augmentations of a puzzle; the first is the puzzle itself."""

    tokens: npt.NDArray[np.uint8]
    """The questions, uint8 [k, L]."""
    invert: Callable[[npt.NDArray[np.uint8]], list[Grid]]
    """Maps answers to the augmentations, tokens uint8 [k, L], to k answers to the puzzle itself."""
    names: list[str]
    """A word for each augmentation that describes it."""


Tokens = npt.NDArray[np.uint8]
AugmentExamples = Callable[[DatasetMeta, Tokens, Tokens, npt.NDArray[np.uint64]], tuple[Tokens, Tokens]]
"""A random augmentation of each example: (meta, inputs uint8 [B, L], labels uint8 [B, L], random words uint64 [B]) ->
(inputs, labels). Label 0 is ignored by the loss. A dataset defines it as `augment_examples` in its module `online`.
"""


class Dataset(Protocol):
    """The module of a dataset. `Any` stands for its own `Settings`."""

    Settings: type[DataSection]
    """Section `data` of `params.yaml` for this dataset."""
    FILLS_CANVAS: bool
    """True if every puzzle has the size of the canvas; otherwise smaller ones are in its upper left corner."""

    def source_digest(self, data: Any) -> dict[str, str]:
        """SHA-256 of the source files, as far as known before anything runs."""
        ...

    def fetch(self, data: Any, out: Path) -> dict[str, object]:
        """Write the raw files to the empty folder `out`, check them, and return counts and digests."""
        ...

    def prepare(self, data: Any, augment: AugmentParams, raw: Path) -> DatasetPlan:
        """Plan the dataset that is generated from the raw files."""
        ...

    def augmentations(
        self, meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int
    ) -> Augmentations:
        """The puzzle `tokens` (uint8 [L]) and k - 1 random augmentations of it, for voting.

        Raises `UserError` if there are fewer than k.
        """
        ...

    def recall(self, meta: DatasetMeta, tokens: npt.NDArray[np.uint8], names: Sequence[str]) -> Augmentations:
        """The augmentations uint8 [k, L] that the dataset stores under these names, the puzzle itself first.

        Only for datasets whose puzzles have names (`DatasetPlan.names`).
        """
        ...

    def valid(self, meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> Sequence[bool] | None:
        """Which answers obey the rules and match their questions; None if the dataset has no rules."""
        ...

    def unique_solution(self, grid: Grid) -> Grid | None:
        """The only solution of a question, computed by a solver; None if there is no solver, or not exactly one."""
        ...

    def normalize_text(self, text: str) -> str:
        """Convert further notations that users type for a puzzle (blanks, for example) to symbols of the vocabulary."""
        ...
