"""What an evaluation asked, what was answered and what was right, as grids beside the lines of predictions.parquet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trm.data.protocol import Grid
from trm.datasets.registry import get_dataset
from trm.data.parquet import EXAMPLES, read_names, read_rows
from trm.utils.errors import DataError
from trm.config.dataset_meta import DatasetMeta

Holds = npt.NDArray[np.bool_]
COLUMNS = ("task", "pair", "puzzle", "version", "votes", "rank", "halt_logit", "exact", "right", "valid", "rating")
"""All that is read of every line: numbers, and not the answers, which may be a thousand bytes each."""


@dataclass(frozen=True)
class Seen:
    """One answered puzzle."""

    line: dict[str, Any]
    """Its line in predictions.parquet."""
    question: Grid
    answer: Grid
    right: Grid | None
    """None where nobody knows it."""
    tokens: npt.NDArray[np.uint8]
    """uint8 [L]: what the model was asked."""
    undo: Callable[[npt.NDArray[np.uint8]], list[Grid]]
    """An answer of the model, uint8 [1, L], as the one grid that it is."""


@dataclass(frozen=True)
class Answered:
    """N test examples as predictions.parquet knows them, arrays [N] of the puzzle as it is (version 0) and of its vote.

    Where no answer is known, `exact`, `right` and `voted_right` are False, and `known` says so.
    """

    line: npt.NDArray[np.int64]
    """Of version 0 in the file; the other versions of the example follow it."""
    versions: npt.NDArray[np.int64]
    """How many voted."""
    task: npt.NDArray[np.int64]
    """StreamPosition of the task's name in `tasks`."""
    tasks: list[str]
    pair: npt.NDArray[np.int32]
    puzzle: npt.NDArray[np.int32]
    """Row of the test split."""
    rating: npt.NDArray[np.int32]
    halt_logit: npt.NDArray[np.float32]
    known: Holds
    exact: Holds
    right: Holds
    valid: Holds | None
    """None where the data has no rules."""
    votes: npt.NDArray[np.int32]
    """For the answer that won."""
    voted_right: Holds
    second_right: Holds
    """The answer that won is right, or the next one is."""

    def __len__(self) -> int:
        return len(self.line)


def read_answered(file: Path) -> Answered:
    """Read predictions.parquet, whose lines stand together for each test example. Raises `DataError`."""
    try:
        table = pq.read_table(file, columns=list(COLUMNS), read_dictionary=["task"]).combine_chunks()
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: not a whole file of predictions ({reason}); run `trm evaluate` again") from None
    values = {name: table.column(name).fill_null(False) for name in ("exact", "right", "valid")}
    values |= {name: table.column(name) for name in COLUMNS if name not in ("task", *values)}
    lines = {name: column.to_numpy() for name, column in values.items()}
    first = np.flatnonzero(lines["version"] == 0)
    if not len(first):
        raise DataError(f"{file}: holds no predictions; run `trm evaluate` again")
    tasks = table.column("task").unify_dictionaries().combine_chunks()
    tasks = tasks.chunk(0) if isinstance(tasks, pa.ChunkedArray) else tasks
    rank, right = lines["rank"], lines["right"]
    has_rules = table.column("valid").null_count < len(table)
    return Answered(
        line=first,
        versions=np.diff(first, append=len(table)),
        task=tasks.indices.to_numpy()[first].astype(np.int64),
        tasks=tasks.dictionary.to_pylist(),
        known=table.column("exact").is_valid().to_numpy()[first],
        valid=lines["valid"][first] if has_rules else None,
        votes=np.maximum.reduceat(np.where(rank == 1, lines["votes"], 0), first),
        voted_right=np.logical_or.reduceat(right & (rank == 1), first),
        second_right=np.logical_or.reduceat(right & (rank <= 2), first),
        **{name: lines[name][first] for name in ("pair", "puzzle", "rating", "halt_logit", "exact", "right")},
    )


def lines_at(file: Path, rows: Sequence[int]) -> pa.Table:
    """Whole lines of predictions.parquet, in the order of `rows`; the file is read a row group at a time."""
    wanted, found = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    with pq.ParquetFile(file) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, wanted, side="right")
        parts = [parquet.schema_arrow.empty_table()]
        for group in np.unique(groups).tolist():
            inside = wanted[groups == group] - (ends[group] - sizes[group])
            parts.append(parquet.read_row_group(group).take(pa.array(inside)))
    return pa.concat_tables(parts).take(pa.array(found))


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `count` places, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def seen(dataset: Path, meta: DatasetMeta, lines: pa.Table) -> Iterator[Seen]:
    """The grids of `lines`, each of a puzzle as it is (version 0) of the test split of `dataset`."""
    rows = lines.column("puzzle").to_pylist()
    if not rows:
        return
    kind, names = get_dataset(meta.name), _names(dataset, meta, rows)
    for line, name, question, label in zip(lines.to_pylist(), names, *read_rows(dataset / "test", rows), strict=True):
        if name is None:
            versions = kind.versions(meta, question, np.random.default_rng(0), 1)
        else:
            versions = kind.recall(meta, question[None], [name])
        (asked,), (right,) = versions.undo(question[None]), versions.undo(label[None])
        answer = np.frombuffer(line["answer"], np.uint8).reshape(line["height"], line["width"])
        yield Seen(line, asked, answer, right if label.any() else None, question, versions.undo)


def identifiers_of(dataset: Path, split: str) -> npt.NDArray[np.int32]:
    """The identifier of every example of a split, int32 [N]."""
    column = pq.read_table(dataset / split / EXAMPLES, columns=["identifier"]).column(0)
    return column.to_numpy().astype(np.int32, copy=False)


def _names(dataset: Path, meta: DatasetMeta, rows: Sequence[int]) -> list[str | None]:
    """The names of the puzzles in these rows, where they have some."""
    if not meta.puzzles_digest:
        return [None] * len(rows)
    identifiers = identifiers_of(dataset, "test")[rows]
    return read_names(dataset).take(pa.array(identifiers - 1)).to_pylist()
