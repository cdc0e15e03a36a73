"""What an evaluation asked, what was answered and what was right, as grids beside the lines of predictions.parquet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trm.data.kind import Grid, find_kind
from trm.data.store import EXAMPLES, read_names, read_rows
from trm.meta import DatasetMeta


@dataclass(frozen=True)
class Seen:
    """One answered puzzle."""

    line: dict[str, Any]
    """Its line in predictions.parquet."""
    question: Grid
    answer: Grid
    right: Grid | None
    """None where nobody knows it."""


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `count` places, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def seen(dataset: Path, meta: DatasetMeta, lines: pa.Table) -> Iterator[Seen]:
    """The grids of `lines`, each of a puzzle as it is (version 0) of the test split of `dataset`."""
    rows = lines.column("puzzle").to_pylist()
    kind, names = find_kind(meta.kind), _names(dataset, meta, rows)
    for line, name, question, label in zip(lines.to_pylist(), names, *read_rows(dataset / "test", rows), strict=True):
        if name is None:
            versions = kind.versions(meta, question, np.random.default_rng(0), 1)
        else:
            versions = kind.recall(meta, question[None], [name])
        (asked,), (right,) = versions.undo(question[None]), versions.undo(label[None])
        answer = np.frombuffer(line["answer"], np.uint8).reshape(line["height"], line["width"])
        yield Seen(line, asked, answer, right if label.any() else None)


def _names(dataset: Path, meta: DatasetMeta, rows: Sequence[int]) -> list[str | None]:
    """The names of the puzzles in these rows, where they have some."""
    if not meta.puzzles_digest:
        return [None] * len(rows)
    identifiers = pq.read_table(dataset / "test" / EXAMPLES, columns=["identifier"]).column(0).take(rows)
    return read_names(dataset).take(pa.array(identifiers.to_numpy() - 1)).to_pylist()
