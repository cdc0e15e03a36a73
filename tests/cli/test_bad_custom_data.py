"""Invalid custom puzzles and settings at the command line: exit code 2, one line of output, no files."""

from pathlib import Path

import pytest

from tests.cli import test_bad_data
from tests.cli.helpers import Run
from tests.cli.invalid_data import CUSTOM, Values, assert_rejected, changed, write_params

here = test_bad_data.here


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "input,output\nab,ba\nac,ba\n",
            ("mine.csv, line 3: input contains 'c'", "data.alphabet", "correct the puzzle"),
        ),
        ("input,output\nab,ba\nab,bx\n", ("mine.csv, line 3: output contains 'x'", "data.alphabet", "add the symbol")),
        (
            "input,output\nab/b,ba/a\n",
            ("mine.csv, line 2: input is ragged: row 2", "all rows must have the same length"),
        ),
        ("input,output\n,\n", ("mine.csv, line 2: input is empty", "complete or remove")),
        ("input,output\nab\n", ("mine.csv, line 2: expected 2 columns. Got 1", "complete or remove the row")),
        (
            "input,answer\nab,ba\n",
            ("mine.csv, line 1: column output is missing", "the header must contain input,output"),
        ),
        ("input,output\n", ("mine.csv: the file contains no puzzles", "add a line for each puzzle")),
        ("", ("mine.csv: the file is empty", "add a line for each puzzle")),
        (f"input,output\n{'a' * 65},{'b' * 65}\n", ("mine.csv, line 2: input has a width of 65", "split the puzzle")),
    ],
)
def test_custom_puzzles(run: Run, here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text(text)
    write_params(here, CUSTOM)
    assert_rejected(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("alphabet", "aba", ("data.alphabet: must not contain a symbol twice",)),
        ("alphabet", "", ("data.alphabet",)),
        ("source.file", "mine.txt", ("data.source.file: must end in .csv or .jsonl. Got mine.txt",)),
        ("source.file", "gone.csv", ("data.source.file: gone.csv is not a readable file; correct the path",)),
        ("source.sha256", "ab" * 32, ("data.source.sha256: expected abab", "mine.csv", "correct the file or the sha")),
        ("symmetries", ["rotate"], ("data.symmetries", "dihedral", "Got 'rotate'")),
        ("height", 65, ("data.height must be less than or equal to 64. Got 65",)),
        ("width", 1, ("mine.csv, line 2: input has a width of 2, but data.width is 1; increase data.width",)),
    ],
)
def test_custom_settings(run: Run, here: Path, path: str, value: object, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\n")
    write_params(here, changed(CUSTOM, path, value))
    assert_rejected(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("data", "augment", "words"),
    [
        (
            {"test_groups": 2},
            {},
            ("puzzles.csv: expected more than 2 groups: data.test_groups is 2", "reduce these settings"),
        ),
        (
            {},
            {"validation_groups": 1},
            ("expected more than 2 groups", "augment.validation_groups is 1. Got 2", "add puzzles"),
        ),
        ({"fixed_symbols": "x"}, {}, ("data.fixed_symbols: 'x' is not a symbol of the puzzles; use some of a b",)),
        ({"symmetries": ["translate"]}, {}, ("data.symmetries: translate has no effect", "increase data.height or")),
        (
            {"symmetries": ["permute_symbols"], "fixed_symbols": "a"},
            {"num_aug": 1},
            ("data.symmetries: permute_symbols needs at least two symbols", "remove permute_symbols"),
        ),
        (
            {"symmetries": ["dihedral"], "allow_leakage": False},
            {},
            ("data.test_groups: 1 groups cannot be held out", "set it to 0, or set data.allow_leakage: true"),
        ),
    ],
)
def test_custom_augment_settings(run: Run, here: Path, data: Values, augment: Values, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\n")
    write_params(here, {**CUSTOM, **data}, augment=augment)
    assert run("fetch")[0] == 0
    assert_rejected(run, here, "augment", *words)
