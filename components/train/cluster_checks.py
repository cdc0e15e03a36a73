"""What must be right in the cluster before a job is created. The launcher and `python -m pipeline doctor` check it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.train.backend import SPEC_HASH
from components.train.train_job import RUNTIME_HASH
from trm.utils.errors import UserError

if TYPE_CHECKING:
    from components.train.kubernetes_client import KubernetesClient


def check_runtime(kubernetes: "KubernetesClient", job: Mapping[str, Any]) -> None:
    """Raise `UserError` if the TrainingRuntime of a TrainJob is missing or was made for another section `cluster`."""
    expected = job["metadata"]["annotations"].get(RUNTIME_HASH)
    if expected is None:
        return
    name, namespace = job["spec"]["runtimeRef"]["name"], kubernetes.namespace
    runtime = kubernetes.runtime(name)
    if runtime is None or spec_hash_of(runtime) != expected:
        problem = "does not exist" if runtime is None else "was made for another section cluster"
        raise UserError(
            f"TrainingRuntime {name} in namespace {namespace} {problem}; run "
            f"`python -m pipeline train-job --runtime | kubectl -n {namespace} apply -f -`"
        )


def check_node_capacity(kubernetes: "KubernetesClient", job: Mapping[str, Any]) -> None:
    """Raise `UserError` if a worker requests more GPUs than any node has: it would stay pending for ever."""
    limits, node_selector = kubernetes.backend.worker(job)
    for resource in limits.keys() - {"cpu", "memory", "ephemeral-storage"}:
        available = kubernetes.max_allocatable(resource, node_selector)
        if available is not None and int(limits[resource]) > available:
            raise UserError(
                f"a worker requests {limits[resource]} {resource}, but the largest node has {available}; lower "
                "cluster.resources.train.gpus or extended_resources, or select other nodes with node_selector"
            )


def spec_hash_of(manifest: Mapping[str, Any]) -> str | None:
    """Return the hash of the spec of a job or a runtime; None if another program made it."""
    return manifest["metadata"].get("annotations", {}).get(SPEC_HASH)
