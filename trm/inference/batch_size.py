"""The size of inference batches, which is halved where the memory of a GPU does not suffice."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

Rows = npt.NDArray[np.int64]
Result = TypeVar("Result")


class BatchSize:
    """The number of sequences that are computed at a time, with their samples: a limit for several inferences."""

    def __init__(self, size: int) -> None:
        self.size = size

    def results(
        self, puzzles: Rows, num_samples: int, compute: Callable[[Rows], Result], can_repeat: bool = True
    ) -> Iterator[tuple[Rows, Result]]:
        """Yield the rows of each batch with the result of `compute` for them, in order.

        puzzles: int64 [N], the puzzle of each row; rows of a puzzle are adjacent and share a batch, so a batch may be
        larger than `size`. Where the memory of the GPU does not suffice the size is halved, for all later batches too,
        and the batch is computed again if it `can_repeat`. Raises `torch.OutOfMemoryError` for a batch of one puzzle.
        """
        start = 0
        while True:
            rows = _next_batch(puzzles, start, max(self.size // num_samples, 1))
            try:
                result = compute(rows)
            except torch.OutOfMemoryError:
                if not can_repeat or puzzles[rows[0]] == puzzles[rows[-1]]:
                    raise
                result = None
            if result is None:  # not in the `except` block, where the error still refers to tensors
                self._halve(len(rows) * num_samples)
                continue
            yield rows, result
            start += len(rows)
            if start == len(puzzles):
                return

    def _halve(self, sequences: int) -> None:
        """Reduce the size after a batch of `sequences` sequences."""
        torch.cuda.empty_cache()
        self.size = max(min(self.size, sequences) // 2, 1)
        print(
            f"{sequences} sequences at a time exceed the memory of the GPU; the batch size is now {self.size}",
            file=sys.stderr,
            flush=True,
        )


def _next_batch(puzzles: Rows, start: int, size: int) -> Rows:
    """About `size` rows from `start` on, to the end of a puzzle."""
    end = min(start + size, len(puzzles))
    while end < len(puzzles) and puzzles[end] == puzzles[end - 1]:
        end += 1
    return np.arange(start, end)
