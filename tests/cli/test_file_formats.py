"""Files of other formats and unusual puzzles at the command line."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.cli.invalid_data import CUSTOM, SUDOKU, arc, assert_rejected, table, write_params
from tests.conftest import ROOT, SOLUTION

MODEL = ROOT / "trm/inference/demo_model"
PUZZLE = "-6--2-3---1--5----2-4--1----6---3---"  # starts with a dash
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n"


@pytest.mark.parametrize("file", ["train.csv", "mine.csv", "mine.jsonl", "training_challenges.json"])
def test_data_files(run: Run, here: Path, file: str) -> None:
    task = {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}
    table(here, ("." * 16, SOLUTION), ("." * 16, SOLUTION))
    source = {"type": "path", "file": file, "sha256": None}
    data = {"train.csv": SUDOKU, "training_challenges.json": arc(here, {"a": task})}.get(
        file, CUSTOM | {"source": source}
    )
    write_params(here, data)
    for content, words in (
        (gzip.compress(b"a"), "is gzip-compressed, not UTF-8 text; decompress it first"),
        (LFS, "is a Git LFS pointer, not UTF-8 text; fetch its content"),
        ("a".encode("utf-16"), "is UTF-16 text, not UTF-8 text; save it as UTF-8"),
    ):
        (here / file).write_bytes(content)
        assert_rejected(run, here, "fetch", f"{file}: {words}")
    (here / "params.yaml").write_bytes("data: 1".encode("utf-16"))
    assert_rejected(run, here, "fetch", "params.yaml: is UTF-16 text, not UTF-8 text; save it as UTF-8")


def test_control_characters_are_escaped(run: Run, here: Path) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\na\x1b[31mb,ba\n")
    write_params(here, CUSTOM)
    code, out, err = run("fetch")
    assert (code, out) == (2, "")
    assert r"line 3: input contains '\x1b' (U+001B)" in err
    (here / "evil\x1b[2J.csv").write_text("input,output\na,a\n")
    code, out, err = run("inspect", "evil\x1b[2J.csv")
    assert "\x1b" not in out + err
    check_error(run("inspect", "none\x1b[2J.csv"), r"none\x1b[2J.csv")
    rows = f"source,question,answer,rating\n\x1b[31mred,\x1b]0;title\x07,{SOLUTION},1\n"
    (here / "a.csv").write_text(rows)
    code, out, err = run("inspect", "a.csv")
    assert code == 0
    assert r"source \x1b[31mred" in out
    assert r"\x1b]0;title\x07" in out
    assert not {"\x1b", "\x07"} & set(out + err)


def questions(result: tuple[int, str, str]) -> list[list[list[int]]]:
    code, out, err = result
    assert code in (0, 3), err  # the answers depend on the model
    return [json.loads(line)["question"] for line in out.splitlines()]


def test_puzzle_that_starts_with_a_dash(run: Run) -> None:
    (expected,) = questions(run("solve", PUZZLE.replace("-", "."), "--model", MODEL, "--json"))
    for arguments in (
        (PUZZLE, "--model", MODEL, "--json", "--seed", 3),
        ("--model", MODEL, "--json", "--max-steps", 2, PUZZLE),
        ("--model", MODEL, "--json", "--", PUZZLE),
        ("--early-halting", PUZZLE, f"--model={MODEL}", "--json"),
    ):
        assert questions(run("solve", *arguments)) == [expected]
    code, out, _ = run("visualize", PUZZLE, "--model", MODEL, "--max-steps", 1)
    assert (code, "step 1 of 1" in out) == (0, True)
    for option in ("--nosuch", "--nosuch=5", "-x"):
        code, out, err = run("solve", option, PUZZLE, "--model", MODEL)
        assert (code, out) == (2, "")
        assert "No such option" in err


def test_several_puzzles(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "puzzles.sdm"
    file.write_bytes(f"\ufeff{PUZZLE}\r\n{'.' * 35}1\r\n".encode())
    both = questions(run("solve", file, "--model", MODEL, "--json"))
    assert [grid[0][1] for grid in both] == [6, 0]
    code, out, _ = run("solve", file, "--model", MODEL)
    assert (code, out.count("halt probability")) == (0, 2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out.encode())))
    assert [grid[-1] for grid in questions(run("solve", "-", "--model", MODEL, "--json"))] == [
        [int(cell) for cell in line.replace("|", "").split()] for line in (out.splitlines()[7], out.splitlines()[16])
    ]
    assert run("visualize", file, "--model", MODEL, "--index", 1, "--max-steps", 1)[0] == 0
    check_error(
        run("visualize", file, "--model", MODEL, "--index", 2),
        "--index must be below 2, the number of puzzles in",
        "Got 2",
    )
    file.write_text(f"{PUZZLE}\n{PUZZLE[:-1]}7\n")
    check_error(run("solve", file, "--model", MODEL), f"{file}: cell 36 of puzzle 2 must be one of", "Got '7'")


def test_unusual_puzzles(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_error(run("solve", "", "--model", MODEL), "the puzzle is empty; give 36 cells (6 x 6)")
    check_error(run("solve", tmp_path, "--model", MODEL), f"{tmp_path}: is a folder, not a puzzle; give")
    check_error(run("solve", "\uff11" + "." * 35, "--model", MODEL), "cell 1 of the puzzle", "FULLWIDTH DIGIT ONE")
    file = tmp_path / "a.txt"
    for content, words in ((gzip.compress(b"1"), "is gzip-compressed"), (b"1\n\xff", "not valid UTF-8 (byte 0xff)")):
        file.write_bytes(content)
        check_error(run("solve", file, "--model", MODEL), f"{file}", words)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        check_error(run("solve", "-", "--model", MODEL), "stdin", words)
    file.write_text("\n".join("1" * width for width in range(1, 30)))
    check_error(
        run("solve", file, "--model", MODEL), "rows of the puzzle must have one length. Got 1, 2, 3, 4, … cells"
    )
