"""The training job of an experiment without Kubeflow Pipelines: its manifest, and the launcher on this machine."""

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.parameters import key_parameter, parameter_text
from components.train.backend import KEEP_ON_STOP, job_name, processes_per_worker
from components.train.backends import backend_named, fill, job_template
from components.train.launcher import STOP_TIMEOUT, launch
from components.train.train_job import runtime
from pipeline.kfp.client import Run
from pipeline.kfp.tracking import tracked_cluster
from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.params import Params
from trm.stages.content_keys import content_keys
from trm.stages.records import STAGES, producer
from trm.storage import s3
from trm.utils.errors import UserError

if TYPE_CHECKING:
    from components.train.kubernetes_client import KubernetesClient

TRAIN = next(stage for stage in STAGES if stage.name == "train")


def manifest(params: Params) -> dict[str, object]:
    """Return the training job of this experiment. Raises `UserError` if `cluster.train_job` is null or invalid."""
    template, command, keys = _job_request(params)
    return fill(template, command, keys[TRAIN.name], params.cluster.artifact_root)


def training_runtime(cluster: ClusterParams) -> dict[str, object]:
    """Return the TrainingRuntime of section `cluster`. Raises `UserError` unless the back end is `trainjob`."""
    job = cluster.train_job
    if job is None or job.backend != "trainjob":
        raise UserError("only back end trainjob has a TrainingRuntime; set cluster.train_job.backend to trainjob")
    return runtime(cluster, job)


def run_train_job(params: Params) -> str:
    """Run the job, follow it until its model is in S3, and return the model's URI.

    The AWS_* environment variables select the S3 server, the kubeconfig the cluster. Raises `UserError` if an input of
    the stage is not in S3.
    """
    template, command, keys = _job_request(params)
    root = params.cluster.artifact_root
    for name in TRAIN.inputs:
        stage = producer(name).name
        uri = s3.artifact_uri(root, stage, keys[stage])
        if s3.read_manifest(uri) is None:
            raise UserError(f"{uri}: no {name} in S3; run `trm {stage} --{name} {root}`, or `python -m pipeline local`")
    launch(template, command)
    return s3.artifact_uri(root, TRAIN.name, keys[TRAIN.name])


def stop_train_job(cluster: ClusterParams, run: Run) -> str:
    """Delete the training job of a run, unless it has finished or `keep_on_stop` is set; return one line about it.

    The launcher in the run deletes its job, too, but it may be killed before, or may not have run at all. Raises
    `UserError` if the cluster refuses, `InternalError` if it is unavailable.
    """
    from components.train.kubernetes_client import NoClusterError

    name = job_name(str(run.arguments.get(key_parameter(TRAIN), "")))
    try:
        for kubernetes in clients(cluster):
            job = kubernetes.job(name)
            if job is None or kubernetes.backend.state(job).finished:
                continue
            if json.loads(job["metadata"].get("annotations", {}).get(KEEP_ON_STOP, "true")):
                return f"job {name} in namespace {kubernetes.namespace} continues (keep_on_stop)"
            kubernetes.delete(job)
            return f"deleting job {name} in namespace {kubernetes.namespace}"
    except NoClusterError as error:
        return f"job {name}: left to its launcher ({error})"
    return f"no job {name} is running"


def clients(cluster: ClusterParams) -> Iterator["KubernetesClient"]:
    """Yield a client for each namespace where the training jobs of this section may be.

    Raises `NoClusterError` without a kubeconfig.
    """
    from components.train.kubernetes_client import KubernetesClient

    backend = backend_named((cluster.train_job or TrainJobParams()).backend)
    # Single-user Kubeflow runs everything in its own namespace, which is seldom that of the kubeconfig.
    for namespace in (cluster.namespace,) if cluster.namespace else (None, "kubeflow"):
        with KubernetesClient(namespace, backend) as kubernetes:
            kubernetes.set_retry_timeout(STOP_TIMEOUT)
            yield kubernetes


def check_train_job(params: Params) -> None:
    """Raise `UserError` if the job's processes cannot divide the batch or the GPUs."""
    job, resources = params.cluster.train_job, params.cluster.pod(TRAIN.name)
    if job is None:
        return
    per_worker, batch = processes_per_worker(job, resources), params.train.global_batch_size
    if resources.gpus and per_worker > resources.gpus:
        raise UserError(
            "cluster.train_job.processes_per_worker must be at most cluster.resources.train.gpus = "
            f"{resources.gpus}. Got {per_worker}"
        )
    counts = range(job.min_workers, job.max_workers + 1)
    for workers in counts:
        if batch % (workers * per_worker):
            divisors = [count for count in counts if batch % (count * per_worker) == 0]
            fixed = f"min_workers = max_workers = {divisors[-1]}, or " if divisors else ""
            raise UserError(
                "train.global_batch_size must be a multiple of workers times processes_per_worker, for every number of "
                f"workers from cluster.train_job.min_workers to max_workers. Got {batch} for {workers} x {per_worker}; "
                f"set {fixed}train.global_batch_size to a multiple of {math.lcm(*counts) * per_worker}"
            )


def _job_request(params: Params) -> tuple[dict[str, object], list[str], dict[str, str]]:
    """Return the job's template, the arguments of its `trm` command, and the content keys."""
    if params.cluster.train_job is None:
        raise UserError("cluster.train_job is null; add `train_job: {}` to section cluster of params.yaml")
    check_train_job(params)
    keys, root = content_keys(params), params.cluster.artifact_root
    sections = {name: getattr(params, name).model_dump(mode="json") for name in TRAIN.sections}
    command = [TRAIN.name, "--params", parameter_text(sections)]
    for name in TRAIN.inputs:
        stage = producer(name).name
        command += [f"--{name}", s3.artifact_uri(root, stage, keys[stage])]
    command += [f"--{TRAIN.output}", s3.artifact_uri(root, TRAIN.name, keys[TRAIN.name])]
    return job_template(tracked_cluster(params)), command, keys
