"""Invalid ARC files at the command line: exit code 2, one line of output, no files."""

from pathlib import Path

import pytest

from tests.cli import test_bad_data
from tests.cli.helpers import Run
from tests.cli.invalid_data import GRID, TASK, Values, arc, assert_rejected, write_params

here = test_bad_data.here


def with_input(grid: object) -> Values:
    return {"fine": TASK, "bad": {**TASK, "train": [TASK["train"][0], {"input": grid, "output": GRID}]}}


IN_PAIR = "training_challenges.json: task 'bad', train pair 2, input"


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ([[0] * 31], (f"{IN_PAIR}: the sides of a grid must be 1 to 30. Got 1 x 31; correct the file",)),
        ([[0]] * 31, (IN_PAIR, "Got 31 x 1", "correct the file")),
        ([[0, 1], [2]], (f"{IN_PAIR}, row 2: must have 2 cells, as row 1. Got 1; correct the file",)),
        ([], (IN_PAIR, "sides", "Got 0 x 0")),
        ([[0, 10]], (f"{IN_PAIR}, row 1, column 2: a color must be an integer from 0 to 9. Got 10; correct",)),
        ([[-1]], (f"{IN_PAIR}, row 1, column 1", "Got -1")),
        ([[0.5]], (f"{IN_PAIR}, row 1, column 1", "Got 0.5")),
        ([[True]], (f"{IN_PAIR}, row 1, column 1", "Got True")),
        ("0 1", (IN_PAIR, "a grid must be a list of rows", "correct the file")),
    ],
)
def test_arc_grids(run: Run, here: Path, grid: object, words: tuple[str, ...]) -> None:
    write_params(here, arc(here, with_input(grid)))
    assert_rejected(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("solutions", "words"),
    [
        (
            {"good": [GRID], "elsewhere": [GRID]},
            ("training_solutions.json: task 'elsewhere' is not in training_challenges.json; remove it",),
        ),
        ({}, ("training_solutions.json: task 'good' of training_challenges.json is missing; add its solutions",)),
        (
            {"good": [GRID, GRID]},
            (
                "training_solutions.json: task 'good'",
                "must have 1 solutions, one per test pair. Got 2; correct",
            ),
        ),
        (
            {"good": []},
            ("training_solutions.json: task 'good'", "must have 1 solutions, one per test pair. Got 0; correct"),
        ),
        ({"good": [[[11]]]}, ("training_solutions.json: task 'good', test pair 1, output, row 1, column 1", "Got 11")),
    ],
)
def test_arc_solutions(run: Run, here: Path, solutions: Values, words: tuple[str, ...]) -> None:
    write_params(here, arc(here, {"good": TASK}, solutions))
    assert_rejected(run, here, "fetch", *words)


def test_arc_names(run: Run, here: Path) -> None:
    write_params(here, arc(here, {"a|||b": TASK}))
    assert_rejected(
        run, here, "fetch", "training_challenges.json: task 'a|||b'", "must not contain |||", "rename the task"
    )
    write_params(here, arc(here, {"other": TASK}))
    assert_rejected(run, here, "fetch", "task 'other' occurs in training and in evaluation; remove or rename one")


def test_arc_invalid_json(run: Run, here: Path) -> None:
    write_params(here, arc(here, {"good": TASK}))
    (here / "evaluation_solutions.json").write_text('{"other": [[[1')
    assert_rejected(run, here, "fetch", "evaluation_solutions.json: invalid JSON", "correct the file")
    (here / "evaluation_solutions.json").unlink()
    assert_rejected(
        run, here, "fetch", "data.source.evaluation.solutions", "evaluation_solutions.json", "correct the path"
    )
