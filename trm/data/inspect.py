"""What `trm inspect` shows: counts, shapes, vocabulary, sizes, lineage and a few puzzles, drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trm.data.store import EXAMPLES, Split, read_counts, read_lineage, read_meta, read_split
from trm.data.sudoku import BOXES, Grids
from trm.data.sudoku_csv import Puzzles, read_puzzles
from trm.errors import DataError
from trm.meta import DatasetMeta


def describe(dataset: str | Path, puzzles: int = 3) -> RenderableType:
    """A data set, one of its splits, or a folder of raw CSV files (or one file), as something for rich to print.

    `puzzles` of each split are drawn, question beside answer. Raises `DataError` for anything else.
    """
    path = Path(dataset)
    if path.suffix == ".csv" and path.is_file():
        return _raw([path], puzzles)
    if (path / "meta.json").is_file():
        return _dataset(path, list(read_counts(path)), puzzles)
    if (path / EXAMPLES).is_file():
        return _dataset(path.parent, [path.name], puzzles)
    files = sorted(path.glob("*.csv")) if path.is_dir() else []
    if files:
        return _raw(files, puzzles)
    raise DataError(
        f"{path}: holds neither a data set (meta.json), a split ({EXAMPLES}) nor CSV files; give the path of one"
    )


def draw(grid: Grids) -> str:
    """A grid uint8 [n, n] as lines of text with `|` and `-` between the boxes, blanks as dots."""
    size = len(grid)
    height, width = BOXES[size]
    rule = "+".join(["-" * (2 * width + 1)] * (size // width))
    lines = []
    for index, row in enumerate(grid.tolist()):
        if index and index % height == 0:
            lines.append(rule)
        cells = [str(digit) if digit else "." for digit in row]
        boxes = [" ".join(cells[start : start + width]) for start in range(0, size, width)]
        lines.append(" " + " | ".join(boxes))
    return "\n".join(lines)


def _dataset(path: Path, names: list[str], puzzles: int) -> RenderableType:
    meta = read_meta(path)
    splits = {name: read_split(path / name) for name in names}
    table = _table(
        f"{path}: {meta.kind} {meta.height}x{meta.width}",
        ("split", "groups", "puzzles", "examples", "rating", "on disk"),
    )
    for name, split in splits.items():
        counts = [f"{count:,}" for count in split.counts().values()]
        size = (path / name / EXAMPLES).stat().st_size
        table.add_row(name, *counts, _ratings(split.ratings), _size(size))
    shown: list[RenderableType] = [table, _facts("tokens", _tokens(meta)), _facts("sources", _sources(splits))]
    shown.append(_facts(f"lineage ({names[0]})", _flat(read_lineage(path / names[0]))))
    shown += [_drawn(name, _some(split, meta, puzzles)) for name, split in splits.items() if puzzles]
    return Group(*shown)


def _raw(files: list[Path], puzzles: int) -> RenderableType:
    table = _table(f"{files[0].parent}: raw puzzles", ("file", "puzzles", "grid", "clues", "rating", "on disk"))
    shown: list[RenderableType] = [table]
    for file in files:
        content = read_puzzles(file, _size_of(file))
        side = content.questions.shape[-1]
        clues = (content.questions != 0).sum(axis=(1, 2))
        ends = f"{clues.min()}..{clues.max()}"
        row = (file.name, f"{len(content):,}", f"{side}x{side}", ends, _ratings(content.ratings))
        table.add_row(*row, _size(file.stat().st_size))
        if puzzles:
            shown.append(_drawn(file.name, content.select(slice(puzzles))))
    return Group(*shown)


def _size_of(file: Path) -> int:
    """The grid size that the first row tells."""
    with file.open("rb") as lines:
        header, first = lines.readline(1 << 20), lines.readline(1 << 20)
    lengths = {len(field.strip()) for field in first.split(b",")}
    sizes = [size for size in BOXES if size * size in lengths]
    if not header or not sizes:
        raise DataError(f"{file}, line 2: no question of 16, 36 or 81 characters; `trm inspect` draws Sudoku alone")
    return sizes[0]


def _some(split: Split, meta: DatasetMeta, count: int) -> Puzzles:
    """The first puzzles, each of another group."""
    if meta.kind != "sudoku" or meta.height not in BOXES:
        raise DataError(f"meta.json: {meta.kind} {meta.height}x{meta.width} cannot be drawn; give --puzzles 0")
    rows = split.puzzle_starts[split.group_starts[:-1][:count]]
    shape = (-1, meta.height, meta.width)
    grids = [(tokens[rows].astype(np.int16) - 1).clip(0).astype(np.uint8) for tokens in (split.inputs, split.labels)]
    sources = split.sources[rows].tolist()
    return Puzzles(grids[0].reshape(shape), grids[1].reshape(shape), sources, split.ratings[rows])


def _drawn(name: str, puzzles: Puzzles) -> RenderableType:
    shown: list[RenderableType] = []
    for index in range(len(puzzles)):
        title = f"{name}: source {puzzles.sources[index]}, rating {puzzles.ratings[index]}"
        pair = [Text(draw(puzzles.questions[index])), Text(draw(puzzles.answers[index]))]
        shown += [Text(f"\n{title}", style="bold"), Columns(pair, padding=(0, 4))]
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
    facts = {}
    for name, split in splits.items():
        firsts = split.source_codes[split.puzzle_starts[split.group_starts[:-1]]]
        counts = np.bincount(firsts, minlength=len(split.source_names))
        facts[name] = ", ".join(f"{source} {count:,}" for source, count in zip(split.source_names, counts, strict=True))
    return facts


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _ratings(ratings: np.ndarray) -> str:
    return f"{ratings.min()}..{ratings.max()}, mean {ratings.mean():.1f}"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
