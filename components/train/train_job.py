"""Back end `trainjob`: a TrainJob (trainer.kubeflow.org/v1alpha1) of Kubeflow Trainer 2.3, with fixed workers.

The controller builds the pods from a TrainingRuntime of this project (`runtime`), to which the TrainJob adds whatever
its patches can hold. The runtime has the rest: when a failed worker is replaced, gang scheduling, and the settings of a
pod for which a patch has no field, such as its priority. `torch-distributed` of Kubeflow cannot express them.

torchrun's workers meet in a c10d rendezvous, not in the static one of the controller's PET_MASTER_* variables: when a
worker is replaced, only the processes of the others restart.
"""

from collections.abc import Mapping
from typing import Any

from components.train.backend import SPEC_HASH, TRAIN, ApiResource, JobState, job_annotations, processes_per_worker
from components.train.backend import spec_hash as hash_of
from components.train.pod_template import job_labels, pod_template, worker_labels
from trm.config.cluster import ClusterParams, GangScheduling, TrainJobParams

CONTAINER = JOB = "node"
"""Names of the container and of the replicated job that the controller requires."""
RENDEZVOUS_PORT = 29500
"""The port that the controller opens."""
RUNTIME_HASH = "trm/runtime-hash"
"""Annotation of a TrainJob: SHA-256 of the spec of its TrainingRuntime, as section `cluster` gives it."""
RUNTIME = ApiResource("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime", "Kubeflow Trainer")
PATCH_MANAGER = "trm/launcher"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"
MAX_RESTARTS = "PET_MAX_RESTARTS"
RETRIED_CODES = [129, 130, 134, 137, 139, 143]
"""Exit codes after signals (killed, evicted), upon which a worker is replaced. Any other code ends the job."""
BACKOFF_LIMIT = 1000
"""Replaced workers until the Job gives up. The launcher ends a job with repeated out-of-memory kills, the deadline any
other."""
SCHEDULERS = {"volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"}
"""Gang scheduling -> name of the scheduler."""
TRAINER_FIELDS = ("image", "command", "args", "env")
"""Fields of a container that `spec.trainer` has."""


class TrainJob:
    """See `components.train.backend.Backend`."""

    name = "trainjob"
    resource = ApiResource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", "Kubeflow Trainer")
    keeps_failed_pods = True

    def template(self, cluster: ClusterParams, job: TrainJobParams) -> dict[str, Any]:
        """Return the manifest without name, content key and command."""
        from kubeflow_trainer_api import models

        resources, pod = cluster.pod(TRAIN), _pod(cluster, job)
        (container,) = pod["spec"]["containers"]
        patched = {name: value for name, value in pod["spec"].items() if name in _patch_fields()}
        patched["containers"] = [{name: container[name] for name in ("name", "securityContext", "volumeMounts")}]
        rendezvous = {
            "PET_RDZV_BACKEND": "c10d",
            # Workers may join after hours in a queue: only the job's deadline limits the wait.
            "PET_RDZV_CONF": f"join_timeout={job.deadline_seconds}",
            MAX_RESTARTS: str(job.max_restarts),
        }
        env = [*container["env"], *({"name": name, "value": value} for name, value in rendezvous.items())]
        replicated = {"name": JOB, "template": {"spec": {"template": {"metadata": pod["metadata"], "spec": patched}}}}
        spec = {
            "activeDeadlineSeconds": job.deadline_seconds,
            "runtimeRef": {"apiGroup": RUNTIME.group, "kind": RUNTIME.kind, "name": job.runtime},
            "trainer": {
                **{name: container[name] for name in TRAINER_FIELDS if name in container},
                "env": env,
                "numNodes": job.max_workers,
                "numProcPerNode": processes_per_worker(job, resources),
                "resourcesPerNode": container.get("resources"),
            },
            "runtimePatches": [
                {
                    "manager": PATCH_MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
                }
            ],
        }
        metadata = {
            "labels": job_labels(resources),
            "annotations": job_annotations(job) | {RUNTIME_HASH: hash_of(runtime(cluster, job)["spec"])},
            "namespace": cluster.namespace,
        }
        return _serialized(models.TrainerV1alpha1TrainJob, self.resource, metadata, spec)

    def set_run(self, manifest: dict[str, Any], command: list[str], env: Mapping[str, str]) -> None:
        """Add command, variables and the address of the rendezvous, which is the first worker."""
        trainer, name = manifest["spec"]["trainer"], manifest["metadata"]["name"]
        trainer["args"] = [f"--nproc-per-node={trainer['numProcPerNode']}", *command]
        known = {variable["name"] for variable in trainer["env"]}
        values = {**env, "PET_RDZV_ENDPOINT": f"{name}-{JOB}-0-0.{name}:{RENDEZVOUS_PORT}"}
        trainer["env"] += [{"name": key, "value": value} for key, value in values.items() if key not in known]

    def pod_labels(self, manifest: dict[str, Any]) -> dict[str, str]:
        """Return the labels of the pods in the manifest."""
        return _patch(manifest)["metadata"]["labels"]

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Return the state from conditions, or from the numbers of workers: a running job has no condition."""
        status = job.get("status") or {}
        conditions = {each["type"]: each for each in status.get("conditions") or () if each["status"] == "True"}
        for kind, name in (("Complete", "Succeeded"), ("Failed", "Failed"), ("Suspended", "Suspended")):
            if kind in conditions:
                return JobState(name, conditions[kind].get("message", ""))
        workers = next((each for each in status.get("jobsStatus") or () if each["name"] == JOB), None)
        if workers is None:
            return JobState("Queued", "Kubeflow Trainer has not processed the job yet")
        if workers.get("ready"):
            return JobState("Running", _progress(status.get("trainerStatus") or {}))
        return JobState("Created", "its workers are not ready")

    def min_running(self, job: Mapping[str, Any]) -> int:
        """Return the number of workers, which is fixed."""
        return job["spec"]["trainer"]["numNodes"]

    def max_restarts(self, job: Mapping[str, Any]) -> int:
        """Return `cluster.train_job.max_restarts` of the job."""
        variables = {each["name"]: each.get("value") for each in job["spec"]["trainer"]["env"]}
        return int(variables[MAX_RESTARTS])

    def worker(self, job: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return resource limits and node selector of a worker."""
        limits = (job["spec"]["trainer"].get("resourcesPerNode") or {}).get("limits") or {}
        return limits, _patch(job)["spec"].get("nodeSelector") or {}

    def pod_selector(self, name: str) -> str:
        """Return the label selector of the pods of the job `name`."""
        return f"jobset.sigs.k8s.io/jobset-name={name}"

    def owns(self, job: Mapping[str, Any], pod: Any) -> bool:
        """Return True: the pod's owner is a Job, which the launcher may not read. A launcher creates a job only after
        all pods of an earlier one are deleted."""
        del job, pod
        return True

    def worker_index(self, pod: Any) -> int:
        """Return the index of the pod's worker, from 0."""
        return int(pod.metadata.annotations[COMPLETION_INDEX])

    def parts(self, name: str) -> set[tuple[str, str]]:
        """Return the JobSet and its Job, whose events report why pods cannot be created."""
        return {("JobSet", name), ("Job", f"{name}-{JOB}-0")}


def runtime(cluster: ClusterParams, job: TrainJobParams) -> dict[str, Any]:
    """Return the TrainingRuntime to which the TrainJob of section `cluster` refers."""
    from kubeflow_trainer_api import models

    pod = _pod(cluster, job)
    (container,) = pod["spec"]["containers"]
    in_job = {*TRAINER_FIELDS, "resources", "securityContext", "volumeMounts"}
    rest = {name: value for name, value in pod["spec"].items() if name not in _patch_fields() | {"containers"}}
    rest |= {
        "restartPolicy": "Never",  # required by podFailurePolicy
        "containers": [{name: value for name, value in container.items() if name not in in_job}],
        "schedulerName": SCHEDULERS[job.gang.scheduler] if job.gang else None,
    }
    # A label of the Job, by which the controller finds the workers.
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    node = {
        "name": JOB,
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "backoffLimit": BACKOFF_LIMIT,
                "podFailurePolicy": {"rules": _failure_rules()},
                "template": {"spec": {name: value for name, value in rest.items() if value is not None}},
            },
        },
    }
    template: dict[str, Any] = {"spec": {"replicatedJobs": [node]}}
    if job.gang and job.gang.queue:
        template["metadata"] = {"annotations": {"scheduling.volcano.sh/queue-name": job.gang.queue}}
    spec = {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": template}
    if job.gang:
        spec["podGroupPolicy"] = _gang_policy(job.gang)
    metadata = {"name": job.runtime, "namespace": cluster.namespace, "labels": worker_labels()}
    manifest = _serialized(models.TrainerV1alpha1TrainingRuntime, RUNTIME, metadata, spec)
    manifest["metadata"]["annotations"] = {SPEC_HASH: hash_of(manifest["spec"])}
    return manifest


def _failure_rules() -> list[dict[str, Any]]:
    """Replace evicted and killed workers, and end the job after any other exit code, such as 2, a user's mistake."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": RETRIED_CODES},
        },
    ]


def _gang_policy(gang: GangScheduling) -> dict[str, Any]:
    if gang.scheduler == "volcano":
        return {"volcano": {}}
    timeout = gang.timeout_seconds
    return {"coscheduling": {"scheduleTimeoutSeconds": timeout} if timeout else {}}


def _pod(cluster: ClusterParams, job: TrainJobParams) -> dict[str, Any]:
    from kubernetes import client

    pod: Any = client.ApiClient().sanitize_for_serialization(pod_template(cluster, job, CONTAINER))
    return pod


def _patch_fields() -> set[str]:
    """Return the fields of a pod that a TrainJob can patch, without its containers."""
    from kubeflow_trainer_api import models

    fields = models.TrainerV1alpha1PodSpecPatch.model_fields.items()
    return {field.alias or name for name, field in fields} - {"containers", "initContainers"}


def _patch(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod template in the launcher's patch. Kueue adds patches of its own."""
    patches = job["spec"]["runtimePatches"]
    own = next(patch for patch in patches if patch["manager"] == PATCH_MANAGER)
    (replicated,) = own["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]


def _progress(status: Mapping[str, Any]) -> str:
    """Return the progress that the first process has reported to the controller, in steps of ten per cent."""
    percent = status.get("progressPercentage")
    return "" if percent is None else f"{percent // 10 * 10} % done"


def _serialized(
    model: Any, resource: ApiResource, metadata: Mapping[str, Any], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON of a manifest after a check of its types."""
    head = {"apiVersion": f"{resource.group}/{resource.version}", "kind": resource.kind}
    return model.from_dict({**head, "metadata": metadata, "spec": spec}).to_dict()
