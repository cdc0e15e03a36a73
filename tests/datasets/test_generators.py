"""Single questions of the datasets that can generate them."""

import re

import numpy as np
import pytest

from trm.config.dataset_meta import DatasetMeta
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.generators import get_generator
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.maze.grid import label_mazes
from trm.datasets.registry import check_question, get_dataset
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.datasets.sudoku.example import generate_puzzle


@pytest.mark.parametrize(
    "meta", [sudoku_meta(4), sudoku_meta(6), maze_meta(4), maze_meta(7), arithmetic_meta(1), arithmetic_meta(9)]
)
def test_questions_are_valid(meta: DatasetMeta) -> None:
    """The same seed gives the same question, and questions have no note, such as several solutions."""
    generate = get_generator(meta)
    assert generate is not None
    questions = [generate(meta, seed) for seed in range(6)]
    for seed, question in enumerate(questions):
        assert question.dtype == np.uint8
        assert check_question(meta, question) is None
        np.testing.assert_array_equal(generate(meta, seed), question)
    assert len({question.tobytes() for question in questions}) > 1


def test_sudoku_has_its_solution() -> None:
    question, solution = generate_puzzle(6, 3)
    np.testing.assert_array_equal(get_dataset("sudoku").unique_solution(question), solution)


def test_paths_of_mazes_are_not_short() -> None:
    generate = get_generator(maze_meta(8))
    assert generate is not None
    mazes = np.stack([generate(maze_meta(8), seed) for seed in range(10)])
    _, moves = label_mazes(mazes)
    assert moves.min() >= 8


def test_sums_lack_their_result() -> None:
    meta = arithmetic_meta(3)
    generate = get_generator(meta)
    assert generate is not None
    text = "".join(meta.vocabulary[1:][cell] for cell in generate(meta, 0)[0])
    assert re.fullmatch(r"\d{3}\+\d{3}=", text)


@pytest.mark.parametrize("name", ["arc", "custom", "sorting"])
def test_other_datasets_have_no_generator(name: str) -> None:
    assert get_generator(sudoku_meta(6).model_copy(update={"name": name})) is None
