"""Metrics of the launcher and of the workers of a training job, with a real API server."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.apiserver import free_ports
from tests.components.train.fake_cluster import FakeCluster, wait_for
from tests.components.train.launcher_fixtures import PUBLISH, Stage, one_backend, replacement_command

pytestmark = pytest.mark.slow


def metrics(port: int) -> dict[str, float]:
    """Return the metrics that a process serves; {} if none does."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx.TransportError:
        return {}
    return {sample.name: sample.value for each in text_string_to_metric_families(text) for sample in each.samples}


def test_launcher_measures_the_wait_and_the_workers(stage: Stage, operator: FakeCluster) -> None:
    (port,) = free_ports(1)
    stage.more = {"TRM_METRICS_PORT": str(port)}
    operator.suspended = True  # a queue of Kueue
    operator.command = replacement_command(1000, 0.1, PUBLISH)
    launcher = stage.start()
    first = wait_for(lambda: metrics(port))
    assert first["trm_job_workers_running"] == 0
    wait_for(lambda: metrics(port)["trm_job_wait_seconds"] > first["trm_job_wait_seconds"] + 1)
    operator.suspended = False
    wait_for(lambda: metrics(port)["trm_job_workers_running"] == 2)
    waited = metrics(port)["trm_job_wait_seconds"]
    assert waited >= first["trm_job_wait_seconds"]
    operator.evict(1)
    wait_for(lambda: metrics(port)["trm_job_workers_replaced"] == 1)
    wait_for(lambda: metrics(port)["trm_job_workers_running"] == 2)
    assert metrics(port)["trm_job_wait_seconds"] == waited  # that of the first worker
    launcher.process.terminate()
    assert launcher.end() == 143
    assert metrics(port) == {}


@one_backend
def test_workers_serve_metrics_and_a_port_in_use_does_not_end_the_training(stage: Stage, operator: FakeCluster) -> None:
    """Both workers are on one machine, so that one of them finds the port in use."""
    (port,) = free_ports(1)
    launcher = stage.replace(seed=5, epochs=8, metrics_port=port).start()
    found = wait_for(lambda: metrics(port))
    assert found["trm_training_restarts"] == 0
    assert launcher.end() == 0, launcher.err + launcher.out
    logs = "".join(log.text() for log in operator.kubelet.logs.values())
    assert logs.count(f"train: warning: no metrics (port {port}: Address already in use); the training continues") == 1
