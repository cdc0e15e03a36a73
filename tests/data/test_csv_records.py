"""CSV files as spreadsheets write them."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sudokus import load
from trm.data import csv_records
from trm.data.csv_records import open_csv
from trm.data.puzzle_csv import line_of_row
from trm.utils.errors import DataError

HEADER = "source,question,answer,rating\n"
ROW = "made,1...34...1.....1,1234341221434321,3\n"


def sudokus(folder: Path, text: str | bytes) -> int:
    path = folder / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return len(load(path, 4))


@pytest.mark.parametrize(
    "text",
    [
        (HEADER + ROW).replace("\n", "\r"),
        (HEADER + ROW).replace("\n", "\r\n"),
        (HEADER + ROW).replace(",", ";"),
        (HEADER + ROW).replace(",", "\t"),
        (HEADER + ROW).replace(",", ", "),
        (HEADER + ROW).replace(",", " ,"),
        'source, "question", answer, rating\n"a, b", "1...34...1.....1", 1234341221434321, 3\n',
        "\ufeff" + HEADER + ROW,
        "\ufeff" + "sep=;\r\n" + (HEADER + ROW).replace(",", ";"),
        '"sep=\t"\n' + (HEADER + ROW).replace(",", "\t"),
        "sep=,\n" + HEADER + ROW,
        '"source","question","answer","rating"\r\n"a ""b"", c\r\nd","1...34...1.....1","1234341221434321","3"\r\n',
        HEADER + ROW + "\n\n",
        HEADER + ROW[:-1],
        HEADER + "x" * 300_000 + ROW,
        "note," + HEADER + "x" * 5_000_000 + "," + ROW,
    ],
)
def test_read(tmp_path: Path, text: str) -> None:
    assert sudokus(tmp_path, text) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEADER.replace(",", "|"), r", line 1: the separator is '\|'; save the file with commas"),
        ("\n\nsource,question,rating\n", ", line 3: column answer is missing; the header must contain source,question"),
        (
            HEADER + ROW.replace("1...", "\uff11..."),
            r"line 2: question contains '\uff11' \(U\+FF11, FULLWIDTH .*\) at cell 1;",
        ),
        (
            HEADER + ROW.replace(".1,", "1\xa0,"),
            r"line 2: question contains '\\xa0' \(U\+00A0, NO-BREAK SPACE\) at cell 16;",
        ),
        (
            HEADER + ROW.replace("1...", "\U0001f600..."),
            r"line 2: question contains .* \(U\+1F600, GRINNING FACE\) at cell 1;",
        ),
        (HEADER + ROW.replace("1...", "\x1b..."), r"line 2: question contains '\\x1b' \(U\+001B\) at cell 1;"),
        (
            HEADER + ROW.replace("1...", "\uff11.."),
            r"line 2: question must have 16 characters .* Got 14, and cell 1 is '\uff11' .*;",
        ),
        (
            HEADER + ROW.replace(".1,", ".1\xa0,"),
            r"line 2: question must have 16 characters .* Got 17, and cell 17 is '\\xa0' \(U\+00A0, NO-BREAK SPACE\);",
        ),
        (HEADER + '"a\nb"' + ROW[4:] + ROW.replace(".1,", ",") + ROW, "line 4: question must have 16 .* Got 14;"),
        (HEADER + '"a\r\nb\rc"' + ROW[4:] + "a,b\n" + ROW, "line 5: expected 4 columns. Got 2;"),
        (HEADER + '"a"b' + ROW[4:], r"line 2: invalid CSV \(.*\); check the quotes"),
        (HEADER + ROW + '"' + ROW * 3, r"line 3: invalid CSV \(.*\); check the quotes"),
        (HEADER + ROW + "\n" + ROW, "line 3: the line is empty or has no question;"),
    ],
)
def test_error_messages(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        sudokus(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_open_quote_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "MAX_FIELD", 100)
    with pytest.raises(DataError, match="line 2: a field has more than 100 characters; is a quote never closed"):
        sudokus(tmp_path, HEADER + '"' + ROW * 10)


def test_line_of_row(tmp_path: Path) -> None:
    sudokus(tmp_path, HEADER + '"a\nb"' + ROW[4:] + ROW)
    assert [line_of_row(tmp_path / "a.csv", row) for row in (0, 1)] == [2, 4]


FIELDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), min_size=2, max_size=2)


@given(st.lists(FIELDS, max_size=4), st.sampled_from([",", ";", "\t"]), st.sampled_from(["\n", "\r\n", "\r"]))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], separator: str, end: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["input", "output"], *rows])
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    path.write_bytes(text.getvalue().encode())
    assert [record for _, record in open_csv(path, ("input", "output")).records] == rows
