from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.sudokus import sudoku, write
from trm.config import AugmentParams
from trm.data.augment import augment
from trm.data.generate import generate_puzzles
from trm.data.inspect import describe, draw
from trm.data.kinds.maze import maze_meta
from trm.data.kinds.sudoku import sudoku_meta
from trm.errors import DataError


def printed(path: Path, puzzles: int = 3) -> str:
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(describe(path, puzzles))
    return capture.get()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    out.mkdir()
    puzzles = generate_puzzles(6, 12, "minimal", 0, False)
    write(raw / "train.csv", puzzles.select(slice(8)), 6)
    write(raw / "test.csv", puzzles.select(slice(8, None)), 6)
    params = AugmentParams(num_aug=2, validation_groups=3, seed=0)
    augment(sudoku(6), params, raw, out, "the-key")
    return raw, out


def test_data_set(folders: tuple[Path, Path]) -> None:
    raw, out = folders
    text = printed(out)
    assert "sudoku 6x6" in text
    table = [line.split()[:4] for line in text.splitlines()]
    assert ["train", "5", "15", "15"] in table
    assert ["validation", "3", "3", "3"] in table
    assert ["test", "4", "4", "4"] in table
    assert "7 = 6" in text
    assert "the-key" in text
    assert "augment.num_aug" in text
    assert "uint8 [examples, 36]" in text
    assert text.count("source generated, rating") == 9
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    first = (raw / "test.csv").read_text().splitlines()[1].split(",")
    row = " ".join(first[1][:3]) + " | " + " ".join(first[1][3:6])
    answer = " ".join(first[2][:3]) + " | " + " ".join(first[2][3:6])
    assert any(row in line and answer in line for line in text.splitlines())


def test_split_raw_folder_and_file(folders: tuple[Path, Path]) -> None:
    raw, out = folders
    one = printed(out / "validation", 1)
    assert one.count("source generated") == 1
    both, single = printed(raw, 2), printed(raw / "train.csv", 0)
    assert both.count("source generated") == 4
    assert ["train.csv", "8"] in [line.split()[:2] for line in single.splitlines()]
    assert "source generated" not in single


def test_anything_else_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"holds neither a data set .* give the path of one"):
            describe(path)


def test_drawing() -> None:
    grid = np.arange(36, dtype=np.uint8).reshape(6, 6) % 7
    lines = draw(sudoku_meta(6), grid).plain.splitlines()
    assert lines[0] == " . 1 2 | 3 4 5"
    assert lines[2] == "-------+-------"
    assert len(lines) == 8


def test_drawing_of_other_kinds() -> None:
    maze = maze_meta(4).model_copy(update={"height": 2, "width": 3})
    cells = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)  # 255: a model answered with padding
    assert draw(maze, cells).plain == "# S\nGo?"
    numbers = maze.model_copy(update={"kind": "own", "vocabulary": ("pad", "7", "12")})
    assert draw(numbers, cells[:1] % 2).plain == "7 12 7"
    colours = draw(maze.model_copy(update={"kind": "arc"}), np.array([[9, 0]], dtype=np.uint8))
    assert [span.style.bgcolor.name for span in colours.spans] == ["#870c25", "#000000"]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
