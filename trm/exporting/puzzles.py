"""Test puzzles of a dataset, to compare and to show, and their display on a page."""

from pathlib import Path
from typing import Any

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import read_counts, read_meta, read_rows
from trm.datasets.drawings import get_drawing
from trm.inference.engine import Tokens
from trm.utils.errors import DataError


def first_puzzles(meta: DatasetMeta, dataset: Path, count: int) -> tuple[Tokens, Tokens]:
    """The first `count` test puzzles: inputs and labels, uint8 [N, L]. Raises `DataError` for other puzzles."""
    if not read_meta(dataset).has_puzzles_of(meta):
        raise DataError(f"{dataset}: has other puzzles than the model; give the dataset of its training")
    return read_rows(dataset / "test", range(min(count, read_counts(dataset)["test"]["examples"])))


def page_facts(meta: DatasetMeta) -> dict[str, Any]:
    """What the script `page/grid.js` needs to draw and edit puzzles. Lists are indexed by cell value.

    symbols: of the cells, to type and to draw. names: for buttons and screen readers. editable: values of questions.
    blank: null if the answer does not fill cells of the question. colored: colors distinguish cells.
    """
    drawing = get_drawing(meta)
    vocabulary = list(meta.vocabulary[meta.first_cell_token :])
    names = drawing.names or vocabulary
    return {
        "title": drawing.title,
        "height": meta.height,
        "width": meta.width,
        "vocabulary": vocabulary,
        "names": ["blank" if cell == drawing.blank else name for cell, name in enumerate(names)],
        "symbols": drawing.symbols,
        "colors": drawing.html_colors or drawing.colors,
        "dots": drawing.dots,
        "boxes": drawing.boxes,
        "blank": drawing.blank,
        "empty": drawing.empty,
        "editable": [cell for cell in range(len(vocabulary)) if cell not in drawing.answer_only],
    }
