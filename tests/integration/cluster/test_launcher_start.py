"""Workers that fail to start: a fault counts only after a time, and if too few others run."""

import base64
import re
import time

import pytest

from tests.components.train.fake_cluster import FakeCluster, wait_for
from tests.components.train.launcher_fixtures import PUBLISH, Stage, one_backend, replacement_command

pytestmark = pytest.mark.slow
REMEDY = "create the missing object, correct section cluster, or raise cluster.train_job.start_timeout_seconds"


@one_backend
def test_missing_secret_is_reported_after_a_time(stage: Stage, operator: FakeCluster) -> None:
    launcher = stage.with_job(start_timeout_seconds=5).replace(secret="trm-s4").start()
    assert launcher.end() == 2
    assert re.fullmatch(
        rf"launcher: worker 0 \(pod {stage.name}-\S+\) has failed to start for [5-9] s: "
        rf'CreateContainerConfigError: secrets "trm-s4" not found; {REMEDY}',
        launcher.err.splitlines()[-1],
    )
    assert operator.jobs() == []


@one_backend
def test_secret_that_is_created_later_is_awaited(stage: Stage, operator: FakeCluster) -> None:
    operator.command = replacement_command(1, 0, PUBLISH)
    launcher = stage.replace(secret="trm-s5").start()
    wait_for(lambda: "CreateContainerConfigError" in launcher.err)
    time.sleep(5)  # two queries
    assert launcher.process.poll() is None
    keys = {name: value for name, value in stage.seaweed.environment().items() if "KEY" in name}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    operator.core.create_namespaced_secret("default", {"metadata": {"name": "trm-s5"}, "data": data})
    try:
        assert launcher.end() == 0, launcher.err
    finally:
        operator.core.delete_namespaced_secret("trm-s5", "default")


@one_backend
def test_image_that_cannot_be_pulled_is_reported_after_a_time(stage: Stage, operator: FakeCluster) -> None:
    """kubelet alternates between two reasons, which are one fault."""
    operator.unpullable = "worker-1"
    launcher = stage.with_job(start_timeout_seconds=5).start()
    assert launcher.end() == 2
    assert re.fullmatch(
        rf"launcher: worker 1 \(pod {stage.name}-\S+\) has failed to start for [5-9] s: "
        rf"(ErrImagePull|ImagePullBackOff): registry.example is busy; {REMEDY}",
        launcher.err.splitlines()[-1],
    )
    assert operator.jobs() == []


@pytest.mark.parametrize("operator", ["pytorchjob"], indirect=True)  # a TrainJob needs all its workers
def test_training_continues_if_enough_workers_run(stage: Stage, operator: FakeCluster) -> None:
    operator.unpullable, operator.command = "worker-1", replacement_command(100, 0.1, PUBLISH)
    launcher = stage.with_job(min_workers=1, start_timeout_seconds=1).start()
    assert launcher.end() == 0, launcher.err
    assert launcher.lines() == list(range(100))
