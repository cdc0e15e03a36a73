"""Mazes n x n (spec section 1): generated here, or CSV files as Maze-Hard's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from trm.config.data import AugmentParams, DataSection
from trm.config.base import BelowOne, Natural, Positive
from trm.data.protocol import Grid, Prepared, Augmentations
from trm.datasets.maze.grid import CHARACTERS, PATH, Mazes, check, fingerprints, same
from trm.datasets.maze.rules import maze_valid
from trm.data.puzzle_csv import Bad, Layout, Puzzles, Tokens
from trm.data.sources import HuggingFaceSource, PathSource, UrlSource, known_digests
from trm.data.symmetries import INVERSE, apply_symmetry
from trm.data.csv_dataset import Rows, Table, fetch_files, prepare_table, write_files
from trm.data.deduplication import Equivalence
from trm.utils.errors import UserError
from trm.config.dataset_meta import DatasetMeta
from trm.config.base import Section, whole

FILLS_CANVAS = True
SYMMETRIES = len(INVERSE)


class GenerateSource(Section):
    """Mazes made and labelled here, no two of them equal up to a symmetry."""

    type: Literal["generate"]
    train_puzzles: Positive
    test_puzzles: Positive
    wall_density: Annotated[tuple[BelowOne, BelowOne], Field(strict=False)]
    """Least and greatest chance of a cell to be a wall; each maze draws its own. Maze-Hard: 0.28 and 0.45."""
    min_path: Positive
    """Moves that the shortest path has at least. Maze-Hard: 109."""
    seed: Natural


class Settings(DataSection):
    """Section `data` of a maze experiment."""

    size: Annotated[int, Field(ge=4, le=64), BeforeValidator(whole)]
    source: Annotated[GenerateSource | PathSource | UrlSource | HuggingFaceSource, Field(discriminator="type")]
    allow_leakage: bool
    """False: no test maze may be a training maze turned or mirrored."""

    def most_versions(self) -> int:
        """The symmetries of a square."""
        return SYMMETRIES


def source_digest(data: Settings) -> dict[str, str]:
    """The sha256 of the two files, as far as they are known; none for generated mazes."""
    return {} if isinstance(data.source, GenerateSource) else known_digests(data.source)


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Write `out`/train.csv and `out`/test.csv, every row checked. Files that are taken whole keep their bytes."""
    source, files = data.source, table(data.size, data.allow_leakage)
    if not isinstance(source, GenerateSource):
        return fetch_files(source, files, out)
    from trm.datasets.maze.generator import generate_mazes

    count = source.train_puzzles + source.test_puzzles
    questions, answers, moves = generate_mazes(data.size, count, source.wall_density, source.min_path, source.seed)
    questions, answers = ((mazes + np.uint8(1)).reshape(count, -1) for mazes in (questions, answers))
    puzzles = Puzzles(questions, answers, ["generated"] * count, moves)
    return write_files(puzzles, source.train_puzzles, files, out)


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the symmetries of the training mazes; see `prepare_table`. The rating of a maze is its path's moves.

    Raises `UserError` for more versions than there are symmetries.
    """
    if augment.num_aug >= SYMMETRIES:
        raise UserError(
            f"augment.num_aug must be at most {SYMMETRIES - 1}, the symmetries of a maze beside itself. "
            f"Got {augment.num_aug}"
        )
    return prepare_table(table(data.size, data.allow_leakage), augment, raw)


def versions(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The maze and k - 1 of its other symmetries. Raises `UserError` where there are not so many."""
    if k > SYMMETRIES:
        raise UserError(f"evaluate.num_votes must be at most {SYMMETRIES}, the symmetries of a maze. Got {k}")
    size = meta.height
    drawn = [0, *(1 + rng.permutation(SYMMETRIES - 1)[: k - 1]).tolist()]

    def undo(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        return [apply_symmetry(maze, INVERSE[s]) for maze, s in zip(cells(answers, size), drawn, strict=True)]

    grid = tokens.reshape(size, size)
    asked = np.stack([apply_symmetry(grid, symmetry).ravel() for symmetry in drawn])
    return Augmentations(asked, undo, [f"symmetry={symmetry}" for symmetry in drawn])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> npt.NDArray[np.bool_]:
    """Which answers mark one path, connected, free of walls and as short as any, and change nothing else."""
    del meta
    return maze_valid(np.stack(questions), np.stack(answers))


def expected_meta(data: Settings) -> DatasetMeta:
    """What the data set will say of itself."""
    return maze_meta(data.size)


def maze_meta(size: int) -> DatasetMeta:
    """What a maze data set says of itself: token 0 pads, a cell's token is one more than the cell; one identifier."""
    return DatasetMeta(name="maze", height=size, width=size, vocabulary=("pad", *CHARACTERS), num_identifiers=1)


def table(size: int, allow_leakage: bool) -> Table:
    """Mazes n x n as two CSV files."""
    equivalence = Equivalence(
        fingerprints=lambda questions: fingerprints(cells(questions, size)),
        same=lambda one, other: same(cells(one, size), cells(other, size)),
    )
    return Table(maze_meta(size), layout(size), _augment, None if allow_leakage else equivalence)


def layout(size: int) -> Layout:
    """How mazes n x n are written; a free cell is a space."""
    answer = {character: token for token, character in enumerate(CHARACTERS, start=1)}
    question = {character: token for character, token in answer.items() if character != "o"}

    def check_tokens(questions: Tokens, answers: Tokens) -> Iterator[tuple[Bad, str, str]]:
        return check(cells(questions, size), cells(answers, size))

    words = ("# wall, space free, S start and G goal", "# wall, space free, S start, G goal and o path")
    return Layout(size * size, f"data.size is {size}", question, answer, words, check_tokens, _moves)


def cells(tokens: npt.NDArray[np.uint8], size: int) -> Mazes:
    """Tokens uint8 [..., n * n] as cells uint8 [..., n, n]; padding, which no maze holds, becomes 255."""
    return (tokens - np.uint8(1)).reshape(*tokens.shape[:-1], size, size)


def _moves(questions: Tokens, answers: Tokens) -> npt.NDArray[np.int32]:
    """How hard a maze is: the moves of its path, which needs one more than it has cells between S and G."""
    del questions
    return ((answers == PATH + 1).sum(axis=1) + 1).astype(np.int32)


def _augment(puzzles: Puzzles, groups: Rows, num_aug: int, seed: int) -> tuple[Tokens, Tokens]:
    length = puzzles.questions.shape[1]
    size = int(length**0.5)
    drawn = np.zeros((len(groups), 1 + num_aug), np.int64)
    for index, group in enumerate(groups.tolist()):
        rng = np.random.default_rng(np.random.SeedSequence([seed, group]))
        drawn[index, 1:] = 1 + rng.permutation(SYMMETRIES - 1)[:num_aug]
    made = []
    for tokens in (puzzles.questions, puzzles.answers):
        grids = tokens.reshape(-1, size, size)
        versions = np.empty((*drawn.shape, size, size), np.uint8)
        for symmetry in range(SYMMETRIES):
            maze, version = np.nonzero(drawn == symmetry)
            versions[maze, version] = apply_symmetry(grids[maze], symmetry)
        made.append(versions.reshape(-1, length))
    return made[0], made[1]
