"""From a split to batches: the stream of epochs, packed exactly as spec section 1 says, and test batches in order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trm.data.parquet import Split

IGNORED = -100
"""The label of a padding token."""
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StreamPosition:
    """Where in the stream a batch starts: in `epoch`, after the first `position` puzzles of its order."""

    epoch: int = 0
    position: int = 0


START = StreamPosition()


def training_batches(
    split: Split, epochs: int, global_batch_size: int, seed: int, start: StreamPosition = START
) -> Iterator[tuple[Rows, StreamPosition]]:
    """The global batches of a run from `start` on: (rows of the split, int64 [G]; where the next batch starts).

    Each epoch permutes the groups, draws one puzzle of each and takes its examples in random order, as a pure function
    of (seed, epoch). Batches run on across epochs; a puzzle is cut short where the batch is full and its rest skipped;
    an incomplete batch at the end is dropped. `total_steps` is the run's length: with puzzles of several examples the
    stream may hold a few batches more.
    """
    epoch, position = start.epoch, start.position
    loaded, rows, starts = -1, np.empty(0, np.int64), np.zeros(1, np.int64)
    while True:
        parts: list[Rows] = []
        missing = global_batch_size
        while missing and epoch < epochs:
            if loaded != epoch:
                loaded, (rows, starts) = epoch, _epoch_order(split, seed, epoch)
            first = int(starts[position])
            part = rows[first : first + missing]
            parts.append(part)
            missing -= len(part)
            # The next puzzle is the first one that no example was taken of.
            position = int(np.searchsorted(starts, first + len(part)))
            if position == len(starts) - 1:
                epoch, position = epoch + 1, 0
        if missing:
            return
        yield np.concatenate(parts), StreamPosition(epoch, position)


def _epoch_order(split: Split, seed: int, epoch: int) -> tuple[Rows, Rows]:
    """The rows of an epoch in order, and where in them each drawn puzzle starts, with their number at the end."""
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
    # Sorted by puzzle, then by a random key: the examples of each puzzle in random order, in the puzzle's place.
    return rows[np.lexsort((rng.random(len(rows)), of_puzzle))], starts


def total_steps(split: Split, epochs: int, global_batch_size: int) -> int:
    """Length of the schedule: epochs * groups * (mean examples per puzzle) / G, rounded down."""
    counts = split.counts()
    return epochs * counts["groups"] * counts["examples"] // (counts["puzzles"] * global_batch_size)


def collate(split: Split, rows: Rows) -> dict[str, npt.NDArray[np.int32]]:
    """The examples of these rows: inputs [B, L], labels [B, L] (-100: ignored), puzzle_identifiers [B], all int32."""
    labels = split.labels[rows].astype(np.int32)
    labels[labels == 0] = IGNORED
    return {
        "inputs": split.inputs[rows].astype(np.int32),
        "labels": labels,
        "puzzle_identifiers": split.identifiers[rows].astype(np.int32),
    }


def test_batches(split: Split, batch_size: int) -> Iterator[tuple[dict[str, npt.NDArray[np.int32]], int]]:
    """The split in order: (batch as `collate` makes it, its number of real rows).

    The last batch is filled up with blank examples: inputs 0, labels -100, identifier 0.
    """
    for start in range(0, len(split), batch_size):
        rows = np.arange(start, min(start + batch_size, len(split)), dtype=np.int64)
        batch, blanks = collate(split, rows), batch_size - len(rows)
        for name, values in batch.items():
            blank = np.full((blanks, *values.shape[1:]), IGNORED if name == "labels" else 0, dtype=np.int32)
            batch[name] = np.concatenate([values, blank])
        yield batch, len(rows)


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name
