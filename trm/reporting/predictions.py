"""The predictions of an evaluation as arrays and as grids, read from predictions.parquet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trm.config.dataset_meta import DatasetMeta
from trm.data.parquet import EXAMPLES, read_names, read_rows
from trm.data.protocol import Grid
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError

Mask = npt.NDArray[np.bool_]
COLUMNS = (
    *(
        "task",
        "pair",
        "puzzle",
        "augmentation",
        "votes",
        "rank",
        "confidence",
        "halt_logit",
        "halt_step",
        "exact",
        "correct",
        "valid",
        "rating",
    ),
)
"""The columns read for all rows. Answers, which may have a thousand bytes each, are read only where needed."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for a puzzle, as grids."""

    row: dict[str, Any]
    """Its row in predictions.parquet."""
    question: Grid
    answer: Grid
    solution: Grid | None
    """None if unknown."""
    tokens: npt.NDArray[np.uint8]
    """The question, uint8 [L]."""
    invert: Callable[[npt.NDArray[np.uint8]], list[Grid]]
    """Converts an output of the model, tokens uint8 [1, L], to a list of one grid."""


@dataclass(frozen=True)
class PredictionTable:
    """The predictions for N test examples: arrays [N] of the puzzle itself (augmentation 0) and of its vote.

    If the solution of an example is unknown, `known`, `exact`, `correct` and `vote_correct` are false.
    """

    row: npt.NDArray[np.int64]
    """Row of augmentation 0 in the file; the other augmentations of the example follow it."""
    num_votes: npt.NDArray[np.int64]
    """Augmentations that voted."""
    task: npt.NDArray[np.int64]
    """Index of the name of the task in `tasks`."""
    tasks: list[str]
    """Names of the tasks."""
    pair: npt.NDArray[np.int32]
    """Number among the test examples of the task."""
    puzzle: npt.NDArray[np.int32]
    """Row of the test split."""
    rating: npt.NDArray[np.int32]
    halt_logit: npt.NDArray[np.float32]
    halt_step: npt.NDArray[np.int32]
    """First step with a positive halting decision; the last step if there is none."""
    known: Mask
    """Examples with a known solution."""
    exact: Mask
    correct: Mask
    valid: Mask | None
    """None if the dataset has no rules."""
    votes: npt.NDArray[np.int32]
    """Votes for the winning answer."""
    confidence: npt.NDArray[np.float64]
    """Confidence of the winning answer, 0 to 1."""
    vote_correct: Mask
    """The winning answer is the solution."""
    top2_correct: Mask
    """The winning answer or the next one is the solution."""

    def __len__(self) -> int:
        return len(self.row)


def read_predictions(file: Path) -> PredictionTable:
    """Read predictions.parquet, in which the rows of a test example are adjacent. Raises `DataError`."""
    try:
        table = pq.read_table(file, columns=list(COLUMNS), read_dictionary=["task"]).combine_chunks()
    except (OSError, pa.ArrowException, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: not a complete file of predictions ({reason}); run `trm evaluate` again") from None
    values = {name: table.column(name).fill_null(False) for name in ("exact", "correct", "valid")}
    values |= {name: table.column(name) for name in COLUMNS if name not in ("task", *values)}
    columns = {name: column.to_numpy() for name, column in values.items()}
    first = np.flatnonzero(columns["augmentation"] == 0)
    if not len(first):
        raise DataError(f"{file}: contains no predictions; run `trm evaluate` again")
    tasks = table.column("task").unify_dictionaries().combine_chunks()
    tasks = tasks.chunk(0) if isinstance(tasks, pa.ChunkedArray) else tasks
    rank, correct = columns["rank"], columns["correct"]
    has_rules = table.column("valid").null_count < len(table)
    return PredictionTable(
        row=first,
        num_votes=np.diff(first, append=len(table)),
        task=tasks.indices.to_numpy()[first].astype(np.int64),
        tasks=tasks.dictionary.to_pylist(),
        known=table.column("exact").is_valid().to_numpy()[first],
        valid=columns["valid"][first] if has_rules else None,
        votes=np.maximum.reduceat(np.where(rank == 1, columns["votes"], 0), first),
        vote_correct=np.logical_or.reduceat(correct & (rank == 1), first),
        top2_correct=np.logical_or.reduceat(correct & (rank <= 2), first),
        **{
            name: columns[name][first]
            for name in ("pair", "puzzle", "rating", "confidence", "halt_logit", "halt_step", "exact", "correct")
        },
    )


def rows_at(file: Path, rows: Sequence[int]) -> pa.Table:
    """Complete rows of predictions.parquet, in the order of `rows`; the file is read one row group at a time."""
    wanted, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    with pq.ParquetFile(file) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, wanted, side="right")
        parts = [parquet.schema_arrow.empty_table()]
        for group in np.unique(groups).tolist():
            inside = wanted[groups == group] - (ends[group] - sizes[group])
            parts.append(parquet.read_row_group(group).take(pa.array(inside)))
    return pa.concat_tables(parts).take(pa.array(inverse))


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `count` indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)) if count else np.arange(0)


def predictions_of(dataset: Path, meta: DatasetMeta, rows: pa.Table) -> Iterator[Prediction]:
    """The grids of `rows`, which are rows of augmentation 0 of the test split of `dataset`."""
    puzzles = rows.column("puzzle").to_pylist()
    if not puzzles:
        return
    module, names = get_dataset(meta.name), _names(dataset, meta, puzzles)
    tokens = read_rows(dataset / "test", puzzles)
    for row, name, question, label in zip(rows.to_pylist(), names, *tokens, strict=True):
        if name is None:
            identity = module.augmentations(meta, question, np.random.default_rng(0), 1)
        else:
            identity = module.recall(meta, question[None], [name])
        (grid,), (solution,) = identity.invert(question[None]), identity.invert(label[None])
        answer = np.frombuffer(row["answer"], np.uint8).reshape(row["height"], row["width"])
        yield Prediction(row, grid, answer, solution if label.any() else None, question, identity.invert)


def identifiers_of(dataset: Path, split: str) -> npt.NDArray[np.int32]:
    """The puzzle identifier of every example of a split, int32 [N]."""
    column = pq.read_table(dataset / split / EXAMPLES, columns=["identifier"]).column(0)
    return column.to_numpy().astype(np.int32, copy=False)


def _names(dataset: Path, meta: DatasetMeta, puzzles: Sequence[int]) -> list[str | None]:
    """The names of these puzzles, None for puzzles without names."""
    if not meta.puzzles_digest:
        return [None] * len(puzzles)
    identifiers = identifiers_of(dataset, "test")[puzzles]
    return read_names(dataset).take(pa.array(identifiers - 1)).to_pylist()
