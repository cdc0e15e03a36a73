"""Stage `augment`: converts raw puzzles to a dataset of augmented training puzzles, validation puzzles and test
puzzles.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from trm.config.data import AugmentParams, DataSection
from trm.data.parquet import SCHEMA_VERSION, Split, write_meta, write_names, write_split
from trm.data.protocol import DatasetPlan
from trm.datasets.registry import get_dataset
from trm.utils.errors import UserError
from trm.utils.memory import check_memory, readable
from trm.utils.paths import file_digest
from trm.utils.progress import Progress, progress

MAX_PENDING_BLOCKS = 4
"""Blocks generated ahead of the one being written, which limits memory use. Writing is slower than generating."""
BYTES_PER_AUGMENTATION = 200
"""Least memory of an augmentation: those of a puzzle are generated together, as questions and answers."""
BYTES_PER_EXAMPLE = 20
"""Most bytes of an example on disk besides its tokens: five columns."""
MAX_EXAMPLES = 2**31 - 1
"""Puzzles are numbered in int32."""


def augment(data: DataSection, augment: AugmentParams, raw: Path, out: Path, key: str) -> dict[str, object]:
    """Generate the dataset of the raw files in the empty folder `out`; return its counts by split.

    The result depends only on the arguments and the raw files, not on `TRM_WORKERS` (number of threads; default: number
    of processors). Raises `DataError` if a test puzzle is equivalent to a training puzzle, and `UserError` if too many
    groups are held out.
    """
    lineage = {
        "key": key,
        "schema_version": SCHEMA_VERSION,
        "raw": {path.name: file_digest(path) for path in sorted(raw.iterdir()) if path.name != "manifest.json"},
        "data": data.model_dump(mode="json"),
        "augment": augment.model_dump(mode="json"),
        "libraries": {"numpy": np.__version__, "pyarrow": pa.__version__},
    }
    workers = _num_workers()
    check_memory((1 + augment.num_aug) * BYTES_PER_AUGMENTATION, f"augment.num_aug={augment.num_aug}")
    plan = get_dataset(data.name).prepare(data, augment, raw)
    counts = write_dataset(plan, out, lineage, workers)
    return {"splits": counts} if plan.leaks is None else {"splits": counts, "leaks": plan.leaks}


def write_dataset(
    plan: DatasetPlan, out: Path, lineage: dict[str, object], workers: int = 1
) -> dict[str, dict[str, int]]:
    """Write the planned splits, meta.json and, if there are any, the names of the puzzles; return the counts."""
    counts: dict[str, dict[str, int]] = {}
    examples = sum(split.examples for split in plan.splits.values())
    if examples > MAX_EXAMPLES:
        raise UserError(f"augment.num_aug: gives {examples} examples, more than {MAX_EXAMPLES}; lower it")
    for split, split_plan in plan.splits.items():
        announce = partial(_announcement, split_plan.examples, plan.meta.seq_len)
        with progress(f"augment {split}", split_plan.examples, announce=announce) as bar:
            blocks = _with_progress(_generate(split_plan.blocks, workers), bar)
            counts[split] = write_split(out / split, blocks, plan.meta.seq_len, lineage)
    if plan.names is not None:
        write_names(out, plan.names)
    write_meta(out, plan.meta, counts, plan.leaks)
    return counts


def _generate(calls: Iterable[Callable[[], Split]], workers: int) -> Iterator[Split]:
    """Results of the functions, in order, computed by `workers` threads."""
    pending: deque[Future[Split]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) > min(workers, MAX_PENDING_BLOCKS):  # limits the blocks in memory
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _announcement(examples: int, length: int, duration: str) -> str:
    """The line that announces a long split, given its expected duration."""
    size = readable(examples * (2 * length + BYTES_PER_EXAMPLE))
    return f"{examples:,} examples take about {duration}, and up to {size} on disk"


def _with_progress(blocks: Iterable[Split], bar: Progress) -> Iterator[Split]:
    for block in blocks:
        yield block
        bar.advance(len(block))


def _num_workers() -> int:
    value = os.environ.get("TRM_WORKERS") or str(os.cpu_count() or 1)
    if not value.isdecimal() or int(value) == 0:
        raise UserError(f"TRM_WORKERS must be a positive number of threads. Got {value!r}")
    return int(value)
