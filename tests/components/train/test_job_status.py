"""Status of a training job, from pods made by hand."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes import client

from components.train.backend import START_TIMEOUT, JobState
from components.train.job_status import StatusLogger
from components.train.kubernetes_client import KubernetesClient
from components.train.pytorch_job import PyTorchJob

JOB = {"metadata": {"annotations": {START_TIMEOUT: "0"}}, "spec": {"elasticPolicy": {"minReplicas": 1}}}


def pod(index: int, phase: str, waiting: str = "", number: int = 0) -> Any:
    """The pod of a worker; number: how many pods it had before."""
    labels = {"training.kubeflow.org/replica-index": str(index)}
    state = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason=waiting) if waiting else None)
    container = client.V1ContainerStatus(
        name="pytorch", image="", image_id="", ready=False, restart_count=0, state=state
    )
    status = client.V1PodStatus(phase=phase, container_statuses=[container])
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=f"pod-{index}", uid=f"{index}-{number}", labels=labels), status=status
    )


@pytest.mark.parametrize(
    ("phase", "fails"), [("Running", False), ("Succeeded", False), ("Pending", True), ("Failed", True)]
)
def test_worker_that_cannot_start_counts_if_too_few_others_run(phase: str, fails: bool) -> None:
    """A worker that has succeeded has trained: for a moment the job is not finished yet, and must not be deleted."""
    kubernetes = cast("KubernetesClient", SimpleNamespace(backend=PyTorchJob()))
    failure = StatusLogger(kubernetes).start_failure(JOB, [pod(0, phase), pod(1, "Pending", "ErrImagePull")])
    assert ("worker 1 (pod pod-1) has failed to start for 0 s: ErrImagePull; " in failure) is fails


def test_the_end_of_a_replaced_pod_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    backend = SimpleNamespace(
        state=lambda _: JobState("Running", ""), worker_index=PyTorchJob().worker_index, keeps_failed_pods=True
    )
    kubernetes = cast("KubernetesClient", SimpleNamespace(backend=backend, events=lambda *_: []))
    logger, job = StatusLogger(kubernetes), {"metadata": {"name": "job", "uid": "uid"}}
    logger.update(job, [pod(0, "Pending"), pod(1, "Pending")])
    for _ in range(2):
        logger.update(job, [pod(0, "Pending"), pod(1, "Failed"), pod(1, "Pending", number=1)])
    logged = [line.removeprefix("launcher: ") for line in capsys.readouterr().err.splitlines()]
    assert logged == [
        "job: running", "worker 0: pending", "worker 1: pending", "worker 1: failed", "worker 1: pending"
    ]  # fmt: skip
