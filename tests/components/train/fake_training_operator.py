"""Training operator 1.9.4 of a test cluster: PyTorchJobs with elastic workers.

One pod per worker, the PET_* variables of its rendezvous, conditions and events, recreated workers after exit codes
from 128 on, deletion of running pods when the job has finished, the deadline.
"""

from collections.abc import Mapping
from typing import Any

from components.train.pytorch_job import CONTAINER, PyTorchJob
from tests.components.train.fake_cluster import FakeCluster, stamp

LABEL = "training.kubeflow.org"


class FakeTrainingOperator(FakeCluster):
    """Reconciles PyTorchJobs."""

    backend = PyTorchJob()
    container = CONTAINER

    def _reconcile(self, job: dict[str, Any]) -> None:
        name, status = job["metadata"]["name"], job.setdefault("status", {})
        conditions = status.setdefault("conditions", [])
        before = [dict(each) for each in conditions]
        uid = job["metadata"]["uid"]
        pods = {
            pod.metadata.name: pod
            for pod in self.job_pods()
            if any(owner.uid == uid for owner in pod.metadata.owner_references or ())
        }
        if any(each["type"] in ("Succeeded", "Failed") for each in conditions):
            for pod in pods.values():
                if pod.status.phase in ("Running", "Pending"):
                    self._delete(pod)
            return
        if not conditions:
            self._condition(job, "Created", f"PyTorchJob {name} is created.")
        if self._is_suspended(job, bool(pods)):
            return
        if self._expired(job, job["spec"]["runPolicy"]["activeDeadlineSeconds"]):
            self._condition(
                job, "Failed", f"PyTorchJob {name} has failed because it was active longer than specified deadline"
            )
            self._put_status(job)
            return
        for index in range(job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"]):
            pod_name = f"{name}-worker-{index}"
            if pod_name not in pods:
                self._create(job, pod_name, index)
            else:
                self._look_after(job, pods[pod_name])
        now = [pod.status.phase for pod in self.job_pods() if pod.metadata.name in pods]
        if "Succeeded" in now:
            self._condition(job, "Succeeded", f"PyTorchJob default/{name} successfully completed.")
        elif "Running" in now:
            self._condition(job, "Running", f"PyTorchJob default/{name} is running.")
        if conditions != before:
            self._put_status(job, replicaStatuses={"Worker": {}})

    def _create(self, job: Mapping[str, Any], name: str, index: int) -> None:
        template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        labels = {f"{LABEL}/job-name": job["metadata"]["name"], f"{LABEL}/replica-type": "worker"}
        labels |= {f"{LABEL}/replica-index": str(index), f"{LABEL}/operator-name": "pytorchjob-controller"}
        owner = {key: job["metadata"][key] for key in ("name", "uid")} | {"controller": True}
        owner |= {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "blockOwnerDeletion": True}
        (container,) = template["spec"]["containers"]
        elastic = job["spec"]["elasticPolicy"]
        rendezvous = {
            # The operator does not set PET_NPROC_PER_NODE from spec.nprocPerNode for elastic workers.
            "PET_RDZV_ENDPOINT": f"{job['metadata']['name']}-worker-0:23456",
            "PET_RDZV_BACKEND": elastic["rdzvBackend"],
            "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
            "PET_MAX_RESTARTS": str(elastic["maxRestarts"]),
            "PET_RDZV_CONF": ",".join(f"{each['key']}={each['value']}" for each in elastic["rdzvConf"]),
        }
        env = [*container.get("env", ()), *({"name": key, "value": value} for key, value in rendezvous.items())]
        spec = {**template["spec"], "containers": [{**container, "env": env}], "restartPolicy": "Never"}
        metadata = {"name": name, "labels": {**template["metadata"]["labels"], **labels}, "ownerReferences": [owner]}
        self.core.create_namespaced_pod("default", {"metadata": metadata, "spec": spec})
        self.created.append(index)
        self._event(job, "Normal", "SuccessfulCreatePod", f"Created pod: {name}")

    def _owned(self, jobs: list[dict[str, Any]], pod: Any) -> bool:
        uids = {job["metadata"]["uid"] for job in jobs}
        return any(owner.uid in uids for owner in pod.metadata.owner_references or ())

    def _is_suspended(self, job: dict[str, Any], has_pods: bool) -> bool:
        """Play Kueue, which suspends the job on creation, and the operator, which reports it."""
        if self.suspended and not has_pods:
            if not job["spec"]["runPolicy"].get("suspend"):
                self._patch_spec(job, {"runPolicy": {"suspend": True}})
                self._condition(job, "Suspended", f"PyTorchJob {job['metadata']['name']} is suspended.")
                self._put_status(job)
            return True
        if job["spec"]["runPolicy"].get("suspend"):
            self._patch_spec(job, {"runPolicy": {"suspend": False}})
            for each in job["status"]["conditions"]:
                each["status"] = "False" if each["type"] == "Suspended" else each["status"]
            self._put_status(job)
        return False

    def _ended(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        name, job_name = pod.metadata.name, job["metadata"]["name"]
        self._event(job, "Normal", "ExitedWithCode", f"Pod: default.{name} exited with code {code}")
        if code >= 128:
            self._delete(pod)
            message = f"job {job_name} is restarting because Worker replica(s) failed."
            self._event(job, "Warning", "PyTorchJobRestarting", message)
            self._condition(job, "Restarting", message)
        elif code:
            message = f'job "{job_name}" is failing because "Worker" replica(s) failed.'
            self._event(job, "Warning", "PyTorchJobFailed", message)
            self._condition(job, "Failed", message)

    def _condition(self, job: dict[str, Any], kind: str, message: str) -> None:
        conditions = job["status"]["conditions"]
        if any(each["type"] in ("Succeeded", "Failed") for each in conditions):
            return
        if any(each["type"] == kind and each["status"] == "True" for each in conditions):
            return
        kept = [each for each in conditions if each["type"] != kind]
        others = {"Running": "Restarting", "Restarting": "Running", "Succeeded": "Running", "Failed": "Running"}
        for each in kept:
            if each["type"] == others.get(kind):
                each["status"] = "False"
        now = {"lastTransitionTime": stamp(), "lastUpdateTime": stamp()}
        reason = f"PyTorchJob{kind}"
        conditions[:] = [*kept, {"type": kind, "status": "True", "reason": reason, "message": message, **now}]
