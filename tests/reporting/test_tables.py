"""Tables in the terminal: whole words, nothing wider than the window, nothing lost."""

import io

import pytest
from rich.console import Console

from trm.reporting.terminal.tables import columns, facts, scores, wrap


def printed(table: object, width: int = 40) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three", ["one two", "three"]),
        ("", [""]),
        ("a/bcd/efghij/k lm", ["a/bcd/", "efghij/k", "lm"]),
        ("abcdefghijkl", ["abcdefgh", "ijkl"]),
        ("[1, 2, 3, 4]", ["[1, 2,", "3, 4]"]),
        ("語語語語語", ["語語語語", "語"]),
    ],
)
def test_wrap(text: str, lines: list[str]) -> None:
    assert wrap(text, 8) == lines


def test_facts() -> None:
    """Nested settings get a row each; a value that does not fit continues below its name."""
    values = {"lr": 0.1, "optimizer": {"name": "adam", "betas": [0.9, 0.99]}, "file": "/a/long/path/to/the/file.csv"}
    assert printed(facts("some settings", values.items())) == [
        *("", "some settings"),
        "lr               0.1",
        "optimizer.name   adam",
        "optimizer.betas  [0.9, 0.99]",
        *("file", "    /a/long/path/to/the/file.csv"),
    ]
    assert printed(facts("", [("sha256", "0123456789abcdef" * 4)])) == ["sha256  0123456789abcdef"]
    assert printed(facts("", [("note", "one two three four five six")]), 20) == [
        *("note  one two three", "      four five six"),
    ]


def test_control_characters_are_shown() -> None:
    assert "\x1b" not in "".join(printed(facts("\x1b[2J", [("\x1b[31m", "\x1b]0;")])))
    assert "\x1b" not in "".join(printed(columns("", ("\x07",), [("\x1b[31m",)])))


def test_columns() -> None:
    """Empty columns are left out; dashes and spaces are those of ASCII."""
    rows = [("a long name", "", "\u22121.5\u00a0%"), ("b", "", "2")]
    assert printed(columns("", ("name", "rating", "score"), rows), 18) == [
        *("name         score", "a long      -1.5 %", "name", "b                2"),
    ]


def test_scores() -> None:
    metrics = {"exact": 0.5, "valid": None, "puzzles": 4, "interval_95": {"exact": [0.25, 0.75], "valid": [None, None]}}
    others = {"exact": 1.0, "interval_95": {"exact": [None, None]}}
    assert scores({**metrics, "without_leaks": others}) == [
        ("exact", "0.5000  (0.2500 to 0.7500)"),
        ("puzzles", "4"),
        ("exact without leaks", "1.0000"),
    ]
