"""Reports of progress to Kubeflow Trainer."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.status_server import StatusServer, status_server
from trm.utils.progress import progress
from trm.utils.trainer_status import reported

__all__ = ["status_server"]


@pytest.fixture(autouse=True)
def _pod(status_server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in status_server.variables().items():
        monkeypatch.setenv(name, value)
    # A proxy is for servers outside of the cluster.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


def run(
    steps: int,
    total: int = 10,
    done: int = 0,
    between: Callable[[int], object] = lambda step: None,
    **options: Any,  # noqa: ANN401 - forwarded
) -> None:
    """Complete `steps` steps of a training."""
    losses: dict[str, float | None] = {"train/loss": 0.25, "train/accuracy": None, "train/q_loss": float("nan")}
    with (
        progress("train", total, done, silent=True) as shown,
        reported(shown, total, done, lambda: losses, **{"interval": 3600.0, **options}) as bar,
    ):
        for step in range(steps):
            between(step)
            bar.advance()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_report_has_progress_remaining_time_and_metrics(status_server: StatusServer) -> None:
    """At the start and at the end; the steps before the training was resumed count for the progress only."""

    def pause(step: int) -> None:
        wait_for(lambda: status_server.reports)
        time.sleep(0.2)

    run(2, total=10, done=5, between=pause)
    first, last = status_server.reports
    assert (first["progressPercentage"], "estimatedRemainingSeconds" in first) == (50, False)
    assert last["progressPercentage"] == 70
    assert last["estimatedRemainingSeconds"] >= 1  # 3 steps of at least 0.2 s, rounded
    assert last["metrics"] == [{"name": "train/loss", "value": "0.25"}]  # no metric without a number
    assert set(last) == {"progressPercentage", "estimatedRemainingSeconds", "metrics", "lastUpdatedTime"}
    assert time.strptime(last["lastUpdatedTime"], "%Y-%m-%dT%H:%M:%SZ")


def test_reports_are_of_the_type_that_trainer_declares(status_server: StatusServer) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models")
    run(10)
    sent = {"trainerStatus": status_server.reports[-1]}
    parsed = models.TrainerV1alpha1UpdateTrainJobStatusRequest.from_dict(sent).trainer_status
    assert (parsed.progress_percentage, parsed.estimated_remaining_seconds) == (100, 0)
    assert parsed.last_updated_time.tzinfo is not None


def test_reports_are_limited_to_one_per_interval(status_server: StatusServer) -> None:
    run(1000, total=1000)
    assert [report["progressPercentage"] for report in status_server.reports][-1] == 100
    assert len(status_server.reports) == 2


def test_reports_are_repeated(status_server: StatusServer) -> None:
    run(2, interval=0.01, between=lambda step: wait_for(lambda: len(status_server.reports) > 3 * step + 2))
    assert len(status_server.reports) > 5


def test_rotated_token_is_read_again(status_server: StatusServer, capfd: pytest.CaptureFixture[str]) -> None:
    def rotate(step: int) -> None:
        if step == 1:
            wait_for(lambda: status_server.reports)
            (status_server.folder / "token").write_text("second")
            status_server.token = "second"

    run(2, between=rotate)
    assert status_server.reports[-1]["progressPercentage"] == 20
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["refused", "server error", "no server", "another CA", "no token", "no CA", "http"])
def test_failure_is_one_warning(
    status_server: StatusServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    if fault == "refused":
        status_server.token = "another"
    elif fault == "server error":
        status_server.code = 503
    elif fault == "no server":
        status_server.close()
    elif fault == "another CA":
        other = StatusServer(status_server.folder)  # writes another certificate to the same files
        other.close()
    elif fault == "no token":
        (status_server.folder / "token").unlink()
    elif fault == "no CA":
        monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_CA_CERT")
    else:
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", status_server.url.replace("https", "http"))
    run(3, interval=0.01, between=lambda step: time.sleep(0.1))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("train: warning: Kubeflow Trainer does not receive the progress (")
    assert lines[0].endswith("); the training continues")
    assert status_server.reports == []


def test_steps_do_not_wait_for_the_server(status_server: StatusServer) -> None:
    status_server.open.clear()

    def check(step: int) -> None:
        assert status_server.reports == []
        if step == 99:
            status_server.open.set()

    run(100, total=100, between=check)
    assert status_server.reports[-1]["progressPercentage"] == 100


def test_other_processes_and_other_pods_report_nothing(
    status_server: StatusServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(1, enabled=False)
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL")
    run(1)
    assert (status_server.reports, status_server.refused) == ([], 0)
