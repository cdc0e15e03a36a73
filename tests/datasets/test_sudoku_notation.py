"""Public notations of Sudoku puzzles."""

import numpy as np
import pytest

from trm.datasets.sudoku.dataset import sudoku_meta
from trm.inference.puzzle_input import parse_puzzles
from trm.reporting.terminal.dataset_summary import grid_text

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ROWS = [PUZZLE[start : start + 9] for start in range(0, 81, 9)]
GRID = [[0 if cell == "." else int(cell) for cell in row] for row in ROWS]
META = sudoku_meta(9)


def with_rulers(ruler: str, left: str = "", right: str = "", gap: str = "") -> str:
    rows = [
        left + "|".join(gap + gap.join(row[start : start + 3]) + gap for start in (0, 3, 6)) + right for row in ROWS
    ]
    return "\n".join([*rows[:3], ruler, *rows[3:6], ruler, *rows[6:]])


SS = f"*-----------*\n{with_rulers('|---+---+---|', '|', '|')}\n*-----------*\n"
SDK = "#A Ruud\n#D 1/2/2020, level 3\n[Puzzle]\n{}\n[State]\n" + "1" * 9 + "\n[PencilMarks]\n12,3\n"
FORMS = {
    "one line": PUZZLE,
    "rows": "\n".join(ROWS),
    "slashes": "/".join(ROWS),
    "ss": SS,
    "sdk": SDK.format("\n".join(ROWS)),
    "sdk with a note": "Saved by a program, level 3\n" + SDK.format("\n".join(ROWS)),
    "sdk without puzzle section": "#A Ruud\n" + "\n".join(ROWS) + "\n[State]\n" + "1" * 9,
    "sdk with state only": "[State]\n" + "\n".join(ROWS),
    "plus": with_rulers("---+---+---"),
    "dashes": with_rulers("-----------"),
    "dashes as long as a row": with_rulers("---------"),
    "equals": with_rulers("==========="),
    "forum": ".-------.-------.-------.\n" + with_rulers(":-------+-------+-------:", "|", "|", " ") + "\n'-------'",
    "box drawing": with_rulers("───┼───┼───").replace("|", "│"),
    "commas": "\n".join(",".join(row) for row in ROWS),
    "title": "Grid 01\n" + "\n".join(ROWS),
    "crlf": "\r\n".join(ROWS) + "\r\n",
    "colors": "\x1b[1m" + "\n".join(ROWS) + "\x1b[0m",
}


@pytest.mark.parametrize("blank", ".-*xX_?0")
@pytest.mark.parametrize("name", [name for name in FORMS if name != "forum"])
def test_one_puzzle(name: str, blank: str) -> None:
    (grid,) = parse_puzzles(FORMS[name].replace(".", blank), META)
    assert grid.tolist() == GRID


def test_forum_frames() -> None:
    assert parse_puzzles(FORMS["forum"], META)[0].tolist() == GRID


@pytest.mark.parametrize(
    "text",
    [
        "\n".join([PUZZLE] * 3),
        "# three of them\n" + f"{PUZZLE} # easy\n" * 3,
        "\n\n".join(["\n".join(ROWS)] * 3),
        "".join(f"Grid {number:02}\n" + "\n".join(ROWS) + "\n" for number in range(3)),
        SS * 3,
        ("[Puzzle]\n" + "\n".join(ROWS) + "\n") * 3,
    ],
)
def test_several_puzzles(text: str) -> None:
    assert [grid.tolist() for grid in parse_puzzles(text, META)] == [GRID] * 3


@pytest.mark.parametrize("size", [4, 6, 9])
def test_printed_grids(size: int) -> None:
    meta = sudoku_meta(size)
    grid = (np.arange(size * size, dtype=np.uint8) % (size + 1)).reshape(size, size)
    text = grid_text(meta, grid).plain
    (read,) = parse_puzzles(f"{text}\nvalid; halt probability 94.2%\n", meta)
    assert np.array_equal(read, grid)
    assert np.array_equal(parse_puzzles(f"{text}\n{text}", meta), [grid, grid])


def test_dashes_are_blanks_or_rulers() -> None:
    meta = sudoku_meta(4)
    for text in ("----\n-1--\n----\n---2", "-----1---------2"):
        assert parse_puzzles(text, meta)[0].tolist() == [[0] * 4, [0, 1, 0, 0], [0] * 4, [0, 0, 0, 2]]
    assert parse_puzzles("1234\n3412\n----\n2143\n4321", meta)[0][2].tolist() == [2, 1, 4, 3]
    for text in ("-" * 16, "\n".join(["----"] * 4)):
        assert not parse_puzzles(text, meta)[0].any()
