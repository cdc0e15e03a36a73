"""What the launcher must know of a kind of training job: the protocol of the back ends, and what they share."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from trm.config.cluster import ClusterParams, TrainJobParams
from trm.config.pods import Resources

TRAIN = "train"
"""The stage that a training job can run."""
SPEC_HASH, KEEP_ON_STOP, START_TIMEOUT = "trm/spec-hash", "trm/keep-on-stop", "trm/start-timeout"
"""Annotations: SHA-256 of the spec, whether the job continues after the run is stopped, and the time in seconds that a
worker may fail to start."""
KEY_LABEL = "trm/key"
"""Label with the first 63 digits of the content key."""
LOGS = "logs"
"""Folder of the workers' logs below the artifact root."""
FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True)
class ApiResource:
    """A kind of Kubernetes objects."""

    group: str
    version: str
    plural: str
    kind: str
    controller: str
    """What must be installed for it."""


@dataclass(frozen=True)
class JobState:
    """State of a training job."""

    name: str
    """`Queued`: no controller has processed the job. `Succeeded` and `Failed` are final."""
    message: str

    @property
    def finished(self) -> bool:
        """True if the job has succeeded or failed."""
        return self.name in FINISHED


class Backend(Protocol):
    """A kind of training job.

    A job is handled as the JSON of its manifest: the launcher does not need the packages of the back ends.
    """

    name: str
    """Value of `cluster.train_job.backend`."""
    resource: ApiResource
    keeps_failed_pods: bool
    """True: a pod that is replaced stays, with its exit code. False: only an event reports its exit code."""

    def template(self, cluster: ClusterParams, job: TrainJobParams) -> dict[str, Any]:
        """Return the manifest without name, content key and command."""
        ...

    def pod_labels(self, manifest: dict[str, Any]) -> dict[str, str]:
        """Return the labels of the pods in the manifest, to be changed in place."""
        ...

    def set_run(self, manifest: dict[str, Any], command: list[str], env: Mapping[str, str]) -> None:
        """Add the arguments of `trm`, and variables unless the manifest has them. Name and labels are set before."""
        ...

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Return the state of a job from its status."""
        ...

    def min_running(self, job: Mapping[str, Any]) -> int:
        """Return the number of workers with which the job trains."""
        ...

    def max_restarts(self, job: Mapping[str, Any]) -> int:
        """Return `cluster.train_job.max_restarts` of the job."""
        ...

    def worker(self, job: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return resource limits and node selector of a worker."""
        ...

    def pod_selector(self, name: str) -> str:
        """Return the label selector of the pods of the job `name`."""
        ...

    def owns(self, job: Mapping[str, Any], pod: Any) -> bool:
        """Return False for a pod of an earlier job of this name."""
        ...

    def worker_index(self, pod: Any) -> int:
        """Return the index of the pod's worker, from 0."""
        ...

    def parts(self, name: str) -> set[tuple[str, str]]:
        """Return kind and name of the objects through which the controller makes the pods of the job `name`."""
        ...


def job_name(key: str) -> str:
    """Return the job's name: a DNS-1035 label, short enough for the suffixes of its pods."""
    return f"trm-{key[:12]}"


def logs_uri(artifact_root: str, key: str) -> str:
    """Return the URI below which the logs of the training with this content key are stored."""
    return f"{artifact_root}/{LOGS}/{key}"


def spec_hash(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of a job's spec, as hex digits."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def job_annotations(job: TrainJobParams) -> dict[str, str]:
    """Return the annotations by which a launcher knows the settings of a running job."""
    return {KEEP_ON_STOP: json.dumps(job.keep_on_stop), START_TIMEOUT: json.dumps(job.start_timeout_seconds)}


def processes_per_worker(job: TrainJobParams, resources: Resources) -> int:
    """Return the number of training processes of a worker: one per GPU unless set."""
    return job.processes_per_worker or max(resources.gpus, 1)
