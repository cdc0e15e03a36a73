"""Sudoku n x n (spec section 1): generated here, or CSV files as Sudoku-Extreme's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from trm.config.data import AugmentParams, DataSection
from trm.config.base import Natural, Positive
from trm.data.numba_utils import random_state
from trm.datasets.sudoku.equivalence import equivalent, fingerprints
from trm.data.protocol import Grid, Prepared, Augmentations
from trm.data.puzzle_csv import Bad, Layout, Puzzles, Tokens
from trm.data.sources import HuggingFaceSource, PathSource, UrlSource, known_digests
from trm.datasets.sudoku.augmentation import (
    Grids,
    Shuffles,
    breaks_rule,
    concatenate,
    draw_shuffles,
    identity_shuffle,
    shuffle_puzzles,
)
from trm.datasets.sudoku.rules import BOX_SHAPES, sudoku_valid
from trm.data.csv_dataset import Rows, Table, fetch_files, prepare_table, write_files
from trm.data.deduplication import Equivalence
from trm.config.dataset_meta import DatasetMeta
from trm.config.base import Section, whole


class GenerateSource(Section):
    """Puzzles made here: each with one solution, no two of them equivalent unless `data.allow_leakage`."""

    type: Literal["generate"]
    train_puzzles: Positive
    test_puzzles: Positive
    clues: Literal["minimal"] | Positive
    """`minimal`: no clue can be left out; a number: exactly so many clues."""
    seed: Natural


class Settings(DataSection):
    """Section `data` of a Sudoku experiment."""

    size: Annotated[Literal[4, 6, 9], BeforeValidator(whole)]
    source: Annotated[GenerateSource | PathSource | UrlSource | HuggingFaceSource, Field(discriminator="type")]
    allow_leakage: bool
    """False: no test puzzle may be equivalent to a training puzzle under the symmetries of Sudoku."""

    @model_validator(mode="after")
    def _clues_fit(self) -> Self:
        source = self.source
        if isinstance(source, GenerateSource) and source.clues != "minimal" and source.clues > self.size**2:
            raise ValueError(f"source.clues must be at most size*size = {self.size**2}. Got {source.clues}")
        return self


FILLS_CANVAS = True


def source_digest(data: Settings) -> dict[str, str]:
    """The sha256 of the two files, as far as they are known; none for generated puzzles."""
    return {} if isinstance(data.source, GenerateSource) else known_digests(data.source)


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv, every row checked. Files that are taken whole keep their bytes."""
    source, files = data.source, table(data.size, data.allow_leakage)
    if not isinstance(source, GenerateSource):
        return fetch_files(source, files, out)
    from trm.datasets.sudoku.generator import generate_puzzles

    count = source.train_puzzles + source.test_puzzles
    puzzles = generate_puzzles(data.size, count, source.clues, source.seed, data.allow_leakage)
    return write_files(puzzles, source.train_puzzles, files, out)


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the shuffles of the training puzzles; see `prepare_table`."""
    return prepare_table(table(data.size, data.allow_leakage), augment, raw)


def versions(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The puzzle and k - 1 shuffles."""
    size = meta.height
    shuffles = concatenate(identity_shuffle(size), draw_shuffles(rng, size, k - 1))

    def undo(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return list(shuffles.invert(cells(answers, size)))

    asked = shuffles.apply(cells(tokens, size)).reshape(k, -1) + np.uint8(1)
    return Augmentations(asked, undo, [_draw_name(shuffles, version) for version in range(k)])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> npt.NDArray[np.bool_]:
    """Which answers hold every digit once in each row, column and box, and keep the clues."""
    return sudoku_valid(np.stack(questions), np.stack(answers), *BOX_SHAPES[meta.height])


def expected_meta(data: Settings) -> DatasetMeta:
    """What the data set will say of itself."""
    return sudoku_meta(data.size)


def sudoku_meta(size: int) -> DatasetMeta:
    """What a Sudoku data set says of itself: token 0 pads, 1 is a blank cell, d + 1 is digit d; one identifier."""
    vocabulary = ("pad", ".", *(str(digit) for digit in range(1, size + 1)))
    return DatasetMeta(name="sudoku", height=size, width=size, vocabulary=vocabulary, num_identifiers=1)


def table(size: int, allow_leakage: bool) -> Table:
    """Sudoku n x n as two CSV files."""
    equivalence = Equivalence(
        fingerprints=lambda questions: fingerprints(cells(questions, size)),
        same=lambda one, other: equivalent(cells(one, size), cells(other, size)),
    )
    return Table(sudoku_meta(size), layout(size), _augment, None if allow_leakage else equivalence)


def layout(size: int) -> Layout:
    """How puzzles n x n are written: `.` (or `0`) is a blank."""
    digits = {str(digit): digit + 1 for digit in range(1, size + 1)}

    def check(questions: Tokens, answers: Tokens) -> Iterator[tuple[Bad, str, str]]:
        remedy = "correct or remove the row"
        broken = breaks_rule(cells(answers, size))
        yield broken, "the answer breaks a rule: a row, column or box lacks a digit", remedy
        lost = ((questions != 1) & (questions != answers)).any(axis=1)
        yield lost, "the answer does not keep a clue of the question", remedy

    words = (f"1 to {size} and . or 0 for a blank", f"1 to {size}")
    return Layout(size * size, f"data.size is {size}", {".": 1, "0": 1, **digits}, digits, words, check)


def cells(tokens: npt.NDArray[np.uint8], size: int) -> Grids:
    """Tokens uint8 [..., n * n] as digits uint8 [..., n, n], 0 for a blank (and for padding, which no label holds)."""
    return (tokens - (tokens != 0)).astype(np.uint8).reshape(*tokens.shape[:-1], size, size)


def _augment(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    if num_aug == 0:
        return puzzles.questions, puzzles.answers
    states = np.concatenate([random_state(seed, group) for group in groups.tolist()])
    return shuffle_puzzles(puzzles.questions, puzzles.answers, states, num_aug)


def _draw_name(shuffles: Shuffles, version: int) -> str:
    orders = {
        "digits": shuffles.digits[version, 1:],
        "rows": shuffles.rows[version],
        "columns": shuffles.columns[version],
    }
    words = [f"{name}={''.join(map(str, order))}" for name, order in orders.items()]
    return ",".join([*words, f"transposed={int(shuffles.transposed[version])}"])
