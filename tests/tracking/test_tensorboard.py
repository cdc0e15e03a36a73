"""Event files for TensorBoard, read back by TensorBoard."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT
from tests.tracking.test_tracking import Experiment
from trm.tracking.tensorboard import EventFiles

HEADER = "step\tepoch\tloss\n"


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_each_line_is_written_once(tmp_path: Path) -> None:
    logs, folder = tmp_path / "logs", tmp_path / "events/run"
    logs.mkdir()
    log = logs / "train.tsv"
    log.write_text(HEADER + "3\t1\t0.5\n6\t2\t0.2")  # the last line is not complete yet
    events = EventFiles(folder)
    events.update(logs)
    log.write_text(HEADER + "3\t1\t0.5\n6\t2\t0.25\n9\t3\t\n")
    (logs / "validation.tsv").write_text("step\texact_accuracy\n6\t0.75\n")
    events.update(logs)
    events.finish(None)
    assert curve(folder, "train/loss") == [(3, 0.5), (6, 0.25)]
    assert curve(folder, "train/epoch") == [(3, 1.0), (6, 2.0), (9, 3.0)]
    assert curve(folder, "validation/exact_accuracy") == [(6, 0.75)]
    assert sorted(EventAccumulator(str(folder)).Reload().Tags()["scalars"]) == [
        *("train/epoch", "train/loss", "validation/exact_accuracy"),
    ]


def test_resumed_training_has_no_duplicate_points(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(HEADER + "3\t1\t0.5\n")
    for _ in range(2):
        events = EventFiles(tmp_path / "events")
        events.update(tmp_path)
        events.finish(None)
    assert curve(tmp_path / "events", "train/loss") == [(3, 0.5)]


def test_failure_of_one_destination_is_one_line(tmp_path: Path) -> None:
    """The process that copies the logs does not fail, and neither does the training."""
    (tmp_path / "file").touch()
    start = {"settings": {"tensorboard": str(tmp_path / "file")}, "stage": "train", "id": "x", "logs": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "trm.tracking.process"],
        input=json.dumps(start) + "\n",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracking: ")
    assert line.endswith("; the stage continues")


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    messages = experiment.run("train", TRM_TRACKING='{"tensorboard": "events"}')
    key = json.loads((tmp_path / "outputs/model/manifest.json").read_text())["key"]
    assert f"tracking: event files in events/{key[:16]}; `tensorboard --logdir events` displays them" in messages
    folder = tmp_path / "events" / key[:16]
    with (tmp_path / "outputs/model/train.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert curve(folder, "train/loss") == [(int(row["step"]), pytest.approx(float(row["loss"]))) for row in rows]
    assert curve(folder, "validation/exact_accuracy")
    assert not (tmp_path / "wandb").exists()
