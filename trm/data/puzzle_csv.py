"""CSV files of puzzles, columns source,question,answer,rating: streamed with every row checked, written to the byte."""

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
_AGAIN = "fetch or write the file again"
_BAD_ROW = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+)")
"""What pyarrow says of a row that it cannot split."""
BATCH_BYTES = 4 << 20
"""Bytes of a file that are read at a time."""
Tokens = npt.NDArray[np.uint8]
Bad = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Puzzles:
    """N puzzles: `questions` and `answers` uint8 [N, L] of tokens, N `sources`, `ratings` int32 [N]."""

    questions: Tokens
    answers: Tokens
    sources: list[str]
    ratings: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: slice | npt.NDArray[np.integer]) -> "Puzzles":
        """The puzzles of these rows."""
        sources = self.sources[rows] if isinstance(rows, slice) else [self.sources[row] for row in rows.tolist()]
        return Puzzles(self.questions[rows], self.answers[rows], sources, self.ratings[rows])


@dataclass(frozen=True)
class Layout:
    """How the puzzles of one kind and size are written."""

    length: int
    """Characters of a question and of an answer (L)."""
    setting: str
    """What decides on the length, for a message: `data.size is 9`."""
    question: Mapping[str, int]
    """The characters of a question and their tokens; the first one for a token is the one that is written."""
    answer: Mapping[str, int]
    allowed: tuple[str, str]
    """The same in words, for a message: of the question and of the answer."""
    check: Callable[[Tokens, Tokens], Iterable[tuple[Bad, str, str]]]
    """The rules: for questions and answers, both uint8 [N, L], (broken bool [N], what is wrong, remedy) for each."""
    rate: Callable[[Tokens, Tokens], npt.NDArray[np.int32]] | None = None
    """Where the puzzles themselves tell how hard they are: their ratings int32 [N], whatever the file says."""


def join(parts: Iterable[Puzzles]) -> Puzzles:
    """All the parts as one."""
    parts = list(parts)
    return Puzzles(
        np.concatenate([part.questions for part in parts]),
        np.concatenate([part.answers for part in parts]),
        list(chain.from_iterable(part.sources for part in parts)),
        np.concatenate([part.ratings for part in parts]),
    )


def read_puzzles(path: str | Path, layout: Layout) -> Iterator[Puzzles]:
    """The puzzles of a CSV in parts, every row checked; columns beyond the four are ignored.

    Raises `DataError` with file, line and remedy: no such file, a missing column, a cut-off or over-long row, invalid
    UTF-8, a wrong length or character, a broken rule, a rating that is no 32-bit integer.
    """
    path = Path(path)
    reader = _Reader(path, layout)
    try:
        with path.open("rb") as file:
            reader.check_header(file.readline(1 << 20))
        with pa.OSFile(str(path)) as file:  # not by name: pyarrow would unpack a file called .gz
            yield from reader.read(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
    except pa.ArrowInvalid as error:
        raise reader.explain(error) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {_AGAIN}") from None


def write_puzzles(path: str | Path, parts: Iterable[Puzzles], layout: Layout) -> int:
    """Write the CSV: header, then one row a puzzle, lines ending in LF; return the number of rows. Same puzzles, same
    bytes."""
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
    """Reads one file part by part and knows the line that each row came from."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.rows_read = 0

    def error(self, line: int | None, problem: str, remedy: str) -> DataError:
        where = f"{self.path}, line {line}" if line is not None else str(self.path)
        return DataError(f"{where}: {problem}; {remedy}")

    def check_header(self, header: bytes) -> None:
        if not header:
            raise self.error(None, "the file is empty", _AGAIN)
        try:
            names = next(csv.reader([header.decode("utf-8-sig").rstrip("\r\n")]))
        except (UnicodeDecodeError, csv.Error, StopIteration):
            raise self.error(1, "the header is not text in UTF-8", _AGAIN) from None
        for name in COLUMNS:
            if names.count(name) != 1:
                problem = f"column {name} is {'there twice' if name in names else 'missing'}"
                raise self.error(1, problem, f"the header must name {','.join(COLUMNS)}")

    def read(self, file: pa.NativeFile) -> Iterator[Puzzles]:
        # No handler for bad rows: it would be a Python object in pyarrow's hands, and a thread of pyarrow that lets go
        # of it while the interpreter ends aborts the process.
        table = pa_csv.open_csv(
            file,
            # One thread: only then does pyarrow know the number of a row it cannot split.
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
            raise self.error(None, "the file holds no puzzles", _AGAIN)

    def explain(self, error: pa.ArrowInvalid) -> DataError:
        bad_row = _BAD_ROW.search(str(error))
        if bad_row is None:
            return self.error(None, f"not a readable CSV ({str(error).splitlines()[0]})", _AGAIN)
        number, expected, actual = bad_row.groups()
        problem = f"expected {expected} columns. Got {actual}"
        return self.error(int(number), problem, f"the row may be cut off: {_AGAIN}")

    def check(self, batch: pa.RecordBatch) -> Puzzles:
        layout = self.layout
        sources = self.sources(batch.column("source"))
        questions = self.tokens(batch.column("question"), "question", layout.question, layout.allowed[0])
        answers = self.tokens(batch.column("answer"), "answer", layout.answer, layout.allowed[1])
        for wrong, problem, remedy in layout.check(questions, answers):
            self.refuse(wrong, problem, remedy)
        ratings = layout.rate(questions, answers) if layout.rate else self.ratings(batch.column("rating"))
        return Puzzles(questions, answers, sources, ratings)

    def refuse(self, wrong: Bad, problem: str, remedy: str = "correct or remove the row") -> None:
        if wrong.any():
            raise self.error(self.line(int(wrong.argmax())), problem, remedy)

    def line(self, row: int) -> int:
        return self.rows_read + row + 2  # lines count from 1, and the header is line 1

    def tokens(self, column: pa.Array, name: str, of: Mapping[str, int], allowed: str) -> Tokens:
        length = self.layout.length
        lengths = np.asarray(pc.call_function("binary_length", [column]))
        wrong = lengths != length
        if wrong.any():
            row = int(wrong.argmax())
            if lengths[row] == 0:
                raise self.error(self.line(row), f"the line is empty or has no {name}", "complete or remove it")
            problem = f"{name} must have {length} characters ({self.layout.setting}). Got {lengths[row]}"
            raise self.error(self.line(row), problem, f"correct the row or {self.layout.setting.partition(' ')[0]}")
        start = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset]
        text = np.frombuffer(column.buffers()[2], dtype=np.uint8, count=len(column) * length, offset=start)
        table = np.full(256, 255, np.uint8)
        table[[ord(character) for character in of]] = list(of.values())
        tokens = table[text]
        bad = tokens == 255
        if bad.any():
            at = int(bad.argmax())
            problem = f"{name} holds {chr(text[at])!r} at cell {at % length + 1}; allowed: {allowed}"
            raise self.error(self.line(at // length), problem, "correct the row")
        return tokens.reshape(-1, length)

    def sources(self, column: pa.Array) -> list[str]:
        encoded = column.dictionary_encode()
        names = []
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            try:
                names.append(name.decode("utf-8"))
            except UnicodeDecodeError:
                self.refuse(np.asarray(encoded.indices) == code, "source is not text in UTF-8")
        return [names[code] for code in encoded.indices.to_pylist()]

    def ratings(self, column: pa.Array) -> npt.NDArray[np.int32]:
        options = pc.MatchSubstringOptions("^-?[0-9]{1,10}$")
        integer = pc.call_function("match_substring_regex", [column], options)
        texts = pc.call_function("if_else", [integer, column, pa.scalar(b"0")])
        values = np.asarray(texts.cast(pa.string()).cast(pa.int64()))
        outside = (values < -(2**31)) | (values >= 2**31)
        self.refuse(~np.asarray(integer) | outside, "rating is not a 32-bit integer")
        return values.astype(np.int32)
