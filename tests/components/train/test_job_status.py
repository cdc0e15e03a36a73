"""Status of a training job, from pods made by hand."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from kubernetes import client

from components.train.backend import START_TIMEOUT
from components.train.job_status import StatusLogger
from components.train.kubernetes_client import KubernetesClient
from components.train.pytorch_job import PyTorchJob

JOB = {"metadata": {"annotations": {START_TIMEOUT: "0"}}, "spec": {"elasticPolicy": {"minReplicas": 1}}}


def pod(index: int, phase: str, waiting: str = "") -> Any:
    labels = {"training.kubeflow.org/replica-index": str(index)}
    state = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason=waiting) if waiting else None)
    container = client.V1ContainerStatus(
        name="pytorch", image="", image_id="", ready=False, restart_count=0, state=state
    )
    status = client.V1PodStatus(phase=phase, container_statuses=[container])
    return client.V1Pod(metadata=client.V1ObjectMeta(name=f"pod-{index}", uid=f"{index}", labels=labels), status=status)


@pytest.mark.parametrize(
    ("phase", "fails"), [("Running", False), ("Succeeded", False), ("Pending", True), ("Failed", True)]
)
def test_worker_that_cannot_start_counts_if_too_few_others_run(phase: str, fails: bool) -> None:
    """A worker that has succeeded has trained: for a moment the job is not finished yet, and must not be deleted."""
    kubernetes = cast("KubernetesClient", SimpleNamespace(backend=PyTorchJob()))
    failure = StatusLogger(kubernetes).start_failure(JOB, [pod(0, phase), pod(1, "Pending", "ErrImagePull")])
    assert ("worker 1 (pod pod-1) has failed to start for 0 s: ErrImagePull; " in failure) is fails
