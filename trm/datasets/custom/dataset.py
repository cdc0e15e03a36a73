"""A person's own puzzles: one file of inputs and outputs, no code."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field

from trm.config.data import AugmentParams, DataSection
from trm.config.base import Natural, Positive
from trm.data.protocol import Grid, Plan, Prepared, Augmentations
from trm.datasets.custom.augmentation import (
    Draws,
    Space,
    apply,
    as_it_is,
    canonical_forms,
    draw,
    draw_distinct,
    join,
    space_of,
    undo,
)
from trm.datasets.custom.files import MOST_CELLS, MOST_SYMBOLS, SUFFIXES, OwnPuzzles, read_own, refuse
from trm.data.sources import Url, download_url, copy_checked, existing
from trm.data.parquet import Split
from trm.data.csv_dataset import hold_out
from trm.utils.errors import DataError, UserError
from trm.utils.paths import file_digest
from trm.config.dataset_meta import DatasetMeta
from trm.utils.progress import progress
from trm.config.base import Section, Sha256, whole

FILLS_CANVAS = False
SYMMETRIES = ("dihedral", "permute_symbols", "translate")
BLOCK = 8192
"""Examples, about, that are made at a time."""
Rows = npt.NDArray[np.int64]


def _file_with_suffix(file: str) -> str:
    return _check_suffix(file, file)


def _url_with_suffix(url: str) -> str:
    return _check_suffix(url, urlsplit(url).path)


def _check_suffix(file: str, path: str) -> str:
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"must end in {' or '.join(SUFFIXES)}. Got {file}")
    return file


def _symbols(value: object) -> object:
    """The symbols of a string or a list as a tuple; numbers as their digits. Anything else is left to be refused."""
    if not isinstance(value, str | list | tuple):
        return value
    symbols = tuple(str(symbol) if type(symbol) is int else symbol for symbol in value)
    for symbol in symbols:
        if not isinstance(symbol, str) or not re.fullmatch(r".|-?[0-9]+", symbol, re.DOTALL):
            raise ValueError(f"a symbol must be one character or a whole number. Got {symbol!r}")
    if len(set(symbols)) < len(symbols):
        raise ValueError(f"names a symbol twice. Got {value!r}")
    if len(symbols) > MOST_SYMBOLS:
        raise ValueError(f"must have at most {MOST_SYMBOLS} symbols. Got {len(symbols)}")
    return symbols


class PathSource(Section):
    """A file on this machine."""

    on_this_machine = True

    type: Literal["path"]
    file: Annotated[str, AfterValidator(_file_with_suffix)]
    sha256: Sha256 | None


class UrlSource(Section):
    """The same file behind an http(s) address."""

    type: Literal["url"]
    file: Annotated[Url, AfterValidator(_url_with_suffix)]
    sha256: Sha256 | None


Side = Annotated[int, Field(ge=1, le=MOST_CELLS), BeforeValidator(whole)]
Symbols = Annotated[tuple[str, ...], BeforeValidator(_symbols)]


class Settings(DataSection):
    """Section `data` of an experiment with puzzles of one's own; see `trm.datasets.custom.files` for the file."""

    source: Annotated[PathSource | UrlSource, Field(discriminator="type")]
    alphabet: Annotated[Symbols, Field(min_length=1)] | None
    """The symbols in the order of their tokens, a string or a list; null: those of the file, in order."""
    height: Side | None
    """Of the canvas, in whose upper left corner smaller grids lie; null: as high as the highest grid."""
    width: Side | None
    test_groups: Positive
    """Groups set apart for testing, drawn by `seed`."""
    symmetries: Annotated[tuple[Literal["dihedral", "permute_symbols", "translate"], ...], Field(strict=False)]
    """Under which a puzzle stays a puzzle. `dihedral`: rotations and mirror images (on a canvas that is no square those
    that keep its shape); `permute_symbols`: the symbols, but for the fixed ones, change places; `translate`: the grid
    may lie anywhere on the canvas."""
    fixed_symbols: Symbols
    """Symbols, a string or a list, that `permute_symbols` leaves as they are."""
    allow_leakage: bool
    """False: no input of a test puzzle may be that of another puzzle under the symmetries, and groups with such inputs
    stay together when some are held out for validation."""
    seed: Natural

    def most_versions(self) -> int | None:
        """Without symmetries the puzzle itself."""
        return None if self.symmetries else 1


def source_digest(data: Settings) -> dict[str, str]:
    """The sha256 of the file, as far as it is known."""
    if isinstance(data.source, PathSource):
        return {"sha256": file_digest(existing(data.source.file, "data.source.file"))}
    return {} if data.source.sha256 is None else {"sha256": data.source.sha256}


def fetch(data: Settings, out: Path) -> dict[str, object]:
    """Bring the file to `out`/puzzles.csv or `out`/puzzles.jsonl, byte by byte, and check it.

    Raises `UserError` or `DataError`, naming the file that the user knows.
    """
    source = data.source
    is_url = isinstance(source, UrlSource)
    target = out / f"puzzles{Path(urlsplit(source.file).path if is_url else source.file).suffix}"
    if is_url:
        download_url(source.file, target, source.sha256)
    else:
        copy_checked(existing(source.file, "data.source.file"), target, None, "data.source")
    digest = file_digest(target)
    if source.sha256 not in (None, digest):
        target.unlink()
        raise UserError(
            f"data.source.sha256: expected {source.sha256}. {source.file} has {digest}; correct the file or the sha256"
        )
    try:
        puzzles = read_own(target, data.alphabet, data.height, data.width)
    except DataError as error:
        # The staging folder is about to vanish: name the file that the user can look at.
        raise DataError(str(error).replace(str(target), source.file, 1)) from None
    return {"sha256": digest, "puzzles": len(puzzles), "groups": len(np.unique(puzzles.groups))}


def prepare(data: Settings, augment: AugmentParams, raw: Path) -> Prepared:
    """Plan the data set of the file in `raw`: train with its versions, validation and test as they are.

    Groups are drawn for testing by `data.seed` and held out for validation by `augment.seed`. Each row is a puzzle with
    one example, but in the test split the rows of a group are the examples of one puzzle, so that each is asked.
    Raises `DataError` for too few groups or a test puzzle that is another puzzle too, and `UserError` for versions that
    the settings do not allow or groups that cannot be held out.
    """
    files = [raw / f"puzzles{suffix}" for suffix in SUFFIXES]
    path = next((file for file in files if file.is_file()), files[0])
    puzzles = read_own(path, data.alphabet, data.height, data.width)
    meta = _meta(data, puzzles)
    space = space_of(meta)
    _check_symmetries(data, augment, puzzles, space)
    plans = {}
    for name, rows in _split(data, augment, puzzles, space, path).items():
        num_aug = augment.num_aug if name == "train" else 0
        drawn = _Versions(space, puzzles, num_aug, augment.seed)
        counts = drawn.count(rows)
        ends = np.unique(puzzles.groups[rows], return_inverse=True)[1] + 1 if name == "test" else np.cumsum(counts)
        plans[name] = Plan(int(counts.sum()), _blocks(drawn, rows, counts, ends))
    return Prepared(meta, plans)


def versions(meta: DatasetMeta, tokens: npt.NDArray[np.uint8], rng: np.random.Generator, k: int) -> Augmentations:
    """The puzzle and k - 1 versions drawn from its symmetries; small puzzles may repeat one.

    Raises `UserError` where the settings chose no symmetries.
    """
    if k > 1 and not meta.symmetries:
        raise UserError(f"evaluate.num_votes must be 1 where data.symmetries is empty. Got {k}")
    space = space_of(meta)
    canvas = tokens.reshape(meta.height, meta.width)
    rows, columns = np.flatnonzero(canvas.any(axis=1)), np.flatnonzero(canvas.any(axis=0))
    top, left = (int(places[0]) if len(places) else 0 for places in (rows, columns))
    grid = canvas[top : rows[-1] + 1, left : columns[-1] + 1] if len(rows) else canvas
    shape = (grid.shape[0], grid.shape[1])
    draws = join([as_it_is(space, top, left), draw(space, rng, shape, k - 1)])

    def back(answers: npt.NDArray[np.uint8]) -> list[Grid]:
        # Padding, which no answer holds, becomes 255.
        return [answer - np.uint8(1) for answer in undo(space, draws, answers, shape)]

    return Augmentations(apply(space, draws, grid), back, [_draw_name(meta, draws, index) for index in range(k)])


def valid(meta: DatasetMeta, questions: Sequence[Grid], answers: Sequence[Grid]) -> None:
    """None: the rules of these puzzles are their author's."""
    del meta, questions, answers


def _meta(data: Settings, puzzles: OwnPuzzles) -> DatasetMeta:
    for symbol in data.fixed_symbols:
        if symbol not in puzzles.alphabet:
            raise UserError(
                f"data.fixed_symbols: {symbol!r} is no symbol of these puzzles; there are {' '.join(puzzles.alphabet)}"
            )
    return DatasetMeta(
        name="custom",
        height=puzzles.inputs.shape[1],
        width=puzzles.inputs.shape[2],
        vocabulary=("pad", *puzzles.alphabet),
        num_identifiers=1,
        symmetries=tuple(name for name in SYMMETRIES if name in data.symmetries),
        fixed_symbols=data.fixed_symbols,
    )


def _check_symmetries(data: Settings, augment: AugmentParams, puzzles: OwnPuzzles, space: Space) -> None:
    if augment.num_aug and not data.symmetries:
        raise UserError(f"augment.num_aug must be 0 where data.symmetries is empty. Got {augment.num_aug}")
    if "permute_symbols" in data.symmetries and len(space.free) < 2:
        raise UserError(
            f"data.symmetries: permute_symbols needs two symbols that may change places. Got {len(space.free)}; fix "
            "fewer in data.fixed_symbols, or leave permute_symbols out"
        )
    if space.translate and (puzzles.shapes == (space.height, space.width)).all():
        raise UserError(
            f"data.symmetries: translate has no room, for every grid fills the canvas of {space.height} x "
            f"{space.width}; raise data.height or data.width (at most {MOST_CELLS}), or leave translate out"
        )


def _split(data: Settings, augment: AugmentParams, puzzles: OwnPuzzles, space: Space, path: Path) -> dict[str, Rows]:
    """The rows of each split, the rows of a group together."""
    groups = np.arange(len(puzzles.group_names))
    wanted = data.test_groups + augment.validation_groups
    if wanted >= len(groups):
        refuse(
            path,
            None,
            f"{len(groups)} groups are too few for data.test_groups {data.test_groups} and augment.validation_groups "
            f"{augment.validation_groups}, for one must be left to train on",
            "add puzzles, or ask for fewer groups",
        )
    drawn = np.random.default_rng(np.random.SeedSequence(data.seed)).permutation(groups)
    test, rest = drawn[: data.test_groups], np.sort(drawn[data.test_groups :])
    which = groups
    if not data.allow_leakage:
        grids = [puzzles.inputs[row, :height, :width] for row, (height, width) in enumerate(puzzles.shapes.tolist())]
        forms = canonical_forms(space, grids)
        _check_leakage(puzzles, forms, np.isin(puzzles.groups, test), path)
        which = _classes(puzzles, forms)
    held = hold_out(which[rest], augment.validation_groups, augment.seed)
    parts = {"train": rest[~held], "validation": rest[held], "test": test}
    order = np.argsort(puzzles.groups, kind="stable")
    return {
        name: order[np.isin(puzzles.groups[order], part)]
        for name, part in parts.items()
        if name != "validation" or len(part)
    }


def _classes(puzzles: OwnPuzzles, forms: Sequence[bytes]) -> Rows:
    """The class of each group, int64 [groups]: groups are in one where a chain of equal inputs joins them."""
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


def _check_leakage(puzzles: OwnPuzzles, forms: Sequence[bytes], in_test: npt.NDArray[np.bool_], path: Path) -> None:
    others: dict[bytes, int] = {}
    for row in np.flatnonzero(~in_test).tolist():
        others.setdefault(forms[row], row)
    leaks = [(row, others[forms[row]]) for row in np.flatnonzero(in_test).tolist() if forms[row] in others]
    if leaks:
        row, other = leaks[0]
        more = f" (and {len(leaks) - 1} more test puzzles are like this)" if len(leaks) > 1 else ""
        refuse(
            path,
            int(puzzles.lines[row]),
            f"the input of this test puzzle is, under data.symmetries, that of the puzzle on line "
            f"{puzzles.lines[other]}, which is not tested{more}",
            "give them one group, remove one, or set data.allow_leakage: true",
        )


@dataclass(frozen=True)
class _Versions:
    """The versions of puzzles, drawn from (seed, row) alone: counted first, and drawn again when they are written, for
    the draws of all of them would fill the memory."""

    space: Space
    puzzles: OwnPuzzles
    num_aug: int
    seed: int

    def of(self, row: int) -> npt.NDArray[np.uint8]:
        """The puzzle as it is and its versions, uint8 [1 + num_aug or fewer, 2 L]: inputs beside labels."""
        height, width = self.puzzles.shapes[row]
        pair = (self.puzzles.inputs[row, :height, :width], self.puzzles.labels[row, :height, :width])
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, row]))
        return draw_distinct(self.space, rng, *pair, self.num_aug)

    def count(self, rows: Rows) -> Rows:
        """The number of versions of each row."""
        if not self.num_aug:
            return np.ones(len(rows), np.int64)
        counts = np.empty(len(rows), np.int64)
        with progress("count versions", len(rows)) as shown:
            for index, row in enumerate(rows.tolist()):
                counts[index] = len(self.of(row))
                shown.advance()
        return counts


def _blocks(versions: _Versions, rows: Rows, counts: Rows, ends: Rows) -> Iterator[Callable[[], Split]]:
    """The calls that make the examples of these rows, about `BLOCK` at a time."""
    made = np.concatenate([[0], np.cumsum(counts)])
    start = 0
    while start < len(rows):
        end = max(int(np.searchsorted(made, made[start] + BLOCK, side="right")) - 1, start + 1)
        yield partial(_block, versions, rows[start:end], ends[start:end])
        start = end


def _block(versions: _Versions, rows: Rows, ends: Rows) -> Split:
    """The versions of some rows; `ends` int64 [rows] is one more than the number of each row's last puzzle."""
    puzzles = versions.puzzles
    pairs = [versions.of(row) for row in rows.tolist()]
    counts = [len(pair) for pair in pairs]
    numbers = [np.arange(end - count, end) for end, count in zip(ends.tolist(), counts, strict=True)]
    both = np.concatenate(pairs)
    groups = np.repeat(puzzles.groups[rows], counts).astype(np.int32)
    nothing = np.zeros(len(both), np.int32)
    inputs, labels = np.hsplit(both, 2)
    return Split(
        inputs=inputs,
        labels=labels,
        groups=groups,
        puzzles=np.concatenate(numbers).astype(np.int32),
        identifiers=nothing,
        source_codes=groups,
        source_names=puzzles.group_names,
        ratings=nothing,
    )


def _draw_name(meta: DatasetMeta, draws: Draws, index: int) -> str:
    words = {
        "dihedral": f"symmetry={draws.symmetries[index]}",
        "permute_symbols": "symbols=" + " ".join(meta.vocabulary[token] for token in draws.symbols[index, 1:]),
        "translate": f"place={draws.rows[index]}:{draws.columns[index]}",
    }
    return ",".join(words[name] for name in meta.symmetries) or "as it is"
