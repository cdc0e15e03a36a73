"""Settings, files and assertions of the tests with invalid data."""

import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.cli.helpers import Run
from tests.conftest import ROOT

Values = dict[str, Any]

NO_FILTERS: Values = {"train_sha256": None, "test_sha256": None, "min_rating": None, "subsample": None, "seed": 0}
CSV_SOURCE: Values = {"type": "path", "train": "train.csv", "test": "test.csv", **NO_FILTERS}
SUDOKU: Values = {"name": "sudoku", "size": 4, "source": CSV_SOURCE, "allow_leakage": True}
MAZE: Values = {"name": "maze", "size": 4, "source": CSV_SOURCE, "allow_leakage": True}
CUSTOM: Values = {
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


def write_params(folder: Path, data: Values, **sections: Values) -> None:
    """Write the default params with section `data` and changed keys of other sections."""
    params = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    params["augment"] = {"num_aug": 0, "validation_groups": 0, "seed": 0}
    params["evaluate"] |= {"num_votes": 1}
    params["report"] |= {"test_time_compute": None}
    params["data"] = data
    for section, values in sections.items():
        params[section] |= values
    (folder / "params.yaml").write_text(json.dumps(params))  # JSON is YAML


def contents(folder: Path) -> dict[Path, bytes | None]:
    """The bytes of each file in a folder; None for a subfolder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


UNHELPFUL = (
    "Traceback",
    "must be Value",
    "Tuple should",
    "wall_density.1",
    "did you mean training?",
    "generate, path, url. Got None",
)
"""Text that no message may contain: internals, keys that the user did not type, useless hints."""


def assert_rejected(run: Run, here: Path, stage: str, *words: str) -> None:
    """Assert that a stage fails with one line that contains these words, and writes nothing."""
    before = contents(here)
    code, out, err = run(stage)
    assert (code, out) == (2, ""), err
    *progress, message = err.splitlines()
    assert message.startswith("trm: ")
    assert all(re.search(r"\w: \d+ done in \d+:\d\d$", line) for line in progress), err
    for word in words:
        assert word in message, message
    assert str(here.parent) not in message, message
    assert not [phrase for phrase in UNHELPFUL if phrase in message], message
    assert contents(here) == before


GRID = [[0, 1], [2, 3]]
TASK: Values = {"train": [{"input": GRID, "output": GRID}], "test": [{"input": GRID}]}
"""A task in the format of Kaggle's challenges."""


def arc(here: Path, training: Values, solutions: Values | None = None, evaluation: Values | None = None) -> Values:
    """Write small files in Kaggle's format; return section `data` for them."""
    source: Values = {"type": "path", "concept": None}
    for key, tasks in {"training": training, "evaluation": evaluation or {"other": TASK}}.items():
        known = {name: [GRID for _ in task["test"]] for name, task in tasks.items()}
        known = solutions if key == "training" and solutions is not None else known
        for part, values in {"challenges": tasks, "solutions": known}.items():
            (here / f"{key}_{part}.json").write_text(json.dumps(values))
        files = {"challenges": f"{key}_challenges.json", "solutions": f"{key}_solutions.json"}
        source[key] = {**files, "challenges_sha256": None, "solutions_sha256": None}
    return {"name": "arc", "edition": "arc-agi-1", "source": source, "seed": 0}


def table(here: Path, train: tuple[str, str], test: tuple[str, str], rating: str = "0") -> None:
    """Write test.csv with the row `test`, and train.csv with the row `test` followed by the row `train`."""
    head, good = "source,question,answer,rating", f"made,{','.join(test)},0"
    (here / "train.csv").write_text("\n".join([head, good, f"made,{','.join(train)},{rating}", ""]))
    (here / "test.csv").write_text("\n".join([head, good, ""]))


EMPTY = "." * 16
QUESTION, ANSWER = "S   ## G        ", "Sooo## G        "
"""A 4x4 maze with S on the left and G on the right of the walls."""


ARITHMETIC: Values = {
    "name": "arithmetic",
    "digits": 1,
    "source": {"type": "generate", "train_puzzles": 2, "test_puzzles": 2, "seed": 0},
}


def changed(values: Values, path: str, value: object) -> Values:
    """`values` with another value at `path` (keys joined by dots)."""
    key, _, rest = path.partition(".")
    return {**values, key: changed(values[key], rest, value) if rest else value}


GENERATED_MAZE = changed(
    MAZE,
    "source",
    {"type": "generate", "train_puzzles": 4, "test_puzzles": 2, "wall_density": [0.3, 0.4], "min_path": 2, "seed": 0},
)
