"""Sudoku fixtures: settings, CSV files and grids of digits."""

from pathlib import Path

import numpy as np

from trm.config.base import parse
from trm.data.deduplication import Equivalence, equivalence_classes
from trm.data.puzzle_csv import Puzzles, concatenate, read_puzzles, write_puzzles
from trm.datasets.sudoku.dataset import Settings, cells, layout
from trm.datasets.sudoku.equivalence import are_equivalent, fingerprints

NO_FILTERS = {"train_sha256": None, "test_sha256": None, "min_rating": None, "subsample": None, "seed": 0}


def sudoku(size: int, allow_leakage: bool = False, **source: object) -> Settings:
    """Section `data`; a source of local CSV files unless `type` is `generate`."""
    if source.get("type") != "generate":
        source = {"type": "path", "train": "a.csv", "test": "b.csv", **NO_FILTERS, **source}
    values = {"name": "sudoku", "size": size, "allow_leakage": allow_leakage, "source": source}
    return parse(Settings, values, "test")


def load(path: Path, size: int) -> Puzzles:
    """Read all puzzles of a CSV."""
    return concatenate(read_puzzles(path, layout(size)))


def write(path: Path, puzzles: Puzzles, size: int) -> None:
    """Write puzzles to a CSV."""
    write_puzzles(path, [puzzles], layout(size))


def of_digits(questions: np.ndarray, answers: np.ndarray, source: str, ratings: np.ndarray) -> Puzzles:
    """Puzzles from grids of digits, uint8 [N, n, n]."""
    tokens = [grids.reshape(len(grids), -1) + np.uint8(1) for grids in (questions, answers)]
    return Puzzles(tokens[0], tokens[1], [source] * len(questions), ratings.astype(np.int32))


def digits(tokens: np.ndarray) -> np.ndarray:
    """Tokens uint8 [N, L] to grids of digits."""
    return cells(tokens, {16: 4, 36: 6, 81: 9}[tokens.shape[-1]])


def grid_classes(grids: np.ndarray) -> np.ndarray:
    """Equivalence class of each grid of digits, uint8 [N, n, n]."""
    return equivalence_classes(Equivalence(fingerprints, are_equivalent), lambda: [grids])
