"""Dynamic batching: which puzzles share a batch."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import numpy as np
import pytest

from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import DEFAULT_INFERENCE, InferenceConfig
from trm.inference.puzzle import EvalPuzzle, make_puzzle
from trm.inference.solve import Answer
from trm.serving.batcher import Batcher, QueueFullError

LONG = DEFAULT_INFERENCE.model_copy(update={"max_steps": 32})


@dataclass
class Recorder:
    """Answers each puzzle with its question. It blocks in its first batch until `released`."""

    batches: list[tuple[int, InferenceConfig]] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, puzzles: Sequence[EvalPuzzle], config: InferenceConfig) -> list[Answer]:
        self.batches.append((len(puzzles), config))
        self.started.set()
        assert self.released.wait(60)
        if config.min_confidence:
            raise ValueError("no answer")
        return [Answer(puzzle.grid, 0.5, 1, None, 0.5, True) for puzzle in puzzles]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def batcher(recorder: Recorder) -> Iterator[Batcher]:
    """Batches of 4 sequences, at most 8 puzzles in the queue."""
    batcher = Batcher(recorder, batch_size=4, max_queue=8, max_wait=0)
    yield batcher
    recorder.released.set()
    batcher.close()


@pytest.fixture
def puzzles(meta: DatasetMeta) -> list[EvalPuzzle]:
    """Eleven puzzles that differ in their first cells."""
    tokens = np.ones((11, 16), np.uint8)
    tokens[:, 0], tokens[:, 1] = np.arange(11) % 5 + 1, np.arange(11) // 5 + 1
    return [make_puzzle(meta, row, 1, 0) for row in tokens]


def test_waiting_puzzles_share_batches(batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    first = batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    assert recorder.started.wait(60)
    others = [future for puzzle in puzzles[1:7] for future in batcher.submit([puzzle], DEFAULT_INFERENCE)]
    assert batcher.depth == 6
    recorder.released.set()
    grids = [future.result(60).grid for future in first + others]
    assert all((grid == puzzle.grid).all() for grid, puzzle in zip(grids, puzzles, strict=False))
    assert [size for size, _ in recorder.batches] == [1, 4, 2]
    assert batcher.depth == 0


def test_a_batch_has_equal_settings(batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    assert recorder.started.wait(60)
    kinds = [DEFAULT_INFERENCE, LONG, DEFAULT_INFERENCE, LONG, LONG]
    futures = [batcher.submit([puzzle], kind)[0] for puzzle, kind in zip(puzzles[1:], kinds, strict=False)]
    recorder.released.set()
    for future in futures:
        future.result(60)
    assert recorder.batches[1:] == [(2, DEFAULT_INFERENCE), (3, LONG)]


def test_a_large_puzzle_is_a_batch(
    batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle], meta: DatasetMeta
) -> None:
    voting = DEFAULT_INFERENCE.model_copy(update={"num_votes": 6})
    batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    assert recorder.started.wait(60)
    large = [make_puzzle(meta, np.ones(16, np.uint8), 6, seed) for seed in range(2)]
    futures = batcher.submit(large, voting)
    recorder.released.set()
    for future in futures:
        future.result(60)
    assert recorder.batches[1:] == [(1, voting), (1, voting)]


def test_full_queue(batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    assert recorder.started.wait(60)
    futures = batcher.submit(puzzles[:7], DEFAULT_INFERENCE)
    with pytest.raises(QueueFullError):
        batcher.submit(puzzles[:2], DEFAULT_INFERENCE)
    futures += batcher.submit(puzzles[7:8], DEFAULT_INFERENCE)  # the refused request has left nothing
    with pytest.raises(QueueFullError):
        batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    recorder.released.set()
    assert len([future.result(60) for future in futures]) == 8


def test_cancelled_puzzles_are_not_computed(batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    (running,) = batcher.submit(puzzles[:1], DEFAULT_INFERENCE)
    assert recorder.started.wait(60)
    futures = batcher.submit(puzzles[1:4], DEFAULT_INFERENCE)
    assert [future.cancel() for future in (running, *futures)] == [False, True, True, True]
    recorder.released.set()
    running.result(60)
    batcher.submit(puzzles[:1], DEFAULT_INFERENCE)[0].result(60)  # the thread still runs
    assert [size for size, _ in recorder.batches] == [1, 1]
    with pytest.raises(CancelledError):
        futures[0].result(0)


def test_an_error_reaches_the_requests_of_its_batch(
    batcher: Batcher, recorder: Recorder, puzzles: list[EvalPuzzle]
) -> None:
    recorder.released.set()
    failing = DEFAULT_INFERENCE.model_copy(update={"min_confidence": 0.9})
    with pytest.raises(ValueError, match="no answer"):
        batcher.submit(puzzles[:1], failing)[0].result(60)
    assert batcher.submit(puzzles[:1], DEFAULT_INFERENCE)[0].result(60).answered


def test_close_answers_what_is_queued(recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    batcher = Batcher(recorder, batch_size=4, max_queue=8, max_wait=3600)
    futures = batcher.submit(puzzles[:3], DEFAULT_INFERENCE)  # less than a batch: it waits for more
    recorder.released.set()
    batcher.close()
    assert all(future.done() for future in futures)
    assert [size for size, _ in recorder.batches] == [3]
    with pytest.raises(QueueFullError):
        batcher.submit(puzzles[:1], DEFAULT_INFERENCE)


def test_a_batch_waits_for_further_puzzles(recorder: Recorder, puzzles: list[EvalPuzzle]) -> None:
    batcher = Batcher(recorder, batch_size=3, max_queue=8, max_wait=3600)
    recorder.released.set()
    futures = [future for puzzle in puzzles[:3] for future in batcher.submit([puzzle], DEFAULT_INFERENCE)]
    for future in futures:
        future.result(60)
    batcher.close()
    assert [size for size, _ in recorder.batches] == [3]
