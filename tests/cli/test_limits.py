"""Settings beyond the memory of the machine, beyond a range, or with which nothing is learned."""

import re
from pathlib import Path

import pytest

from tests.cli.helpers import Run, check_error, replace_in_params
from trm.config.recipes import recipe_text
from trm.inference import cost
from trm.utils import memory

PUZZLE = ".6..2........5.......3.1...43.42...6"
BILLION = 1_000_000_000


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 16 * BILLION)


@pytest.mark.parametrize("command", ["solve", "visualize", "demo"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num-votes", BILLION), "num_votes=1000000000 needs about 2.1 TB of memory, and this machine has 16.0 GB"),
        (("--num-samples", BILLION, "--latent-noise-std", 1), "num_samples=1000000000 needs about"),
        (
            ("--num-votes", 1000, "--num-samples", 1000, "--latent-noise-std", 1, "--selection", "halt_first"),
            "num_votes=1000, num_samples=1000 needs about",
        ),
    ],
)
def test_inference_beyond_the_memory(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, options: tuple[object, ...], words: str
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "0")  # demo would set it, for all tests of this process
    arguments = () if command == "demo" else (PUZZLE, "--model", "demo")
    check_error(run(command, *arguments, *options), words)


@pytest.mark.parametrize(
    ("value", "words"),
    [("1e39", "1000. Got 1e39;"), ("1001", "to 1000."), ("nan", "1000. Got nan;"), ("-0.5", "0. Got -0.5;")],
)
def test_range_of_the_noise(run: Run, value: str, words: str) -> None:
    code, out, err = run("solve", PUZZLE, "--model", "demo", "--num-samples", 2, "--latent-noise-std", value)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err
    assert "latent" in err


@pytest.mark.parametrize(
    ("worth", "memory"),
    [(8576, "; the votes of a puzzle need about 8.6 kB"), (8577, "")],  # 4 * (4 * 36 + 2000) bytes
)
def test_long_inference_is_announced(run: Run, monkeypatch: pytest.MonkeyPatch, worth: int, memory: str) -> None:
    monkeypatch.setattr(cost, "MEMORY_WORTH_ANNOUNCING", worth)
    monkeypatch.setattr(cost, "WORTH_ANNOUNCING", 0.0)
    monkeypatch.setattr(cost, "WORTH_MEASURING", 8)
    code, _, err = run("solve", PUZZLE, "--model", "demo", "--num-votes", 4, "--max-steps", 2)
    assert code in (0, 3)  # the answer depends on the rounding of the processor
    announced, done = err.splitlines()
    assert re.fullmatch(rf"solve: 4 sequences of 2 steps take about \S+ on this machine{memory}", announced)
    assert done.startswith("solve: 4 done in ")


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        ("fetch", "data.source.train_puzzles=100000000000", "data.source: generating 100000000010 puzzles needs about"),
        ("augment", "augment.num_aug=1000000000000", "augment.num_aug=1000000000000 needs about 200.0 TB"),
        ("augment", "augment.num_aug=30000000", "gives 750000040 examples"),
        ("train", "train.epochs=100000000", "train.global_batch_size=100000000 needs about"),
        ("evaluate", "evaluate.num_votes=1000000000", "num_votes=1000000000 needs about"),
        ("train", "model.hidden_size=100000", "model.hidden_size=100000 needs about 1.6 TB"),  # 20 * 2 * 4 * 100000**2
        ("train", "model.halt_max_steps=1000", "model.halt_max_steps must be less than or equal to 128. Got 1000"),
        ("evaluate", "evaluate.latent_noise_std=1e39", "latent_noise_std must be less than or equal to 1000"),
    ],
)
def test_stages_beyond_the_machine(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, stage: str, change: str, words: str
) -> None:
    monkeypatch.setattr("trm.datasets.augment.MAX_EXAMPLES", 700_000_000)
    if stage == "train" and "epochs" in change:
        replace_in_params(here, r"global_batch_size: \d+", "global_batch_size: 100000000")
    inputs = {"augment": ["raw"], "train": ["dataset"], "evaluate": ["dataset", "model"]}.get(stage, [])
    folders = [f"--{name}={finished / 'outputs' / name}" for name in inputs]
    check_error(run(stage, *folders, "--set", change), words)
    assert not (here / "outputs").exists()


@pytest.mark.parametrize(
    ("generator", "change"),
    [
        ("maze-small", "data.source.train_puzzles"),
        ("addition", "data.source.train_puzzles"),
    ],
)
def test_other_generators(run: Run, here: Path, generator: str, change: str) -> None:
    digits = ("--set", "data.digits=9") if generator == "addition" else ()
    (here / "params.yaml").write_text(recipe_text(generator))
    result = run("fetch", "--set", f"{change}=100000000000000", *digits)
    check_error(result, "data.source: generating 1000000", "of memory, and this machine has 16.0 GB; lower it")


@pytest.mark.parametrize(
    ("stage", "change", "pattern"),
    [
        ("fetch", "data.source.train_puzzles=1990", r"2,000 puzzles take about \S+ and 1.1 MB of memory"),
        ("augment", "augment.num_aug=1999", r"50,000 examples take about \S+, and up to 2.6 MB on disk"),
        ("train", "train.epochs=40", r"100 steps of 10 examples take about \S+ on cpu \(\d+ threads?\); .* [MG]B"),
    ],
)
def test_long_stages_are_announced(
    run: Run, here: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, stage: str, change: str, pattern: str
) -> None:
    """After the second piece of work, with thresholds of no time.

    Sizes: 2000 * (500 + 4 * 16) and 50000 * (2 * 16 + 20) bytes.
    """
    monkeypatch.setattr("trm.utils.progress.WORTH_ANNOUNCING", 0.0)
    monkeypatch.setattr("trm.utils.progress.MEASURED_SECONDS", 0.0)
    inputs = {"augment": ["raw"], "train": ["dataset"]}.get(stage, [])
    code, _, err = run(stage, *(f"--{name}={finished / 'outputs' / name}" for name in inputs), "--set", change)
    assert code == 0
    lines = [line for line in err.splitlines() if "take about" in line]
    assert len(lines) == 1
    assert re.search(rf"^(train|generate|augment train).*: {pattern}", lines[0]), lines


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (["model.mlp_t=false"], "model.mlp_t is false and model.pos_encodings is none: attention without positions"),
        (["train.lr=0"], "train.lr is 0: the network stays as it is"),
    ],
)
def test_settings_that_cannot_learn(run: Run, here: Path, finished: Path, changes: list[str], warning: str) -> None:
    options = [part for change in changes for part in ("--set", change)]
    code, _, err = run("train", "--dataset", finished / "outputs/dataset", *options)
    assert code == 0
    assert next(line for line in err.splitlines() if "warning" in line).startswith(f"train: warning: {warning}")
    assert err.count("warning") == 1


def test_params_of_another_dataset(run: Run, here: Path, finished: Path) -> None:
    """Every stage that reads an input refuses it, and names both."""
    for stage, inputs in {
        "augment": ["raw"],
        "train": ["dataset"],
        "evaluate": ["dataset", "model"],
        "report": ["dataset", "model", "evaluation"],
    }.items():
        folders = [f"--{name}={finished / 'outputs' / name}" for name in inputs]
        (here / "params.yaml").write_text((finished / "params.yaml").read_text())
        replace_in_params(here, "size: 4", "size: 6")
        first = finished / "outputs" / inputs[0]
        words = (f"the params have data.size: 6, but {first} was made with 4", "give the params of that dataset")
        check_error(run(stage, *folders), *words)
        (here / "params.yaml").write_text(recipe_text("maze-small"))
        check_error(run(stage, *folders), 'the params have data.name: "maze", but', 'was made with "sudoku"')
    assert not (here / "outputs").exists()
