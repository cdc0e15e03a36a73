"""Back end `pytorchjob`: a PyTorchJob (kubeflow.org/v1) of the training operator, with a varying number of workers.

The job is elastic and has workers only: with a master, the operator adds an init container to the workers that the
`restricted` Pod Security Standard rejects.
"""

from collections.abc import Mapping
from typing import Any

from components.train.backend import FINISHED, TRAIN, ApiResource, JobState, job_annotations, processes_per_worker
from components.train.pod_template import job_labels, pod_template
from trm.config.cluster import ClusterParams, GangScheduling, TrainJobParams
from trm.config.pods import Resources

CONTAINER = "pytorch"
"""Container name that the operator requires."""
DEFAULT_TTL = 24 * 3600
"""Seconds until a finished job is deleted."""


class PyTorchJob:
    """See `components.train.backend.Backend`."""

    name = "pytorchjob"
    resource = ApiResource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob", "Kubeflow's training operator")
    keeps_failed_pods = False

    def template(self, cluster: ClusterParams, job: TrainJobParams) -> dict[str, Any]:
        """Return the manifest without name, content key and command."""
        from kubeflow.training import models
        from kubernetes import client

        resources = cluster.pod(TRAIN)
        worker = models.KubeflowOrgV1ReplicaSpec(
            replicas=job.max_workers,
            # Exit codes from 128 on (killed, evicted) recreate the worker, others end the job: see worker.py.
            restart_policy="ExitCode",
            template=pod_template(cluster, job, CONTAINER),
        )
        # Workers may join after hours in a queue: only the job's deadline limits the wait.
        join_timeout = models.KubeflowOrgV1RDZVConf(key="join_timeout", value=str(job.deadline_seconds))
        manifest = models.KubeflowOrgV1PyTorchJob(
            api_version=f"{self.resource.group}/{self.resource.version}",
            kind=self.resource.kind,
            metadata=client.V1ObjectMeta(
                labels=job_labels(resources), annotations=job_annotations(job), namespace=cluster.namespace
            ),
            spec=models.KubeflowOrgV1PyTorchJobSpec(
                nproc_per_node=str(processes_per_worker(job, resources)),
                pytorch_replica_specs={"Worker": worker},
                elastic_policy=models.KubeflowOrgV1ElasticPolicy(
                    min_replicas=job.min_workers,
                    max_replicas=job.max_workers,
                    max_restarts=job.max_restarts,
                    rdzv_backend="c10d",
                    rdzv_conf=[join_timeout],
                ),
                run_policy=models.KubeflowOrgV1RunPolicy(
                    clean_pod_policy="Running",  # keep finished pods and their logs
                    ttl_seconds_after_finished=DEFAULT_TTL if job.ttl_seconds is None else job.ttl_seconds,
                    active_deadline_seconds=job.deadline_seconds,  # the only limit on recreated workers
                    backoff_limit=job.max_restarts + 1,  # 0 would end the job at the first eviction
                    scheduling_policy=_scheduling_policy(job.gang, resources) if job.gang else None,
                ),
            ),
        )
        serialized: Any = client.ApiClient().sanitize_for_serialization(manifest)
        return serialized

    def set_run(self, manifest: dict[str, Any], command: list[str], env: Mapping[str, str]) -> None:
        """Add command, variables and the labels of the job to the worker."""
        spec = manifest["spec"]
        workers = spec["pytorchReplicaSpecs"]["Worker"]["template"]
        (container,) = workers["spec"]["containers"]
        container["args"] = [f"--nproc-per-node={spec['nprocPerNode']}", *command]
        known = {variable["name"] for variable in container["env"]}
        added = [{"name": name, "value": value} for name, value in env.items() if name not in known]
        container["env"] = [*container["env"], *added]

    def pod_labels(self, manifest: dict[str, Any]) -> dict[str, str]:
        """Return the labels of the pods in the manifest."""
        return manifest["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["metadata"]["labels"]

    def state(self, job: Mapping[str, Any]) -> JobState:
        """Return the job's newest condition that is true."""
        conditions = [each for each in (job.get("status") or {}).get("conditions") or () if each["status"] == "True"]
        for each in conditions:
            if each["type"] in FINISHED:
                return JobState(each["type"], each.get("message", ""))
        if not conditions:
            return JobState("Queued", "the training operator has not processed the job yet")
        newest = max(reversed(conditions), key=lambda each: each.get("lastTransitionTime") or "")
        return JobState(newest["type"], newest.get("message", ""))

    def min_running(self, job: Mapping[str, Any]) -> int:
        """Return the minimum number of workers of the elastic job."""
        return job["spec"]["elasticPolicy"]["minReplicas"]

    def max_restarts(self, job: Mapping[str, Any]) -> int:
        """Return `cluster.train_job.max_restarts` of the job."""
        return job["spec"]["elasticPolicy"]["maxRestarts"]

    def worker(self, job: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return resource limits and node selector of a worker."""
        pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
        return pod["containers"][0].get("resources", {}).get("limits", {}), pod.get("nodeSelector") or {}

    def pod_selector(self, name: str) -> str:
        """Return the label selector of the pods of the job `name`."""
        return f"training.kubeflow.org/job-name={name}"

    def owns(self, job: Mapping[str, Any], pod: Any) -> bool:
        """Return True if the job is an owner of the pod."""
        return any(owner.uid == job["metadata"]["uid"] for owner in pod.metadata.owner_references or ())

    def worker_index(self, pod: Any) -> int:
        """Return the index of the pod's worker, from 0."""
        return int(pod.metadata.labels["training.kubeflow.org/replica-index"])

    def parts(self, name: str) -> set[tuple[str, str]]:
        """Return no objects: the operator makes the pods itself."""
        del name
        return set()


def _scheduling_policy(gang: GangScheduling, resources: Resources) -> Any:
    from kubeflow.training import models

    return models.KubeflowOrgV1SchedulingPolicy(
        min_available=gang.min_available,
        priority_class=resources.priority_class,
        queue=gang.queue,
        schedule_timeout_seconds=gang.timeout_seconds,
    )
