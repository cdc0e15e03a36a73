"""`trm solve` as a part of scripts: checks of the puzzles, exit codes, many puzzles, its own output as input."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.helpers import Run, check_error
from trm.config.dataset_meta import DatasetMeta
from trm.config.inference import InferenceConfig
from trm.inference import solve as solve_module
from trm.inference.puzzle import EvalPuzzle
from trm.inference.solve import Answer, can_vote

PUZZLE = ".6..2........5.......3.1...43.42...6"
SOLUTION = "564123132645351264246351615432423516"
DEMO = ("--model", "demo")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool | None]:
    """Validity of the next answers, which do not depend on the model."""
    valid: list[bool | None] = []

    def solve_puzzles(
        _model: object, _meta: object, puzzles: list[EvalPuzzle], *_: object, **__: object
    ) -> list[Answer]:
        return [Answer(puzzle.grid, 0.5, 1, valid.pop(0), 0.5, True) for puzzle in puzzles]

    monkeypatch.setattr(solve_module, "solve_puzzles", solve_puzzles)
    return valid


def test_contradictory_clues(run: Run, tmp_path: Path) -> None:
    words = "has 6 twice in a row: at row 1, column 1 and at row 1, column 2"
    check_error(run("solve", "66" + "." * 34, *DEMO), f"the puzzle {words}")
    check_error(run("visualize", "66" + "." * 34, *DEMO), f"the puzzle {words}")
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n66{'.' * 34}\n")
    check_error(run("solve", "--file", file, *DEMO), f"puzzle 2 {words}")


def test_exit_code_of_invalid_answers(run: Run, answers: list[bool | None], tmp_path: Path) -> None:
    answers += [True, False, None]
    assert [run("solve", PUZZLE, *DEMO)[0] for _ in range(3)] == [0, 3, 0]
    answers += [True, False, True]
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n" * 3)
    code, out, err = run("solve", "--file", file, "--json", *DEMO)
    assert (code, err) == (3, "solve: 2 of 3 answers are valid\n")
    assert [json.loads(line)["valid"] for line in out.splitlines()] == [True, False, True]


def test_unanswered_puzzles(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The confidence of the second puzzle is below the minimum; its valid answer is withheld."""
    outputs = [(0.9, True), (0.45, True), (0.6, False)] * 2
    given: Iterator[tuple[float, bool | None]] = iter([*outputs, (0.45, True), (0.9, None)])

    def solve_puzzles(
        _model: object, _meta: object, puzzles: list[EvalPuzzle], config: InferenceConfig, **_: object
    ) -> list[Answer]:
        drawn = [(puzzle.grid, next(given)) for puzzle in puzzles]
        return [
            Answer(grid, 0.5, 1, valid, confidence, confidence >= config.min_confidence)
            for grid, (confidence, valid) in drawn
        ]

    monkeypatch.setattr(solve_module, "solve_puzzles", solve_puzzles)
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n" * 3)
    arguments = ("--min-confidence", 0.5, *DEMO)
    code, out, err = run("solve", "--file", file, "--json", *arguments)
    counts = "solve: 2 of 3 puzzles are answered\nsolve: 1 of 2 answers are valid\n"
    assert (code, err) == (3, counts)
    first, second, _ = (json.loads(line) for line in out.splitlines())
    assert (first["answered"], first["valid"], first["confidence"]) == (True, True, 0.9)
    assert (second["answered"], second["answer"], second["valid"], second["confidence"]) == (False, None, None, 0.45)
    code, out, err = run("solve", "--file", file, *arguments)
    assert (code, out.count("left unanswered"), out.count("confidence")) == (3, 1, 3)
    assert "valid; halt probability 50.0%; confidence 90.0%" in out.splitlines()
    assert run("solve", PUZZLE, *arguments) == (3, "left unanswered: confidence 45.0% is below 50.0%\n", "")
    assert run("solve", PUZZLE, *arguments)[0] == 0


def test_selections(run: Run) -> None:
    for selection in ("halt_first", "settled"):
        code, out, _ = run("solve", PUZZLE, *DEMO, "--num-votes", 2, "--max-steps", 3, "--selection", selection)
        assert code in (0, 3)  # the answer depends on the rounding of the processor
        assert "; confidence " in out.splitlines()[-1]
    check_error(
        run("solve", PUZZLE, *DEMO, "--selection", "first"),
        "selection must be 'votes', 'halt_logit', 'halt_first' or 'settled'",
    )
    check_error(run("solve", PUZZLE, *DEMO, "--min-confidence", 2), "--min-confidence must be less than or equal to 1")


def test_hint_for_invalid_answers(run: Run, answers: list[bool | None]) -> None:
    """Not where the votes are given, and not in JSON."""
    hint = "hint: --num-votes 4 --verify may find a valid answer\n"
    for options, expected in (((), hint), (("--num-votes", 4), ""), (("--json",), "")):
        answers += [False]
        code, _, err = run("solve", PUZZLE, *DEMO, *options)
        assert (code, err) == (3, expected)
    sums = DatasetMeta(name="arithmetic", height=1, width=6, vocabulary=tuple("0123456789+="), num_identifiers=1)
    assert not can_vote(sums, np.array([[1, 10, 2, 11, 0, 0]]))


def test_several_solutions_are_noted(run: Run, answers: list[bool | None], tmp_path: Path) -> None:
    note = "has several solutions; the answer can be only one of them"
    answers += [True]
    code, out, err = run("solve", "." * 36, "--json", *DEMO)
    assert (code, err, len(out.splitlines())) == (0, f"note: the puzzle {note}\n", 1)
    answers += [True] * 3
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n{'.' * 36}\n{'.' * 36}\n")
    assert f"note: puzzle 2 {note} (and 1 more puzzles)\n" in run("solve", file, *DEMO)[2]


def test_several_solutions_are_noted_by_visualize(run: Run) -> None:
    note = "has several solutions; the answer can be only one of them"
    code, _, err = run("visualize", "." * 36, "--max-steps", 1, *DEMO)
    assert (code, err) == (0, f"note: the puzzle {note}\n")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_its_output_is_its_input(
    run: Run, monkeypatch: pytest.MonkeyPatch, form: list[str], answers: list[bool | None]
) -> None:
    answers += [True] * 4
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PUZZLE}\n{SOLUTION}\n"))
    code, out, _ = run("solve", "--file", "-", *form, *DEMO)
    assert code == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(out))
    assert run("solve", "-", *form, *DEMO) == (0, out, "solve: 2 of 2 answers are valid\n")


def test_lines_of_json_that_are_no_puzzles(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "puzzles.jsonl"
    for line, words in {
        '{"question": [[1, 2]]}': "line 1: a puzzle must be 6 x 6",
        '{"question": 3': "line 1: not a line of `trm solve --json`",
        '{"answer": 3}': "line 1: not a line of `trm solve --json`",
        json.dumps({"question": [[-1] * 6] * 6}): "line 1: the cells of a puzzle must be 0..6. Got -1..-1",
    }.items():
        file.write_text(line + "\n")
        check_error(run("solve", "--file", file, *DEMO), str(file), words)


def test_results_are_printed_as_they_come(
    run: Run, answers: list[bool | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is printed before the second puzzle is solved."""
    answers += [True]  # the second puzzle raises an error
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{PUZZLE}\n{PUZZLE}\n")
    code, out, _ = run("solve", "--file", file, "--json", *DEMO)
    assert code == 1
    assert json.loads(out)["valid"] is True


def test_one_source_of_puzzles(run: Run, here: Path) -> None:
    for arguments in ([], [PUZZLE, "--file", "puzzles.txt"]):
        code, out, err = run("solve", *arguments)
        assert (code, out) == (2, "")
        assert "give either a puzzle or --file FILE" in err
    check_error(run("solve", "--file", "puzzles.txt", *DEMO), "puzzles.txt: no such file")
    check_error(run("solve", "--file", here, *DEMO), "is a folder")
