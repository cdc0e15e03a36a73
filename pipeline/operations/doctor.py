"""`python -m pipeline doctor`: whether the cluster of section `cluster` can run this experiment."""

import os
import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from components.train.backends import backend_named
from components.train.kubernetes_client import KubernetesClient, NoClusterError
from pipeline.kfp.client import KfpClient
from pipeline.kfp.submit import check_data_reachable, check_image, check_start_model_reachable
from pipeline.kfp.tracking import WANDB_KEY
from pipeline.kfp.train_job import check_train_job
from pipeline.operations.kubernetes_checks import KubernetesChecks
from pipeline.operations.pod_probe import probe
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.params import Params
from trm.storage.server_check import RETRY_SECONDS, check_server
from trm.utils.errors import UserError
from trm.utils.findings import Finding, NotCheckedError, check

SINGLE_USER_NAMESPACE = "kubeflow"
"""Namespace of the runs in single-user Kubeflow."""
HUGGING_FACE, WANDB = "https://huggingface.co", "https://api.wandb.ai"


def diagnose_cluster(load: Callable[[], Params], pod_timeout: float | None) -> Iterator[Finding]:
    """Yield the findings about the params that `load` returns and about their cluster.

    Args:
        load: Returns the params or raises `UserError`.
        pod_timeout: Seconds for a pod that checks what only a pod can; None: no pod is started.
    """
    try:
        params = load()
    except UserError as error:
        yield Finding("params", str(error), is_ok=False)
        return
    yield check("params", lambda: _experiment(params))
    yield check("image", lambda: _image(params.cluster))
    yield from _kubeflow(params.cluster)
    yield from _buckets(params.cluster)
    yield check("tracking", lambda: _tracking(params))
    yield from _kubernetes(params, pod_timeout)


def _experiment(params: Params) -> str:
    """What `submit` refuses before it connects to a server."""
    check_data_reachable(params.data)
    check_start_model_reachable(params.train)
    check_train_job(params)
    return f"valid; dataset {params.data.name}, whose source pods can read"


def _image(cluster: ClusterParams) -> str:
    check_image(cluster)
    return cluster.image


def _kubeflow(cluster: ClusterParams) -> Iterator[Finding]:
    first = check("Kubeflow Pipelines", lambda: _server(cluster))
    yield first
    if first.is_ok:
        yield check("Kubeflow login", lambda: f"{KfpClient(cluster, RETRY_SECONDS).count_runs()} runs can be listed")
    else:
        yield Finding("Kubeflow login", "Kubeflow Pipelines cannot be used", is_ok=None)


def _server(cluster: ClusterParams) -> str:
    if cluster.kfp_host is None:
        raise NotCheckedError("cluster.kfp_host is null; `submit` requires it")
    version, multi_user = KfpClient(cluster, RETRY_SECONDS).get_server()
    if multi_user and cluster.namespace is None:
        raise UserError("Kubeflow is multi-user; set cluster.namespace to the namespace of your profile")
    if not multi_user and cluster.namespace:
        raise UserError(f"Kubeflow is single-user; set cluster.namespace to null instead of {cluster.namespace}")
    mode = "multi" if multi_user else "single"
    return f"version {version}, {mode}-user, API v2beta1 at {cluster.kfp_host}"


def _buckets(cluster: ClusterParams) -> Iterator[Finding]:
    """Check the bucket of the artifacts, and that of the training states if it is another one."""
    roots = {"S3": cluster.artifact_root}
    if cluster.state_root not in (None, "off"):
        roots["S3 states"] = cluster.state_root
    buckets = [urlsplit(root).netloc for root in roots.values()]
    for index, (name, root) in enumerate(roots.items()):
        if buckets.index(buckets[index]) == index:
            yield from check_server(root, name)


def _tracking(params: Params) -> str:
    """Whether this machine and the pods log to W&B."""
    mode = params.tracking.mode
    if mode != "online":
        return mode
    if WANDB_KEY not in params.cluster.pods.secret_env:
        return f"online on this machine; pods log nothing, because cluster.pods.secret_env has no {WANDB_KEY}"
    if not os.environ.get(WANDB_KEY):
        raise NotCheckedError(f"online; {WANDB_KEY} is not set here, a login in ~/.netrc may exist")
    return "online on this machine and in pods"


def _kubernetes(params: Params, pod_timeout: float | None) -> Iterator[Finding]:
    cluster = params.cluster
    backend = backend_named((cluster.train_job or TrainJobParams()).backend)
    try:
        kubernetes = KubernetesClient(cluster.namespace or SINGLE_USER_NAMESPACE, backend)
    except NoClusterError as error:
        yield Finding("Kubernetes", str(error), is_ok=None)
        return
    with kubernetes:
        kubernetes.set_retry_timeout(RETRY_SECONDS)
        yield from KubernetesChecks(cluster, kubernetes).findings()
        if pod_timeout is None:
            yield Finding("pod", "pass --pod to start one, for its image, cache, S3 and egress", is_ok=None)
        else:
            yield from probe(cluster, kubernetes, _urls(params), pod_timeout)


def _urls(params: Params) -> list[str]:
    """Return the servers outside of the cluster that the stages contact, without paths, which may hold tokens."""
    found = re.findall(r'"(https?://[^"]+)"', params.data.model_dump_json())
    if getattr(getattr(params.data, "source", None), "type", "") == "huggingface":
        found.append(HUGGING_FACE)
    if params.tracking.mode == "online":
        found.append(WANDB)
    servers = {f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" for parts in map(urlsplit, found)}
    return sorted(servers)
