"""The pod that `python -m pipeline doctor --pod` starts: it has the image and the settings of a worker."""

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from components.train.job_status import pod_status, start_fault
from components.train.kubernetes_client import TIMEOUT, KubernetesClient
from components.train.pod_template import pod_template
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.utils.findings import Finding

CONTAINER = "doctor"
STAGE = {"pipelines.kubeflow.org/v2_component": "true"}
"""Label of the stages' pods: the network policies of both workers and stages admit what the pod does."""
POLL_INTERVAL = 1.0
FAULT_SECONDS = 20.0
"""Time that a fault of the start may last: some pass."""


def probe(
    cluster: ClusterParams, kubernetes: KubernetesClient, urls: list[str], timeout_seconds: float
) -> Iterator[Finding]:
    """Run `components.pod_check` in a pod, yield its findings, and delete the pod.

    Args:
        cluster: Section `cluster`; the pod has the settings of stage `train`.
        kubernetes: The cluster.
        urls: Servers that the pod should reach.
        timeout_seconds: Time until the pod must have finished.
    """
    core: Any = client.CoreV1Api(kubernetes.api)
    body = probe_pod(cluster, urls, timeout_seconds)
    name, namespace = body["metadata"]["name"], kubernetes.namespace
    try:
        core.create_namespaced_pod(namespace, body, _request_timeout=TIMEOUT)
    except ApiException as error:
        if error.status == 403:
            yield Finding("pod", "the credentials of your kubeconfig may not create pods (403)", is_ok=None)
        else:
            yield Finding("pod", str(kubernetes.project_error(error)), is_ok=False)
        return
    try:
        problem = _wait(core, name, namespace, timeout_seconds)
        findings = list(_parsed(kubernetes.log_tail(name, previous=False, lines=1000)))
    finally:
        core.delete_namespaced_pod(name, namespace, grace_period_seconds=0, _request_timeout=TIMEOUT)
    started = f"image {cluster.image} was pulled and its program ran"
    yield Finding("pod", problem or started, is_ok=not problem)
    yield from findings


def probe_pod(cluster: ClusterParams, urls: list[str], timeout_seconds: float) -> dict[str, Any]:
    """Return the manifest of the pod. The arguments are those of `probe`."""
    job = cluster.train_job or TrainJobParams()
    pod: Any = client.ApiClient().sanitize_for_serialization(pod_template(cluster, job, CONTAINER))
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = f"trm-doctor-{secrets.token_hex(4)}"
    pod["metadata"]["labels"] |= STAGE
    pod["spec"] |= {"restartPolicy": "Never", "activeDeadlineSeconds": int(timeout_seconds) + 60}
    (container,) = pod["spec"]["containers"]
    container["command"] = ["python", "-m", "components.pod_check", cluster.artifact_root, *urls]
    return pod


def _wait(core: Any, name: str, namespace: str, timeout_seconds: float) -> str:
    """Return what is wrong with the pod; "" once it has finished."""
    deadline, fault_since = time.monotonic() + timeout_seconds, 0.0
    while True:
        pod = core.read_namespaced_pod(name, namespace, _request_timeout=TIMEOUT)
        now = time.monotonic()
        if pod.status.phase == "Succeeded":
            return ""
        if pod.status.phase == "Failed":
            return f"pod {name} failed ({pod_status(pod)}); look at its settings in section cluster"
        fault = start_fault(pod)
        fault_since = (fault_since or now) if fault else 0.0
        if fault and (now - fault_since >= FAULT_SECONDS or now >= deadline):
            return f"pod {name} does not start: {fault}; correct cluster.image, its pull secret or the missing object"
        if now >= deadline:
            return (
                f"pod {name} has not finished after {timeout_seconds:.0f} s ({pod_status(pod)}); free or add nodes, "
                "lower cluster.resources.train, or raise --timeout"
            )
        time.sleep(POLL_INTERVAL)


def _parsed(text: str) -> Iterator[Finding]:
    """Yield the findings that the program printed; other lines are warnings of libraries."""
    for line in text.splitlines():
        try:
            found = json.loads(line)
            yield Finding(f"pod {found['name']}", str(found["text"]), found["is_ok"])
        except (ValueError, TypeError, KeyError):
            continue
