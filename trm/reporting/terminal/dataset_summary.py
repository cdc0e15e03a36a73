"""`trm inspect` of datasets and raw files: counts, shapes, vocabulary, lineage and a few puzzles."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from trm.config.dataset_meta import DatasetMeta
from trm.data.csv_records import open_csv
from trm.data.drawing import UNKNOWN
from trm.data.parquet import (
    EXAMPLES,
    NAMES_FILE,
    Split,
    read_counts,
    read_lineage,
    read_meta,
    read_names,
    read_rows,
    read_split,
)
from trm.data.puzzle_csv import COLUMNS
from trm.datasets.drawings import get_drawing
from trm.reporting.terminal.colors import background, contrasting
from trm.reporting.terminal.tables import columns, facts
from trm.storage.artifacts import MANIFEST, TIMING
from trm.utils.errors import DataError
from trm.utils.file_formats import decode_text, open_lines, printable

SOURCES = 6
"""Sources listed per split."""
PAIRS = 4
"""Examples shown per puzzle."""


def describe(dataset: str | Path, puzzles: int = 3) -> RenderableType:
    """A rich renderable of a dataset, a split, a folder of raw files, or one raw file.

    puzzles: number of puzzles shown per split. Raises `DataError` for anything else.
    """
    path = Path(dataset)
    if path.suffix in RAW_SUFFIXES and path.is_file():
        return _raw([path], puzzles)
    if (path / "meta.json").is_file():
        # The manifest, if there is one, contains the same lineage.
        return _dataset(path, list(read_counts(path)), puzzles, with_lineage=not (path / MANIFEST).is_file())
    if (path / EXAMPLES).is_file():
        return _dataset(path.parent, [path.name], puzzles, with_lineage=True)
    found = (file for file in path.glob("*") if file.suffix in RAW_SUFFIXES and file.is_file())
    files = sorted(file for file in found if file.name != MANIFEST and not file.name.endswith(TIMING))
    if files:
        return _raw(files, puzzles)
    raise DataError(f"{path}: contains no dataset (meta.json), split ({EXAMPLES}) or raw files; give the path of one")


RAW_SUFFIXES = (".csv", ".json", ".jsonl")
"""Suffixes of raw files."""


def grid_text(meta: DatasetMeta, cells: npt.NDArray[np.uint8]) -> Text:
    """A grid of cells uint8 [h, w] as text: the symbols of the vocabulary, or digits on colored blocks (ARC)."""
    drawing = get_drawing(meta)
    if drawing.colors is not None and not any(drawing.symbols):
        text = Text()
        for row in cells.tolist():
            for cell in row:
                color = background(drawing, cell)
                symbol = drawing.terminal_symbol(cell) if drawing.terminal_symbols else " "
                text.append(f"{symbol} ", Style(bgcolor=color, color=contrasting(color)))
            text.append("\n")
        return text
    symbols = {cell: printable(symbol) for cell, symbol in enumerate(meta.vocabulary[meta.first_cell_token :])}
    rows = [[symbols.get(cell, UNKNOWN) for cell in row] for row in cells.tolist()]
    if drawing.boxes:
        return Text(_boxed(rows, drawing.boxes))
    separator = " " if any(len(symbol) > 1 for symbol in symbols.values()) else ""
    return Text("\n".join(separator.join(row) for row in rows))


def _boxed(rows: list[list[str]], boxes: tuple[int, int]) -> str:
    """Rows of symbols with `|` and `-` between boxes."""
    height, width = boxes
    rule = "+".join(["-" * (2 * width + 1)] * (len(rows[0]) // width))
    lines = []
    for index, row in enumerate(rows):
        if index and index % height == 0:
            lines.append(rule)
        parts = [" ".join(row[start : start + width]) for start in range(0, len(row), width)]
        lines.append(" " + " | ".join(parts))
    return "\n".join(lines)


def _tokens_text(meta: DatasetMeta, tokens: npt.NDArray[np.uint8]) -> Text:
    """The part of a canvas uint8 [L] that contains a grid."""
    grid = tokens.reshape(meta.height, meta.width)
    first = meta.first_cell_token
    rows, columns = np.nonzero(grid >= first)
    if not len(rows):
        return Text("(none)")
    part = grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return grid_text(meta, np.maximum(part, first) - np.uint8(first))


def _dataset(path: Path, names: list[str], puzzles: int, with_lineage: bool) -> RenderableType:
    meta = read_meta(path)
    splits = {name: read_split(path / name) for name in names}
    is_rated = any(split.ratings.any() for split in splits.values())
    rows = []
    for name, split in splits.items():
        counts, ratings = [f"{count:,}" for count in split.counts().values()], split.ratings
        rating = _range(ratings.min(), ratings.max(), ratings.mean()) if is_rated else ""
        rows.append([name, *counts, rating, _size((path / name / EXAMPLES).stat().st_size)])
    head = ("split", "groups", "puzzles", "examples", "rating", "on disk")
    shown: list[RenderableType] = [
        columns(f"{path}: {meta.name} {meta.height}x{meta.width}", head, rows),
        facts("tokens", _tokens(meta).items()),
    ]
    if sources := _sources(splits):
        shown.append(facts("sources", sources.items()))
    if with_lineage:
        shown.append(facts(f"lineage ({names[0]})", read_lineage(path / names[0]).items()))
    shown += [_puzzles_text(name, meta, split, path, puzzles, is_rated) for name, split in splits.items() if puzzles]
    return Group(*shown)


def _raw(files: list[Path], puzzles: int) -> RenderableType:
    rows_of_table: list[Sequence[str]] = []
    shown: list[RenderableType] = []
    for file in files:
        size = _size(file.stat().st_size)
        if file.suffix != ".csv":
            rows_of_table.append((file.name, _count_json_records(file), "", size))
            continue
        rows = _rows(file, puzzles)
        if rows is None:
            rows_of_table.append((file.name, _count_csv_records(file), "", size))
            continue
        rows_of_table.append((file.name, f"{rows.count:,}", rows.ratings(), size))
        for source, question, answer, rating in rows.first:
            title = printable(f"{file.name}: source {source}" + (f", rating {rating}" if rating else ""))
            pair = [Text(_grid_lines(question)), Text(_grid_lines(answer))]
            shown += [Text(f"\n{title}", style="bold"), Columns(pair, padding=(0, 4))]
    head = ("file", "puzzles", "rating", "on disk")
    return Group(columns(f"{files[0].parent}: raw files", head, rows_of_table), *shown)


@dataclass
class _Rows:
    """Statistics and first rows of a CSV of puzzles, read in parts."""

    first: list[tuple[str, ...]] = field(default_factory=list)
    """The first rows: source, question, answer and rating."""
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0
    """Sum of the ratings; an int if all of them are integers."""
    numbers: bool = True
    """Whether all ratings are numbers."""

    def add(self, row: tuple[str, ...], limit: int) -> None:
        """Add a row, which is kept if it is one of the first `limit`."""
        if self.count < limit:
            self.first.append(row)
        self.count += 1
        try:
            rating = int(row[3]) if row[3].strip(" -").isdecimal() else float(row[3])
        except ValueError:
            self.numbers = False
            return
        self.low, self.high, self.total = min(self.low, rating), max(self.high, rating), self.total + rating

    def ratings(self) -> str:
        if not self.numbers:
            return "not all numbers"
        # A sum of integers is an integer.
        low, high = (self.low, self.high) if isinstance(self.total, int) else (float(self.low), float(self.high))
        return _range(low, high, self.total / self.count) if self.count else ""


def _rows(file: Path, limit: int) -> _Rows | None:
    """Read a CSV of puzzles with its first `limit` rows; None if the file has other columns or is invalid."""
    rows = _Rows()
    try:
        table = open_csv(file, COLUMNS)
        for _, record in table.records:
            if len(record) == table.width:
                rows.add(tuple(record[table.columns[name]] for name in COLUMNS), limit)
            elif record:
                return None
    except DataError:
        return None
    except OSError as error:
        raise _unreadable(file, error) from None
    return rows


def _count_csv_records(file: Path) -> str:
    """Number of records of a CSV without ratings."""
    if not file.stat().st_size:
        return "0"
    try:
        return f"{sum(bool(record) for _, record in open_csv(file, ()).records):,}"
    except OSError as error:
        raise _unreadable(file, error) from None


def _count_json_records(file: Path) -> str:
    """Number of entries of a JSON file, or of lines of a JSONL file."""
    try:
        if file.suffix == ".jsonl":
            return f"{sum(bool(line.strip()) for line in open_lines(file)):,}"
        return f"{len(json.loads(decode_text(file.read_bytes(), file))):,}"
    except OSError as error:
        raise _unreadable(file, error) from None
    except DataError:  # a subclass of ValueError
        raise
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{file}: invalid JSON; download or write the file again") from None


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(f"{file}: cannot be read ({error.strerror or error}); check the path")


def _grid_lines(cells: str) -> str:
    """A field of a raw file, with line breaks if it is a square of single characters."""
    side, digits = math.isqrt(len(cells)), set(cells) <= set("0123456789.")
    if side * side != len(cells) or not (digits or set(cells) <= set("# SGo")):
        return printable(cells)
    rows = [list(cells[start : start + side]) for start in range(0, len(cells), side)]
    return "\n".join((" " if digits else "").join(row) for row in rows)


def _puzzles_text(
    name: str, meta: DatasetMeta, split: Split, dataset: Path, count: int, is_rated: bool
) -> RenderableType:
    """The first puzzles of different groups."""
    shown: list[RenderableType] = []
    names = read_names(dataset) if (dataset / NAMES_FILE).is_file() else None
    for puzzle in split.group_starts[:-1][:count].tolist():
        first, end = split.puzzle_starts[puzzle : puzzle + 2].tolist()
        suffix = f", {names[int(split.identifiers[first]) - 1]}" if names is not None else ""
        source = split.source_names[split.source_codes[first]]
        rating = f", rating {split.ratings[first]}" if is_rated else ""
        shown.append(Text(f"\n{printable(f'{name}{suffix}: source {source}{rating}')}", style="bold"))
        for question, label in zip(*read_rows(dataset / name, range(first, min(end, first + PAIRS))), strict=True):
            answer = _tokens_text(meta, label) if label.any() else Text("(the solution is unknown)", "dim")
            shown.append(Columns([_tokens_text(meta, question), answer], padding=(0, 4)))
    return Group(*shown)


def _tokens(meta: DatasetMeta) -> dict[str, str]:
    words = ", ".join(
        f"{token} = {repr(word) if word.isspace() else word}" for token, word in enumerate(meta.vocabulary)
    )
    found = {"inputs, labels": f"uint8 [examples, {meta.seq_len}]", "vocabulary": words}
    return found | ({"identifiers": str(meta.num_identifiers)} if meta.num_identifiers > 1 else {})


def _sources(splits: dict[str, Split]) -> dict[str, str]:
    """Number of groups per source, largest first; empty if every group is a source of its own."""
    found = {}
    for name, split in splits.items():
        firsts = split.source_codes[split.puzzle_starts[split.group_starts[:-1]]]
        counts = np.bincount(firsts, minlength=len(split.source_names))
        nonzero = np.flatnonzero(counts)
        if len(nonzero) == len(firsts) > 1:
            continue
        shown = nonzero[np.argsort(-counts[nonzero], kind="stable")][:SOURCES].tolist()
        words = [f"{split.source_names[code]} {counts[code]:,}" for code in shown]
        rest = len(nonzero) - len(shown)
        found[name] = ", ".join(words) + (f" and {rest:,} more" if rest else "")
    return found


def _range(low: float, high: float, mean: float) -> str:
    return f"{low}..{high}, mean {mean:.1f}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
