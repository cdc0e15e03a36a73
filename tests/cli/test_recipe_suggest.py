"""`trm recipe suggest`, and the commands that it prints, in an empty folder."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error
from tests.puzzle_generators import write_puzzles
from trm.config.recipes import recipe_text

TINY = ("model.hidden_size=16", "model.num_heads=2", "train.epochs=2", "evaluate.max_steps=2", "report.num_examples=2")


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_suggest(run: Run, empty: Path) -> None:
    write_puzzles(empty / "mine.csv", "mirror", 300)
    code, out, err = run("recipe", "suggest", "mine.csv", "--minutes", "1")
    assert code == 0, err
    assert out.splitlines()[0] == "  300 puzzles, 300 groups, 8 x 8, 5 symbols"
    assert out.splitlines()[-1] == "params.yaml is a suggestion for mine.csv; `trm run` runs it"
    text = (empty / "params.yaml").read_text()
    check_error(run("recipe", "suggest", "mine.csv"), "params.yaml: has changes of your own", "--force")
    assert (empty / "params.yaml").read_text() == text
    code, out, _ = run("recipe", "suggest", "mine.csv", "--out", "other.yaml", "--minutes", "2")
    assert (code, out.splitlines()[-1]) == (
        0,
        "other.yaml is a suggestion for mine.csv; `trm run --params other.yaml` runs it",
    )
    (empty / "params.yaml").write_text(recipe_text("maze-small") + "tracking:\n  mode: offline\n")
    assert run("recipe", "suggest", "mine.csv", "--minutes", "1")[0] == 0  # a recipe without changes is replaced
    assert (empty / "params.yaml").read_text().endswith("\ntracking:\n  mode: offline\n")
    assert run("recipe", "suggest", "mine.csv", "--minutes", "1", "--force")[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "name,age\nAnn,7\n", ("a.csv, line 1: column input is missing",)),
        ("a.txt", "1", ("a.txt: must end in .csv or .jsonl",)),
        ("a.jsonl", "\x1b[31m\n", ("a.jsonl, line 1: invalid JSON",)),
        ("a.csv", "input,output\n1,2\n", ("a.csv: training, validation and test need at least 3 groups",)),
    ],
)
def test_no_suggestion(run: Run, empty: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    (empty / name).write_text(text)
    result = run("recipe", "suggest", name)
    check_error(result, *words)
    assert "\x1b" not in result[2]
    assert [path.name for path in empty.iterdir()] == [name]
    check_error(run("recipe", "suggest", "none.csv"), "none.csv: no such file")
    code, _, err = run("recipe", "suggest", name, "--minutes", "0")
    assert (code, "--minutes must be greater than or equal to 0.1. Got 0" in err) == (2, True)


def test_warnings(run: Run, empty: Path) -> None:
    write_puzzles(empty / "few.csv", "latin", 10)
    code, out, err = run("recipe", "suggest", "few.csv", "--minutes", "1")
    assert code == 0
    assert err.startswith("recipe suggest: warning: 10 groups are few: ")
    assert "  symmetries: none\n" in out


@pytest.mark.slow
def test_outputs_of_another_shape(run: Run, empty: Path) -> None:
    """All commands work for outputs with another shape than their inputs: here the first row of the input."""
    lines = [f"{number:03b}/{number % 8:03b},{number % 8:03b}\n" for number in range(8)]
    lines += [f"{number:05b}/{number * 7 % 32:05b},{number:05b}\n" for number in range(1, 32)]
    (empty / "mine.csv").write_text("input,output\n" + "".join(lines))
    assert run("recipe", "suggest", "mine.csv", "--minutes", "0.1")[0] == 0
    changes = ("data.symmetries=[permute_symbols]", "evaluate.num_votes=2", "augment.num_aug=1")
    settings = [part for change in (*TINY, *changes) for part in ("--set", change)]
    code, out, err = run("run", *settings)
    assert code == 0, err
    metrics = json.loads((empty / "outputs/evaluation/metrics.json").read_text())
    assert (metrics["puzzles"], metrics["num_votes"]) == (3, 2)
    assert 0 <= metrics["cell_accuracy"] <= 1
    code, out, err = run("inspect", "outputs/dataset")
    assert code == 0, err
    assert "end" in out
    for folder in ("model", "evaluation", "report"):
        assert run("inspect", f"outputs/{folder}")[0] == 0
    code, out, err = run("solve", "101/111", "--json", "--max-steps", "1")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["question"] == [[1, 0, 1], [1, 1, 1]]
    assert all(cell in (0, 1) for row in answer["answer"] for cell in row)
    code, out, err = run("solve", "101/111", "--max-steps", "1", "--num-votes", "2")
    assert (code, re.search("halt probability", out) is not None) == (0, True), err
    code, out, err = run("visualize", "--index", "0", "--max-steps", "2")
    assert code == 0, err
