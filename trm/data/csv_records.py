"""CSV files as RFC 4180 and spreadsheets write them, streamed, with the line numbers of an editor.

Read are quotes, line breaks in quotes, LF, CRLF and CR, a byte order mark, and the separators `,`, `;` and tab. A first
line such as `sep=;`, with which Excel marks the separator, is skipped.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trm.utils.errors import DataError
from trm.utils.file_formats import describe_character, open_lines, printable

SEPARATORS = (",", ";", "\t")
"""Separators that are read."""
OTHER_SEPARATORS = ("|", ":", "\x1f", " ")
"""Separators that are only recognized, for the message."""
_SEP_LINE = re.compile(r"sep=[,;\t]?", re.IGNORECASE)
"""The first line of Excel, also after it was split at the separator."""
MAX_FIELD = 64 << 20
"""Most characters of a field, so that a quote that is never closed does not fill the memory."""


@dataclass(frozen=True)
class CsvFile:
    """A CSV file whose header was read."""

    columns: Mapping[str, int]
    """Name -> index of the requested columns."""
    width: int
    """Number of columns."""
    spaced: bool
    """Whether a column name is preceded or followed by spaces."""
    records: Iterator[tuple[int, list[str]]]
    """First line and fields of each record; an empty line has no fields."""


def open_csv(path: Path, required: Sequence[str], optional: Sequence[str] = (), skip_spaces: bool = False) -> CsvFile:
    """Read the header of a CSV; its separator is the one that splits the header into the required columns.

    skip_spaces: whether spaces after a separator are ignored, also before a quote.
    Raises `DataError` with file, line and remedy: a column that is missing or occurs twice, another separator, invalid
    quotes, and the errors of `open_lines`; `OSError` for an unreadable file. So does reading the records.
    """
    csv.field_size_limit(MAX_FIELD)
    number, header = _header(path)
    separator = next((each for each in SEPARATORS if _has_columns(header, each, required)), None)
    if separator is None:
        raise DataError(f"{path}, line {number}: {_header_problem(header, required, optional)}")
    records = _records(path, separator, skip_spaces)
    line, fields = next(records)
    names = [field.strip(' "') for field in fields]
    for name in optional:
        if names.count(name) > 1:
            raise DataError(f"{path}, line {line}: column {name} occurs twice; remove one")
    columns = {name: names.index(name) for name in (*required, *optional) if name in names}
    return CsvFile(columns, len(fields), fields != names, records)


def _header(path: Path) -> tuple[int, str]:
    """Number and text of the first line that is not empty."""
    for number, line in enumerate(open_lines(path), 1):
        if line.strip() and not _is_sep_line(line):
            return number, line
    raise DataError(f"{path}: the file is empty; add a line for each puzzle, or write the file again")


def _is_sep_line(text: str) -> bool:
    return _SEP_LINE.fullmatch(text.strip("\r\n ").strip('"')) is not None


def _names(header: str, separator: str) -> list[str]:
    try:
        return [name.strip(" ") for name in next(csv.reader([header], delimiter=separator, skipinitialspace=True))]
    except csv.Error:
        return []


def _has_columns(header: str, separator: str, required: Sequence[str]) -> bool:
    names = _names(header, separator)
    return all(names.count(name) == 1 for name in required)


def _header_problem(header: str, required: Sequence[str], optional: Sequence[str]) -> str:
    expected = ",".join(required) + (f", optionally with {','.join(optional)}" if optional else "")
    remedy = f"the header must contain {expected}"
    for separator in OTHER_SEPARATORS:
        if _has_columns(header, separator, required):
            return f"the separator is {describe_character(separator)}; save the file with commas"
    best = max(SEPARATORS, key=lambda separator: len(_names(header, separator)))
    names = _names(header, best)
    if not set(names) & set(required) and len(header) > 200:
        return f"no header ({printable(header[:40])!r} …); {remedy}"
    name = next((name for name in required if names.count(name) != 1), required[0])
    return f"column {name} {'occurs twice' if name in names else 'is missing'}; {remedy}"


def _records(path: Path, separator: str, skip_spaces: bool) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(open_lines(path), delimiter=separator, skipinitialspace=skip_spaces, strict=True)
    started = False
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem, remedy = f"invalid CSV ({error})", "check the quotes of the row"
            if "field larger" in str(error):
                problem, remedy = f"a field has more than {MAX_FIELD} characters", "is a quote never closed?"
            raise DataError(f"{path}, line {line}: {problem}; {remedy}") from None
        text = "".join(record)
        started = started or bool(text.strip() and not _is_sep_line(text))
        if started:  # skips what precedes the header
            yield line, record
