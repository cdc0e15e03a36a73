"""The stage `augment`: raw puzzles to a data set of shuffled training puzzles, validation puzzles and test puzzles."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trm.config import AugmentParams, SudokuData
from trm.data.equivalence import classes, find_equivalents
from trm.data.store import SCHEMA_VERSION, Split, write_meta, write_split
from trm.data.sudoku import concatenate, draw_shuffles, identity_shuffle, sudoku_meta
from trm.data.sudoku_csv import Puzzles, read_puzzles
from trm.errors import DataError, UserError
from trm.files import file_digest
from trm.progress import Progress, progress

BLOCK = 32_768
"""Examples, about, that are made at a time."""
SMALL_WORK = 3_000_000
"""Up to so many examples (ten seconds or so) other processes are not worth starting."""

Groups = npt.NDArray[np.int64]


def augment(data: SudokuData, augment: AugmentParams, raw: Path, out: Path, key: str) -> dict[str, object]:
    """Make the data set `out` (an empty folder) of `raw`/train.csv and `raw`/test.csv; return its counts by split.

    Splits: train (each puzzle as it is, then `num_aug` shuffles of it), validation (only with `validation_groups`) and
    test (puzzles as they are). A pure function of its arguments and the two files, whatever `TRM_WORKERS` says (the
    number of processes; default: the processors). Raises `DataError` where a test puzzle is equivalent to a training
    puzzle, and `UserError` where too many groups are held out.
    """
    train_file, test_file = raw / "train.csv", raw / "test.csv"
    train, test = read_puzzles(train_file, data.size), read_puzzles(test_file, data.size)
    if not data.allow_equivalent:
        _refuse_leak(train, test, train_file, test_file)
    training, validation = _hold_out(train, data, augment)
    lineage = {
        "key": key,
        "schema_version": SCHEMA_VERSION,
        "train_sha256": file_digest(train_file),
        "test_sha256": file_digest(test_file),
        "data": data.model_dump(mode="json"),
        "augment": augment.model_dump(mode="json"),
        "libraries": {"numpy": np.__version__, "pyarrow": pa.__version__},
    }
    names = tuple(sorted({*train.sources, *test.sources}))
    splits = {"train": (train, training, augment.num_aug)}
    if len(validation):
        splits["validation"] = (train, validation, 0)
    splits["test"] = (test, np.arange(len(test)), 0)
    counts: dict[str, dict[str, int]] = {}
    for split, (puzzles, groups, num_aug) in splits.items():
        with progress(f"augment {split}", len(groups) * (1 + num_aug)) as shown:
            blocks = _blocks(_tasks(puzzles, names, groups, num_aug, augment.seed), len(groups) * (1 + num_aug))
            counts[split] = write_split(out / split, _shown(blocks, shown), data.size**2, lineage)
    write_meta(out, sudoku_meta(data.size), counts)
    return {"splits": counts}


def _refuse_leak(train: Puzzles, test: Puzzles, train_file: Path, test_file: Path) -> None:
    leaks = find_equivalents(train.questions, test.questions)
    if leaks:
        in_test, in_train = leaks[0]
        more = f"; so are {len(leaks) - 1} other test puzzles" if len(leaks) > 1 else ""
        raise DataError(
            f"{test_file}, line {in_test + 2}: the puzzle is equivalent to the training puzzle at {train_file}, line "
            f"{in_train + 2}{more}; remove them from one of the two files, or set data.allow_equivalent: true"
        )


def _hold_out(train: Puzzles, data: SudokuData, augment: AugmentParams) -> tuple[Groups, Groups]:
    """Rows of the training and of the validation groups, each ascending; equivalent puzzles stay together."""
    wanted, rows = augment.validation_groups, np.arange(len(train))
    if wanted == 0:
        return rows, rows[:0]
    if wanted >= len(train):
        raise UserError(
            f"augment.validation_groups must leave a training group: at most {len(train) - 1}. Got {wanted}"
        )
    which = rows if data.allow_equivalent else classes(train.questions)
    names, sizes = np.unique(which, return_counts=True)
    held: list[int] = []
    rng = np.random.default_rng(np.random.SeedSequence(augment.seed))
    left = wanted
    for index in rng.permutation(len(names)):
        if sizes[index] <= left:
            held.append(int(names[index]))
            left -= int(sizes[index])
    if left:
        raise UserError(
            f"augment.validation_groups: {wanted} groups cannot be held out, because equivalent training puzzles stay "
            f"together; ask for {wanted - left}, or set data.allow_equivalent: true"
        )
    validation = np.isin(which, held)
    return rows[~validation], rows[validation]


_Task = tuple[Puzzles, tuple[str, ...], Groups, int, int, int]


def _tasks(puzzles: Puzzles, names: tuple[str, ...], groups: Groups, num_aug: int, seed: int) -> Iterator[_Task]:
    """The arguments of `_block`, about `BLOCK` examples a task."""
    step = max(BLOCK // (1 + num_aug), 1)
    for start in range(0, len(groups), step):
        part = groups[start : start + step]
        sources = [puzzles.sources[row] for row in part.tolist()]
        picked = Puzzles(puzzles.questions[part], puzzles.answers[part], sources, puzzles.ratings[part])
        yield picked, names, part, start * (1 + num_aug), num_aug, seed


def _blocks(tasks: Iterable[_Task], examples: int) -> Iterator[Split]:
    """The blocks in the order of the tasks, made here or by as many processes as `TRM_WORKERS` says."""
    workers = _workers()
    if workers == 1 or examples <= SMALL_WORK:
        for task in tasks:
            yield _block(*task)
        return
    waiting: deque[Future[Split]] = deque()
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(_block, *task))
                if len(waiting) >= 2 * workers:  # never more than these in memory
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
    if not asked.isdigit() or asked == "0":
        raise UserError(f"TRM_WORKERS must be a number of processes, 1 or more. Got {asked!r}")
    return int(asked)


def _block(
    puzzles: Puzzles, names: tuple[str, ...], groups: Groups, first_puzzle: int, num_aug: int, seed: int
) -> Split:
    """The examples of some groups: each puzzle as it is, then `num_aug` shuffles drawn from (seed, group)."""
    size, versions = puzzles.questions.shape[-1], 1 + num_aug
    grids = np.empty((2, len(groups), versions, size, size), dtype=np.uint8)
    for index, group in enumerate(groups.tolist()):
        shuffles = identity_shuffle(size)
        if num_aug:
            # Each group has draws of its own, so that it does not matter who makes it, and with which others.
            rng = np.random.default_rng(np.random.SeedSequence([seed, group]))
            shuffles = concatenate(shuffles, draw_shuffles(rng, size, num_aug))
        grids[0, index] = shuffles.apply(puzzles.questions[index])
        grids[1, index] = shuffles.apply(puzzles.answers[index])
    grids += 1  # digits to tokens
    inputs, labels = grids.reshape(2, -1, size * size)
    codes = {name: code for code, name in enumerate(names)}
    return Split(
        inputs=inputs,
        labels=labels,
        groups=np.repeat(groups, versions).astype(np.int32),
        puzzles=np.arange(first_puzzle, first_puzzle + len(inputs), dtype=np.int32),
        identifiers=np.zeros(len(inputs), dtype=np.int32),
        source_codes=np.repeat([codes[source] for source in puzzles.sources], versions).astype(np.int32),
        source_names=names,
        ratings=np.repeat(puzzles.ratings, versions),
    )
