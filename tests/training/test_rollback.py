"""`train.rollback_on_nonfinite`: batches whose loss or gradient is not finite are skipped."""

import csv
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.params import TINY, params_text
from tests.preload import python
from tests.training.poison import poison, skip
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.training import step as one_step
from trm.training import trainer as loop
from trm.training.checkpoint import FILE, read_header
from trm.training.state_folder import StateFolder
from trm.training.trainer import train
from trm.utils.errors import InternalError, Interrupted
from trm.utils.paths import states_folder

STEPS = 40
CHANGES = {
    "train.rollback_on_nonfinite": True,
    "train.global_batch_size": 4,
    "train.checkpoint_interval": 3,
    "train.log_interval": 3,
}
"""20 steps."""


@pytest.fixture
def settings(train_params: TrainParams) -> TrainParams:
    """40 steps, a state every 5 and a line of the log every 3 of them."""
    return train_params.model_copy(update={"rollback_on_nonfinite": True})


def _logs(out: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for path in out.glob("*.tsv"):
        with path.open() as file:
            found[path.name] = list(csv.DictReader(file, delimiter="\t"))
    return found


def _without_batches(
    model: ModelParams, settings: TrainParams, dataset: Path, out: Path, steps: set[int]
) -> dict[str, bytes]:
    """The files of a run that does not train on the batches of these steps; the count of skipped batches is added."""
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        skip(patch, steps)
        train(model, settings.model_copy(update={"rollback_on_nonfinite": False}), dataset, out, out.name)
    head, *lines = (out / "train.tsv").read_text().splitlines()
    counts = [sum(step <= int(line.split("\t")[0]) for step in steps) for line in lines]
    text = [f"{line}\t{count}\n" for line, count in zip((head, *lines), ("skipped_batches", *counts), strict=True)]
    (out / "train.tsv").write_text("".join(text))
    return _files(out)


def _files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize(
    ("steps", "gradient", "on_gpu"),
    [
        ({1}, False, False),
        ({4}, True, True),
        ({20, 21, 38}, False, True),
        ({20, 22}, True, False),
        ({STEPS}, True, True),
    ],
    ids=str,
)
def test_result_is_that_of_a_run_without_these_steps(
    dataset: Path,
    model_params: ModelParams,
    settings: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: set[int],
    gradient: bool,
    on_gpu: bool,
) -> None:
    """Also if a GPU finds the value some steps later."""
    expected = _without_batches(model_params, settings, dataset, tmp_path / "expected", steps)
    for module in (loop, one_step):
        monkeypatch.setattr(module, "reads_are_free", lambda _: not on_gpu)
    poison(monkeypatch, steps, gradient)
    out = tmp_path / "out"
    out.mkdir()
    capsys.readouterr()
    facts = train(model_params, settings, dataset, out, "key")
    assert _files(out) == expected
    assert (facts["steps"], facts["skipped_batches"]) == (STEPS, len(steps))
    reported = re.findall(
        r"warning: step (\d+), process 0 of 1: the (.*), its batch is in (.*);", capsys.readouterr().err
    )
    assert [int(step) for step, *_ in reported] == sorted(steps)
    for step, what, file in reported:
        assert re.fullmatch(r"gradient of the loss \d\.\d+ is not finite" if gradient else "loss is nan", what)
        assert read_header(Path(file))["step"] == int(step)
    assert len(list((states_folder() / "key").glob("non-finite-loss-*"))) == len(steps)


@pytest.mark.parametrize("stops", [{2, 7, 12}, {6, 13, 41}], ids=str)
def test_stopped_runs_have_the_same_bytes(
    dataset: Path,
    model_params: ModelParams,
    settings: TrainParams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: set[int],
) -> None:
    """Stopped after these numbers of steps: before and after a roll-back, and while batches are trained again."""
    steps = {5, 7, 22, 23}
    expected = _without_batches(model_params, settings, dataset, tmp_path / "expected", steps)
    calls: list[int] = []

    def stop(step: int) -> None:
        calls.append(step)
        if len(calls) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    poison(monkeypatch, steps, before=stop)
    out, starts = tmp_path / "out", 0
    out.mkdir()
    for _ in range(10):
        starts += 1
        try:
            train(model_params, settings, dataset, out, "key")
            break
        except Interrupted:
            if starts == 2:  # as after a SIGKILL: the newest state was not saved
                shutil.rmtree(StateFolder(states_folder() / "key").states()[0])
    assert starts == 1 + len(stops)
    assert _files(out) == expected


def test_ten_consecutive_batches_at_most(
    dataset: Path, model_params: ModelParams, settings: TrainParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, {3, *range(7, 17), *range(18, 28)})
        assert train(model_params, settings, dataset, out, "ten")["skipped_batches"] == 21
    poison(monkeypatch, range(7, 18))
    shutil.rmtree(out)
    out.mkdir()
    with pytest.raises(
        InternalError, match="^step 17, process 0 of 1: the loss is nan, its batch is in .*; lower train"
    ):
        train(model_params, settings, dataset, out, "eleven")
    assert list(out.iterdir()) == []


def train_in_two_processes(folder: Path, dataset: Path, rank: str) -> str:
    """Process `rank` gets a NaN in steps 4 and 8; `none`: no process. Returns the output."""
    folder.mkdir()
    (folder / "params.yaml").write_text(params_text(TINY | CHANGES))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.training.poison"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TRM_STATE_DIR": str(folder / "states"),
        "PYTHON_EXEC": python(),
    }
    command = [python(), *torchrun, folder / "params.yaml", dataset, folder, rank, "4", "8"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def expected_of_two(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected") / "run"
    train_in_two_processes(folder, dataset, "none")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("poisoned", [0, 1])
def test_two_processes_decide_alike(dataset: Path, tmp_path: Path, expected_of_two: Path, poisoned: int) -> None:
    """One of them has the loss; both skip the batch."""
    expected, out = expected_of_two, tmp_path / "out"
    text = train_in_two_processes(out, dataset, str(poisoned))
    assert text.count("'skipped_batches': 2") == 2
    for step in (4, 8):
        assert f"step {step}, process {poisoned} of 2: the loss is nan" in text
    assert (out / "model-0" / FILE).read_bytes() == (expected / "model-0" / FILE).read_bytes()
    for name, rows in _logs(expected / "model-0").items():
        others = _logs(out / "model-0")[name]
        if name == "train.tsv":
            assert [row.pop("skipped_batches") for row in rows] == ["0"] * 6
            assert [row.pop("skipped_batches") for row in others] == ["0", "1", "2", "2", "2", "2"]
        assert rows == others
