"""Dynamic batching: puzzles of different requests share the batches of a model."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from trm.config.inference import InferenceConfig
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import Answer

SolveBatch = Callable[[Sequence[EvalPuzzle], InferenceConfig], list[Answer]]
"""Answers puzzles with equal settings in one batch."""


class QueueFullError(Exception):
    """The queue has no space for the puzzles of a request."""


@dataclass(frozen=True)
class _Entry:
    puzzle: EvalPuzzle
    config: InferenceConfig
    future: Future[Answer] = field(default_factory=Future)

    @property
    def sequences(self) -> int:
        """Sequences that the puzzle adds to a batch."""
        return self.puzzle.num_votes * self.config.num_samples


class Batcher:
    """A bounded queue of puzzles, and a thread that answers them in batches of equal settings.

    The thread takes the oldest puzzle and the puzzles after it that have the same settings. While it computes a batch,
    the next one accumulates.

    Args:
        solve: Called in the thread.
        batch_size: Sequences of a batch. A puzzle with more of them is a batch of its own.
        max_queue: Puzzles that may wait.
        max_wait: Seconds for which a batch that is not full waits for further puzzles.
    """

    def __init__(self, solve: SolveBatch, batch_size: int, max_queue: int, max_wait: float) -> None:
        self._solve, self._batch_size, self._max_queue, self._max_wait = solve, batch_size, max_queue, max_wait
        self._waiting, self._changed, self._closed = deque[_Entry](), threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, puzzles: Sequence[EvalPuzzle], config: InferenceConfig) -> list[Future[Answer]]:
        """Queue the puzzles of a request. A cancelled future is dropped unless its batch has started.

        Raises `QueueFullError` if they do not all fit; then none is queued.
        """
        entries = [_Entry(puzzle, config) for puzzle in puzzles]
        with self._changed:
            if self._closed or len(self._waiting) + len(entries) > self._max_queue:
                raise QueueFullError
            self._waiting += entries
            self._changed.notify()
        return [entry.future for entry in entries]

    @property
    def depth(self) -> int:
        """Puzzles that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Answer what is queued, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while entries := self._next_batch():
            try:
                answers = self._solve([entry.puzzle for entry in entries], entries[0].config)
            except Exception as error:  # the requests report it
                for entry in entries:
                    entry.future.set_exception(error)
            else:
                for entry, answer in zip(entries, answers, strict=True):
                    entry.future.set_result(answer)

    def _next_batch(self) -> list[_Entry]:
        """Wait for the next batch. Empty: the batcher is closed and the queue is empty."""
        with self._changed:
            taken = list[_Entry]()
            while not taken and (self._waiting or not self._closed):
                self._changed.wait_for(lambda: self._waiting or self._closed)
                until = time.monotonic() + self._max_wait
                while self._is_partial() and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                taken = self._take()
            return taken

    def _is_partial(self) -> bool:
        """Whether a further puzzle could join the next batch."""
        return not self._closed and sum(entry.sequences for entry in self._waiting) < self._batch_size

    def _take(self) -> list[_Entry]:
        """Remove the oldest puzzles of equal settings that fit into a batch; skip cancelled ones."""
        taken, kept, sequences = list[_Entry](), deque[_Entry](), 0
        while self._waiting:
            entry = self._waiting.popleft()
            fits = not taken or (entry.config == taken[0].config and sequences + entry.sequences <= self._batch_size)
            if not fits:
                kept.append(entry)
            elif entry.future.set_running_or_notify_cancel():
                taken.append(entry)
                sequences += entry.sequences
        self._waiting = kept
        return taken
