import json
from pathlib import Path

import numpy as np
import pytest

from trm.datasets.custom.files import CustomPuzzles, read_custom_file
from trm.utils.errors import DataError

CSV = "input,output,group\n12/.1,21/1.,a\n...,.2.,b\n1,2,a\n"


def read(
    folder: Path,
    content: str | bytes,
    suffix: str = ".csv",
    alphabet: tuple[str, ...] | None = None,
    height: int | None = None,
    width: int | None = None,
) -> CustomPuzzles:
    path = folder / f"puzzles{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_custom_file(path, alphabet, height, width)


def test_csv(tmp_path: Path) -> None:
    puzzles = read(tmp_path, CSV)
    assert puzzles.alphabet == (".", "1", "2")
    assert puzzles.inputs.dtype == puzzles.labels.dtype == np.uint8
    assert puzzles.inputs.tolist() == [[[2, 3, 0], [1, 2, 0]], [[1, 1, 1], [0, 0, 0]], [[2, 0, 0], [0, 0, 0]]]
    assert puzzles.labels.tolist() == [[[3, 2, 0], [2, 1, 0]], [[1, 3, 1], [0, 0, 0]], [[3, 0, 0], [0, 0, 0]]]
    assert puzzles.shapes.tolist() == [[[2, 2]] * 2, [[1, 3]] * 2, [[1, 1]] * 2]
    assert puzzles.first_cell_token == 1
    assert puzzles.groups.tolist() == [0, 1, 0]
    assert puzzles.group_names == ("a", "b")
    assert puzzles.lines.tolist() == [2, 3, 4]
    assert len(puzzles) == 3


def test_output_of_another_shape(tmp_path: Path) -> None:
    puzzles = read(tmp_path, "input,output\n12,1/2\n1,1\n")
    assert puzzles.first_cell_token == 2  # token 1 is the end of a grid
    assert puzzles.inputs.tolist() == [[[2, 3], [0, 0]], [[2, 0], [0, 0]]]
    assert puzzles.labels.tolist() == [[[2, 0], [3, 0]], [[2, 0], [0, 0]]]
    assert puzzles.shapes.tolist() == [[[1, 2], [2, 1]], [[1, 1], [1, 1]]]
    assert puzzles.largest().tolist() == [[2, 2], [1, 1]]


def test_csv_with_line_breaks_in_grids(tmp_path: Path) -> None:
    content = 'output,input,note\r\n"21\r\n1.\r\n","12\n.1","x, y"\r\n\r\n2,1,z\r\n\r\n'
    puzzles = read(tmp_path, b"\xef\xbb\xbf" + content.encode())
    assert puzzles.inputs[0].tolist() == [[2, 3], [1, 2]]
    assert puzzles.labels[0].tolist() == [[3, 2], [2, 1]]
    assert puzzles.groups.tolist() == [0, 1]
    assert puzzles.group_names == ("line 2", "line 7")
    assert puzzles.lines.tolist() == [2, 7]  # as an editor counts them


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, separator: str, line_end: str) -> None:
    puzzles = read(tmp_path, CSV.replace(",", separator).replace("\n", line_end))
    expected = read(tmp_path, CSV)
    assert np.array_equal(puzzles.inputs, expected.inputs)
    assert np.array_equal(puzzles.labels, expected.labels)
    assert (puzzles.group_names, puzzles.lines.tolist()) == (expected.group_names, [2, 3, 4])


def test_jsonl_line_ends(tmp_path: Path) -> None:
    row = '{"input": ["1\u2028"], "output": ["21"]}'
    assert read(tmp_path, f"\ufeff{row}\r{row}\r\n{row}\n", ".jsonl").lines.tolist() == [1, 2, 3]


def test_spaces_are_symbols(tmp_path: Path) -> None:
    puzzles = read(tmp_path, "input,output\n x/  ,xx/ x\n")
    assert puzzles.alphabet == (" ", "x")
    assert puzzles.inputs.tolist() == [[[1, 2], [1, 1]]]


def test_jsonl(tmp_path: Path) -> None:
    rows = [
        {"input": ["12", ".1"], "output": [["2", 1], [1, "."]], "group": "a"},
        {"input": ["..."], "output": [[".", 2, "."]], "group": 7, "note": None},
        {"input": ["1"], "output": ["2"], "group": "a"},
    ]
    puzzles = read(tmp_path, "\n\n".join(json.dumps(row) for row in rows), ".jsonl")
    expected = read(tmp_path, CSV)
    for name in ("inputs", "labels", "shapes", "groups"):
        assert np.array_equal(getattr(puzzles, name), getattr(expected, name))
    assert puzzles.alphabet == expected.alphabet
    assert puzzles.group_names == ("a", "7")
    assert puzzles.lines.tolist() == [1, 3, 5]


def test_integer_symbols_are_sorted_by_value(tmp_path: Path) -> None:
    puzzles = read(tmp_path, '{"input": [[10, 2, 9]], "output": [[2, 10, 0]]}', ".jsonl")
    assert puzzles.alphabet == ("0", "2", "9", "10")
    assert puzzles.inputs.tolist() == [[[4, 2, 3]]]


def test_declared_alphabet_and_canvas(tmp_path: Path) -> None:
    puzzles = read(tmp_path, CSV, ".csv", ("2", "1", ".", "x"), 4, 5)
    assert puzzles.alphabet == ("2", "1", ".", "x")
    assert puzzles.inputs.shape == (3, 4, 5)
    assert puzzles.inputs[0, :2, :2].tolist() == [[2, 1], [3, 2]]
    assert puzzles.inputs[0].sum() == 8


def test_largest_alphabet_and_grid(tmp_path: Path) -> None:
    symbols = "".join(chr(0x4E00 + number) for number in range(253))
    grid = "/".join((symbols * 17)[row * 64 : row * 64 + 64] for row in range(64))
    puzzles = read(tmp_path, f"input,output\n{grid},{grid}\n")
    assert puzzles.inputs.shape == (1, 64, 64)
    assert puzzles.inputs.max() == 253
    assert "".join(puzzles.alphabet) == symbols


BROKEN_CSV: dict[str | bytes, str] = {
    "input, output\n1, 2\n": "puzzles.csv, line 1: spaces around a column name; remove them, and the spaces after",
    "input|output\n1|2\n": "puzzles.csv, line 1: the separator is '.'; save the file with commas",
    "": "puzzles.csv: the file is empty; add",
    "\n \n": "puzzles.csv: the file is empty; add",
    "input,output\n": "puzzles.csv: the file contains no puzzles; add",
    b"input,output\n1,\xff\n": "puzzles.csv, line 2: not valid UTF-8 .byte 0xff.; save",
    "input,group\n1,2\n": "puzzles.csv, line 1: column output is missing; the header must contain",
    "input,output,input\n1,2,1\n": "puzzles.csv, line 1: column input occurs twice; the header must",
    "input,output\n1,2\n1\n": "puzzles.csv, line 3: expected 2 columns. Got 1; complete",
    "input,output\n1,2\n1,2,3\n": "puzzles.csv, line 3: expected 2 columns. Got 3; complete",
    'input,output\n1,2\n1,"2\n': "puzzles.csv, line 3: invalid CSV .*; check the quotes",
    "input,output\n1,2\n12/1,12/1\n": "line 3: input is ragged: row 2 has 1 cells, row 1 has 2; all rows",
    "input,output\n12,12\n12,1/12\n": "line 3: output is ragged: row 2 has 2 cells, row 1 has 1; all rows",
    "input,output\n12//12,12\n": "line 2: input is ragged: row 2 has 0 cells",
    "input,output\n1,\n": "line 2: output is empty; complete",
    f"input,output\n{'1' * 65},1\n": "line 2: input has a width of 65, but the maximum is 64; split",
    f"input,output\n1,{'1/' * 64}1\n": "line 2: output has a height of 65, but the maximum is 64; split",
    "input,output,group\n1,2,a\n1,2,\n": "line 3: group is neither a non-empty string nor an integer; correct",
    'input,output\n1,2\n"1\n12",1\n': "line 3: input is ragged",
}


@pytest.mark.parametrize(("content", "message"), BROKEN_CSV.items())
def test_invalid_csv(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/.*{message}") as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


GOOD = '{"input": ["12"], "output": ["21"]}\n'
BROKEN_JSONL = {
    GOOD + "{": "puzzles.jsonl, line 2: invalid JSON .*; each line",
    GOOD + "\n[]": "puzzles.jsonl, line 3: not a JSON object; expected",
    GOOD + '{"input": ["1"]}': "line 2: key output is missing; each",
    GOOD + '{"input": "1", "output": ["1"]}': "line 2: input is not a list of rows; expected",
    GOOD + '{"input": ["1"], "output": [1]}': "line 2: output is not a list of rows; expected",
    GOOD + '{"input": [["12"]], "output": ["1"]}': 'line 2: input contains the cell "12"; a cell must be',
    GOOD + '{"input": [[1.5]], "output": ["1"]}': "line 2: input contains the cell 1.5; a cell must be",
    GOOD + '{"input": [[true]], "output": ["1"]}': "line 2: input contains the cell true; a cell must be",
    GOOD + '{"input": [[1, 2], [3]], "output": ["1"]}': "line 2: input is ragged",
    GOOD + '{"input": [], "output": ["1"]}': "line 2: input is empty",
    GOOD + '{"input": [[]], "output": ["1"]}': "line 2: input is empty",
    GOOD
    + '{"input": ["1"], "output": ["1"], "group": "a"}': "line 2: key group is absent in previous lines; add a group",
    '{"input": ["1"], "output": ["1"], "group": "a"}\n' + GOOD: "line 2: key group is missing; add a group",
    GOOD[:-2] + ', "group": [1]}': "line 1: group is neither a non-empty string nor an integer",
    GOOD + "[" * 100_000: r"line 2: invalid JSON \(nested too deeply\); each",
    GOOD + '{"input": [[' + "1" * 5000 + ']], "output": ["1"]}': "line 2: a number has too many digits; use a small",
    GOOD
    + '{"input": [['
    + "[" * 900
    + "]" * 900
    + ']], "output": ["1"]}': r"line 2: input contains the cell \[...\]; a cell must",
    GOOD[:-2] + ', "group": "\\ud83d"}': "line 1: group contains an unpaired surrogate: .*; correct",
}


@pytest.mark.parametrize(("content", "message"), BROKEN_JSONL.items(), ids=range(len(BROKEN_JSONL)))
def test_invalid_jsonl(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/.*{message}") as error:
        read(tmp_path, content, ".jsonl")
    assert "\n" not in str(error.value)


def test_file_contradicts_settings(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"line 2: output contains '2' in row 1, which is not in data.alphabet; correct"
    ):
        read(tmp_path, "input,output\n1,2\n", alphabet=("1",))
    with pytest.raises(DataError, match=r"line 2: input has a height of 2, but data.height is 1; increase data.height"):
        read(tmp_path, CSV, height=1)
    with pytest.raises(DataError, match=r"line 3: input has a width of 3, but data.width is 2; increase data.width"):
        read(tmp_path, CSV, width=2)
    symbols = "".join(chr(0x4E00 + number) for number in range(254))
    rows = "\n".join(f"{symbol},{symbol}" for symbol in symbols)
    with pytest.raises(DataError, match=r"line 255: .* is symbol number 254; the maximum is 253; use fewer"):
        read(tmp_path, f"input,output\n{rows}\n")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: no such file; check the path"):
        read_custom_file(tmp_path / "none.csv", None, None, None)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\); check the path"):
        read_custom_file(tmp_path, None, None, None)
