"""What the kinds share whose raw files are train.csv and test.csv, with one example a puzzle.

Neither file is ever whole in memory: each pass reads it in parts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams
from trm.data.protocol import Plan, Prepared
from trm.data.puzzle_csv import Layout, Puzzles, Tokens, read_puzzles, write_puzzles
from trm.data.sources import SPLITS, FileSource, TableSource, bring
from trm.data.parquet import Split
from trm.data.deduplication import Equivalence, classes, find_duplicates
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest
from trm.config.dataset_meta import DatasetMeta

BLOCK = 32_768
"""Examples, about, that are made at a time."""
Rows = npt.NDArray[np.int64]
Augment = Callable[[Puzzles, Rows, int, int], tuple[Tokens, Tokens]]
"""(n puzzles, their groups int64 [n], num_aug, seed) to inputs and labels, both uint8 [n * (1 + num_aug), L]: each
puzzle as it is, then its versions, drawn from (seed, group) alone."""


@dataclass(frozen=True)
class Table:
    """A kind of data in two CSV files."""

    meta: DatasetMeta
    layout: Layout
    augment: Augment
    equivalence: Equivalence | None
    """When a test puzzle would be a training puzzle; None: that is allowed."""


def fetch_files(source: FileSource, table: Table, out: Path) -> dict[str, object]:
    """Bring both files to `out`, check every row, and leave only the rows that the source asks for.

    Returns sha256 and number of puzzles of each file. Raises `UserError` or `DataError`, naming the file that the user
    knows.
    """
    facts: dict[str, object] = {}
    for split in SPLITS:
        target = out / f"{split}.csv"
        bring(source, split, target)
        facts[f"{split}_sha256"] = file_digest(target)
        try:
            facts[f"{split}_puzzles"] = _keep_wanted(source, table.layout, target, split == "train")
        except UserError as error:
            # The staging folder is about to vanish: name the file that the user can look at.
            raise type(error)(str(error).replace(str(target), str(getattr(source, split)), 1)) from None
    return facts


def write_files(puzzles: Puzzles, train_puzzles: int, table: Table, out: Path) -> dict[str, object]:
    """Write the first `train_puzzles` puzzles to `out`/train.csv and the others to `out`/test.csv.

    Returns sha256 and number of puzzles of each file.
    """
    facts: dict[str, object] = {}
    for split, part in zip(SPLITS, (slice(train_puzzles), slice(train_puzzles, None)), strict=True):
        path = out / f"{split}.csv"
        facts[f"{split}_puzzles"] = write_puzzles(path, [puzzles.select(part)], table.layout)
        facts[f"{split}_sha256"] = file_digest(path)
    return facts


def _keep_wanted(source: TableSource, layout: Layout, path: Path, is_train: bool) -> int:
    """Check the file and take out the rows that are not wanted; the number of those left."""
    lowest = source.min_rating if source.min_rating is not None else -(2**31)
    eligible = read = 0
    for part in read_puzzles(path, layout):
        eligible += int((part.ratings >= lowest).sum())
        read += len(part)
    wanted = min(source.subsample or eligible, eligible) if is_train else eligible
    if eligible == 0:
        raise UserError(f"data.source.min_rating: no puzzle of {path} is rated {lowest} or more; lower it")
    if wanted < read:
        rng = np.random.default_rng(np.random.SeedSequence(source.seed))
        chosen = np.zeros(eligible, np.bool_)
        chosen[rng.choice(eligible, wanted, replace=False)] = True
        beside = path.with_name(f"{path.name}.part")
        write_puzzles(beside, _chosen(read_puzzles(path, layout), lowest, chosen), layout)
        beside.replace(path)
    return wanted


def _chosen(parts: Iterable[Puzzles], lowest: int, chosen: npt.NDArray[np.bool_]) -> Iterator[Puzzles]:
    start = 0
    for part in parts:
        rows = np.flatnonzero(part.ratings >= lowest)
        yield part.select(rows[chosen[start : start + len(rows)]])
        start += len(rows)


def prepare_table(table: Table, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the data set of `raw`/train.csv and `raw`/test.csv.

    Splits: train (each puzzle as it is, then `num_aug` versions of it), validation (only with `validation_groups`;
    puzzles as they are) and test (the same). Raises `DataError` where a test puzzle is a training puzzle, and
    `UserError` where too many groups are held out.
    """
    files = {split: raw / f"{split}.csv" for split in SPLITS}
    names: set[str] = set()
    counts = {}
    for split, path in files.items():
        counts[split] = 0
        for part in read_puzzles(path, table.layout):
            names.update(part.sources)
            counts[split] += len(part)
    if table.equivalence is not None:
        _check_leakage(table, table.equivalence, files["train"], files["test"])
    held = _hold_out(table, augment, files["train"], counts["train"])
    ordered = tuple(sorted(names))

    def plan(path: Path, groups: Rows, num_aug: int) -> Plan:
        return Plan(len(groups) * (1 + num_aug), _blocks(table, path, groups, num_aug, augment.seed, ordered))

    splits = {"train": plan(files["train"], np.flatnonzero(~held), augment.num_aug)}
    if held.any():
        splits["validation"] = plan(files["train"], np.flatnonzero(held), 0)
    splits["test"] = plan(files["test"], np.arange(counts["test"]), 0)
    return Prepared(table.meta, splits)


def _questions(path: Path, layout: Layout) -> Iterator[Tokens]:
    return (part.questions for part in read_puzzles(path, layout))


def _check_leakage(table: Table, equivalence: Equivalence, train: Path, test: Path) -> None:
    leaks = find_duplicates(equivalence, partial(_questions, train, table.layout), partial(_questions, test, table.layout))
    if leaks:
        in_test, in_train = leaks[0]
        more = f"; so are {len(leaks) - 1} other test puzzles" if len(leaks) > 1 else ""
        raise DataError(
            f"{test}, line {in_test + 2}: the puzzle is equivalent to the training puzzle at {train}, line "
            f"{in_train + 2}{more}; remove them from one of the two files, or set data.allow_leakage: true"
        )


def _hold_out(table: Table, augment: AugmentParams, train: Path, count: int) -> npt.NDArray[np.bool_]:
    """Which training groups are held out for validation, bool [count]; puzzles that are the same stay together."""
    wanted = augment.validation_groups
    if wanted == 0:
        return np.zeros(count, np.bool_)
    if wanted >= count:
        raise UserError(f"augment.validation_groups must leave a training group: at most {count - 1}. Got {wanted}")
    which = np.arange(count)
    if table.equivalence is not None:
        which = classes(table.equivalence, partial(_questions, train, table.layout))
    return hold_out(which, wanted, augment.seed)


def hold_out(which: Rows, wanted: int, seed: int) -> npt.NDArray[np.bool_]:
    """Draw whole classes until `wanted` groups are held out: bool [N] for the classes `which` of N groups, int64 [N].

    Raises `UserError` where the classes' sizes do not add up to it.
    """
    names, sizes = np.unique(which, return_counts=True)
    held: list[int] = []
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    left = wanted
    for index in rng.permutation(len(names)):
        if sizes[index] <= left:
            held.append(int(names[index]))
            left -= int(sizes[index])
    if left:
        raise UserError(
            f"augment.validation_groups: {wanted} groups cannot be held out, because equivalent training puzzles stay "
            f"together; ask for {wanted - left}, or set data.allow_leakage: true"
        )
    return np.isin(which, held)


def _blocks(
    table: Table, path: Path, groups: Rows, num_aug: int, seed: int, names: tuple[str, ...]
) -> Iterator[Callable[[], Split]]:
    """The calls that make the examples of these rows of a file, about `BLOCK` at a time."""
    step = max(BLOCK // (1 + num_aug), 1)
    codes = {name: code for code, name in enumerate(names)}
    start, first_puzzle = 0, 0
    for part in read_puzzles(path, table.layout):
        inside = groups[np.searchsorted(groups, start) : np.searchsorted(groups, start + len(part))]
        for at in range(0, len(inside), step):
            rows = inside[at : at + step]
            yield partial(_block, table, part.select(rows - start), rows, first_puzzle, num_aug, seed, names, codes)
            first_puzzle += len(rows) * (1 + num_aug)
        start += len(part)


def _block(
    table: Table,
    puzzles: Puzzles,
    groups: Rows,
    first_puzzle: int,
    num_aug: int,
    seed: int,
    names: tuple[str, ...],
    codes: Mapping[str, int],
) -> Split:
    versions = 1 + num_aug
    inputs, labels = table.augment(puzzles, groups, num_aug, seed)
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
