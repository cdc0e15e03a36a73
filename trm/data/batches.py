"""Batches of a split: the stream of training epochs packed into global batches, and test batches in order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.parquet import Split

IGNORE_INDEX = -100
"""Label of padding tokens, ignored by the loss."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StreamPosition:
    """A position in the stream of examples: in `epoch`, after the first `index` puzzles of its order."""

    epoch: int = 0
    index: int = 0


START = StreamPosition()


def training_batches(
    split: Split, epochs: int, global_batch_size: int, seed: int, start: StreamPosition = START
) -> Iterator[tuple[Rows, Rows, StreamPosition]]:
    """The global batches of a run from `start` on: (rows of the split, their epochs, position of the next batch).
    Rows and epochs are int64 [G].

    Each epoch permutes the groups, draws one puzzle of each and takes its examples in random order, as a function of
    (seed, epoch). Batches extend across epochs. A puzzle that does not fit into a batch is truncated and its rest
    skipped; an incomplete batch at the end is dropped. The length of a run is `total_steps`; with puzzles of several
    examples the stream may contain a few more batches.
    """
    epoch, index = start.epoch, start.index
    loaded, rows, starts = -1, np.empty(0, np.int64), np.zeros(1, np.int64)
    while True:
        parts: list[Rows] = []
        epochs_of_parts: list[Rows] = []
        missing = global_batch_size
        while missing and epoch < epochs:
            if loaded != epoch:
                loaded, (rows, starts) = epoch, _epoch_order(split, seed, epoch)
            first = int(starts[index])
            part = rows[first : first + missing]
            parts.append(part)
            epochs_of_parts.append(np.full(len(part), epoch, np.int64))
            missing -= len(part)
            # The next puzzle is the first one of which no example was taken.
            index = int(np.searchsorted(starts, first + len(part)))
            if index == len(starts) - 1:
                epoch, index = epoch + 1, 0
        if missing:
            return
        yield np.concatenate(parts), np.concatenate(epochs_of_parts), StreamPosition(epoch, index)


def _epoch_order(split: Split, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """The rows of an epoch in order, and the start of each drawn puzzle in them, followed by their number."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    order = rng.permutation(len(split.group_starts) - 1)
    first_puzzle, puzzles = split.group_starts[order], np.diff(split.group_starts)[order]
    puzzle = first_puzzle + rng.integers(0, puzzles)
    first_row, lengths = split.puzzle_starts[puzzle], np.diff(split.puzzle_starts)[puzzle]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if lengths.max() == 1:
        return first_row, starts
    of_puzzle = np.repeat(np.arange(len(puzzle)), lengths)
    rows = first_row[of_puzzle] + np.arange(starts[-1]) - starts[of_puzzle]
    # Sorting by puzzle and a random key shuffles the examples of each puzzle in place.
    return rows[np.lexsort((rng.random(len(rows)), of_puzzle))], starts


def total_steps(split: Split, epochs: int, global_batch_size: int) -> int:
    """Length of the schedule in steps: epochs * groups * (mean examples per puzzle) / G, rounded down."""
    counts = split.counts()
    return epochs * counts["groups"] * counts["examples"] // (counts["puzzles"] * global_batch_size)


def collate(split: Split, rows: Rows) -> dict[str, npt.NDArray[np.int32]]:
    """The examples of these rows: inputs [B, L], labels [B, L] (-100: ignored), puzzle_identifiers [B], all int32."""
    labels = split.labels[rows].astype(np.int32)
    labels[labels == 0] = IGNORE_INDEX
    return {
        "inputs": split.inputs[rows].astype(np.int32),
        "labels": labels,
        "puzzle_identifiers": split.identifiers[rows].astype(np.int32),
    }


def test_batches(split: Split, batch_size: int) -> Iterator[tuple[dict[str, npt.NDArray[np.int32]], int]]:
    """The split in order: (batch as returned by `collate`, number of examples in it).

    The last batch is padded with blank examples: inputs 0, labels -100, identifier 0.
    """
    for start in range(0, len(split), batch_size):
        rows = np.arange(start, min(start + batch_size, len(split)), dtype=np.int64)
        batch, blanks = collate(split, rows), batch_size - len(rows)
        for name, values in batch.items():
            blank = np.full((blanks, *values.shape[1:]), IGNORE_INDEX if name == "labels" else 0, dtype=np.int32)
            batch[name] = np.concatenate([values, blank])
        yield batch, len(rows)


test_batches.__test__ = False  # type: ignore[attr-defined]  # not a test
