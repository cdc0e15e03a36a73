"""CSV files of puzzles, columns source,question,answer,rating: read with every row checked, written to the byte."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from trm.data.sudoku import Grids, box_of_cell
from trm.errors import DataError

COLUMNS = ("source", "question", "answer", "rating")
_AGAIN = "fetch or write the file again"


@dataclass(frozen=True)
class Puzzles:
    """N puzzles: `questions` and `answers` uint8 [N, n, n] (0 blank), N `sources`, `ratings` int32 [N]."""

    questions: Grids
    answers: Grids
    sources: list[str]
    ratings: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.questions)

    def select(self, rows: slice) -> "Puzzles":
        """The puzzles of these rows."""
        return Puzzles(self.questions[rows], self.answers[rows], self.sources[rows], self.ratings[rows])


def read_puzzles(path: str | Path, size: int) -> Puzzles:
    """Read a CSV of puzzles n x n and check every row; a blank is `.` or `0`, columns beyond the four are ignored.

    Raises `DataError` with file, line and remedy: no such file, a missing column, a cut-off or over-long row, invalid
    UTF-8, a wrong length or character, an answer that breaks a rule or does not keep a clue, a rating that is no
    32-bit integer.
    """
    path = Path(path)
    reader = _Reader(path, size)
    try:
        with path.open("rb") as file:
            reader.check_header(file.readline(1 << 20))
        with pa.OSFile(str(path)) as file:  # not by name: pyarrow would unpack a file called .gz
            return reader.read(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path, or fetch the puzzles first") from None
    except pa.ArrowInvalid as error:
        raise reader.explain(error) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {_AGAIN}") from None


def write_puzzles(path: str | Path, puzzles: Puzzles) -> None:
    """Write the CSV: header, then one row a puzzle, blanks as `.`, lines ending in LF. Same puzzles, same bytes."""
    count = len(puzzles)
    question = _text(np.where(puzzles.questions == 0, ord("."), puzzles.questions + ord("0")), count)
    answer = _text(puzzles.answers + ord("0"), count)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(puzzles.sources, question, answer, puzzles.ratings.tolist(), strict=True))


def _text(characters: npt.NDArray[np.integer], count: int) -> list[str]:
    return [row.tobytes().decode("ascii") for row in characters.astype(np.uint8).reshape(count, -1)]


def breaks_rule(answers: Grids) -> npt.NDArray[np.bool_]:
    """True where a row, column or box of a full grid lacks a digit: uint8 [N, n, n] to bool [N]."""
    size = answers.shape[-1]
    full = np.uint16(2 ** (size + 1) - 2)
    bits = np.left_shift(np.uint16(1), answers.astype(np.uint16), dtype=np.uint16)
    cells_by_box = np.argsort(box_of_cell(size).ravel(), kind="stable")
    boxes = bits.reshape(-1, size * size)[:, cells_by_box].reshape(-1, size, size)
    wrong = np.zeros(len(answers), dtype=np.bool_)
    for units in (bits, bits.swapaxes(1, 2), boxes):
        wrong |= (np.bitwise_or.reduce(units, axis=2) != full).any(axis=1)
    return wrong


class _Reader:
    """Reads one file batch by batch and knows the line that each row came from."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self.rows_read = 0
        self.bad_row: pa_csv.InvalidRow | None = None

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

    def read(self, file: pa.NativeFile) -> Puzzles:
        def remember(row: pa_csv.InvalidRow) -> str:
            self.bad_row = row
            return "error"

        table = pa_csv.open_csv(
            file,
            # One thread: only then does pyarrow know the number of a row it cannot split.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=8 << 20),
            parse_options=pa_csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=remember),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.binary()),
                include_columns=list(COLUMNS),
                strings_can_be_null=False,
            ),
        )
        parts = []
        for batch in table:
            parts.append(self.check(batch))
            self.rows_read += batch.num_rows
        if not self.rows_read:
            raise self.error(None, "the file holds no puzzles", _AGAIN)
        return Puzzles(
            np.concatenate([part.questions for part in parts]),
            np.concatenate([part.answers for part in parts]),
            [source for part in parts for source in part.sources],
            np.concatenate([part.ratings for part in parts]),
        )

    def explain(self, error: pa.ArrowInvalid) -> DataError:
        if self.bad_row is None:
            return self.error(None, f"not a readable CSV ({str(error).splitlines()[0]})", _AGAIN)
        row = self.bad_row
        problem = f"expected {row.expected_columns} columns. Got {row.actual_columns}"
        return self.error(row.number, problem, f"the row may be cut off: {_AGAIN}")

    def check(self, batch: pa.RecordBatch) -> Puzzles:
        sources = self.sources(batch.column("source"))
        questions = self.digits(batch.column("question"), "question", ord("."))
        answers = self.digits(batch.column("answer"), "answer", ord("1"))
        self.refuse(breaks_rule(answers), "the answer breaks a rule: a row, column or box lacks a digit")
        lost = ((questions != 0) & (questions != answers)).any(axis=(1, 2))
        self.refuse(lost, "the answer does not keep a clue of the question")
        return Puzzles(questions, answers, sources, self.ratings(batch.column("rating")))

    def refuse(self, wrong: npt.NDArray[np.bool_], problem: str, remedy: str = "correct or remove the row") -> None:
        if wrong.any():
            raise self.error(self.line(int(wrong.argmax())), problem, remedy)

    def line(self, row: int) -> int:
        return self.rows_read + row + 2  # lines count from 1, and the header is line 1

    def digits(self, column: pa.Array, name: str, lowest: int) -> Grids:
        cells = self.size**2
        lengths = np.asarray(pc.call_function("binary_length", [column]))
        wrong = lengths != cells
        if wrong.any():
            row = int(wrong.argmax())
            if lengths[row] == 0:
                raise self.error(self.line(row), f"the line is empty or has no {name}", "complete or remove it")
            problem = f"{name} must have {cells} characters (data.size is {self.size}). Got {lengths[row]}"
            raise self.error(self.line(row), problem, "correct the row or data.size")
        start = np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset]
        text = np.frombuffer(column.buffers()[2], dtype=np.uint8, count=len(column) * cells, offset=start)
        text = np.where(text == ord("."), ord("0"), text) if lowest == ord(".") else text
        low = ord("0") if lowest == ord(".") else lowest
        bad = (text < low) | (text > ord("0") + self.size)
        if bad.any():
            at = int(bad.argmax())
            allowed = f"1 to {self.size}" + (" and . or 0 for a blank" if lowest == ord(".") else "")
            problem = f"{name} holds {chr(text[at])!r} at cell {at % cells + 1}; allowed: {allowed}"
            raise self.error(self.line(at // cells), problem, "correct the row")
        return (text - np.uint8(ord("0"))).astype(np.uint8).reshape(-1, self.size, self.size)

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
