"""`trm solve-arc`: its output, submission and exit codes, and one line for every mistake."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arc_tasks import FEW, LARGE, SOLUTION, TASK, arc_model, save_model, write_json
from tests.cli.helpers import Run, check_error
from trm.config.model import ModelParams
from trm.evaluation import arc_tasks
from trm.evaluation.arc_tasks import NO_TIME, TaskAnswer
from trm.utils.errors import Interrupted

OPTIONS = [word for name, value in FEW.items() for word in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture
def model(model_params: ModelParams, tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.safetensors", arc_model(model_params))


def test_a_task_and_its_submission(run: Run, model: Path, here: Path) -> None:
    before = model.read_bytes()
    task = write_json(here / "task.json", TASK)
    code, out, err = run("solve-arc", task, "--model", model, *OPTIONS, "--submission", "submission.json")
    assert code == 0, err
    assert "task task, test input 1, attempt 1: " in out and "votes, confidence " in out
    assert "solve-arc: pass@1 " in err and "solve-arc: pass@2 " in err and "of 1 test inputs" in err
    text = Path("submission.json").read_text()
    (attempts,) = json.loads(text)["task"]
    assert list(attempts) == ["attempt_1", "attempt_2"]
    code, out, _ = run("solve-arc", task, "--model", model, *OPTIONS, "--submission", "again.json", "--json")
    line = json.loads(out)
    assert [each["grid"] for each in line["attempts"]][:1] == [attempts["attempt_1"]]
    assert (line["task"], line["test"], line["num_votes"], line["train_steps"], line["problem"]) == (
        "task",
        0,
        4,
        2,
        None,
    )
    assert line["correct"] is (SOLUTION in attempts.values())
    assert Path("again.json").read_text() == text
    assert model.read_bytes() == before


def test_unanswered_tasks_are_listed(run: Run, model: Path, here: Path) -> None:
    tasks = write_json(here / "tasks.json", {"large": LARGE, "fine": TASK})
    code, out, err = run("solve-arc", tasks, "--model", model, *OPTIONS, "--submission", "s.json")
    assert code == 3
    assert "task large: left unanswered: needs a canvas of 6 x 6, the model has 5 x 5" in out.splitlines()
    assert "solve-arc: 1 of 2 tasks are answered" in err.splitlines()
    submitted = json.loads(Path("s.json").read_text())
    assert list(submitted) == ["large", "fine"]
    assert submitted["large"] == [{"attempt_1": [[0]], "attempt_2": [[0]]}] * 2
    code, out, _ = run("solve-arc", tasks, "--model", model, *OPTIONS, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["task"], line["test"], line["correct"]) for line in lines[:2]] == [
        ("large", 0, None),
        ("large", 1, None),
    ]
    assert lines[0]["attempts"] == [] and lines[0]["problem"].startswith("needs a canvas")


def test_an_interrupted_run_writes_nothing(run: Run, model: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(_model: object, tasks: list, *_: object, **__: object) -> Iterator[TaskAnswer]:
        yield TaskAnswer(tasks[0], [], problem=NO_TIME)
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(arc_tasks, "solve_each_task", stops)
    tasks = write_json(here / "tasks.json", {"one": TASK, "two": TASK})
    before = sorted(path.name for path in here.iterdir())
    code, out, err = run("solve-arc", tasks, "--model", model, *OPTIONS, "--submission", "s.json")
    assert (code, out) == (130, f"task one: left unanswered: {NO_TIME}\n")
    assert err.splitlines()[-1] == "trm: stopped by signal 2; no submission was written"
    assert sorted(path.name for path in here.iterdir()) == before


GRID = [[1]]
PAIR = {"input": GRID, "output": GRID}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"train": [], "test": [{"input": GRID}]},
            "t.json: task 't': train must be a list of pairs, at least one. Got []",
        ),
        ({"train": [PAIR], "test": []}, "task 't': test must be a list of pairs, at least one"),
        ({"train": [{"input": GRID}], "test": [PAIR]}, "train pair 1, output: a grid must be a list of rows"),
        ({"train": [PAIR], "test": [{"input": [[10]]}]}, "a color must be an integer from 0 to 9. Got 10"),
        ({"train": [PAIR], "test": [{"input": [[1]] * 31}]}, "the sides of a grid must be 1 to 30. Got 31 x 1"),
        ({"a\x1b[31m": TASK}, "a name must be printable and not empty"),
        ({}, "the file contains no tasks"),
        ({"id": [GRID]}, "task 'id': must be a JSON object with train and test"),
        ({"large": LARGE}, "task large: needs a canvas of 6 x 6, the model has 5 x 5; give a model of a larger canvas"),
        (
            {"x": LARGE, "y": LARGE},
            "task x: needs a canvas of 6 x 6, the model has 5 x 5 (2 tasks, and none fits)",
        ),
    ],
)
def test_invalid_tasks(run: Run, model: Path, here: Path, content: object, words: str) -> None:
    write_json(here / "t.json", content)
    before = sorted(path.name for path in here.iterdir())
    result = run("solve-arc", "t.json", "--model", model, *OPTIONS, "--submission", "s.json")
    check_error(result, words)
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.json",), "TASKS: missing.json is not a readable file"),
        (("s3://bucket/tasks",), "TASKS: s3://bucket/tasks: an address of a server; give a local path"),
        (("folder",), "TASKS: the folder folder contains no .json files"),
        (("params.yaml",), "params.yaml: invalid JSON"),
        (("t.json", "--max-minutes", 0), "max_minutes must be above 0"),
        (("t.json", "--max-minutes", "nan"), "max_minutes must be above 0"),
        (("t.json", "--batch-size", 0), "--batch-size must be greater than or equal to 1"),
        (("t.json", "--lr", "inf"), "lr must be a finite number"),
        (("t.json", "--device", "tpu"), "trm solve-arc: device must be 'auto', 'cpu', 'mps' or 'cuda'. Got 'tpu'"),
        (("t.json", "--submission", "folder"), "--submission folder: is a folder"),
        (("t.json", "--submission", "none/s.json"), "--submission none/s.json: the folder none does not exist"),
        (("t.json", "--model", "demo"), "the model must be of ARC. It was trained on sudoku, 6 x 6 with 8 tokens"),
        (("t.json", "--model", "nowhere"), "nowhere: no such file"),
    ],
)
def test_mistakes(run: Run, model: Path, here: Path, arguments: tuple[object, ...], words: str) -> None:
    (here / "folder").mkdir()
    write_json(here / "t.json", TASK)
    before = sorted(path.name for path in here.iterdir())
    given = [] if "--model" in arguments else ["--model", model]
    check_error(run("solve-arc", *arguments, *given), words)
    assert sorted(path.name for path in here.iterdir()) == before
