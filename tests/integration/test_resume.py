"""Killed and restarted processes: the result equals that of an uninterrupted run byte by byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.params import edit_params, params_text
from tests.preload import python

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.L_cycles": 2,
    "train.epochs": 80,
    "train.global_batch_size": 4,
    "train.eval_interval": 3,
    "train.log_interval": 1,
    "train.checkpoint_interval": 7,
    "train.precision": "float32",
    "evaluate.precision": "float32",
    "report.precision": "float32",
    "train.device": "cpu",
    "evaluate.device": "cpu",
    "report.device": "cpu",
}
STEPS = 80 * 20 // 4


class Experiment:
    """A folder with params and a dataset, in which `trm train` runs."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.states = folder, folder / "states"
        folder.mkdir()
        (folder / "params.yaml").write_text(params_text(SETTINGS))
        self.dataset = dataset

    def start(self, program: str | None = None) -> subprocess.Popen[str]:
        """program: the interpreter, which must be the usual one if a signal is not SIGKILL; None: `python()`."""
        environment = {**os.environ, "TRM_STATE_DIR": str(self.states), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [program or python(), "-m", "trm", "train", "--dataset", str(self.dataset), "--model", "model"],
            cwd=self.folder,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def steps_done(self) -> int:
        """Number of rows of the training log in the state folder."""
        logs = list(self.states.glob("*/train.tsv"))
        return logs[0].read_bytes().count(b"\n") - 1 if logs else 0

    def wait_for_steps(self, process: subprocess.Popen[str], steps: int) -> None:
        """Wait until the process has added `lines` rows to the log."""
        seen, added = self.steps_done(), 0
        while added < steps and process.poll() is None:
            time.sleep(0.001)
            now = self.steps_done()
            added, seen = added + max(now - seen, 0), now

    def result(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "model").iterdir()}


@pytest.fixture(scope="module")
def published_dataset(dataset: Path) -> Path:
    """The dataset with a manifest."""
    from trm.storage.artifacts import MANIFEST, write_manifest

    if not (dataset / MANIFEST).exists():
        write_manifest(dataset, {"stage": "augment", "key": "0" * 64, "params": {"data": {"name": "sudoku"}}})
    return dataset


@pytest.fixture(scope="module")
def never_killed(published_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    experiment = Experiment(tmp_path_factory.mktemp("whole") / "run", published_dataset)
    _, err = (process := experiment.start()).communicate(timeout=300)
    assert process.returncode == 0, err
    assert experiment.steps_done() == STEPS
    return experiment.result()


def test_five_random_kills(never_killed: dict[str, bytes], published_dataset: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "run", published_dataset)
    dice = random.Random(20261122)
    for _ in range(5):
        process = experiment.start()
        experiment.wait_for_steps(process, dice.randint(0, STEPS // 24))
        time.sleep(dice.random() * 0.03)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run should be long enough for five kills"
        assert not (experiment.folder / "model").exists()
    _, err = (process := experiment.start()).communicate(timeout=300)
    assert process.returncode == 0, err
    assert experiment.result() == never_killed
    leftovers = [path.name for path in experiment.folder.iterdir()]
    assert sorted(leftovers) == ["model", "model.timing.json", "params.yaml", "states"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_write_the_state(
    never_killed: dict[str, bytes], published_dataset: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    experiment = Experiment(tmp_path / "run", published_dataset)
    process = experiment.start(sys.executable)
    experiment.wait_for_steps(process, 20)
    asked = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not (experiment.folder / "model").exists()
    done = experiment.steps_done()
    process = experiment.start()
    experiment.wait_for_steps(process, 1)
    assert experiment.steps_done() > done  # it resumed from the interrupted step, not from the last multiple of 7
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert experiment.result() == never_killed


def test_run_is_locked_by_one_process(published_dataset: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "run", published_dataset)
    first = experiment.start(sys.executable)
    experiment.wait_for_steps(first, 5)
    first.send_signal(signal.SIGSTOP)  # it keeps the run locked
    second = experiment.start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"process {first.pid} is already training this experiment" in err
    # Other params are a separate run, which neither fails nor resumes from this state.
    params = experiment.folder / "params.yaml"
    edit_params(params, {"train.lr": 0.0011})
    other = experiment.start()
    deadline = time.monotonic() + 60
    while len(list(experiment.states.glob("*/train.tsv"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    other.kill()
    other.communicate()
    assert len(list(experiment.states.iterdir())) == 2
    first.kill()
    first.communicate()
