"""Mazes n x n, generated or from CSV files such as Maze-Hard (docs/algorithm.md, Tokens)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from trm.config.base import BelowOne, Natural, Positive, Section, integral_to_int
from trm.config.data import AugmentParams, DataSection
from trm.config.dataset_meta import DatasetMeta
from trm.data.csv_dataset import CsvDataset, Rows, fetch_csv, prepare_csv, write_csv
from trm.data.deduplication import Equivalence
from trm.data.protocol import Augmentations, DatasetPlan, Grid
from trm.data.puzzle_csv import Layout, Mask, Puzzles, Tokens
from trm.data.sources import HuggingFaceSource, PathSource, UrlSource, source_digests
from trm.data.symmetries import INVERSE, apply_symmetry
from trm.datasets.maze.grid import CHARACTERS, PATH, Mazes, are_equivalent, check_mazes, fingerprints
from trm.datasets.maze.questions import check_maze
from trm.datasets.maze.rules import maze_valid
from trm.utils.errors import UserError

FILLS_CANVAS = True
SYMMETRIES = len(INVERSE)


class GenerateSource(Section):
    """Generated mazes with labelled shortest paths; no two are equal up to a symmetry."""

    type: Literal["generate"]
    """Generate mazes."""
    train_puzzles: Positive
    """Number of training mazes."""
    test_puzzles: Positive
    """Number of test mazes."""
    wall_density: Annotated[tuple[BelowOne, BelowOne], Field(strict=False)]
    """Lowest and highest probability of a wall; each maze draws its own. Maze-Hard: 0.28 and 0.45."""
    min_path: Positive
    """Smallest number of moves of the shortest path. Maze-Hard: 109."""
    seed: Natural
    """Seed of the generator."""


class Settings(DataSection):
    """Section `data` for mazes."""

    size: Annotated[int, Field(ge=4, le=64), BeforeValidator(integral_to_int)]
    """Rows and columns of the maze (n)."""
    source: Annotated[GenerateSource | PathSource | UrlSource | HuggingFaceSource, Field(discriminator="type")]
    """Origin of the mazes."""
    allow_leakage: bool
    """False: raise an error if a test maze is a rotation or reflection of a training maze."""

    def max_augmentations(self) -> int:
        """The symmetries of a square."""
        return SYMMETRIES


def source_digest(data: Settings) -> dict[str, str]:
    """SHA-256 of the two files, as far as known; empty for generated mazes."""
    return {} if isinstance(data.source, GenerateSource) else source_digests(data.source)


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv with every row checked. Unfiltered files are copied byte by byte."""
    source, dataset = data.source, csv_dataset(data.size, data.allow_leakage)
    if not isinstance(source, GenerateSource):
        return fetch_csv(source, dataset, out)
    from trm.datasets.maze.generator import generate_mazes

    count = source.train_puzzles + source.test_puzzles
    questions, answers, moves = generate_mazes(data.size, count, source.wall_density, source.min_path, source.seed)
    questions, answers = ((mazes + np.uint8(1)).reshape(count, -1) for mazes in (questions, answers))
    puzzles = Puzzles(questions, answers, ["generated"] * count, moves)
    return write_csv(puzzles, source.train_puzzles, dataset, out)


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the dataset with `num_aug` symmetries of each training maze; see `prepare_csv`. The rating is the number of
    moves.

    Raises `UserError` if `num_aug` exceeds the number of other symmetries.
    """
    if augment.num_aug >= SYMMETRIES:
        raise UserError(
            f"augment.num_aug must be at most {SYMMETRIES - 1}, the other symmetries of a maze. Got {augment.num_aug}"
        )
    return prepare_csv(csv_dataset(data.size, data.allow_leakage), augment, raw)


def augmentations(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The maze and k - 1 of its other symmetries. Raises `UserError` if there are fewer."""
    if k > SYMMETRIES:
        raise UserError(f"evaluate.num_votes must be at most {SYMMETRIES}, the symmetries of a maze. Got {k}")
    size = meta.height
    drawn = [0, *(1 + rng.permutation(SYMMETRIES - 1)[: k - 1]).tolist()]

    def invert(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return [apply_symmetry(maze, INVERSE[s]) for maze, s in zip(cells(answers, size), drawn, strict=True)]

    grid = tokens.reshape(size, size)
    tokens = np.stack([apply_symmetry(grid, symmetry).ravel() for symmetry in drawn])
    return Augmentations(tokens, invert, [f"symmetry={symmetry}" for symmetry in drawn])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> npt.NDArray[np.bool_]:
    """Which answers mark exactly one shortest path in free cells and change nothing else: bool [N]."""
    del meta
    return maze_valid(np.stack(questions), np.stack(answers))


def expected_meta(data: Settings) -> DatasetMeta:
    """The metadata of the dataset."""
    return maze_meta(data.size)


def maze_meta(size: int) -> DatasetMeta:
    """Metadata of mazes n x n: token 0 is padding, the token of a cell is its value + 1; one identifier."""
    return DatasetMeta(name="maze", height=size, width=size, vocabulary=("pad", *CHARACTERS), num_identifiers=1)


def csv_dataset(size: int, allow_leakage: bool) -> CsvDataset:
    """Mazes n x n as two CSV files."""
    equivalence = Equivalence(
        fingerprints=lambda questions: fingerprints(cells(questions, size)),
        are_equivalent=lambda one, other: are_equivalent(cells(one, size), cells(other, size)),
    )
    return CsvDataset(maze_meta(size), layout(size), _augment, None if allow_leakage else equivalence)


def layout(size: int) -> Layout:
    """Notation of mazes n x n; a free cell is a space."""
    answer = {character: token for token, character in enumerate(CHARACTERS, start=1)}
    question = {character: token for character, token in answer.items() if character != "o"}

    def check_tokens(questions: Tokens, answers: Tokens) -> Iterator[tuple[Mask, str, str]]:
        return check_mazes(cells(questions, size), cells(answers, size))

    words = ("# wall, space free, S start and G goal", "# wall, space free, S start, G goal and o path")
    return Layout(size * size, f"data.size is {size}", question, answer, words, check_tokens, _moves)


def cells(tokens: npt.NDArray[np.uint8], size: int) -> Mazes:
    """Tokens uint8 [..., n * n] to cells uint8 [..., n, n]; padding becomes 255. Mazes contain no padding."""
    return (tokens - np.uint8(1)).reshape(*tokens.shape[:-1], size, size)


def _moves(questions: Tokens, answers: Tokens) -> npt.NDArray[np.int32]:
    """Rating of a maze: the moves of its path, one more than its cells between S and G."""
    del questions
    return ((answers == PATH + 1).sum(axis=1) + 1).astype(np.int32)


def _augment(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    length = puzzles.questions.shape[1]
    size = int(length**0.5)
    drawn = np.zeros((len(groups), 1 + num_aug), np.int64)
    for index, group in enumerate(groups.tolist()):
        rng = np.random.default_rng(np.random.SeedSequence([seed, group]))
        drawn[index, 1:] = 1 + rng.permutation(SYMMETRIES - 1)[:num_aug]
    results = []
    for tokens in (puzzles.questions, puzzles.answers):
        grids = tokens.reshape(-1, size, size)
        augmented = np.empty((*drawn.shape, size, size), np.uint8)
        for symmetry in range(SYMMETRIES):
            maze, index = np.nonzero(drawn == symmetry)
            augmented[maze, index] = apply_symmetry(grids[maze], symmetry)
        results.append(augmented.reshape(-1, length))
    return results[0], results[1]


def normalize_text(text: str) -> str:
    """Replace the free cells `.`, `_` and `0`, and the path `o` of an answer, by a space."""
    return text.translate(str.maketrans("._0o", "    "))


def check_question(meta: DatasetMeta, grid: Grid) -> None:
    """Raise `DataError` unless there is one start and one goal, connected by free cells."""
    del meta
    check_maze(grid)


def unique_solution(grid: Grid) -> None:
    """None: mazes have no solver."""
    del grid
