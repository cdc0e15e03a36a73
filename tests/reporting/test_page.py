"""The HTML report of experiments with every dataset, as run by the stages."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.reporting.experiments import Experiment, experiment_of, solving_experiment
from trm.reporting.html import gallery
from trm.reporting.html.gallery import FIRST_CHARACTER, MISTAKES
from trm.reporting.html.page import FILE
from trm.reporting.predictions import read_predictions
from trm.storage.artifacts import write_manifest
from trm.utils.errors import DataError

pytestmark = pytest.mark.slow
SECTIONS = ["result", "training", "difficulty", "votes", "calibration", "selective"]
SECTIONS += ["gallery", "mistakes", "test-time-compute", "settings"]
DATASETS = ("sudoku", "maze", "arithmetic", "custom", "arc")
LOADS = ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background", "formaction")


class Parsed(HTMLParser):
    """The text, the sections, the data of a page, and the resources that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections, self.loads, self.tags, self.text, self.data = [], [], [], "", ""
        self._inside = ""
        self.feed(page)
        self.puzzles: dict[str, Any] = json.loads(self.data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self._inside = f"{tag} {values.get('id', '')}"
        if tag == "section":
            self.sections.append(values["id"])
        self.loads += [value for name, value in attrs if name in LOADS and not (value or "").startswith(("#", "data:"))]

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script puzzles":
            self.data += data
        elif not self._inside.startswith(("script", "style")):
            self.text += data


def unpacked(steps: list[list[Any]]) -> list[tuple[int, int, list[int]]]:
    """Decode the steps as the script of the page does."""
    grids: list[tuple[int, int, list[int]]] = []
    for step in steps:
        if len(step) == 3:
            grids.append((step[0], step[1], [ord(cell) - FIRST_CHARACTER for cell in step[2]]))
            continue
        height, width, cells = grids[-1]
        changed = dict(zip(step[0][::2], step[0][1::2], strict=True))
        grids.append((height, width, [changed.get(at, cell) for at, cell in enumerate(cells)]))
    return grids


@pytest.fixture(scope="module", params=DATASETS)
def experiment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """One experiment for each dataset."""
    return experiment_of(request.param, tmp_path_factory.mktemp("experiment") / request.param)


def test_page_of_every_dataset(experiment: Experiment) -> None:
    text = experiment.report("first")
    page, dataset = Parsed(text), experiment.params.data.name
    assert page.sections == SECTIONS
    assert page.loads == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert [path.name for path in (experiment.folder / "first").iterdir()] == [FILE]
    assert f"{100 * experiment.metrics['exact_accuracy']:.1f}\u00a0%" in page.text
    assert ("augmentations of each puzzle vote" in page.text) == (experiment.params.evaluate.num_votes > 1)
    for folder in ("dataset", "model", "evaluation"):
        assert json.loads((experiment.folder / folder / "manifest.json").read_text())["key"][:12] in page.text
    assert "<b>bold</b>" not in text  # the name of a task
    assert ("Task <b>bold</b>" in page.text) == (dataset == "arc")
    assert experiment.report("second") == text


def test_last_step_equals_the_evaluation(experiment: Experiment) -> None:
    page = Parsed(experiment.report("steps", num_examples=99))
    rows = pq.read_table(experiment.folder / "evaluation/predictions.parquet").to_pylist()
    single = [row for row in rows if row["augmentation"] == 0]
    shown = page.puzzles["gallery"]
    assert len(shown) == len(single)
    answers = sorted((row["height"], row["width"], list(row["answer"])) for row in single)
    assert sorted(unpacked(each["steps"])[-1] for each in shown) == answers
    logits = sorted(each["logits"][-1] for each in shown)
    assert logits == pytest.approx(sorted(row["halt_logit"] for row in single), abs=0.02)
    assert {len(each["steps"]) for each in shown} == {experiment.params.evaluate.max_steps}
    wrong = [row for row in single if not row["correct"] and row["halt_logit"] >= 0]
    mistakes = page.puzzles["mistakes"]
    assert len(mistakes) == min(len(wrong), MISTAKES)
    assert ("None: every wrong single answer has a halt probability below" in page.text) == (not wrong)
    highest = sorted((row["halt_logit"] for row in wrong), reverse=True)[:MISTAKES]
    assert [each["logits"][0] for each in mistakes] == pytest.approx(highest, abs=0.006)
    for each in shown:
        solution = unpacked([each["solution"]])[0]
        assert each["question"][:2] == list(solution[:2]) or experiment.params.data.name == "arc"


def test_demonstrations_and_attempts_of_a_task(tmp_path: Path) -> None:
    arc = experiment_of("arc", tmp_path / "arc")
    page = Parsed(arc.report(num_examples=99))
    tasks = json.loads((tmp_path / "arc/evaluation_challenges.json").read_text())
    shown = []
    for each in page.puzzles["gallery"]:
        pairs = [[np.reshape(cells, (h, w)).tolist() for h, w, cells in unpacked(pair)] for pair in each["demos"]]
        shown.append(sorted(pairs))
        assert 1 <= len(each["attempts"]) <= 2
    expected = [
        sorted([pair["input"], pair["output"]] for pair in task["train"])
        for task in tasks.values()
        for _ in task["test"]
    ]
    assert sorted(shown) == sorted(expected)
    first = min(page.puzzles["gallery"], key=lambda each: each["question"][2])
    assert {row[-1] for row in first["attempts"]} <= {1, 2}


def test_no_score_without_solutions(tmp_path: Path) -> None:
    arc = experiment_of("arc", tmp_path / "arc", solutions=None)
    page = Parsed(arc.report(published={"pass@2": 0.446}))
    assert page.sections == ["result", "training", "gallery", "settings"]
    assert "Their solutions are unknown, so there is no score." in page.text
    assert "44.6\u00a0%" in page.text
    assert {each["solution"] for each in page.puzzles["gallery"]} == {None}


def test_minimal_experiment(tmp_path: Path) -> None:
    """No validation split, a sample of the test puzzles, one vote, no examples and no sweep."""
    changes = {
        "augment__validation_groups": 0,
        "evaluate__max_puzzles": 5,
        "evaluate__num_votes": 1,
        "evaluate__pass_at_k": [1],
    }
    page = Parsed(experiment_of("sudoku", tmp_path / "few", **changes).report(num_examples=0, test_time_compute=None))
    assert page.sections == [
        "result",
        "training",
        "difficulty",
        "votes",
        "calibration",
        "selective",
        "mistakes",
        "settings",
    ]
    assert page.puzzles["gallery"] == []
    assert "5, of 5 groups sampled from 9" in page.text
    assert "Each puzzle has a single answer: there was no vote." in page.text
    assert "Accuracy in validation" not in page.text


def test_vote_of_solved_and_failed_puzzles(tmp_path: Path) -> None:
    """The vote of the solving network replaces correct answers by wrong ones; times and hardware are shown."""
    experiment = solving_experiment(tmp_path / "solved")
    page = Parsed(experiment.report(num_examples=12, test_time_compute=None))
    rows = pq.read_table(experiment.folder / "evaluation/predictions.parquet").to_pylist()
    winners = {row["task"]: row["correct"] for row in rows if row["rank"] == 1}
    single = {row["task"]: row["correct"] for row in rows if row["augmentation"] == 0}
    corrupted = [task for task, correct in single.items() if correct and not winners[task]]
    assert corrupted
    assert page.text.count("solved, but the vote is wrong") == len(corrupted)
    assert re.search(r"Training\s*[0-9.]+ s on cpu \(\w+, \d+ cores\)", page.text)


def test_selection_confidence_and_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps than the page shows."""
    monkeypatch.setattr(gallery, "MAX_STEPS", 2)
    changes = {"evaluate__selection": "settled", "evaluate__min_confidence": 0.5}
    experiment = experiment_of("sudoku", tmp_path / "settled", **changes)
    page = Parsed(experiment.report(test_time_compute=None))
    assert page.sections == [name for name in SECTIONS if name != "test-time-compute"]
    text = " ".join(page.text.split())
    assert "for 2 supervision steps of 3; the evaluation also used selection settled." in text
    assert "below min_confidence (0.5 here) is left unanswered. The confidence is the fraction of the sequences" in text
    assert {len(puzzle["steps"]) for puzzle in page.puzzles["gallery"]} == {2}
    assert "puzzles answered: their confidence is at least min_confidence" in text
    table = read_predictions(experiment.folder / "evaluation/predictions.parquet")
    assert experiment.metrics["coverage"] == (table.confidence >= 0.5).mean()


def test_page_without_mistakes(tmp_path: Path) -> None:
    experiment = solving_experiment(tmp_path / "solved", failed=0)
    assert experiment.metrics["exact_accuracy"] == 1
    page = Parsed(experiment.report(test_time_compute=None))
    assert page.sections == [
        "result",
        "training",
        "difficulty",
        "votes",
        "calibration",
        "selective",
        "gallery",
        "settings",
    ]
    assert page.puzzles["mistakes"] == []


@pytest.mark.parametrize("arch", ["trm_singlez", "trm_hier6", "hrm", "transformers_baseline"])
def test_every_variant(tmp_path: Path, arch: str) -> None:
    page = Parsed(experiment_of("sudoku", tmp_path / arch, model__arch=arch).report())
    assert f"{arch}, 32 wide" in page.text
    assert len(page.puzzles["gallery"]) == 4
    assert ("continue loss" in page.text) == (arch == "hrm")


def test_user_text_is_escaped(tmp_path: Path) -> None:
    published = {'<img src="x" onerror="alert(1)">': 0.5}
    page = Parsed(experiment_of("sudoku", tmp_path / "x").report(published=published))
    assert '<img src="x" onerror="alert(1)">' in page.text
    assert "img" not in page.tags
    assert page.loads == []


def test_mismatched_folders(tmp_path: Path) -> None:
    one, other = (experiment_of("sudoku", tmp_path / name, train__seed=seed) for name, seed in (("a", 0), ("b", 1)))
    shutil.rmtree(one.folder / "model")
    shutil.copytree(other.folder / "model", one.folder / "model")
    with pytest.raises(
        DataError, match="is the evaluation of another model than .*; give the model that was evaluated"
    ):
        one.report()
    assert list((one.folder / "report").iterdir()) == []
    shutil.rmtree(one.folder / "evaluation")
    with pytest.raises(DataError, match="evaluation: .* no manifest.json; run `trm evaluate`"):
        one.report("again")


def test_imported_model(tmp_path: Path) -> None:
    """Its folder has no logs, and its manifest no settings: the page shows those in the checkpoint."""
    sudoku = experiment_of("sudoku", tmp_path / "x")
    model = sudoku.folder / "model"
    for log in ("train.tsv", "validation.tsv"):
        (model / log).unlink()
    manifest = json.loads((model / "manifest.json").read_text())
    bare = {"stage": "train", "key": manifest["key"], "facts": {"imported": "step_7"}}
    (model / "manifest.json").unlink()
    write_manifest(model, bare)
    page = Parsed(sudoku.report())
    assert page.sections == [
        *(
            "result",
            "difficulty",
            "votes",
            "calibration",
            "selective",
            "gallery",
            "mistakes",
            "test-time-compute",
            "settings",
        ),
    ]
    assert "step_7" in page.text
    assert "halt_exploration_prob" in page.text
