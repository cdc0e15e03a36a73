"""Datasets whose raw files are train.csv and test.csv, with one example per puzzle.

The files are streamed: memory use does not depend on their size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams
from trm.config.dataset_meta import DatasetMeta
from trm.data.deduplication import Equivalence, equivalence_classes, find_duplicates
from trm.data.parquet import Split
from trm.data.protocol import DatasetPlan, SplitPlan
from trm.data.puzzle_csv import Layout, Puzzles, Tokens, line_of_row, read_puzzles, write_puzzles
from trm.data.sources import SPLITS, CsvSource, FileSource, copy_source
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest

BLOCK_SIZE = 32_768
"""Approximate number of examples per block."""
Rows = npt.NDArray[np.int64]
AugmentFunction = Callable[[Puzzles, Rows, int, int], tuple[Tokens, Tokens]]
"""Signature: (puzzles [n], groups int64 [n], num_aug, seed) -> (inputs, labels), both uint8 [n * (1 + num_aug), L].

Each puzzle is followed by its augmentations, which depend only on (seed, group).
"""


@dataclass(frozen=True)
class CsvDataset:
    """A dataset in two CSV files."""

    meta: DatasetMeta
    """Canvas and vocabulary."""
    layout: Layout
    """Notation and rules of the puzzles."""
    augment: AugmentFunction
    """Generates the augmentations."""
    equivalence: Equivalence | None
    """When a test puzzle counts as a training puzzle; None disables the check."""


def fetch_csv(source: FileSource, dataset: CsvDataset, out: Path) -> dict[str, object]:
    """Copy both files to `out`, check every row, and apply the filters of the source.

    Returns SHA-256 and number of puzzles of each file. Raises `UserError` or `DataError`; the message names the file of
    the user, not the copy.
    """
    facts: dict[str, object] = {}
    for split in SPLITS:
        target = out / f"{split}.csv"
        copy_source(source, split, target)
        facts[f"{split}_sha256"] = file_digest(target)
        try:
            facts[f"{split}_puzzles"] = _filter_rows(source, dataset.layout, target, split == "train")
        except UserError as error:
            # The copy is deleted after an error.
            raise type(error)(str(error).replace(str(target), str(getattr(source, split)), 1)) from None
    return facts


def write_csv(puzzles: Puzzles, train_puzzles: int, dataset: CsvDataset, out: Path) -> dict[str, object]:
    """Write the first `train_puzzles` puzzles to `out`/train.csv and the others to `out`/test.csv.

    Returns SHA-256 and number of puzzles of each file.
    """
    facts: dict[str, object] = {}
    for split, part in zip(SPLITS, (slice(train_puzzles), slice(train_puzzles, None)), strict=True):
        path = out / f"{split}.csv"
        facts[f"{split}_puzzles"] = write_puzzles(path, [puzzles.select(part)], dataset.layout)
        facts[f"{split}_sha256"] = file_digest(path)
    return facts


def _filter_rows(source: CsvSource, layout: Layout, path: Path, is_train: bool) -> int:
    """Check the file, apply `min_rating` and (training file only) `subsample`, and return the number of remaining
    puzzles.
    """
    min_rating = source.min_rating if source.min_rating is not None else -(2**31)
    eligible = read = 0
    for part in read_puzzles(path, layout):
        eligible += int((part.ratings >= min_rating).sum())
        read += len(part)
    kept = min(source.subsample or eligible, eligible) if is_train else eligible
    if eligible == 0:
        raise UserError(f"data.source.min_rating: no puzzle of {path} is rated {min_rating} or more; lower it")
    if kept < read:
        rng = np.random.default_rng(np.random.SeedSequence(source.seed))
        selected = np.zeros(eligible, np.bool_)
        selected[rng.choice(eligible, kept, replace=False)] = True
        temporary = path.with_name(f"{path.name}.part")
        write_puzzles(temporary, _select(read_puzzles(path, layout), min_rating, selected), layout)
        temporary.replace(path)
    return kept


def _select(parts: Iterable[Puzzles], min_rating: int, selected: npt.NDArray[np.bool_]) -> Iterator[Puzzles]:
    start = 0
    for part in parts:
        rows = np.flatnonzero(part.ratings >= min_rating)
        yield part.select(rows[selected[start : start + len(rows)]])
        start += len(rows)


def prepare_csv(dataset: CsvDataset, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the dataset of `raw`/train.csv and `raw`/test.csv.

    Splits: train (each puzzle followed by `num_aug` augmentations), validation (only if `validation_groups` > 0) and
    test, both without augmentation. Raises `DataError` if a test puzzle is equivalent to a training puzzle, and
    `UserError` if too many groups are held out.
    """
    files = {split: raw / f"{split}.csv" for split in SPLITS}
    names: set[str] = set()
    counts = {}
    for split, path in files.items():
        counts[split] = 0
        for part in read_puzzles(path, dataset.layout):
            names.update(part.sources)
            counts[split] += len(part)
    if dataset.equivalence is not None:
        _check_leakage(dataset, dataset.equivalence, files["train"], files["test"])
    held = _validation_groups(dataset, augment, files["train"], counts["train"])
    ordered = tuple(sorted(names))

    def plan(path: Path, groups: Rows, num_aug: int) -> SplitPlan:
        return SplitPlan(len(groups) * (1 + num_aug), _blocks(dataset, path, groups, num_aug, augment.seed, ordered))

    splits = {"train": plan(files["train"], np.flatnonzero(~held), augment.num_aug)}
    if held.any():
        splits["validation"] = plan(files["train"], np.flatnonzero(held), 0)
    splits["test"] = plan(files["test"], np.arange(counts["test"]), 0)
    return DatasetPlan(dataset.meta, splits)


def _questions(path: Path, layout: Layout) -> Iterator[Tokens]:
    return (part.questions for part in read_puzzles(path, layout))


def _check_leakage(dataset: CsvDataset, equivalence: Equivalence, train: Path, test: Path) -> None:
    leaks = find_duplicates(
        equivalence, partial(_questions, train, dataset.layout), partial(_questions, test, dataset.layout)
    )
    if leaks:
        in_test, in_train = (line_of_row(path, row) for path, row in zip((test, train), leaks[0], strict=True))
        more = f" (and {len(leaks) - 1} more test puzzles)" if len(leaks) > 1 else ""
        raise DataError(
            f"{test}, line {in_test}: the puzzle is equivalent to the training puzzle in {train}, line "
            f"{in_train}{more}; remove them from one of the two files, or set data.allow_leakage: true"
        )


def _validation_groups(dataset: CsvDataset, augment: AugmentParams, train: Path, count: int) -> npt.NDArray[np.bool_]:
    """The training groups held out for validation, bool [count]; equivalent puzzles stay in one split."""
    num_groups = augment.validation_groups
    if num_groups == 0:
        return np.zeros(count, np.bool_)
    if num_groups >= count:
        raise UserError(
            f"augment.validation_groups must be below {count}, the number of training groups. Got {num_groups}"
        )
    classes = np.arange(count)
    if dataset.equivalence is not None:
        classes = equivalence_classes(dataset.equivalence, partial(_questions, train, dataset.layout))
    return hold_out(classes, num_groups, augment.seed)


def hold_out(
    classes: Rows, num_groups: int, seed: int, setting: str = "augment.validation_groups"
) -> npt.NDArray[np.bool_]:
    """Draw equivalence classes until `num_groups` groups are held out.

    classes: int64 [N], the equivalence class of each group. setting: name of the number in messages. Returns bool [N].
    Raises `UserError` if the drawn classes do not add up to `num_groups` groups.
    """
    names, sizes = np.unique(classes, return_counts=True)
    held: list[int] = []
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    remaining = num_groups
    for index in rng.permutation(len(names)):
        if sizes[index] <= remaining:
            held.append(int(names[index]))
            remaining -= int(sizes[index])
    if remaining:
        raise UserError(
            f"{setting}: {num_groups} groups cannot be held out because equivalent puzzles stay in one "
            f"split; set it to {num_groups - remaining}, or set data.allow_leakage: true"
        )
    return np.isin(classes, held)


def _blocks(
    dataset: CsvDataset, path: Path, groups: Rows, num_aug: int, seed: int, names: tuple[str, ...]
) -> Iterator[Callable[[], Split]]:
    """Functions that generate the examples of these rows of a file, about `BLOCK_SIZE` per function."""
    step = max(BLOCK_SIZE // (1 + num_aug), 1)
    codes = {name: code for code, name in enumerate(names)}
    start, first_puzzle = 0, 0
    for part in read_puzzles(path, dataset.layout):
        selected = groups[np.searchsorted(groups, start) : np.searchsorted(groups, start + len(part))]
        for offset in range(0, len(selected), step):
            rows = selected[offset : offset + step]
            yield partial(_block, dataset, part.select(rows - start), rows, first_puzzle, num_aug, seed, names, codes)
            first_puzzle += len(rows) * (1 + num_aug)
        start += len(part)


def _block(
    dataset: CsvDataset,
    puzzles: Puzzles,
    groups: Rows,
    first_puzzle: int,
    num_aug: int,
    seed: int,
    names: tuple[str, ...],
    codes: Mapping[str, int],
) -> Split:
    copies = 1 + num_aug
    inputs, labels = dataset.augment(puzzles, groups, num_aug, seed)
    return Split(
        inputs=inputs,
        labels=labels,
        groups=np.repeat(groups, copies).astype(np.int32),
        puzzles=np.arange(first_puzzle, first_puzzle + len(inputs), dtype=np.int32),
        identifiers=np.zeros(len(inputs), dtype=np.int32),
        source_codes=np.repeat([codes[source] for source in puzzles.sources], copies).astype(np.int32),
        source_names=names,
        ratings=np.repeat(puzzles.ratings, copies),
    )
