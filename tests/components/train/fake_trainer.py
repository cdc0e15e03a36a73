"""Kubeflow Trainer 2.3 of a test cluster with JobSet and Kubernetes' Job controller: TrainJobs with fixed workers.

From their source: the runtime's pod with the patches of the TrainJob, the PET_* variables of policy `torch`, the
podFailurePolicy of the runtime, replaced pods (failed ones stay), deleted pods when the job has finished, conditions,
the deadline. The owners of pods are Jobs, which have other uids than TrainJobs.
"""

import time
import uuid
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from kubernetes.client import ApiException

from components.train.train_job import COMPLETION_INDEX, CONTAINER, JOB, TrainJob
from tests.components.train.fake_cluster import FakeCluster, stamp

REPLACEMENT_DELAY = 2.5
"""Seconds until a failed pod is replaced; Kubernetes takes at least 10."""
FINISHED = ("Complete", "Failed")


def merge(value: Any, patch: Any) -> Any:
    """Return a strategic merge: mappings by key, lists of named things by name, anything else replaced."""
    if isinstance(value, Mapping) and isinstance(patch, Mapping):
        return {key: merge(value.get(key), patch.get(key)) for key in {**value, **patch}}
    if isinstance(value, list) and isinstance(patch, list) and all("name" in each for each in [*value, *patch]):
        named = {each["name"]: each for each in value}
        return [
            merge(named.get(name), new) for name, new in ({**named, **{each["name"]: each for each in patch}}).items()
        ]
    return value if patch is None else patch


def worker_template(job: Mapping[str, Any], runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template of the Job that the controller makes from a TrainJob and its TrainingRuntime."""
    (replicated,) = deepcopy(runtime["spec"]["template"]["spec"]["replicatedJobs"])
    template = replicated["template"]
    for patch in job["spec"].get("runtimePatches", ()):
        for each in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            assert each["name"] == replicated["name"] == JOB
            template = merge(template, each["template"])
    (container,) = template["spec"]["template"]["spec"]["containers"]
    trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
    container |= {field: trainer[field] for field in ("image", "command", "args") if field in trainer}
    container |= {"resources": trainer["resourcesPerNode"]} if "resourcesPerNode" in trainer else {}
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{COMPLETION_INDEX}']"}}
    reserved = {
        "PET_NNODES": {"value": str(trainer["numNodes"])},
        "PET_NPROC_PER_NODE": {"value": str(trainer["numProcPerNode"])},
        "PET_NODE_RANK": {"valueFrom": index},
        "PET_MASTER_ADDR": {"value": f"{name}-{JOB}-0-0.{name}"},
        "PET_MASTER_PORT": {"value": "29500"},
    }
    assert not {each["name"] for each in trainer["env"]} & set(reserved)  # the webhook refuses them
    container["env"] = [*trainer["env"], *({"name": key, **value} for key, value in reserved.items())]
    return template


class FakeTrainer(FakeCluster):
    """Reconciles TrainJobs."""

    backend = TrainJob()
    container = CONTAINER

    def _template(self, job: Mapping[str, Any]) -> dict[str, Any]:
        path = ("trainer.kubeflow.org", "v1alpha1", "default", "trainingruntimes", job["spec"]["runtimeRef"]["name"])
        return worker_template(job, self.custom.get_namespaced_custom_object(*path))

    def _reconcile(self, job: dict[str, Any]) -> None:
        conditions = job.setdefault("status", {}).setdefault("conditions", [])
        pods = [pod for pod in self.job_pods() if self._owned([job], pod)]
        if any(each["type"] in FINISHED for each in conditions):
            self._delete_active(pods)
            return
        if self._is_suspended(job, bool(pods)):
            return
        if self._expired(job, job["spec"]["activeDeadlineSeconds"]):
            for pod in pods:
                self._delete(pod)
            self._finish(job, "Failed", "DeadlineExceeded", "TrainJob exceeded its activeDeadlineSeconds")
            return
        template, newest = self._template(job), self._newest(pods)
        for index in range(job["spec"]["trainer"]["numNodes"]):
            if index not in newest:
                self._create(job, template, index)
            elif newest[index].status.phase == "Failed":
                self._replace(job, template, newest[index])
            else:
                self._look_after(job, newest[index])
        phases = [pod.status.phase for pod in self._newest(self._pods_of(job)).values()]
        if phases.count("Succeeded") == job["spec"]["trainer"]["numNodes"]:
            self._finish(job, "Complete", "AllJobsCompleted", "jobset completed successfully")
        elif not any(each["type"] == "Failed" for each in conditions):
            ready = int(phases.count("Running") == len(phases))
            counts = {"name": JOB, "ready": ready, "active": 1, "succeeded": 0, "failed": 0, "suspended": 0}
            if job["status"].get("jobsStatus") != [counts]:
                self._put_status(job, jobsStatus=[counts])

    def _pods_of(self, job: Mapping[str, Any]) -> list[Any]:
        return [pod for pod in self.job_pods() if self._owned([dict(job)], pod)]

    def _newest(self, pods: list[Any]) -> dict[int, Any]:
        ordered = sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
        return {self.backend.worker_index(pod): pod for pod in ordered}

    def _create(self, job: Mapping[str, Any], template: Mapping[str, Any], index: int) -> None:
        name, pod = job["metadata"]["name"], deepcopy(template["spec"]["template"])
        labels = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": JOB}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"{name}-{JOB}-0", "uid": _job_uid(job)}
        metadata = {
            "name": f"{name}-{JOB}-0-{index}-{uuid.uuid4().hex[:5]}",
            "labels": {**pod["metadata"]["labels"], **labels},
            "annotations": {**pod["metadata"].get("annotations", {}), COMPLETION_INDEX: str(index)},
            "ownerReferences": [{**owner, "controller": True}],
        }
        self.core.create_namespaced_pod("default", {"metadata": metadata, "spec": pod["spec"]})
        self.created.append(index)
        part = {"kind": "Job", "metadata": {"name": owner["name"], "uid": owner["uid"]}}
        self._event(part, "Normal", "SuccessfulCreate", f"Created pod: {metadata['name']}")

    def _replace(self, job: dict[str, Any], template: Mapping[str, Any], pod: Any) -> None:
        """Create another pod for a failed one after a delay, unless the job's policy ends the job."""
        ended = pod.status.container_statuses[0].state.terminated
        if time.time() - ended.finished_at.timestamp() >= REPLACEMENT_DELAY:
            self._create(job, template, self.backend.worker_index(pod))

    def _ended(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        if (code or evicted) and self._action(job, code, evicted) == "FailJob":
            self._finish(job, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
            self._delete_active(self._pods_of(job))

    def _action(self, job: Mapping[str, Any], code: int, evicted: bool) -> str:
        """Return the action of the first rule that matches a failed pod."""
        for rule in self._template(job)["spec"]["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes")
            matches = evicted if codes is None else (code in codes["values"]) == (codes["operator"] == "In")
            if matches:
                return rule["action"]
        return "Count"

    def _delete_active(self, pods: list[Any]) -> None:
        for pod in pods:
            if pod.status.phase in ("Running", "Pending"):
                self._delete(pod)

    def _finish(self, job: dict[str, Any], kind: str, reason: str, message: str) -> None:
        if any(each["type"] in FINISHED for each in job["status"]["conditions"]):
            return
        words = {"reason": reason, "message": message, "lastTransitionTime": stamp()}
        job["status"]["conditions"].append({"type": kind, "status": "True", **words})
        self._put_status(job)

    def _is_suspended(self, job: dict[str, Any], has_pods: bool) -> bool:
        """Play Kueue, which suspends the job on creation, and the controller, which reports it."""
        wanted = self.suspended and not has_pods
        if job["spec"].get("suspend", False) != wanted:
            self._patch_spec(job, {"suspend": wanted})
            reason, text = ("Suspended", "TrainJob is suspended") if wanted else ("Resumed", "TrainJob is resumed")
            words = {"reason": reason, "message": text, "lastTransitionTime": stamp()}
            job["status"]["conditions"][:] = [{"type": "Suspended", "status": str(wanted), **words}]
            self._put_status(job)
        return wanted

    def _owned(self, jobs: list[dict[str, Any]], pod: Any) -> bool:
        return any(owner.uid == _job_uid(job) for job in jobs for owner in pod.metadata.owner_references or ())


def install_runtime(operator: FakeCluster, runtime: dict[str, Any]) -> None:
    """Create a TrainingRuntime, or replace it."""
    path = ("trainer.kubeflow.org", "v1alpha1", "default", "trainingruntimes")
    remove_runtime(operator, runtime["metadata"]["name"])
    operator.custom.create_namespaced_custom_object(*path, runtime)


def remove_runtime(operator: FakeCluster, name: str) -> None:
    """Delete a TrainingRuntime if it exists."""
    path = ("trainer.kubeflow.org", "v1alpha1", "default", "trainingruntimes")
    try:
        operator.custom.delete_namespaced_custom_object(*path, name)
    except ApiException as error:
        assert error.status == 404, error.body


def _job_uid(job: Mapping[str, Any]) -> str:
    return str(uuid.uuid5(uuid.UUID(job["metadata"]["uid"]), JOB))
