"""Kaggle's `submission.json`: two attempts for each test input of each task."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ATTEMPTS = ("attempt_1", "attempt_2")
Entry = dict[str, list[list[int]]]


def submission(predictions: pa.Table, tasks: Mapping[str, int]) -> dict[str, object]:
    """The submission {task: [an entry of attempts per test pair]} from the rows of predictions.parquet.

    tasks: name -> number of test pairs. With too few candidates the first is repeated; a pair without
    predictions gets `[[0]]` in every attempt; an empty answer is `[]`.
    """
    best = predictions.filter(pc.field("rank") <= len(ATTEMPTS))
    names = ("task", "pair", "rank", "height", "width", "answer")
    found: dict[tuple[str, int], dict[int, list[list[int]]]] = {}
    for task, pair, rank, height, width, answer in zip(*(best.column(name).to_pylist() for name in names), strict=True):
        grid = np.frombuffer(answer, np.uint8).reshape(height, width).tolist()
        found.setdefault((task, pair), {})[rank] = grid
    return {task: [entry(found.get((task, pair), {})) for pair in range(pairs)] for task, pairs in tasks.items()}


def entry(candidates: Mapping[int, list[list[int]]]) -> Entry:
    """The entry of a test pair from its candidates: rank (from 1) -> rows of the grid."""
    first = candidates.get(1, [[0]])
    return {attempt: candidates.get(rank, first) for rank, attempt in enumerate(ATTEMPTS, 1)}
