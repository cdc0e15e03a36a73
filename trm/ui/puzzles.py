"""Puzzles for the page: typed, generated, or test puzzles of a dataset."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trm.config.inference import InferenceConfig
from trm.data.protocol import Grid
from trm.datasets.generators import get_generator
from trm.datasets.registry import get_dataset
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import make_puzzles
from trm.reporting.html.gallery import demonstrations
from trm.serving.service import Puzzle, ServedModel
from trm.ui.library import Library
from trm.utils.errors import UserError


class Place(BaseModel):
    """The place of a test puzzle."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    dataset: str
    """Name of the dataset."""
    index: Annotated[int, Field(ge=0, strict=True)] = 0
    """Number of the task or puzzle in the test split."""
    pair: Annotated[int, Field(ge=0, strict=True)] = 0
    """Number of the test pair of the task."""


@dataclass(frozen=True)
class PuzzleInfo:
    """A puzzle to show."""

    question: Grid
    solution: Grid | None = None
    """None if it is unknown."""
    note: str | None = None
    """For example that the puzzle has several solutions."""
    demonstrations: list[tuple[Grid, Grid]] | None = None
    """Input and output of the demonstrations of a task."""


def read_puzzle(model: ServedModel, puzzle: Puzzle) -> PuzzleInfo:
    """A puzzle as text or cells. Raises `DataError`."""
    (question,) = model.read([puzzle])
    return PuzzleInfo(question.grid, get_dataset(model.meta.name).unique_solution(question.grid), question.note)


def generate_puzzle(model: ServedModel, seed: int) -> PuzzleInfo:
    """A puzzle drawn by `seed`. Raises `UserError` if the dataset has no generator."""
    generate = get_generator(model.meta)
    if generate is None:
        raise UserError(f"puzzles of dataset {model.meta.name} cannot be generated")
    return PuzzleInfo(generate(model.meta, seed))


def dataset_puzzle(library: Library, model: ServedModel, place: Place) -> PuzzleInfo:
    """A test puzzle with the demonstrations of its task. Raises `UserError` if there is no such puzzle."""
    puzzle, solution = _test_puzzle(library, model, place, 1, 0)
    folder = library.dataset_folder(place.dataset, model.meta)
    (demos,) = demonstrations(folder, model.meta, puzzle.identifiers[:1])
    return PuzzleInfo(puzzle.grid, solution, demonstrations=demos)


def eval_puzzle(
    library: Library, model: ServedModel, puzzle: Puzzle | Place, config: InferenceConfig, seed: int
) -> tuple[EvalPuzzle, PuzzleInfo]:
    """A puzzle with the augmentations that vote: those of `trm solve` or, for puzzles with identifiers, of the dataset.

    Raises `UserError` and `DataError` for a puzzle or settings that are not valid.
    """
    if isinstance(puzzle, Place):
        made, solution = _test_puzzle(library, model, puzzle, config.num_votes, seed)
        return made, PuzzleInfo(made.grid, solution)
    info = read_puzzle(model, puzzle)
    (made,) = make_puzzles(model.meta, [info.question], config, seed)
    return made, info


def _test_puzzle(
    library: Library, model: ServedModel, place: Place, num_votes: int, seed: int
) -> tuple[EvalPuzzle, Grid | None]:
    tests = library.dataset(place.dataset, model.meta, num_votes, seed)
    for name, number, count in (
        ("index", place.index, lambda: len(tests.sample())),
        ("pair", place.pair, lambda: tests.num_pairs(place.index)),
    ):
        if number >= count():
            raise UserError(f"{place.dataset}: {name} must be below {count()}. Got {number}")
    return tests.puzzle(place.index, place.pair)
