"""The commands `trm solve`, `visualize`, `demo` and `sweep`."""

import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.helpers import Run, check_error
from tests.conftest import ROOT
from trm.training.checkpoint import read_header, write_tensors


def test_solve(run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = finished / "outputs/model"
    puzzle = "1..." + "." * 12
    code, out, err = run("solve", puzzle, "--model", model)
    assert code in (0, 3)  # the answer depends on the training
    note, *hints = err.splitlines()
    assert note == "note: the puzzle has several solutions; the answer can be only one of them"
    assert len(hints) == (code == 3)
    assert len(out.splitlines()) == 6  # four rows, a line between the boxes, the result
    code, out, _ = run("visualize", puzzle, "--model", model, "--max-steps", 2)
    assert (code, out.count("step 2 of 2, "), out.count("halt logit")) == (0, 1, 2)
    code, out, _ = run("solve", puzzle, "--model", model, "--json", "--num-votes", 3)
    answer = json.loads(out)
    assert answer["question"][0] == [1, 0, 0, 0]
    assert answer["num_votes"] == 3
    file = tmp_path / "puzzle.txt"
    file.write_text("1 . . .\n. . . .\n. . . .\n. . . .\n")
    assert json.loads(run("solve", file, "--model", model, "--json")[1])["question"] == answer["question"]
    with file.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        again = run("solve", "-", "--model", model, "--json")[1]
    assert json.loads(again)["question"] == answer["question"]


def test_visualize_gives_the_answer_of_solve(run: Run, finished: Path, tmp_path: Path) -> None:
    puzzle = "6......3.26.2.4......5...6..5....3.."  # its halt probability depends on the settings
    arguments = (puzzle, "--model", ROOT / "trm/inference/demo_model", "--max-steps", 5, "--seed", 5)
    for settings in (
        ["--num-votes", 3],
        ["--num-votes", 2, "--num-samples", 3, "--latent-noise-std", 0.5],
        ["--num-samples", 2, "--latent-noise-std", 0.5, "--verify", "--early-halting"],
        ["--num-votes", 3, "--num-samples", 2, "--latent-noise-std", 0.5, "--selection", "halt_first"],
        ["--num-votes", 2, "--num-samples", 2, "--latent-noise-std", 0.5, "--selection", "settled"],
        ["--min-confidence", 0.01],
    ):
        _, solved, _ = run("solve", *arguments, *settings)
        code, visualized, err = run("visualize", *arguments, *settings)
        assert (code, err) == (0, "")
        pattern = r"halt probability \S+%.*"
        assert re.findall(pattern, visualized) == re.findall(pattern, solved) != []
    _, visualized, _ = run("visualize", *arguments, "--min-confidence", 1)
    (left_unanswered,) = run("solve", *arguments, "--min-confidence", 1)[1].splitlines()
    assert " ".join(visualized.split()).endswith(f"; {left_unanswered}")  # lines are wrapped
    file = tmp_path / "a.gif"
    test_puzzle = ("--model", finished / "outputs/model", "--dataset", finished / "outputs/dataset", "--index", 3)
    assert run("visualize", *test_puzzle, "--save", file)[0] == 0
    assert file.read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize("command", ["visualize", "demo"])
def test_visualize_errors(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Options are checked first: there is no model."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")  # demo would set it, for all tests of this process
    check_error(run(command, "--save", "none/a.gif"), "none/a.gif: the folder none does not exist")
    check_error(run(command, "--save", "a.png"), "a.png: --save writes a GIF")
    check_error(
        run(command, "--num-samples", 2),
        "num_samples above 1 requires latent_noise_std above 0",
        "Got num_samples=2, latent_noise_std=0.0",
    )
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("puzzle", "words"),
    [
        ("1...", ("must have 16 cells (4 x 4)", "Got 4")),
        ("7" + "." * 15, ("cell 1", "Got '7'")),
        ("nosuch/puzzle.txt", ("no such file",)),
    ],
)
def test_solve_errors(run: Run, finished: Path, puzzle: str, words: tuple[str, ...]) -> None:
    check_error(run("solve", puzzle, "--model", finished / "outputs/model"), *words)


def test_solve_without_a_model(run: Run, here: Path) -> None:
    check_error(run("solve", "." * 16), "outputs/model", "train a model first")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc", ("ARC tasks cannot be solved outside the dataset",)),
        ("tokens", ("trm: the dataset of this model is unknown", "import it again with")),
    ],
)
def test_models_that_cannot_solve(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: tuple[str, ...]
) -> None:
    trained, file = finished / "outputs/model/checkpoint.safetensors", tmp_path / "other.safetensors"
    header = read_header(trained)
    write_tensors(file, load_file(trained), header | {"meta": header["meta"] | {"name": name}})
    monkeypatch.setattr(sys, "stdin", None)  # nothing is read
    for puzzle in ("000", "-", "nosuch.txt"):
        check_error(run("solve", puzzle, "--model", file), *words)


@pytest.mark.parametrize("damage", ["cut", "nonsense", "gone"])
def test_damaged_checkpoint_file(run: Run, finished: Path, tmp_path: Path, damage: str) -> None:
    """A checkpoint file without a manifest."""
    content = (finished / "outputs/model/checkpoint.safetensors").read_bytes()
    file = tmp_path / "shared.safetensors"
    if damage != "gone":
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"nonsense")
    check_error(run("solve", "." * 16, "--model", file), str(file))


def test_sweep(run: Run, finished: Path, tmp_path: Path) -> None:
    model, dataset = finished / "outputs/model", finished / "outputs/dataset"
    settings = ("--max-steps", "1,2", "--num-votes", 1, "--num-samples", 1, "--latent-noise-std", "", "--device", "cpu")
    code, out, _ = run("sweep", model, "--dataset", dataset, "--out", tmp_path / "sweep", *settings)
    assert code == 0
    assert "Pareto front" in out
    results = json.loads((tmp_path / "sweep/sweep.json").read_text())
    selected = results["selected"]
    *_, end, following = out.splitlines()
    assert re.fullmatch(rf"sweep: {tmp_path / 'sweep'} in \d:\d\d", end)
    words = f"next: trm visualize --model {model} --dataset {dataset} --max-steps {selected['max_steps']}"
    assert following.startswith(words)
    options = (" --verify" in following, " --early-halting" in following)
    assert options == (selected["verify"], selected["early_halting"])
    assert run(*following.removeprefix("next: trm ").split())[0] == 0
    assert {row["settings"]["max_steps"] for row in results["splits"]["test"]["rows"]} == {
        1,
        2,
        8,
    }  # halt_max_steps is 8
    code, out, err = run("inspect", tmp_path / "sweep")
    assert (code, err) == (0, "")
    assert "a test-time-compute sweep" in " ".join(out.split())
    assert "written by `trm sweep`" in out


def test_sweep_errors(run: Run, here: Path, finished: Path) -> None:
    folders = ("sweep", finished / "outputs/model", "--dataset", finished / "outputs/dataset")
    check_error(run(*folders, "--max-steps", "0,4"), "trm sweep: test_time_compute.max_steps", "Got 0")
    check_error(run(*folders, "--num-votes", "two"), "trm sweep: test_time_compute.num_votes", "'two'")
    check_error(run(*folders, "--num-samples", "1"), "num_samples above 1 requires a latent_noise_std")
    check_error(run(*folders, "--device", "abacus"), "trm sweep: device must be", "'abacus'")
    assert not (here / "outputs").exists()
