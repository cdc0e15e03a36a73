"""What a kind of data offers: a module of `trm.datasets`, found by its name, with the names of `Kind` in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams, DataSection
from trm.datasets.registry import dataset_module
from trm.data.parquet import Split
from trm.config.dataset_meta import DatasetMeta

Grid = npt.NDArray[np.uint8]
"""A grid of cells, uint8 [h, w]: what a person sees, without padding. Each kind says how cells and tokens belong
together; mostly a cell is its token less 1."""


@dataclass(frozen=True)
class Plan:
    """How a split is made: its number of examples, and in order the calls that make its blocks of whole puzzles.

    The calls run in threads, so the heavy part of each should be compiled code that lets go of the interpreter.
    """

    examples: int
    blocks: Iterator[Callable[[], Split]]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` makes of raw files: what the data set says of itself, and the plan of each split."""

    meta: DatasetMeta
    splits: Mapping[str, Plan]
    """train, validation (only where groups are held out) and test, in this order."""
    names: Iterable[Sequence[str]] | None = None
    """Where puzzles have identifiers of their own: the names of identifiers 1, 2, …, in chunks."""


@dataclass(frozen=True)
class Augmentations:
    """k versions of one puzzle; the first is the puzzle itself."""

    tokens: npt.NDArray[np.uint8]
    """uint8 [k, L]: what the model is asked."""
    undo: Callable[[npt.NDArray[np.uint8]], list[Grid]]
    """Answers to the versions, tokens uint8 [k, L], as k answers to the puzzle itself."""
    draws: list[str]
    """One word for each version that names its draw."""


class Kind(Protocol):
    """The module of a kind of data. `Any` stands for the module's own `Settings`."""

    Settings: type[DataSection]
    """The section `data` of `params.yaml` for this kind."""
    FILLS_CANVAS: bool
    """Whether every puzzle has the size of the canvas; else smaller ones lie in its upper left corner."""

    def source_digest(self, data: Any) -> dict[str, str]:
        """The sha256 of the files that the source names, as far as they are known before anything runs."""
        ...

    def fetch(self, data: Any, out: Path) -> dict[str, object]:
        """Bring or make the raw files in the empty folder `out`, check them, and say what they hold."""
        ...

    def prepare(self, data: Any, augment: AugmentParams, raw: Path) -> Prepared:
        """Plan the data set that is to be made of the raw files."""
        ...

    def versions(self, meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
        """The puzzle `tokens` (uint8 [L]) and k - 1 drawn versions of it, for voting. Raises `UserError` for a k
        that the kind does not have."""
        ...

    def recall(self, meta: DatasetMeta, tokens: npt.NDArray[np.uint8], names: Sequence[str]) -> Augmentations:
        """Versions uint8 [k, L] that lie in the data set under these names, the puzzle itself first. Only kinds whose
        puzzles have names (`Prepared.names`) are asked."""
        ...

    def valid(self, meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> Sequence[bool] | None:
        """Which answers obey the rules and fit their questions; None where the kind knows no rules."""
        ...


def expected_meta(data: DataSection) -> DatasetMeta | None:
    """What the data set of these settings will say of itself, where its kind can tell before there are raw files.

    A kind tells by a function `expected_meta(data)`, which it may go without. The number of identifiers may be open: 1.
    """
    tell = getattr(dataset_module(data.name), "expected_meta", None)
    return tell(data) if tell else None


def get_dataset(name: str) -> Kind:
    """The kind of that name. Raises `ParamsError` where there is none."""
    return cast(Kind, dataset_module(name))
