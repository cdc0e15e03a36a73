"""The log of one worker of a run's training job: from its pod, and from S3 for pods that are deleted."""

import re
import sys
import time
from typing import TYPE_CHECKING, Any

from components.parameters import key_parameter
from components.train.backend import job_name, logs_uri
from pipeline.kfp.client import CONTENT_KEY, FINISHED_STATES, KfpClient
from pipeline.kfp.collect import ROOT
from pipeline.kfp.train_job import TRAIN, clients
from pipeline.kfp.watch import POLL_INTERVAL
from trm.config.cluster import ClusterParams
from trm.utils.errors import InternalError, UserError
from trm.utils.output import printable_lines

if TYPE_CHECKING:
    from components.train.kubernetes_client import KubernetesClient

DRAIN_TIMEOUT = 30.0
"""Seconds to read the rest of the log of a finished job."""


def print_worker_logs(client: KfpClient, cluster: ClusterParams, run_id: str, worker: int, follow: bool) -> None:
    """Print the logs of a worker's earlier pods, then that of its present pod; with `follow`, until the job has ended.

    Raises `UserError` if there is no log, or if `follow` is set and the kubeconfig reaches no cluster.
    """
    from components.train.kubernetes_client import NoClusterError

    run = client.get(run_id)
    root, key = (str(run.arguments.get(name)) for name in ("artifact_root", key_parameter(TRAIN)))
    if not (ROOT.fullmatch(root) and re.fullmatch(CONTENT_KEY, key)):
        raise UserError(f"run {run.id} is not a run of this pipeline; pass an id that `submit` printed")
    try:
        while not any(_print_present(each, root, key, worker, follow) for each in clients(cluster)):
            if not follow or client.get(run_id).state in FINISHED_STATES:
                break
            time.sleep(POLL_INTERVAL)
        else:
            return
    except NoClusterError as error:
        if follow:
            raise UserError(f"--follow reads the log of the worker from the cluster: {error}") from None
    if not _print_stored(root, key, worker, None):
        raise UserError(
            f"run {run_id}: no log of worker {worker}; it has not started, the job has fewer workers, or the pod of "
            "the stage trained"
        )


def _print_present(kubernetes: "KubernetesClient", root: str, key: str, worker: int, follow: bool) -> bool:
    """Print the logs of a worker that has a pod; return False if it has none."""
    pod = _newest_pod(kubernetes, job_name(key), worker)
    if pod is None:
        return False
    _print_stored(root, key, worker, pod.metadata.uid)
    _print_pod(kubernetes, job_name(key), worker, pod, follow)
    return True


def _newest_pod(kubernetes: "KubernetesClient", name: str, worker: int) -> Any:
    """Return the newest pod of a worker; None if there is none."""
    job = kubernetes.job(name)
    pods = [] if job is None else kubernetes.pods(job)
    return next((pod for pod in reversed(pods) if kubernetes.backend.worker_index(pod) == worker), None)


def _print_stored(root: str, key: str, worker: int, present: str | None) -> bool:
    """Print the stored logs of a worker, except that of the pod with uid `present`. Return whether there is one.

    If there is such a pod, stored logs that are not readable are a message.
    """
    from components.train.worker_logs import stored_logs

    try:
        logs = {uid: text for uid, text in stored_logs(logs_uri(root, key), worker).items() if uid != present}
    except (UserError, InternalError) as error:
        if present is None:
            raise
        print(f"the logs of earlier pods are not readable ({error})", file=sys.stderr)
        return False
    for text in logs.values():
        print(printable_lines(text), end="", flush=True)
    return bool(logs)


def _print_pod(kubernetes: "KubernetesClient", name: str, worker: int, pod: Any, follow: bool) -> None:
    """Print the log of a pod; with `follow`, also of those that replace it, until the job has ended."""
    from components.train.pod_logs import PodLogFollower

    if not follow:
        text = printable_lines(kubernetes.log_tail(pod.metadata.name, previous=False, lines=None))
        print(text, end="" if text.endswith("\n") or not text else "\n", flush=True)
        return
    follower = PodLogFollower(kubernetes, lambda _, line: print(line, flush=True))
    while True:
        follower.set_pod(pod)
        if follower.error is not None:
            raise follower.error
        job = kubernetes.job(name)
        if job is None or kubernetes.backend.state(job).finished:
            break
        time.sleep(POLL_INTERVAL)
        pod = _newest_pod(kubernetes, name, worker) or pod
    follower.set_pod(_newest_pod(kubernetes, name, worker) or pod)
    follower.drain(DRAIN_TIMEOUT)
