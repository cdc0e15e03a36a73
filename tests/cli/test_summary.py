"""The last lines of commands: result, output, time, next command."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.helpers import Run
from tests.conftest import ROOT
from tests.preload import python
from trm.cli.summary import inference_options, metrics_lines, next_command
from trm.stages.records import REQUIRED_STAGES, producer


def test_table_of_metrics() -> None:
    """Absent metrics have no row; pass@k is named with the votes."""
    metrics = {
        "exact_accuracy": 0.976,
        "cell_accuracy": 1.0,
        "valid": None,
        "pass@1": 1.0,
        "num_votes": 4,
        "puzzles": 1500,
        "tasks": 1500,
        "interval_95": {"exact_accuracy": [0.9588, 0.9863], "cell_accuracy": [None, None], "pass@1": [0.9924, 1.0]},
    }
    assert list(metrics_lines(metrics)) == [
        "  exact accuracy          97.6 %  [95.9, 98.6]",
        "  cell accuracy          100.0 %",
        "  pass@1, 4 votes        100.0 %  [99.2, 100.0]",
        "  1,500 test puzzles; brackets hold 95 % intervals",
    ]
    leaked = {"puzzles": 419, "tasks": 400, "leaked_tasks": 2}
    of_tasks, leaks = metrics_lines(leaked)
    assert of_tasks == "  419 test puzzles of 400 tasks; brackets hold 95 % intervals"
    assert leaks.startswith("  2 tasks are trained on under another name")


@pytest.mark.parametrize(("votes", "verify", "expected"), [(3, True, True), (3, False, False), (1, True, False)])
def test_accuracies_of_an_unfinished_puzzle(
    run: Run, here: Path, finished: Path, votes: int, verify: bool, expected: bool
) -> None:
    """If another vote stops the puzzle itself, a line names the accuracies to compare."""
    folders = ["--dataset", finished / "outputs/dataset", "--model", finished / "outputs/model"]
    settings = [f"evaluate.num_votes={votes}", f"evaluate.verify={str(verify).lower()}", "evaluate.selection=votes"]
    code, out, _ = run("evaluate", *folders, *(word for setting in settings for word in ("--set", setting)))
    assert code == 0
    assert ("  compare pass@K: " in out) == expected


def test_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    fetch, train, report = REQUIRED_STAGES[0], producer("model"), REQUIRED_STAGES[-1]
    defaults = {stage.output: f"outputs/{stage.output}" for stage in REQUIRED_STAGES}
    assert next_command(fetch, "params.yaml", defaults) == "trm augment"
    folders = defaults | {"model": "b", "dataset": "s3://bucket/augment/1"}
    expected = "trm evaluate --params a.yaml --dataset s3://bucket/augment/1 --model b"
    assert next_command(train, "a.yaml", folders) == expected
    assert next_command(report, "params.yaml", defaults) is None
    assert next_command(train, '{"model": {}}', defaults) is None
    spaces = next_command(train, "my params.yaml", defaults)
    assert spaces == "trm evaluate --params 'my params.yaml'"
    monkeypatch.setenv("DVC_STAGE", "train")
    assert next_command(train, "params.yaml", defaults) is None


def test_inference_options() -> None:
    """Only settings that differ from the defaults: 16 steps, no halting, one vote."""
    settings = {"max_steps": 16, "early_halting": True, "num_samples": 2, "latent_noise_std": 0.3, "num_votes": 1}
    settings |= {"selection": "halt_first", "min_confidence": 0.0}
    options = ["--early-halting", "--num-samples", "2", "--latent-noise-std", "0.3", "--selection", "halt_first"]
    assert inference_options(settings) == options


def test_stages_end_with_their_result(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    expected = {
        "fetch": r"  10 test puzzles, 30 train puzzles\nfetch: outputs/raw in \d:\d\d\nnext: trm augment\n",
        "augment": r"(  \w+ +\d.*\n)+augment: outputs/dataset in \d:\d\d\nnext: trm train\n",
        "train": r"  validation: .* % exact, .* % of the cells.*\ntrain: outputs/model in .*\nnext: trm evaluate\n",
        "evaluate": r"  exact accuracy +\d+\.\d %  \[.*\n(.*\n)+evaluate: outputs/evaluation in .*\nnext: trm report\n",
        "report": r"  open outputs/report/report.html in a browser\nreport: outputs/report in \d:\d\d\n",
    }
    for stage, pattern in expected.items():
        code, out, _ = run(stage)
        assert code == 0
        assert re.fullmatch(pattern, out), out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_training_names_its_state(here: Path, finished: Path, number: signal.Signals) -> None:
    """The signal comes while the training runs; the validation accuracy is in the progress lines."""
    code = "import trm.utils.progress as p; p.PLAIN_LINE_INTERVAL = 0; from trm.cli.main import main; main()"
    options = ["--dataset", str(finished / "outputs/dataset"), "--set", "train.epochs=1000000"]
    options += ["--set", "train.eval_interval=1", "--set", "train.compile=false"]
    with subprocess.Popen(
        [python(), "-c", code, "train", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stderr is not None
        while not re.search(r"loss \d.*, validation \d+\.\d % exact", process.stderr.readline()):
            assert process.poll() is None
        process.send_signal(number)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 128 + number
    saved = r"the state of step \d+ of 2500000 is saved, the same command resumes"
    assert re.fullmatch(rf"trm: stopped by signal {number.value}; {saved}", last)


def test_time_limit_of_a_training(run: Run, here: Path, finished: Path) -> None:
    code, out, err = run("train", "--dataset", finished / "outputs/dataset", "--set", "train.max_seconds=1e-9")
    assert (code, out) == (143, "")
    message = "trm: train.max_seconds has passed; the state of step 1 of 10 is saved, the same command resumes"
    assert err.splitlines()[-1] == message
    assert not (here / "outputs").exists()
