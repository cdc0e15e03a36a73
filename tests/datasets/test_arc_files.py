"""Public forms of ARC tasks: a folder of tasks, a single task, pair lists."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.invalid_data import arc as kaggle_files
from trm.config.data import AugmentParams
from trm.datasets.arc import dataset as arc
from trm.datasets.arc.tasks import read_tasks
from trm.utils.errors import DataError, UserError

PAIRS = [{"input": [[1, number]], "output": [[number, 1]]} for number in (2, 3, 4)]
TASK = {"train": PAIRS[:2], "test": PAIRS[2:]}
OTHER = {"train": [{"input": [[5]], "output": [[6]]}], "test": [{"input": [[7]], "output": [[8]]}]}


def settings(training: Path, evaluation: Path, **training_keys: object) -> arc.Settings:
    nothing = {"solutions": None, "challenges_sha256": None, "solutions_sha256": None}
    source: dict[str, Any] = {"type": "path", "concept": None}
    source["training"] = {**nothing, "challenges": str(training), **training_keys}
    source["evaluation"] = {**nothing, "challenges": str(evaluation)}
    return arc.Settings.model_validate({"name": "arc", "edition": "arc-agi-1", "source": source, "seed": 0})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_folder_and_single_task(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "training/b.json", TASK)
    write(tmp_path / "training/a.json", OTHER)
    evaluation = write(tmp_path / "c.json", TASK)
    data = settings(tmp_path / "training", evaluation)
    facts = arc.fetch(data, out)
    assert (facts["training_tasks"], facts["evaluation_tasks"]) == (2, 1)
    tasks = read_tasks(out / "training.json", "training", outputs=True)
    assert [task.name for task in tasks] == ["a", "b"]
    assert [grid.tolist() for pair in tasks[1].pairs for grid in pair] == [[[1, 2]], [[2, 1]], [[1, 3]], [[3, 1]]]
    assert [task.name for task in read_tasks(out / "evaluation.json", "evaluation", outputs=True)] == ["c"]
    lines = [
        f"{hashlib.sha256((tmp_path / 'training' / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("a.json", "b.json")
    ]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert facts["training_challenges_sha256"] == digest == arc.source_digest(data)["training_challenges_sha256"]
    assert arc.prepare(data, AugmentParams(num_aug=0, validation_groups=0, seed=0), out).splits["test"].examples == 1


def test_pair_lists(tmp_path: Path, out: Path) -> None:
    """The last pair is the test pair."""
    training = write(tmp_path / "many.json", {"a": PAIRS, "b": OTHER})
    arc.fetch(settings(training, write(tmp_path / "c.json", PAIRS)), out)
    for name, task in (("training", "a"), ("evaluation", "c")):
        read = read_tasks(out / f"{name}.json", name, outputs=True)[0]
        assert (read.name, len(read.pairs)) == (task, 2)
        assert [grid.tolist() for grid in read.tests[0] if grid is not None] == [[[1, 4]], [[4, 1]]]


def test_errors(tmp_path: Path, out: Path) -> None:
    evaluation = write(tmp_path / "c.json", TASK)
    empty = tmp_path / "empty"
    empty.mkdir()
    for training, keys, error, message in (
        (
            empty,
            {},
            UserError,
            "data.source.training.challenges: the folder .*empty contains no .json files; give a folder",
        ),
        (
            tmp_path / "one",
            {"challenges_sha256": "ab" * 32},
            UserError,
            "challenges_sha256: expected abab.*; correct the",
        ),
        (tmp_path / "one", {"solutions": "x"}, UserError, "data.source.training.solutions must be null: the files of"),
        (
            write(tmp_path / "short.json", PAIRS[:1]),
            {},
            DataError,
            "task 'short': a list of pairs must have at least two",
        ),
        (
            write(tmp_path / "two/b.json", {"train": PAIRS}),
            {},
            DataError,
            "b.json: task 'b': test must be a list of pairs",
        ),
        (
            write(tmp_path / "open.json", {**TASK, "test": [{"input": [[1]]}]}),
            {},
            UserError,
            "data.source.training.solutions must not be null: its test pairs are .* task 'open' of .* has no output",
        ),
    ):
        write(tmp_path / "one/a.json", OTHER)
        with pytest.raises(error, match=message) as caught:
            arc.fetch(settings(training, evaluation, **keys), out)
        assert "\n" not in str(caught.value)


def test_kaggle_files_with_outputs_need_no_solutions(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = kaggle_files(tmp_path, {"a": TASK}, evaluation={"b": OTHER})
    for key in ("training", "evaluation"):
        data["source"][key] |= {"solutions": None}
    assert arc.fetch(arc.Settings.model_validate(data), out)["training_test_pairs"] == 1
