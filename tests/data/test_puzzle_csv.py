import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from tests.sudokus import digits, load, write
from trm.data import puzzle_csv
from trm.data.puzzle_csv import Puzzles
from trm.datasets.sudoku.augmentation import violates_rules
from trm.utils.errors import DataError

HEADER = "source,question,answer,rating\n"
# 1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 1
GOOD = "made,1...34...1.....1,1234341221434321,3\n"


def test_round_trip_keeps_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((HEADER + GOOD + '"a, b",................,1234341221434321,-7\n').encode())
    puzzles = load(path, 4)
    assert puzzles.questions.dtype == puzzles.answers.dtype == np.uint8
    assert digits(puzzles.questions)[0].tolist() == [[1, 0, 0, 0], [3, 4, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert digits(puzzles.answers)[1].tolist() == [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]
    assert puzzles.sources == ["made", "a, b"]
    assert puzzles.ratings.tolist() == [3, -7]
    assert puzzles.ratings.dtype == np.int32
    write(tmp_path / "b.csv", puzzles, 4)
    assert (tmp_path / "b.csv").read_bytes() == path.read_bytes()


def test_zeros_crlf_bom_and_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "\ufeffrating,extra,question,answer,source\r\n5,x,1000340001000001,1234341221434321,é\r\n"
    path.write_bytes(text.encode())
    puzzles = load(path, 4)
    assert puzzles.sources == ["é"]
    assert puzzles.ratings.tolist() == [5]
    assert (puzzles.questions != 1).sum() == 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r": the file is empty; "),
        (HEADER, r": the file contains no puzzles; "),
        ("source,question,rating\n", r", line 1: column answer is missing; the header must contain source,question"),
        ("source,question,answer,answer,rating\n", r", line 1: column answer occurs twice; "),
        (HEADER + GOOD + "made,1...34...1.....,1234341221434321,3\n", r", line 3: question must have 16 .* Got 15; "),
        (HEADER + GOOD + "made,1...34...1.....1,12343412214343211,3\n", r", line 3: answer must have 16 .* Got 17; "),
        (
            HEADER + "made,1...34...x.....1,1234341221434321,3\n",
            r", line 2: question contains 'x' at cell 10; allowed: 1 to",
        ),
        (HEADER + "made,1...34...5.....1,1234341221434321,3\n", r", line 2: question contains '5' at cell 10; "),
        (HEADER + GOOD + "made,1...34...1.....1,1234341221434320,3\n", r", line 3: answer contains '0' at cell 16; "),
        (HEADER + "made,1...34...1.....1,123434122143432.,3\n", r", line 2: answer contains '.' at cell 16; "),
        (HEADER + "made,................,1234341221434312,3\n", r", line 2: the answer violates a rule: "),
        (
            HEADER + "made,................,1234234134124123,3\n",
            r", line 2: the answer violates a rule: ",
        ),  # only boxes violated
        (HEADER + GOOD + GOOD + "made,2...34...1.....1,1234341221434321,3\n", r", line 4: .* does not keep a clue"),
        (HEADER + "made,1...34...1.....1,1234341221434321,3.5\n", r", line 2: rating is not a 32-bit integer; "),
        (HEADER + GOOD + "made,1...34...1.....1,1234341221434321,\n", r", line 3: rating is not a 32-bit integer; "),
        (HEADER + "made,1...34...1.....1,1234341221434321,2147483648\n", r", line 2: rating is not a 32-bit integer; "),
        (HEADER + GOOD + "made,1...34...1.....1,12343", r", line 3: expected 4 columns. Got 3; the row may be cut off"),
        (HEADER + GOOD + "\n" + GOOD, r", line 3: the line is empty or has no question; complete or remove the line"),
    ],
)
def test_error_messages(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(str(path)) + problem) as caught:
        load(path, 4)
    assert "\n" not in str(caught.value)


def test_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes((HEADER + GOOD).encode() + b"\xff" + GOOD.encode())
    with pytest.raises(DataError, match=r"line 3: not valid UTF-8 \(byte 0xff\)"):
        load(path, 4)
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load(path, 4)
    with pytest.raises(DataError, match=r"no.csv: no such file; "):
        load(tmp_path / "no.csv", 4)
    with pytest.raises(DataError, match=r"cannot be read"):
        load(tmp_path, 4)


def test_line_numbers_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzle_csv, "BATCH_CHARACTERS", 300)
    path = tmp_path / "bad.csv"
    path.write_text(HEADER + GOOD * 50 + GOOD.replace(",3", ",x") + GOOD * 20)
    with pytest.raises(DataError, match=r"line 52: rating"):
        load(path, 4)
    path.write_text(HEADER + GOOD * 50 + "a,b\n" + GOOD * 20)
    with pytest.raises(DataError, match=r"line 52: expected 4 columns"):
        load(path, 4)
    path.write_text(HEADER + GOOD * 70)
    assert len(load(path, 4)) == 70


def test_violates_rules_checks_rows_columns_and_boxes() -> None:
    good = np.array([[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]], dtype=np.uint8)
    boxes_violated = np.array([[1, 2, 3, 4], [2, 3, 4, 1], [3, 4, 1, 2], [4, 1, 2, 3]], dtype=np.uint8)
    rows_violated = np.array([[1, 2, 1, 2], [3, 4, 3, 4], [2, 1, 2, 1], [4, 3, 4, 3]], dtype=np.uint8)
    assert violates_rules(np.stack([good, boxes_violated, rows_violated, rows_violated.T])).tolist() == [
        False,
        True,
        True,
        True,
    ]


def test_select() -> None:
    grids = np.zeros((3, 16), dtype=np.uint8)
    puzzles = Puzzles(grids, grids, ["a", "b", "c"], np.arange(3, dtype=np.int32))
    assert puzzles.select(slice(1, None)).sources == ["b", "c"]
    assert puzzles.select(np.array([2, 0])).sources == ["c", "a"]


def test_real_puzzles(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "sudoku-extreme/train.csv"
    puzzles = load(source, 9)
    assert len(puzzles) == 1000
    clues = (puzzles.questions != 1).sum(axis=1)
    assert (clues.min(), clues.max(), puzzles.ratings.max()) == (17, 35, 194)
    write(tmp_path / "again.csv", puzzles, 9)
    digest = hashlib.sha256((tmp_path / "again.csv").read_bytes()).hexdigest()
    assert digest == "8652e9ead1566e830230c1363d46365ab1b83fe9ec74b056d37e8e8c19f7d10e"
