"""Rows of digits, to be sorted: replace this by your own puzzles.

`trm/data/protocol.py` documents each function. Section `data` of params.yaml:

    data:
      name: sorting
      length: 6
      train_puzzles: 1000
      test_puzzles: 200
      seed: 0
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trm.config.base import Natural, Positive
from trm.config.data import AugmentParams, DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.csv_dataset import CsvDataset, Rows, prepare_csv
from trm.data.protocol import Augmentations, DatasetPlan, Grid
from trm.data.puzzle_csv import Layout, Puzzles, Tokens, write_puzzles
from trm.utils.errors import UserError

FILLS_CANVAS = True
TOKENS = {digit: token for token, digit in enumerate("0123456789", start=1)}  # 0 is padding


class Settings(DataSection):
    """Section `data` of `params.yaml`."""

    length: Positive
    """Digits of a row."""
    train_puzzles: Positive
    """Number of training puzzles."""
    test_puzzles: Positive
    """Number of test puzzles."""
    seed: Natural
    """Seed of the puzzles."""


def source_digest(data: Settings) -> dict[str, str]:
    """There are no source files."""
    return {}


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write train.csv and test.csv, in which no two rows have the same digits; return the numbers of puzzles."""
    rng, count = np.random.default_rng(data.seed), data.train_puzzles + data.test_puzzles
    drawn = np.unique(np.sort(rng.integers(1, 11, (10 * count, data.length), dtype=np.uint8)), axis=0)
    if len(drawn) < count:
        raise UserError(f"data.length must be greater for {count} different puzzles. Got {data.length}")
    answers = rng.permutation(drawn)[:count]
    rows = Puzzles(rng.permuted(answers, axis=1), answers, ["generated"] * count, np.zeros(count, np.int32))
    parts, form = {"train": slice(data.train_puzzles), "test": slice(data.train_puzzles, None)}, layout(data.length)
    return {name: write_puzzles(out / f"{name}.csv", [rows.select(part)], form) for name, part in parts.items()}


def layout(length: int) -> Layout:
    """The format of a row, and its rule."""
    wrong, words = ("the answer is not the question sorted", "correct or remove the row"), ("0 to 9", "0 to 9")
    setting = f"data.length is {length}"
    return Layout(length, setting, TOKENS, TOKENS, words, lambda q, a: [((np.sort(q) != a).any(axis=1), *wrong)])


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the dataset."""
    meta = DatasetMeta(name="sorting", height=1, width=data.length, vocabulary=("pad", *TOKENS), num_identifiers=1)
    return prepare_csv(CsvDataset(meta, layout(data.length), shuffle, equivalence=None), augment, raw)


def shuffle(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    """Each row as it is, then `num_aug` shuffles of it."""
    inputs = np.stack([puzzles.questions] * (1 + num_aug), axis=1)
    for rows, group in zip(inputs, groups.tolist(), strict=True):
        rows[1:] = np.random.default_rng([seed, group]).permuted(rows[1:], axis=1)
    return inputs.reshape(-1, inputs.shape[2]), puzzles.answers.repeat(1 + num_aug, axis=0)


def augmentations(meta: DatasetMeta, tokens: Tokens, rng: np.random.Generator, k: int) -> Augmentations:
    """The row and k - 1 shuffles. All have the same answer, so nothing is inverted."""
    shuffled = np.vstack([tokens, rng.permuted(np.tile(tokens, (k - 1, 1)), axis=1)])
    names = ["identity"] + ["shuffled"] * (k - 1)
    return Augmentations(shuffled, lambda answers: list(answers[:, None] - np.uint8(1)), names)


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> list[bool]:
    """Which answers are their questions sorted."""
    return [np.array_equal(np.sort(question), answer) for question, answer in zip(questions, answers, strict=True)]


def unique_solution(grid: Grid) -> Grid | None:
    """The sorted row."""
    return np.sort(grid)


def normalize_text(text: str) -> str:
    """Typed puzzles need no conversion."""
    return text
