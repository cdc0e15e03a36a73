import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.conftest import ROOT
from tests.sudokus import sudoku, write
from trm.config.base import parse
from trm.config.data import AugmentParams
from trm.datasets.augment import augment
from trm.datasets.custom.settings import Settings as CustomSettings
from trm.datasets.maze.dataset import maze_meta
from trm.datasets.sudoku.dataset import sudoku_meta
from trm.datasets.sudoku.generator import generate_puzzles
from trm.reporting.terminal.dataset_summary import describe, grid_text
from trm.utils.errors import DataError


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


def test_dataset(folders: tuple[Path, Path]) -> None:
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


def test_other_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"contains no dataset .* give the path of one"):
            describe(path)


HEADER = "source,question,answer,rating\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "input,output\né,b\n".encode("latin-1"), r"not valid UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        ("a.csv", f"{HEADER}é,1,2,3\n".encode("latin-1"), r"not valid UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        ("a.csv", b'input,output\n"a"b,b\n', r"invalid CSV .*; check the quotes"),
        ("a.csv", b"\x1f\x8b" + b"\0" * 20, "is gzip-compressed, not UTF-8 text; decompress it"),
        ("a.json", '{"é": 1}'.encode("latin-1"), r"not valid UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        ("a.jsonl", '{"é": 1}\n'.encode("latin-1"), r"not valid UTF-8 \(byte 0xe9\); save the file as UTF-8"),
        ("a.json", b"[1, 2", "invalid JSON; download or write"),
        ("a.json", b"3", "invalid JSON; download or write"),
        ("a.json", b"[" * 200_000, "invalid JSON; download or write"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=rf"{name}(, line \d)?: {message}") as caught:
            describe(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [
        ("a.csv", HEADER, ["a.csv", "0"]),
        ("a.csv", "", ["a.csv", "0"]),
        ("a.csv", "input,output\n", ["a.csv", "0"]),
        ("a.csv", 'input,output\n"a\nb",c\n\nd,e\n', ["a.csv", "2"]),
        ("a.csv", f"input,output\n{'a' * 200_000},b\n", ["a.csv", "1"]),
        ("a.csv", f"{HEADER}me,01.,012,hard\nme,1,2,3\n", ["a.csv", "2", "not", "all", "numbers"]),
        ("a.csv", f"{HEADER}me,01.,012,\n", ["a.csv", "1", "not", "all", "numbers"]),
        ("a.csv", f"{HEADER}me,01.,012,2\nme,1,2,5\n", ["a.csv", "2", "2..5,", "mean", "3.5"]),
        ("a.csv", f"{HEADER}me,01.,012,2\nme,1,2,0.5\n", ["a.csv", "2", "0.5..2.0,", "mean", "1.2"]),
        ("a.json", '\ufeff{"a": 1, "b": 2}', ["a.json", "2"]),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}', ["a.jsonl", "2"]),
    ],
)
def test_unusual_files(tmp_path: Path, name: str, content: str, row: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "folder.csv").mkdir()
    lines = printed(tmp_path).splitlines()
    assert [line.split()[:-2] for line in lines if line.startswith(name) and "source" not in line] == [row]
    if "me,01." in content:
        rating = content.splitlines()[1].split(",")[3]
        assert f"{name}: source me" + (f", rating {rating}" if rating else "") in lines
        assert any(line.split() == ["01.", "012"] for line in lines)


def test_large_files_are_read_in_parts(tmp_path: Path) -> None:
    """The last rating is a float, and memory use is a fraction of the file size (24 MB)."""
    count, cells = 100_000, "0" * 110
    rows = (f"me,{cells},{cells},{number if number < count - 1 else '-0.5'}\n" for number in range(count))
    (tmp_path / "a.csv").write_text(HEADER + "".join(rows))
    text = printed(tmp_path, 2)
    assert ["a.csv", "100,000", "-0.5..99998.0,", "mean", "49998.5"] in [line.split()[:5] for line in text.splitlines()]
    assert text.count("source me, rating") == 2
    code = "import sys, tracemalloc; from pathlib import Path\n"
    code += "from trm.reporting.terminal.dataset_summary import describe\n"
    code += "tracemalloc.start(); describe(Path(sys.argv[1])); print(tracemalloc.get_traced_memory()[1])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    most = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert 0 < int(most) < 8 << 20


def test_drawing() -> None:
    grid = np.arange(36, dtype=np.uint8).reshape(6, 6) % 7
    lines = grid_text(sudoku_meta(6), grid).plain.splitlines()
    assert lines[0] == " . 1 2 | 3 4 5"
    assert lines[2] == "-------+-------"
    assert len(lines) == 8


def test_drawing_of_other_datasets() -> None:
    maze = maze_meta(4).model_copy(update={"height": 2, "width": 3})
    cells = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)  # 255: predicted padding
    assert grid_text(maze, cells).plain == "# S\nGo?"
    numbers = maze.model_copy(update={"name": "custom", "vocabulary": ("pad", "7", "12")})
    assert grid_text(numbers, cells[:1] % 2).plain == "7 12 7"
    colors = grid_text(maze.model_copy(update={"name": "arc"}), np.array([[9, 0]], dtype=np.uint8))
    assert [span.style.bgcolor.name for span in colors.spans] == ["#870c25", "#262626"]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert colors.plain == "9 · \n"  # readable without colors


def test_what_a_dataset_lacks_is_hidden(tmp_path: Path) -> None:
    """Custom puzzles have no ratings, and each group is a source of its own; solutions may be unknown."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "out").mkdir()
    rows = [f"g{number},{number:04b},{number:04b}" for number in range(8)]
    (tmp_path / "raw/puzzles.csv").write_text("group,input,output\n" + "\n".join(rows) + "\n")
    source = {"type": "path", "file": "unused.csv", "sha256": None}
    values = {"name": "custom", "source": source, "test_groups": 2, "seed": 0, "symmetries": [], "fixed_symbols": []}
    values |= {"alphabet": None, "height": None, "width": None, "allow_leakage": True}
    settings = parse(CustomSettings, values, "test")
    augment(settings, AugmentParams(num_aug=0, validation_groups=0, seed=0), tmp_path / "raw", tmp_path / "out", "key")
    text = printed(tmp_path / "out", 1)
    assert "rating" not in text
    assert "\nsources" not in text
    assert "identifiers" not in text
    assert "train: source g" in text
    assert ["file", "puzzles", "on", "disk"] in [line.split() for line in printed(tmp_path / "raw").split("\n")]
