"""CSV files of puzzles with the columns source, question, answer and rating: streamed, with every row checked."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from trm.utils.errors import DataError

COLUMNS = ("source", "question", "answer", "rating")
_REMEDY = "download or write the file again"
_COLUMNS_ERROR = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
"""Error message of pyarrow for a row with a wrong number of columns."""
BATCH_BYTES = 4 << 20
"""Bytes read at a time."""
Tokens = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Puzzles:
    """N puzzles."""

    questions: Tokens
    """Tokens, uint8 [N, L]."""
    answers: Tokens
    """Tokens, uint8 [N, L]."""
    sources: list[str]
    """Origins, N strings."""
    ratings: npt.NDArray[np.int32]
    """Difficulties, int32 [N]."""

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: slice | npt.NDArray[np.integer]) -> "Puzzles":
        """The puzzles of these rows."""
        sources = self.sources[rows] if isinstance(rows, slice) else [self.sources[row] for row in rows.tolist()]
        return Puzzles(self.questions[rows], self.answers[rows], sources, self.ratings[rows])


@dataclass(frozen=True)
class Layout:
    """Notation and rules of the puzzles of one dataset and size."""

    length: int
    """Characters of a question and of an answer (L)."""
    setting: str
    """The setting that determines the length, for error messages: `data.size is 9`."""
    question: Mapping[str, int]
    """Character -> token of questions; of several characters for a token, the first one is written."""
    answer: Mapping[str, int]
    """Character -> token of answers."""
    allowed: tuple[str, str]
    """Descriptions of the characters of questions and of answers, for error messages."""
    check: Callable[[Tokens, Tokens], Iterable[tuple[Mask, str, str]]]
    """The rules: maps questions and answers, both uint8 [N, L], to (violations bool [N], problem, remedy) for each
    rule.
    """
    rate: Callable[[Tokens, Tokens], npt.NDArray[np.int32]] | None = None
    """Computes the ratings, int32 [N], from questions and answers; None: ratings are read from the file."""


def concatenate(parts: Iterable[Puzzles]) -> Puzzles:
    """Concatenate puzzles."""
    parts = list(parts)
    return Puzzles(
        np.concatenate([part.questions for part in parts]),
        np.concatenate([part.answers for part in parts]),
        list(chain.from_iterable(part.sources for part in parts)),
        np.concatenate([part.ratings for part in parts]),
    )


def read_puzzles(path: str | Path, layout: Layout) -> Iterator[Puzzles]:
    """Yield the puzzles of a CSV in parts, with every row checked; further columns are ignored.

    Raises `DataError` with file, line and remedy: missing file or column, wrong number of columns, invalid UTF-8, wrong
    length or character, violated rule, a rating that is not a 32-bit integer.
    """
    path = Path(path)
    reader = _Reader(path, layout)
    try:
        with path.open("rb") as file:
            reader.check_header(file.readline(1 << 20))
        with pa.OSFile(str(path)) as file:  # a path would be decompressed if it ends in .gz
            yield from reader.read(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
    except pa.ArrowInvalid as error:
        raise reader.explain(error) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {_REMEDY}") from None


def write_puzzles(path: str | Path, parts: Iterable[Puzzles], layout: Layout) -> int:
    """Write a CSV with LF line ends and return the number of rows. Equal puzzles give equal bytes."""
    question, answer = _characters(layout.question), _characters(layout.answer)
    rows = 0
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for part in parts:
            columns = (_text(question[part.questions]), _text(answer[part.answers]))
            writer.writerows(zip(part.sources, *columns, part.ratings.tolist(), strict=True))
            rows += len(part)
    return rows


def _characters(tokens: Mapping[str, int]) -> Tokens:
    table = np.zeros(256, np.uint8)
    for character, token in reversed(list(tokens.items())):
        table[token] = ord(character)
    return table


def _text(characters: Tokens) -> list[str]:
    return [row.tobytes().decode("ascii") for row in characters]


class _Reader:
    """Reads a file in parts and maps rows to line numbers."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.rows_read = 0

    def error(self, line: int | None, problem: str, remedy: str) -> DataError:
        where = f"{self.path}, line {line}" if line is not None else str(self.path)
        return DataError(f"{where}: {problem}; {remedy}")

    def check_header(self, header: bytes) -> None:
        if not header:
            raise self.error(None, "the file is empty", _REMEDY)
        try:
            names = next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")]))
        except (UnicodeDecodeError, csv.Error, StopIteration):
            raise self.error(1, "the header is not valid UTF-8", _REMEDY) from None
        for name in COLUMNS:
            if names.count(name) != 1:
                problem = f"column {name} {'occurs twice' if name in names else 'is missing'}"
                raise self.error(1, problem, f"the header must contain {','.join(COLUMNS)}")

    def read(self, file: pa.NativeFile) -> Iterator[Puzzles]:
        # No handler for invalid rows: pyarrow would hold a Python object, and aborts the process if one of its threads
        # releases the object while the interpreter exits.
        table = pa_csv.open_csv(
            file,
            # pyarrow reports the number of an invalid row only if it reads with one thread.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=BATCH_BYTES),
            parse_options=pa_csv.ParseOptions(ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.binary()),
                include_columns=list(COLUMNS),
                strings_can_be_null=False,
            ),
        )
        for batch in table:
            part = self.check(batch)
            self.rows_read += batch.num_rows
            if len(part):
                yield part
        if not self.rows_read:
            raise self.error(None, "the file contains no puzzles", _REMEDY)

    def explain(self, error: pa.ArrowInvalid) -> DataError:
        bad_row = _COLUMNS_ERROR.search(str(error))
        if bad_row is None:
            return self.error(None, f"not a valid CSV ({str(error).splitlines()[0]})", _REMEDY)
        number, expected, actual = bad_row.groups()
        problem = f"expected {expected} columns. Got {actual}"
        return self.error(int(number), problem, f"the row may be cut off: {_REMEDY}")

    def check(self, batch: pa.RecordBatch) -> Puzzles:
        layout = self.layout
        sources = self.sources(batch.column("source"))
        questions = self.tokens(batch.column("question"), "question", layout.question, layout.allowed[0])
        answers = self.tokens(batch.column("answer"), "answer", layout.answer, layout.allowed[1])
        for invalid, problem, remedy in layout.check(questions, answers):
            self.raise_if_any(invalid, problem, remedy)
        ratings = layout.rate(questions, answers) if layout.rate else self.ratings(batch.column("rating"))
        return Puzzles(questions, answers, sources, ratings)

    def raise_if_any(self, invalid: Mask, problem: str, remedy: str = "correct or remove the row") -> None:
        if invalid.any():
            raise self.error(self.line(int(invalid.argmax())), problem, remedy)

    def line(self, row: int) -> int:
        return self.rows_read + row + 2  # line 1 is the header

    def tokens(self, column: pa.Array, name: str, alphabet: Mapping[str, int], allowed: str) -> Tokens:
        length = self.layout.length
        lengths = np.asarray(pc.call_function("binary_length", [column]))
        invalid = lengths != length
        if invalid.any():
            row = int(invalid.argmax())
            if lengths[row] == 0:
                raise self.error(self.line(row), f"the line is empty or has no {name}", "complete or remove the line")
            problem = f"{name} must have {length} characters ({self.layout.setting}). Got {lengths[row]}"
            raise self.error(self.line(row), problem, f"correct the row or {self.layout.setting.partition(' ')[0]}")
        start = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset]
        text = np.frombuffer(column.buffers()[2], dtype=np.uint8, count=len(column) * length, offset=start)
        table = np.full(256, 255, np.uint8)
        table[[ord(character) for character in alphabet]] = list(alphabet.values())
        tokens = table[text]
        invalid = tokens == 255
        if invalid.any():
            position = int(invalid.argmax())
            problem = f"{name} contains {chr(text[position])!r} at cell {position % length + 1}; allowed: {allowed}"
            raise self.error(self.line(position // length), problem, "correct the row")
        return tokens.reshape(-1, length)

    def sources(self, column: pa.Array) -> list[str]:
        encoded = column.dictionary_encode()
        names = []
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            try:
                names.append(name.decode("utf-8"))
            except UnicodeDecodeError:
                self.raise_if_any(np.asarray(encoded.indices) == code, "source is not valid UTF-8")
        return [names[code] for code in encoded.indices.to_pylist()]

    def ratings(self, column: pa.Array) -> npt.NDArray[np.int32]:
        options = pc.MatchSubstringOptions("^-?[0-9]{1,10}$")
        integer = pc.call_function("match_substring_regex", [column], options)
        texts = pc.call_function("if_else", [integer, column, pa.scalar(b"0")])
        values = np.asarray(texts.cast(pa.string()).cast(pa.int64()))
        outside = (values < -(2**31)) | (values >= 2**31)
        self.raise_if_any(~np.asarray(integer) | outside, "rating is not a 32-bit integer")
        return values.astype(np.int32)
