"""A training reports its progress to Kubeflow Trainer."""

from pathlib import Path

import pytest

from tests.status_server import StatusServer, status_server
from trm.config.model import ModelParams
from trm.config.training import TrainParams
from trm.training.trainer import train

__all__ = ["status_server"]


@pytest.fixture(autouse=True)
def _pod(status_server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in status_server.variables().items():
        monkeypatch.setenv(name, value)


def test_training_reports_progress_and_metrics(
    status_server: StatusServer, dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    train(model_params, train_params, dataset, out, "reported")
    last = status_server.reports[-1]
    assert last["progressPercentage"] == 100
    names = {metric["name"] for metric in last["metrics"]}
    assert {"train/step", "train/loss", "validation/exact_accuracy"} <= names


def test_training_ends_without_the_server(
    status_server: StatusServer, dataset: Path, model_params: ModelParams, train_params: TrainParams, tmp_path: Path
) -> None:
    status_server.close()
    out = tmp_path / "out"
    out.mkdir()
    assert train(model_params, train_params, dataset, out, "unreported")["steps"]
