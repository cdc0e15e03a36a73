"""Mistakes typed on purpose: exit code 2 and one line that names what, where and the remedy."""

import io
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import Run, replace_in_params

PUZZLE = ".6..2........5.......3.1...43.42...6"
SOLVE = ("solve", "--model", "demo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("slove",), "Did you mean 'solve'"),
        (("train", "--resume"), "No such option: --resume; see"),
        (("train", "--set", "train.lr=1"), "run `trm augment`, or `trm run`"),
        (
            (*SOLVE, PUZZLE[1:]),
            "the puzzle must have 36 cells (6 x 6) for this --model. Got 35",
        ),
        (
            (*SOLVE, PUZZLE + "1"),
            "the puzzle must have 36 cells (6 x 6) for this --model. Got 37",
        ),
        ((*SOLVE, "." * 81), "the puzzle must have 36 cells (6 x 6) for this --model. Got 81"),
        ((*SOLVE, ""), "the puzzle is empty; give 36 cells (6 x 6), row by row"),
        ((*SOLVE, "missing.txt"), "missing.txt: no such file"),
        ((*SOLVE, "."), ".: is a folder, not a puzzle"),
        (
            (*SOLVE, "\U0001f600" + PUZZLE[1:]),
            "cell 1 of the puzzle must be one of . 1 2 3 4 5 6. Got '\U0001f600' (U+1F600",
        ),
        ((*SOLVE, "\uff11" + PUZZLE[1:]), "cell 1 of the puzzle must be one of . 1 2 3 4 5 6. Got '\uff11' (U+FF11"),
        ((*SOLVE, "7" + PUZZLE[1:]), "cell 1 of the puzzle must be one of . 1 2 3 4 5 6. Got '7'"),
        ((*SOLVE, "66" + PUZZLE[2:]), "has 6 twice in a row: at row 1, column 1 and at row 1, column 2"),
        (("solve", PUZZLE, "--model", "nowhere"), "nowhere: no such file; train a model first"),
        (("solve", PUZZLE, "--model", "params.yaml"), "params.yaml: not a checkpoint"),
        ((*SOLVE, PUZZLE, "--max-steps", 0), "trm solve: --max-steps must be greater than or equal to 1. Got 0;"),
        (
            (*SOLVE, PUZZLE, "--max-steps", 100000),
            "--max-steps must be less than or equal to 4096. Got 100000;",
        ),
        ((*SOLVE, PUZZLE, "--num-samples", 4), "trm solve: num_samples above 1 requires latent_noise_std above 0"),
        ((*SOLVE, PUZZLE, "--num-votes", 10**12), "num_votes=1000000000000 needs about"),
        (("visualize", "--model", "demo", "--save", "a.mp4"), "a.mp4: --save writes a GIF"),
        (("visualize", "--model", "demo", "--save", "none/a.gif"), "none/a.gif: the folder none does not exist"),
        (("recipe", "use", "sudoku-6x7"), "did you mean sudoku-6x6?"),
        (("recipe", "use", "nosuch"), "trm: recipe nosuch does not exist; `trm recipe list` lists the names"),
        (("fetch", "--set", "train.lr=fast"), "has no effect on this command"),
        (("train", "--set", "train.lr=fast"), "train.lr must be a valid number. Got 'fast'"),
        (("train", "--set", "train.epochs=-5"), "train.epochs must be greater than or equal to 1. Got -5"),
        (("train", "--set", "train.learning_rate=1"), "train.learning_rate is not a setting; did you mean lr?"),
        (("train", "--set", "trian.lr=1"), "trian is not a setting; did you mean train?"),
        (("fetch", "--set", "data.source.train_puzzles=100000000000"), "generating 100000000010 puzzles needs about"),
    ],
)
def test_mistakes_of_the_command_line(run: Run, here: Path, arguments: tuple[object, ...], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err
    assert [path.name for path in here.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"  lr: ", "  learning_rate: ", "train.learning_rate is not a setting; did you mean lr?"),
        (r"(?m)^train:", "trian:", "trian is not a setting; did you mean train?"),
        (r"name: sudoku", "namex: sudoku", "data.namex is not a setting; did you mean name?"),
        (r"  type: generate", "  typ: generate", "data.source.type is missing"),
        (r"  lr: ", "\tlr: ", "not valid YAML"),
        (r"(  lr: .*)\n", r"\1\n  lr: 3\n", "duplicate key"),
        (r"beta1", "bta", "train.optimizer.network.bta is not a setting; did you mean beta1?"),
        (
            r"halt_max_steps: 8",
            "halt_max_steps: 1000",
            "model.halt_max_steps must be less than or equal to 128. Got 1000",
        ),
    ],
)
def test_mistakes_of_the_params(run: Run, here: Path, old: str, new: str, words: str) -> None:
    replace_in_params(here, old, new)
    code, out, err = run("train")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err


def test_mistakes_with_a_finished_experiment(run: Run, here: Path, finished: Path) -> None:
    outputs = finished / "outputs"
    for arguments, words in (
        (("solve", PUZZLE, "--model", outputs / "dataset"), "dataset: is the output of `trm augment`, not a model"),
        (("evaluate", "--model", "demo", "--dataset", outputs / "dataset"), "give the dataset that the model was"),
        (("visualize", "--model", "demo", "--dataset", outputs / "dataset"), "give the dataset that the model was"),
        (
            ("visualize", "--model", outputs / "model", "--dataset", outputs / "dataset", "--index", 10),
            "must be below 10",
        ),
        (("sweep", "demo", "--dataset", outputs / "dataset"), "give the dataset that the model was trained on"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert words in err


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "the puzzle is empty"), (bytes(range(256)), "is binary data"), (b"ab\xff", "not valid UTF-8")],
)
def test_mistakes_on_stdin(run: Run, monkeypatch: pytest.MonkeyPatch, content: bytes, words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, err = run(*SOLVE, "-")
    assert (code, out) == (2, "")
    assert err.startswith("trm: stdin")
    assert words in err


def test_custom_puzzles_without_symmetries(run: Run, here: Path) -> None:
    run("recipe", "use", "custom-puzzles", "--force")
    words = "augment.num_aug must be 0, because section data defines no augmentations of such a puzzle"
    code, _, err = run("augment", "--set", "augment.num_aug=8", "--set", "data.symmetries=[]")
    assert code == 2
    assert words in err
