"""`trm inspect` of datasets and raw files: counts, shapes, vocabulary, lineage and a few puzzles."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
from pyarrow import ArrowException
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from trm.config.dataset_meta import DatasetMeta
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
from trm.datasets.registry import get_dataset
from trm.utils.errors import DataError

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
        return _dataset(path, list(read_counts(path)), puzzles)
    if (path / EXAMPLES).is_file():
        return _dataset(path.parent, [path.name], puzzles)
    found = (file for file in path.glob("*") if file.suffix in RAW_SUFFIXES and file.is_file())
    files = sorted(file for file in found if file.name != "manifest.json")
    if files:
        return _raw(files, puzzles)
    raise DataError(f"{path}: contains no dataset (meta.json), split ({EXAMPLES}) or raw files; give the path of one")


RAW_SUFFIXES = (".csv", ".json", ".jsonl")
"""Suffixes of raw files."""


def grid_text(meta: DatasetMeta, cells: npt.NDArray[np.uint8]) -> Text:
    """A grid of cells uint8 [h, w] as text: the symbols of the vocabulary, or colored blocks (ARC)."""
    drawing = get_drawing(meta)
    if drawing.colors is not None and not any(drawing.symbols):
        text = Text()
        for row in cells.tolist():
            for cell in row:
                text.append("  ", Style(bgcolor=drawing.color(cell)))
            text.append("\n")
        return text
    symbols = dict(enumerate(meta.vocabulary[1:]))
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
    first = get_dataset(meta.name).FIRST_CELL_TOKEN
    rows, columns = np.nonzero(grid >= first)
    if not len(rows):
        return Text("(none)")
    part = grid[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return grid_text(meta, np.maximum(part, first) - np.uint8(first))


def _dataset(path: Path, names: list[str], puzzles: int) -> RenderableType:
    meta = read_meta(path)
    splits = {name: read_split(path / name) for name in names}
    table = _table(
        f"{path}: {meta.name} {meta.height}x{meta.width}",
        ("split", "groups", "puzzles", "examples", "rating", "on disk"),
    )
    for name, split in splits.items():
        counts = [f"{count:,}" for count in split.counts().values()]
        size = (path / name / EXAMPLES).stat().st_size
        ratings = split.ratings
        table.add_row(name, *counts, _range(ratings.min(), ratings.max(), ratings.mean()), _size(size))
    shown: list[RenderableType] = [table, _facts("tokens", _tokens(meta)), _facts("sources", _sources(splits))]
    shown.append(_facts(f"lineage ({names[0]})", _flat(read_lineage(path / names[0]))))
    shown += [_puzzles_text(name, meta, split, path, puzzles) for name, split in splits.items() if puzzles]
    return Group(*shown)


def _raw(files: list[Path], puzzles: int) -> RenderableType:
    table = _table(f"{files[0].parent}: raw files", ("file", "puzzles", "rating", "on disk"))
    shown: list[RenderableType] = [table]
    for file in files:
        size = _size(file.stat().st_size)
        if file.suffix != ".csv":
            table.add_row(file.name, _count_json_records(file), "", size)
            continue
        rows = _rows(file, puzzles)
        if rows is None:
            table.add_row(file.name, _count_csv_records(file), "", size)
            continue
        table.add_row(file.name, f"{rows.count:,}", rows.ratings(), size)
        for source, question, answer, rating in rows.first:
            title = f"{file.name}: source {source}, rating {rating}"
            pair = [Text(_grid_lines(question)), Text(_grid_lines(answer))]
            shown += [Text(f"\n{title}", style="bold"), Columns(pair, padding=(0, 4))]
    return Group(*shown)


@dataclass
class _Rows:
    """Statistics and first rows of a CSV of puzzles, read in parts."""

    first: list[tuple[str, ...]] = field(default_factory=list)
    """The first rows: source, question, answer and rating."""
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0
    numbers: bool = True
    """Whether all ratings are numbers."""

    def add(self, batch: pa.RecordBatch, limit: int) -> None:
        """Add a part; rows among the first `limit` of the file are kept."""
        head = batch.slice(0, max(limit - self.count, 0))
        self.first += zip(*(head.column(name).to_pylist() for name in COLUMNS), strict=True)
        self.count += batch.num_rows
        ratings = _numbers(batch.column("rating"))
        self.numbers = self.numbers and ratings is not None
        if ratings is not None and len(ratings):
            self.low, self.high = min(self.low, ratings.min()), max(self.high, ratings.max())
            self.total += float(ratings.sum(dtype=np.float64))

    def ratings(self) -> str:
        if not self.numbers:
            return "not all numbers"
        return _range(self.low, self.high, self.total / self.count) if self.count else ""


def _rows(file: Path, limit: int) -> _Rows | None:
    """Read a CSV of puzzles with its first `limit` rows; None if the file has other columns or is invalid."""
    rows = _Rows()
    texts = dict.fromkeys(COLUMNS, pa.string())  # keeps leading zeros: 0012
    try:
        batches = pa_csv.open_csv(
            file,
            # pyarrow reads dozens of blocks ahead, so blocks are small.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=1 << 16),
            convert_options=pa_csv.ConvertOptions(column_types=texts, include_columns=list(COLUMNS)),
        )
        for batch in batches:
            rows.add(batch, limit)
    except (ArrowException, KeyError):
        return None
    except OSError as error:
        raise _unreadable(file, error) from None
    return rows


def _numbers(texts: pa.Array) -> np.ndarray | None:
    """Texts as integers or, if some are not integers, as floats; None if some are not numbers."""
    for number_type in (pa.int64(), pa.float64()):
        try:
            return texts.cast(number_type).to_numpy(zero_copy_only=False)
        except ArrowException:
            continue
    return None


def _count_csv_records(file: Path) -> str:
    """Number of records of a CSV without ratings."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return f"{max(sum(bool(record) for record in csv.reader(lines)) - 1, 0):,}"
    except csv.Error as error:
        raise DataError(f"{file}: not a valid CSV ({error}); download or write the file again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None


def _count_json_records(file: Path) -> str:
    """Number of entries of a JSON file, or of lines of a JSONL file."""
    try:
        with file.open(encoding="utf-8-sig") as text:
            return f"{sum(bool(line.strip()) for line in text) if file.suffix == '.jsonl' else len(json.load(text)):,}"
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from None
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{file}: invalid JSON; download or write the file again") from None


def _unreadable(file: Path, error: OSError | UnicodeDecodeError) -> DataError:
    if isinstance(error, UnicodeDecodeError):
        return DataError(f"{file}: not valid UTF-8; save the file as UTF-8")
    return DataError(f"{file}: cannot be read ({error.strerror or error}); check the path")


def _grid_lines(cells: str) -> str:
    """A field of a raw file, with line breaks if it is a square of single characters."""
    side, digits = math.isqrt(len(cells)), set(cells) <= set("0123456789.")
    if side * side != len(cells) or not (digits or set(cells) <= set("# SGo")):
        return cells
    rows = [list(cells[start : start + side]) for start in range(0, len(cells), side)]
    return "\n".join((" " if digits else "").join(row) for row in rows)


def _puzzles_text(name: str, meta: DatasetMeta, split: Split, dataset: Path, count: int) -> RenderableType:
    """The first puzzles of different groups."""
    shown: list[RenderableType] = []
    names = read_names(dataset) if (dataset / NAMES_FILE).is_file() else None
    for puzzle in split.group_starts[:-1][:count].tolist():
        first, end = split.puzzle_starts[puzzle : puzzle + 2].tolist()
        suffix = f", {names[int(split.identifiers[first]) - 1]}" if names is not None else ""
        title = f"{name}{suffix}: source {split.source_names[split.source_codes[first]]}, rating {split.ratings[first]}"
        shown.append(Text(f"\n{title}", style="bold"))
        for pair in zip(*read_rows(dataset / name, range(first, min(end, first + PAIRS))), strict=True):
            shown.append(Columns([_tokens_text(meta, tokens) for tokens in pair], padding=(0, 4)))
    return Group(*shown)


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _facts(title: str, facts: dict[str, str]) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(f"  {name}"), Text(value))
    return Group(Text(f"\n{title}", style="bold"), table)


def _tokens(meta: DatasetMeta) -> dict[str, str]:
    words = ", ".join(f"{token} = {word}" for token, word in enumerate(meta.vocabulary))
    shape = f"uint8 [examples, {meta.seq_len}]"
    return {"inputs, labels": shape, "vocabulary": words, "identifiers": str(meta.num_identifiers)}


def _sources(splits: dict[str, Split]) -> dict[str, str]:
    """Number of groups per source, largest first."""
    facts = {}
    for name, split in splits.items():
        firsts = split.source_codes[split.puzzle_starts[split.group_starts[:-1]]]
        counts = np.bincount(firsts, minlength=len(split.source_names))
        nonzero = np.flatnonzero(counts)
        shown = nonzero[np.argsort(-counts[nonzero], kind="stable")][:SOURCES].tolist()
        words = [f"{split.source_names[code]} {counts[code]:,}" for code in shown]
        facts[name] = ", ".join(words) + (
            f" and {len(nonzero) - len(shown):,} more" if len(nonzero) > len(shown) else ""
        )
    return facts


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _range(low: float, high: float, mean: float) -> str:
    return f"{low}..{high}, mean {mean:.1f}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
