"""Custom puzzles: inputs and outputs in one file, without code (docs/custom-datasets.md)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from trm.config.data import AugmentParams
from trm.config.dataset_meta import END, DatasetMeta
from trm.data.canvas import FIRST_CELL
from trm.data.csv_dataset import hold_out
from trm.data.parquet import Split
from trm.data.protocol import Augmentations, DatasetPlan, Grid, SplitPlan
from trm.data.sources import copy_verified, download_file, readable_file
from trm.datasets.custom.augmentation import (
    AugmentationSpace,
    Transforms,
    apply_transforms,
    augmentation_space,
    canonical_forms,
    concatenate,
    draw_distinct_augmentations,
    draw_transforms,
    identity_transform,
    invert_transforms,
)
from trm.datasets.custom.files import MAX_SIDE, SUFFIXES, CustomPuzzles, raise_data_error, read_custom_file
from trm.datasets.custom.settings import PathSource, Settings, UrlSource
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest
from trm.utils.progress import progress

FILLS_CANVAS = False
SYMMETRIES = ("dihedral", "permute_symbols", "translate")
BLOCK_SIZE = 8192
"""Approximate number of examples per block."""
Rows = npt.NDArray[np.int64]


def source_digest(data: Settings) -> dict[str, str]:
    """SHA-256 of the file, if known."""
    if isinstance(data.source, PathSource):
        return {"sha256": file_digest(readable_file(data.source.file, "data.source.file"))}
    return {} if data.source.sha256 is None else {"sha256": data.source.sha256}


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Copy the file to `out`/puzzles.csv or `out`/puzzles.jsonl, byte by byte, and check it.

    Raises `UserError` or `DataError`; the message names the file of the user.
    """
    source = data.source
    is_url = isinstance(source, UrlSource)
    target = out / f"puzzles{Path(urlsplit(source.file).path if is_url else source.file).suffix}"
    if is_url:
        download_file(source.file, target, source.sha256)
    else:
        copy_verified(readable_file(source.file, "data.source.file"), target, None, "data.source")
    digest = file_digest(target)
    if source.sha256 not in (None, digest):
        target.unlink()
        raise UserError(
            f"data.source.sha256: expected {source.sha256}. {source.file} has {digest}; correct the file or the sha256"
        )
    try:
        puzzles = read_custom_file(target, data.alphabet, data.height, data.width)
    except DataError as error:
        # The copy is deleted after an error.
        raise DataError(str(error).replace(str(target), source.file, 1)) from None
    return {"sha256": digest, "puzzles": len(puzzles), "groups": len(np.unique(puzzles.groups))}


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> DatasetPlan:
    """Plan the dataset of the file in `raw`: train with augmentations, validation and test without.

    Test groups are drawn with `data.seed`, validation groups with `augment.seed`. Each row is a puzzle with one
    example. Exception: in the test split, the rows of a group are the examples of one puzzle, so that each is
    evaluated. Raises `DataError` for too few groups, and `UserError` for augmentations that the settings do
    not allow, or groups that cannot be held out.
    """
    files = [raw / f"puzzles{suffix}" for suffix in SUFFIXES]
    path = next((file for file in files if file.is_file()), files[0])
    puzzles = read_custom_file(path, data.alphabet, data.height, data.width)
    meta = custom_meta(data, puzzles)
    space = augmentation_space(meta)
    _check_symmetries(data, augment, puzzles, space)
    plans = {}
    for name, rows in split_rows(data, augment, puzzles, space, path).items():
        num_aug = augment.num_aug if name == "train" else 0
        row_augmentations = _RowAugmentations(space, puzzles, num_aug, augment.seed)
        counts = row_augmentations.count(rows)
        ends = np.unique(puzzles.groups[rows], return_inverse=True)[1] + 1 if name == "test" else np.cumsum(counts)
        plans[name] = SplitPlan(int(counts.sum()), _blocks(row_augmentations, rows, counts, ends))
    return DatasetPlan(meta, plans)


def augmentations(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The puzzle and k - 1 random augmentations of it; small puzzles may repeat one.

    Raises `UserError` if k > 1 and `data.symmetries` is empty.
    """
    if k > 1 and not meta.symmetries:
        raise UserError(f"evaluate.num_votes must be 1 if data.symmetries is empty. Got {k}")
    space = augmentation_space(meta)
    canvas = tokens.reshape(meta.height, meta.width)
    cells = canvas >= meta.first_cell_token
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    top, left = (int(indices[0]) if len(indices) else 0 for indices in (rows, columns))
    grid = canvas[top : rows[-1] + 1, left : columns[-1] + 1] if len(rows) else canvas
    shape = (grid.shape[0], grid.shape[1])
    # The output may be larger than the input: where it has end tokens, there is no translation.
    drawn_from = replace(space, translate=space.translate and not space.has_ends)
    transforms = concatenate([identity_transform(space, top, left), draw_transforms(drawn_from, rng, shape, k - 1)])

    def invert(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        # Padding becomes 255; solutions contain none.
        return [
            answer - np.uint8(meta.first_cell_token) for answer in invert_transforms(space, transforms, answers, shape)
        ]

    return Augmentations(
        apply_transforms(space, transforms, grid), invert, [_draw_name(meta, transforms, index) for index in range(k)]
    )


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> None:
    """None: the rules of custom puzzles are unknown."""
    del meta, questions, answers


def custom_meta(data: Settings, puzzles: CustomPuzzles) -> DatasetMeta:
    """The metadata of these puzzles. Raises `UserError` for fixed symbols that they do not have."""
    for symbol in data.fixed_symbols:
        if symbol not in puzzles.alphabet:
            raise UserError(
                f"data.fixed_symbols: {symbol!r} is not a symbol of the puzzles; "
                f"use some of {' '.join(puzzles.alphabet)}"
            )
    return DatasetMeta(
        name="custom",
        height=puzzles.inputs.shape[1],
        width=puzzles.inputs.shape[2],
        vocabulary=("pad", *((END,) if puzzles.first_cell_token == FIRST_CELL else ()), *puzzles.alphabet),
        num_identifiers=1,
        symmetries=tuple(name for name in SYMMETRIES if name in data.symmetries),
        fixed_symbols=data.fixed_symbols,
    )


def _check_symmetries(data: Settings, augment: AugmentParams, puzzles: CustomPuzzles, space: AugmentationSpace) -> None:
    if augment.num_aug and not data.symmetries:
        raise UserError(f"augment.num_aug must be 0 if data.symmetries is empty. Got {augment.num_aug}")
    if "permute_symbols" in data.symmetries and len(space.free) < 2:
        raise UserError(
            f"data.symmetries: permute_symbols needs at least two symbols. Got {len(space.free)}; remove symbols "
            "from data.fixed_symbols, or remove permute_symbols"
        )
    if space.translate and (puzzles.largest() == (space.height, space.width)).all():
        raise UserError(
            f"data.symmetries: translate has no effect because every grid fills the canvas of {space.height} x "
            f"{space.width}; increase data.height or data.width (at most {MAX_SIDE}), or remove translate"
        )


def split_rows(
    data: Settings, augment: AugmentParams, puzzles: CustomPuzzles, space: AugmentationSpace, path: Path
) -> dict[str, Rows]:
    """The rows of each split; the rows of a group are contiguous.

    path: the file in messages. Raises `DataError` or `UserError` if the groups cannot be held out.
    """
    groups = np.arange(len(puzzles.group_names))
    num_held_out = data.test_groups + augment.validation_groups
    if num_held_out >= len(groups):
        raise_data_error(
            path,
            None,
            f"expected more than {num_held_out} groups: data.test_groups is {data.test_groups}, "
            f"augment.validation_groups is {augment.validation_groups}. Got {len(groups)}",
            "add puzzles, or reduce these settings",
        )
    classes = groups
    if not data.allow_leakage:
        classes = _equivalence_classes(
            puzzles, canonical_forms(space, [puzzles.grids(n)[0] for n in range(len(puzzles))])
        )
    in_test = hold_out(classes, data.test_groups, data.seed, "data.test_groups")
    test, rest = groups[in_test], groups[~in_test]
    held = hold_out(classes[rest], augment.validation_groups, augment.seed)
    parts = {"train": rest[~held], "validation": rest[held], "test": test}
    rows = np.argsort(puzzles.groups, kind="stable")
    return {
        name: rows[np.isin(puzzles.groups[rows], part)]
        for name, part in parts.items()
        if name != "validation" or len(part)
    }


def _equivalence_classes(puzzles: CustomPuzzles, forms: Sequence[bytes]) -> Rows:
    """Class of each group, int64 [groups]: groups connected by equal inputs, directly or through other groups."""
    parents = list(range(len(puzzles.group_names)))

    def root(group: int) -> int:
        while parents[group] != group:
            parents[group] = group = parents[parents[group]]
        return group

    first: dict[bytes, int] = {}
    for group, form in zip(puzzles.groups.tolist(), forms, strict=True):
        one, other = root(group), root(first.setdefault(form, group))
        parents[max(one, other)] = min(one, other)
    return np.array([root(group) for group in range(len(parents))])


@dataclass(frozen=True)
class _RowAugmentations:
    """Augmentations of rows, which depend only on (seed, row).

    They are drawn twice, for the counts and for the blocks, because all of them would not fit into memory.
    """

    space: AugmentationSpace
    puzzles: CustomPuzzles
    num_aug: int
    seed: int

    def of(self, row: int) -> npt.NDArray[np.uint8]:
        """The puzzle and its augmentations, uint8 [1 + num_aug or fewer, 2 L]: inputs followed by labels."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, row]))
        return draw_distinct_augmentations(self.space, rng, *self.puzzles.grids(row), self.num_aug)

    def count(self, rows: Rows) -> Rows:
        """Number of puzzles of each row, augmentations included: int64 [rows]."""
        if not self.num_aug:
            return np.ones(len(rows), np.int64)
        counts = np.empty(len(rows), np.int64)
        with progress("count augmentations", len(rows)) as bar:
            for index, row in enumerate(rows.tolist()):
                counts[index] = len(self.of(row))
                bar.advance()
        return counts


def _blocks(augmentations: _RowAugmentations, rows: Rows, counts: Rows, ends: Rows) -> Iterator[Callable[[], Split]]:
    """Functions that generate the examples of these rows, about `BLOCK_SIZE` per function."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    start = 0
    while start < len(rows):
        end = max(int(np.searchsorted(starts, starts[start] + BLOCK_SIZE, side="right")) - 1, start + 1)
        yield partial(_block, augmentations, rows[start:end], ends[start:end])
        start = end


def _block(augmentations: _RowAugmentations, rows: Rows, ends: Rows) -> Split:
    """The augmentations of some rows; `ends` int64 [rows] is the number of the last puzzle of each row + 1."""
    puzzles = augmentations.puzzles
    pairs = [augmentations.of(row) for row in rows.tolist()]
    counts = [len(pair) for pair in pairs]
    numbers = [np.arange(end - count, end) for end, count in zip(ends.tolist(), counts, strict=True)]
    both = np.concatenate(pairs)
    groups = np.repeat(puzzles.groups[rows], counts).astype(np.int32)
    zeros = np.zeros(len(both), np.int32)
    inputs, labels = np.hsplit(both, 2)
    return Split(
        inputs=inputs,
        labels=labels,
        groups=groups,
        puzzles=np.concatenate(numbers).astype(np.int32),
        identifiers=zeros,
        source_codes=groups,
        source_names=puzzles.group_names,
        ratings=zeros,
    )


def _draw_name(meta: DatasetMeta, transforms: Transforms, index: int) -> str:
    words = {
        "dihedral": f"symmetry={transforms.symmetries[index]}",
        "permute_symbols": "symbols="
        + " ".join(meta.vocabulary[token] for token in transforms.symbols[index, meta.first_cell_token :]),
        "translate": f"offset={transforms.rows[index]}:{transforms.columns[index]}",
    }
    return ",".join(words[name] for name in meta.symmetries) or "identity"


def normalize_text(text: str) -> str:
    """Unchanged: the user defines the alphabet."""
    return text


def unique_solution(grid: Grid) -> None:
    """None: custom puzzles have no solver."""
    del grid
