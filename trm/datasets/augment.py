"""The stage `augment`: raw puzzles to a data set of augmented training puzzles, validation puzzles and test puzzles."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from trm.config.data import AugmentParams, DataSection
from trm.data.protocol import Prepared
from trm.datasets.registry import get_dataset
from trm.data.parquet import SCHEMA_VERSION, Split, write_meta, write_names, write_split
from trm.utils.errors import UserError
from trm.utils.paths import file_digest
from trm.utils.progress import Progress, progress

MOST_WAITING = 4
"""Blocks that are made ahead of the one that is written: writing takes longer than making."""


def augment(data: DataSection, augment: AugmentParams, raw: Path, out: Path, key: str) -> dict[str, object]:
    """Make the data set `out` (an empty folder) of the files in `raw`; return its counts by split.

    A pure function of its arguments and those files, whatever `TRM_WORKERS` says (the number of threads; default: the
    processors). Raises `DataError` where a test puzzle is a training puzzle, and `UserError` where too many groups are
    held out.
    """
    lineage = {
        "key": key,
        "schema_version": SCHEMA_VERSION,
        "raw": {path.name: file_digest(path) for path in sorted(raw.iterdir()) if path.name != "manifest.json"},
        "data": data.model_dump(mode="json"),
        "augment": augment.model_dump(mode="json"),
        "libraries": {"numpy": np.__version__, "pyarrow": pa.__version__},
    }
    workers = _workers()
    return {"splits": write_dataset(get_dataset(data.name).prepare(data, augment, raw), out, lineage, workers)}


def write_dataset(
    prepared: Prepared, out: Path, lineage: dict[str, object], workers: int = 1
) -> dict[str, dict[str, int]]:
    """Write the splits as planned, the names of the puzzles where they have any, and meta.json; return the counts."""
    counts: dict[str, dict[str, int]] = {}
    for split, plan in prepared.splits.items():
        with progress(f"augment {split}", plan.examples) as shown:
            blocks = _shown(_made(plan.blocks, workers), shown)
            counts[split] = write_split(out / split, blocks, prepared.meta.seq_len, lineage)
    if prepared.names is not None:
        write_names(out, prepared.names)
    write_meta(out, prepared.meta, counts)
    return counts


def _made(calls: Iterable[Callable[[], Split]], workers: int) -> Iterator[Split]:
    """What the calls return, in their order, made by so many threads."""
    waiting: deque[Future[Split]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) > min(workers, MOST_WAITING):  # never more than these in memory
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _shown(blocks: Iterable[Split], shown: Progress) -> Iterator[Split]:
    for block in blocks:
        yield block
        shown.advance(len(block))


def _workers() -> int:
    asked = os.environ.get("TRM_WORKERS") or str(os.cpu_count() or 1)
    if not asked.isdecimal() or int(asked) == 0:
        raise UserError(f"TRM_WORKERS must be a number of threads, 1 or more. Got {asked!r}")
    return int(asked)
