"""Sudoku n x n, generated or from CSV files such as Sudoku-Extreme (docs/algorithm.md, Tokens)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from trm.config.base import Natural, Positive, Section, integral_to_int
from trm.config.data import AugmentParams, DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.csv_dataset import CsvDataset, Rows, fetch_csv, prepare_csv, write_csv
from trm.data.deduplication import Equivalence
from trm.data.numba_utils import random_state
from trm.data.protocol import Augmentations, DatasetPlan, Grid
from trm.data.puzzle_csv import Layout, Mask, Puzzles, Tokens
from trm.data.sources import HuggingFaceSource, PathSource, UrlSource, source_digests
from trm.datasets.sudoku.augmentation import (
    Grids,
    Transforms,
    augment_puzzles,
    concatenate,
    draw_transforms,
    identity_transform,
    violates_rules,
)
from trm.datasets.sudoku.equivalence import are_equivalent, fingerprints
from trm.datasets.sudoku.notation import normalize
from trm.datasets.sudoku.questions import check_sudoku
from trm.datasets.sudoku.rules import BOX_SHAPES, sudoku_valid


class GenerateSource(Section):
    """Generated puzzles with a unique solution; no two are equivalent unless `data.allow_leakage` is true."""

    type: Literal["generate"]
    """Generate puzzles."""
    train_puzzles: Positive
    """Number of training puzzles."""
    test_puzzles: Positive
    """Number of test puzzles."""
    clues: Literal["minimal"] | Positive
    """`minimal`: no clue can be removed; a number: exactly this many clues."""
    seed: Natural
    """Seed of the generator."""


class Settings(DataSection):
    """Section `data` for Sudoku."""

    size: Annotated[Literal[4, 6, 9], BeforeValidator(integral_to_int)]
    """Rows and columns of the grid (n)."""
    source: Annotated[GenerateSource | PathSource | UrlSource | HuggingFaceSource, Field(discriminator="type")]
    """Origin of the puzzles."""
    allow_leakage: bool
    """False: raise an error if a test puzzle is equivalent to a training puzzle under the symmetries of Sudoku."""

    @model_validator(mode="after")
    def _clues_fit(self) -> Self:
        source = self.source
        if isinstance(source, GenerateSource) and source.clues != "minimal" and source.clues > self.size**2:
            raise ValueError(f"source.clues must be at most size*size = {self.size**2}. Got {source.clues}")
        return self


FILLS_CANVAS = True


def source_digest(data: Settings) -> dict[str, str]:
    """SHA-256 of the two files, as far as known; empty for generated puzzles."""
    return {} if isinstance(data.source, GenerateSource) else source_digests(data.source)


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv with every row checked. Unfiltered files are copied byte by byte."""
    source, dataset = data.source, csv_dataset(data.size, data.allow_leakage)
    if not isinstance(source, GenerateSource):
        return fetch_csv(source, dataset, out)
    from trm.datasets.sudoku.generator import generate_puzzles

    count = source.train_puzzles + source.test_puzzles
    puzzles = generate_puzzles(data.size, count, source.clues, source.seed, data.allow_leakage)
    return write_csv(puzzles, source.train_puzzles, dataset, out)


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the augmented dataset; see `prepare_csv`."""
    return prepare_csv(csv_dataset(data.size, data.allow_leakage), augment, raw)


def augmentations(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The puzzle and k - 1 random transforms of it."""
    size = meta.height
    transforms = concatenate(identity_transform(size), draw_transforms(rng, size, k - 1))

    def invert(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return list(transforms.invert(cells(answers, size)))

    tokens = transforms.apply(cells(tokens, size)).reshape(k, -1) + np.uint8(1)
    return Augmentations(tokens, invert, [_draw_name(transforms, index) for index in range(k)])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> npt.NDArray[np.bool_]:
    """Which answers contain every digit once in each row, column and box, and keep the clues: bool [N]."""
    return sudoku_valid(np.stack(questions), np.stack(answers), *BOX_SHAPES[meta.height])


def expected_meta(data: Settings) -> DatasetMeta:
    """The metadata of the dataset."""
    return sudoku_meta(data.size)


def sudoku_meta(size: int) -> DatasetMeta:
    """Metadata of Sudoku n x n: token 0 is padding, 1 a blank cell, d + 1 digit d; one identifier."""
    vocabulary = ("pad", ".", *(str(digit) for digit in range(1, size + 1)))
    return DatasetMeta(name="sudoku", height=size, width=size, vocabulary=vocabulary, num_identifiers=1)


def csv_dataset(size: int, allow_leakage: bool) -> CsvDataset:
    """Sudoku n x n as two CSV files."""
    equivalence = Equivalence(
        fingerprints=lambda questions: fingerprints(cells(questions, size)),
        are_equivalent=lambda one, other: are_equivalent(cells(one, size), cells(other, size)),
    )
    return CsvDataset(sudoku_meta(size), layout(size), _augment, None if allow_leakage else equivalence)


def layout(size: int) -> Layout:
    """Notation of puzzles n x n: `.` (or `0`) is a blank."""
    digits = {str(digit): digit + 1 for digit in range(1, size + 1)}

    def check(questions: Tokens, answers: Tokens) -> Iterator[tuple[Mask, str, str]]:
        remedy = "correct or remove the row"
        violations = violates_rules(cells(answers, size))
        yield violations, "the answer violates a rule: a row, column or box lacks a digit", remedy
        changed = ((questions != 1) & (questions != answers)).any(axis=1)
        yield changed, "the answer does not keep a clue of the question", remedy

    words = (f"1 to {size} and . or 0 for a blank", f"1 to {size}")
    return Layout(size * size, f"data.size is {size}", {".": 1, "0": 1, **digits}, digits, words, check)


def cells(tokens: npt.NDArray[np.uint8], size: int) -> Grids:
    """Tokens uint8 [..., n * n] to digits uint8 [..., n, n]; blank and padding become 0. Labels contain no padding."""
    return (tokens - (tokens != 0)).astype(np.uint8).reshape(*tokens.shape[:-1], size, size)


def _augment(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    if num_aug == 0:
        return puzzles.questions, puzzles.answers
    states = np.concatenate([random_state(seed, group) for group in groups.tolist()])
    return augment_puzzles(puzzles.questions, puzzles.answers, states, num_aug)


def _draw_name(transforms: Transforms, index: int) -> str:
    orders = {
        "digits": transforms.digits[index, 1:],
        "rows": transforms.rows[index],
        "columns": transforms.columns[index],
    }
    words = [f"{name}={''.join(map(str, order))}" for name, order in orders.items()]
    return ",".join([*words, f"transposed={int(transforms.transposed[index])}"])


def normalize_text(text: str) -> str:
    """The rows of the puzzles in any public notation, with `.` for a blank; see `trm.datasets.sudoku.notation`."""
    return normalize(text)


def check_question(meta: DatasetMeta, grid: Grid) -> str | None:
    """A note that a puzzle has several solutions. Raises `DataError` for contradictory clues, with the two cells."""
    del meta
    return check_sudoku(grid)


def unique_solution(grid: Grid) -> Grid | None:
    """The solution of a puzzle, uint8 [n, n] with 0 for a blank; None if it has no or several solutions."""
    from trm.datasets.sudoku.solver import count_solutions, solve_grid

    return solve_grid(grid) if count_solutions(grid) == 1 else None
