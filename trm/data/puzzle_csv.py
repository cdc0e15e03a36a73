"""CSV files of puzzles with the columns source, question, answer and rating: streamed, with every row checked."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trm.data.csv_records import open_csv
from trm.utils.errors import DataError
from trm.utils.file_formats import describe_character

COLUMNS = ("source", "question", "answer", "rating")
_REMEDY = "download or write the file again"
_INTEGER = re.compile(r"-?[0-9]{1,10}")
BATCH_CHARACTERS = 4 << 20
"""Characters of a part, about."""
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
    """Yield the puzzles of a CSV in parts, with every row checked; further columns and empty lines at the end are
    ignored.

    Raises `DataError` with file, line and remedy: missing file or column, another format, wrong number of columns,
    invalid UTF-8, wrong length or character, violated rule, a rating that is not a 32-bit integer.
    """
    path = Path(path)
    try:
        yield from _Reader(path, layout).read()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
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
    """Reads a file in parts; each row keeps its line number."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        self.strip = " " not in layout.question
        """Whether spaces around fields are ignored: only if a space is not a cell."""
        self.lines: list[int] = []
        """Line number of each row of the part."""

    def error(self, line: int | None, problem: str, remedy: str) -> DataError:
        where = f"{self.path}, line {line}" if line is not None else str(self.path)
        return DataError(f"{where}: {problem}; {remedy}")

    def read(self) -> Iterator[Puzzles]:
        file = open_csv(self.path, COLUMNS, skip_spaces=self.strip)
        if file.spaced and not self.strip:
            raise self.error(1, "spaces around a column name", "remove them, and the spaces after the separators")
        order = [file.columns[name] for name in COLUMNS]
        rows: list[list[str]] = []
        size, blank, any_rows = 0, None, False
        for line, record in file.records:
            if len(record) < 2 and not "".join(record).strip():
                blank = blank or line  # allowed only at the end of the file
                continue
            if blank:
                raise self.error(blank, "the line is empty or has no question", "complete or remove the line")
            if len(record) != file.width:
                problem = f"expected {file.width} columns. Got {len(record)}"
                raise self.error(line, problem, f"the row may be cut off: {_REMEDY}")
            rows.append([record[index] for index in order])
            self.lines.append(line)
            any_rows = True
            size += sum(map(len, record))
            if size >= BATCH_CHARACTERS:
                yield self.check(rows)
                rows, size, self.lines = [], 0, []
        if rows:
            yield self.check(rows)
        if not any_rows:
            raise self.error(None, "the file contains no puzzles", _REMEDY)

    def check(self, rows: list[list[str]]) -> Puzzles:
        layout = self.layout
        columns = ([row[index].strip(" ") if self.strip else row[index] for row in rows] for index in range(4))
        sources, question_texts, answer_texts, rating_texts = columns
        questions = self.tokens(question_texts, "question", layout.question, layout.allowed[0])
        answers = self.tokens(answer_texts, "answer", layout.answer, layout.allowed[1])
        for invalid, problem, remedy in layout.check(questions, answers):
            self.raise_if_any(invalid, problem, remedy)
        ratings = layout.rate(questions, answers) if layout.rate else self.ratings(rating_texts)
        return Puzzles(questions, answers, sources, ratings)

    def raise_if_any(self, invalid: Mask, problem: str, remedy: str = "correct or remove the row") -> None:
        if invalid.any():
            raise self.error(self.lines[int(invalid.argmax())], problem, remedy)

    def tokens(self, texts: list[str], name: str, alphabet: Mapping[str, int], allowed: str) -> Tokens:
        length = self.layout.length
        for line, text in zip(self.lines, texts, strict=True):
            if len(text) == length:
                continue
            if not text:
                raise self.error(line, f"the line is empty or has no {name}", "complete or remove the line")
            problem = f"{name} must have {length} characters ({self.layout.setting}). Got {len(text)}"
            cell = next((cell for cell, character in enumerate(text) if character not in alphabet), None)
            if cell is not None:
                problem += f", and cell {cell + 1} is {describe_character(text[cell])}"
            raise self.error(line, problem, f"correct the row or {self.layout.setting.partition(' ')[0]}")
        # Code points, so that lengths count characters; alphabets are ASCII.
        characters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
        table = np.full(256, 255, np.uint8)
        table[[ord(character) for character in alphabet]] = list(alphabet.values())
        tokens = table[np.minimum(characters, 255)]
        invalid = tokens == 255
        if invalid.any():
            row, cell = divmod(int(invalid.argmax()), length)
            character = describe_character(texts[row][cell])
            problem = f"{name} contains {character} at cell {cell + 1}; allowed: {allowed}"
            raise self.error(self.lines[row], problem, "correct the row")
        return tokens.reshape(-1, length)

    def ratings(self, texts: list[str]) -> npt.NDArray[np.int32]:
        values = np.zeros(len(texts), np.int64)
        invalid = np.zeros(len(texts), np.bool_)
        for index, text in enumerate(texts):
            invalid[index] = _INTEGER.fullmatch(text) is None
            values[index] = 0 if invalid[index] else int(text)
        outside = (values < -(2**31)) | (values >= 2**31)
        self.raise_if_any(invalid | outside, "rating is not a 32-bit integer")
        return values.astype(np.int32)


def line_of_row(path: Path, row: int) -> int:
    """The line on which row `row` of a valid file starts; rows are counted from 0, without the header."""
    records = (line for line, record in open_csv(path, COLUMNS).records if len(record) > 1)
    return next(islice(records, row, None))
