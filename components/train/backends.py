"""The back ends of distributed training, and the manifest of one run.

`job_template` is called when the pipeline is compiled; `fill` adds the values of one run when the job is launched.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from components.train.backend import KEEP_ON_STOP, KEY_LABEL, SPEC_HASH, Backend, job_name, spec_hash
from components.train.pod_template import STATE_DIR, default_state_root
from components.train.pytorch_job import PyTorchJob
from components.train.train_job import TrainJob
from trm.config.cluster import ClusterParams

BACKENDS: tuple[Backend, ...] = (PyTorchJob(), TrainJob())


def backend_of(job: Mapping[str, Any]) -> Backend:
    """Return the back end of a manifest."""
    return next(backend for backend in BACKENDS if backend.resource.kind == job["kind"])


def backend_named(name: str) -> Backend:
    """Return the back end with this value of `cluster.train_job.backend`."""
    return next(backend for backend in BACKENDS if backend.name == name)


def job_template(cluster: ClusterParams) -> dict[str, Any]:
    """Return the manifest without name, content key and command; {} if `cluster.train_job` is null."""
    if cluster.train_job is None:
        return {}
    return backend_named(cluster.train_job.backend).template(cluster, cluster.train_job)


def fill(
    template: Mapping[str, Any],
    command: list[str],
    key: str,
    artifact_root: str,
    owner: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the manifest of one training.

    Args:
        template: Result of `job_template`.
        command: Arguments of `trm`.
        key: Content key of the training.
        artifact_root: Root of the artifacts in S3, and of the training states unless the template has another.
        owner: Name and uid of the launcher's pod. Kubernetes deletes the job with it, unless `keep_on_stop` is set.
    """
    job = deepcopy(dict(template))
    metadata, backend = job["metadata"], backend_of(job)
    label = key[:63]  # maximum length of a label
    metadata["labels"][KEY_LABEL] = backend.pod_labels(job)[KEY_LABEL] = label
    metadata["name"] = job_name(key)
    backend.set_run(job, command, {STATE_DIR: default_state_root(artifact_root)})
    metadata["annotations"][SPEC_HASH] = spec_hash(job["spec"])
    if owner and not json.loads(metadata["annotations"][KEEP_ON_STOP]):
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", **owner}]
    return job
