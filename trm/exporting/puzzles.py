"""Test puzzles of a dataset, to compare and to show."""

from pathlib import Path

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import read_counts, read_meta, read_rows
from trm.inference.engine import Tokens
from trm.utils.errors import DataError


def first_puzzles(meta: DatasetMeta, dataset: Path, count: int) -> tuple[Tokens, Tokens]:
    """The first `count` test puzzles: inputs and labels, uint8 [N, L]. Raises `DataError` for other puzzles."""
    if not read_meta(dataset).has_puzzles_of(meta):
        raise DataError(f"{dataset}: has other puzzles than the model; give the dataset of its training")
    return read_rows(dataset / "test", range(min(count, read_counts(dataset)["test"]["examples"])))
