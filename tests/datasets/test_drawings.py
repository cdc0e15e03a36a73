"""Drawings of the datasets."""

import re

import numpy as np
import pytest

from tests.conftest import ROOT
from trm.config.dataset_meta import DatasetMeta
from trm.data.drawing import INVALID, PAPER, UNKNOWN, palette, plain_drawing
from trm.datasets.arc.dataset import VOCABULARY
from trm.datasets.arithmetic.dataset import arithmetic_meta
from trm.datasets.drawings import get_drawing
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.registry import dataset_names, get_dataset
from trm.datasets.sudoku.dataset import sudoku_meta

ARC = DatasetMeta(name="arc", height=30, width=30, vocabulary=VOCABULARY, num_identifiers=1, edition="arc-agi-1")
CUSTOM = DatasetMeta(name="custom", height=3, width=3, vocabulary=("pad", "a", "10"), num_identifiers=1)
METAS = {
    "arc": ARC,
    "arithmetic": arithmetic_meta(3),
    "custom": CUSTOM,
    "maze": maze_meta(5),
    "sudoku": sudoku_meta(6),
}
OUT_OF_RANGE = 255
"""The cell of predicted padding."""


def test_every_dataset_is_tested() -> None:
    """Those of `trm new-dataset` have tests of their own."""
    assert set(METAS) <= set(dataset_names())
    assert all((ROOT / f"tests/datasets/test_{name}.py").exists() for name in set(dataset_names()) - set(METAS))


@pytest.mark.parametrize("meta", METAS.values(), ids=METAS)
def test_symbols_match_vocabulary(meta: DatasetMeta) -> None:
    drawing = get_drawing(meta)
    cells = meta.vocab_size - meta.first_cell_token
    lists = [drawing.symbols, drawing.colors, drawing.html_colors, drawing.terminal_symbols]
    assert [len(values) for values in lists if values is not None] == [cells] * sum(v is not None for v in lists)
    assert drawing.colors is None or all(re.fullmatch("#[0-9a-f]{6}", color) for color in drawing.colors)
    assert all(value < cells for value in drawing.dots)
    assert all(drawing.terminal_symbol(cell) for cell in range(cells))


@pytest.mark.parametrize("meta", METAS.values(), ids=METAS)
def test_cells_out_of_range(meta: DatasetMeta) -> None:
    drawing = get_drawing(meta)
    cells = meta.vocab_size - meta.first_cell_token
    for cell in (cells, OUT_OF_RANGE):
        assert drawing.symbol(cell) == drawing.terminal_symbol(cell) == UNKNOWN == "?"
        assert drawing.color(cell) == (PAPER if drawing.colors is None or cell == drawing.blank else INVALID)


@pytest.mark.parametrize(
    ("meta", "cells", "symbols", "terminal_symbols"),
    [
        (sudoku_meta(6), [0, 1, 6], ["", "1", "6"], [".", "1", "6"]),
        (maze_meta(5), [0, 1, 2, 3, 4], ["", "", "S", "G", ""], ["█", "·", "S", "G", "o"]),
        (arithmetic_meta(3), [0, 9, 10, 11], ["0", "9", "+", "="], ["0", "9", "+", "="]),
        (CUSTOM, [0, 1], ["a", "10"], ["a", "10"]),
        (ARC, [0, 1, 9], ["", "", ""], ["·", "1", "9"]),
    ],
)
def test_symbols(meta: DatasetMeta, cells: list[int], symbols: list[str], terminal_symbols: list[str]) -> None:
    drawing = get_drawing(meta)
    assert [drawing.symbol(cell) for cell in cells] == symbols
    assert [drawing.terminal_symbol(cell) for cell in cells] == terminal_symbols


def test_boxes_of_sudoku() -> None:
    assert {size: get_drawing(sudoku_meta(size)).boxes for size in (4, 6, 9)} == {4: (2, 2), 6: (2, 3), 9: (3, 3)}


def test_path_of_maze_is_dotted() -> None:
    assert get_drawing(maze_meta(5)).dots == (4,)


def test_blank_cells_are_those_of_questions() -> None:
    assert get_drawing(sudoku_meta(9)).blank == 0
    question = get_dataset("arithmetic").augmentations(
        arithmetic_meta(1), np.array([1, 11, 2, 12, 0, 0], np.uint8), np.random.default_rng(0), 1
    )
    (grid,) = question.invert(question.tokens)
    assert grid[0, -1] == get_drawing(arithmetic_meta(1)).blank


def test_plain_drawing_of_unknown_dataset() -> None:
    meta = CUSTOM.model_copy(update={"name": "sorting"})
    assert get_drawing(meta) == plain_drawing(meta)
    assert get_drawing(meta).title == "Sorting"
    assert get_drawing(meta).symbols == ["a", "10"]


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
def test_palette(count: int) -> None:
    """All colors differ, and black symbols are readable: contrast 4.5 and more."""
    colors = palette(count)
    assert len(set(colors)) == count
    for color in colors:
        red, green, blue = ((int(color[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5))
        assert (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) / 0.05 > 7
