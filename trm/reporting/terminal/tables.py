"""Tables for terminals of 80 columns: words stay whole, and long values continue below their name."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from trm.utils.file_formats import printable

GAP = 2
"""Columns between the name and the value of a fact."""
INDENT = 4
"""Indentation of a value below its name."""
DIGEST = 16
"""Characters shown of a SHA-256, except for content keys, which are shown completely."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLAIN = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00a0": " "})


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces.

    A longer word, such as a path, is broken after one of `/,:=._-`, or anywhere if it has none of them.
    """
    lines, line = list[str](), ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *complete, line = _parts(word, width)
        lines += complete
    return [*lines, line]


def _parts(word: str, width: int) -> list[str]:
    """A word in parts of at most `width` columns."""
    parts, part = list[str](), ""
    for piece in re.findall(r"[^/,:=._-]*[/,:=._-]|[^/,:=._-]+", word):
        if cell_len(part + piece) <= width:
            part += piece
            continue
        parts += [part] if part else []
        *complete, part = chop_cells(piece, max(width, 1))
        parts += complete
    return [*parts, part]


@dataclass(frozen=True)
class Facts:
    """Names and values below a title, as wide as the console."""

    title: str
    facts: list[tuple[str, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table."""
        del console
        width = options.max_width
        if self.title:
            yield Text()
            yield from (Text(line, "bold") for line in wrap(printable(self.title), width))
        column = min(max((cell_len(name) for name, _ in self.facts), default=0), width // 2)
        for name, value in self.facts:
            yield from _fact(printable(name), printable(value), column, width)


def _fact(name: str, value: str, column: int, width: int) -> Iterator[Text]:
    free, longest = width - column - GAP, max(map(cell_len, value.split()), default=0)
    if longest > free or cell_len(name) > column:
        yield from (Text(line, "dim") for line in wrap(name, width))
        yield from (Text(" " * INDENT + line) for line in wrap(value, width - INDENT))
        return
    for number, line in enumerate(wrap(value, free)):
        label = name if number == 0 else ""
        text = Text(label + " " * (column - cell_len(label)), "dim")
        yield text.append(" " * GAP + line, "not dim") if line else text


def facts(title: str, values: Iterable[tuple[str, object]]) -> Facts:
    """A table of names and values. Nested settings get a row each; digests are abbreviated."""
    rows = [row for name, value in values for row in flat(value, name)]
    return Facts(title, [(name, _DIGEST.sub(lambda found: found[0][:DIGEST], value)) for name, value in rows])


def flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    """The dotted names and the values of nested settings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def columns(title: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> RenderableType:
    """A table whose first column is wrapped at spaces; the others are aligned to the right and never wrapped.

    Columns without any value are left out.
    """
    names, cells = list(head), [[printable(plain(cell)) for cell in row] for row in rows]
    kept = [at for at, _ in enumerate(names) if at == 0 or any(row[at] for row in cells)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at in kept:
        table.add_column(Text(names[at]), justify="right" if at else "left", no_wrap=at > 0, overflow="fold")
    for row in cells:
        table.add_row(*(Text(row[at]) for at in kept))
    return Group(*([Facts(title, [])] if title else []), table)


def plain(text: str) -> str:
    """`text` with ASCII dashes and spaces, which every terminal can show."""
    return text.translate(_PLAIN)


def scores(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics of an evaluation with their 95 % intervals; undefined ones are left out."""
    shown = []
    for suffix, values in (("", metrics), (" without leaks", metrics.get("without_leaks") or {})):
        for name, value in values.items():
            if isinstance(value, int | float):
                low, high = values["interval_95"].get(name, (None, None))
                bounds = f"  ({low:.4f} to {high:.4f})" if low is not None else ""
                number = f"{value:.4f}" if isinstance(value, float) else str(value)
                shown.append((name + suffix, number + bounds))
    return shown
