"""Training operator, scheduler, garbage collector and one node of a test cluster.

The class reproduces the behavior of the training operator 1.9.4 for elastic jobs on a real API server: one pod per
worker, the PET_* variables of its rendezvous, conditions and events, recreated workers after exit codes from 128 on,
deletion of running pods when the job has finished. The node runs each pod's command as a process on this machine and
serves the logs as a kubelet does.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from tests.apiserver import ApiServer, free_ports
from tests.components.train.fake_kubelet import Kubelet, Log
from tests.conftest import ROOT

JOBS = ("kubeflow.org", "v1", "default", "pytorchjobs")
LABEL = "training.kubeflow.org"
NODE = "node-1"
GPU, GPUS = "nvidia.com/gpu", 4


@dataclass
class Running:
    """Processes of a pod."""

    process: subprocess.Popen[bytes]
    log: Log
    evicted: bool = False


@dataclass
class FakeTrainingOperator:
    """Reconciles the jobs in namespace `default` until it is closed."""

    server: ApiServer
    folder: Path
    command: Callable[[list[str], str], list[str]] = lambda words, pod: words
    """Maps the command of a container and the pod name to the command that is run."""
    capacity: int = 2
    """Number of pods that fit on the node."""
    unpullable: str = ""
    """End of the names of pods whose image cannot be pulled."""
    shortage: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    pods: dict[str, Running] = field(default_factory=dict)
    """Pod uid -> processes."""
    created: list[str] = field(default_factory=list)
    """Names of all pods that were created."""
    problem: BaseException | None = None

    def __post_init__(self) -> None:
        self._connections = ExitStack()
        api = self._connections.enter_context(self.server.client())
        self.core: Any = client.CoreV1Api(api)
        self.custom: Any = client.CustomObjectsApi(api)
        self.kubelet = Kubelet(self.server)
        self._ports: dict[str, int] = {}
        self._closed = threading.Event()
        self._register_node()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stop, kill all processes and delete all objects."""
        self._closed.set()
        self._thread.join()
        for running in self.pods.values():
            kill(running)
        self.custom.delete_collection_namespaced_custom_object(*JOBS)
        self.core.delete_collection_namespaced_pod("default", grace_period_seconds=0)
        self.core.delete_collection_namespaced_event("default")
        self.core.delete_node(NODE)
        self.kubelet.close()
        self._connections.close()
        if self.problem:
            raise self.problem

    def jobs(self) -> list[dict[str, Any]]:
        """Return the existing jobs."""
        found: Any = self.custom.list_namespaced_custom_object(*JOBS)
        return found["items"]

    def job_pods(self) -> list[Any]:
        """Return the existing pods."""
        return self.core.list_namespaced_pod("default").items

    def evict(self, name: str) -> None:
        """Evict a pod as a node under memory pressure does: SIGTERM, then SIGKILL."""
        (pod,) = (pod for pod in self.job_pods() if pod.metadata.name == name)
        running = self.pods[pod.metadata.uid]
        running.evicted = True
        running.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(5)
        kill(running)

    def _register_node(self) -> None:
        self.core.create_node({"metadata": {"name": NODE}})
        address = [{"type": "InternalIP", "address": "127.0.0.1"}]
        ports = {"kubeletEndpoint": {"Port": self.kubelet.port}}
        amounts = {"cpu": "8", "memory": "8Gi", GPU: str(GPUS)}
        status = {"addresses": address, "daemonEndpoints": ports, "capacity": amounts, "allocatable": amounts}
        self.core.patch_node_status(NODE, {"status": status})

    def _run(self) -> None:
        while not self._closed.wait(0.2):
            try:
                self._collect_garbage()
                for job in self.jobs():
                    self._reconcile(job)
            except ApiException as error:
                if error.status not in (404, 409):  # changed concurrently
                    self.problem = error
            except Exception as error:  # some tests stop the API server
                if not self.server.away:
                    self.problem = error

    def _collect_garbage(self) -> None:
        uids = {job["metadata"]["uid"] for job in self.jobs()}
        for pod in self.job_pods():
            if not {owner.uid for owner in pod.metadata.owner_references or ()} & uids:
                self._delete(pod)

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
            self._put_status(job)

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
        self.created.append(name)
        self._event(job, "Normal", "SuccessfulCreatePod", f"Created pod: {name}")

    def _look_after(self, job: dict[str, Any], pod: Any) -> None:
        uid = pod.metadata.uid
        if pod.status.phase == "Pending" and uid not in self.pods:
            self._schedule(job, pod)
        elif pod.status.phase == "Running" and self.pods[uid].process.poll() is not None:
            self.pods[uid].log.wait()
            code = self.pods[uid].process.returncode
            self._ended(job, pod, 128 - code if code < 0 else code, self.pods[uid].evicted)

    def _schedule(self, job: Mapping[str, Any], pod: Any) -> None:
        name = pod.metadata.name
        if sum(running.process.poll() is None for running in self.pods.values()) >= self.capacity:
            why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": self.shortage}
            if not pod.status.conditions:
                self._pod_status(name, conditions=[why])
                self._event(pod.to_dict() | {"kind": "Pod"}, "Warning", "FailedScheduling", self.shortage)
            return
        if not pod.spec.node_name:
            target = {"target": {"apiVersion": "v1", "kind": "Node", "name": NODE}, "metadata": {"name": name}}
            self.core.create_namespaced_pod_binding(name, "default", target, _preload_content=False)
        if self.unpullable and name.endswith(self.unpullable):
            self._fail_to_pull(pod)
            return
        waiting = {"name": "pytorch", "ready": False, "restartCount": 0, "image": "", "imageID": ""}
        try:
            self._start(job, pod)
        except ApiException as error:
            words = {"reason": "CreateContainerConfigError", "message": _error_message(error)}
            self._pod_status(name, containerStatuses=[{**waiting, "state": {"waiting": words}}])
            return
        started = {"running": {"startedAt": stamp()}}
        self._pod_status(
            name, phase="Running", conditions=[], containerStatuses=[{**waiting, "ready": True, "state": started}]
        )

    def _fail_to_pull(self, pod: Any) -> None:
        """Alternate between the two reasons, as kubelet does."""
        seen = pod.status.container_statuses and pod.status.container_statuses[0].state.waiting.reason
        reason = "ImagePullBackOff" if seen == "ErrImagePull" else "ErrImagePull"
        state = {"waiting": {"reason": reason, "message": "registry.example is busy"}}
        status = {"name": "pytorch", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": state}
        self._pod_status(pod.metadata.name, containerStatuses=[status])

    def _start(self, job: Mapping[str, Any], pod: Any) -> None:
        name, (container,) = pod.metadata.name, pod.spec.containers
        index = int(pod.metadata.labels[f"{LABEL}/replica-index"])
        env = {key: os.environ[key] for key in ("PATH", "NUMBA_CACHE_DIR") if key in os.environ}
        for variable in container.env:
            source = variable.value_from and variable.value_from.secret_key_ref
            if source:
                secret = self.core.read_namespaced_secret(source.name, "default")
                env[variable.name] = base64.b64decode(secret.data[source.key]).decode()
            else:
                env[variable.name] = variable.value
        # Two nodes on one machine: separate loopback addresses, because there is no DNS.
        port = self._ports.setdefault(job["metadata"]["uid"], free_ports(1)[0])
        env["PET_RDZV_ENDPOINT"] = f"127.0.0.2:{port}"
        env["PET_RDZV_CONF"] += f",is_host={int(index == 0)}"
        env |= {"PET_LOCAL_ADDR": f"127.0.0.{index + 2}", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        folder = self.folder / f"cache-{pod.metadata.uid}"  # a recreated pod has an empty cache
        folder.mkdir()
        env |= {"TRM_CACHE_DIR": str(folder), "HOME": str(folder), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        words = self.command([*container.command, *container.args], name)
        words = [sys.executable if word == "python" else word for word in words]
        process = subprocess.Popen(
            words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert process.stdout is not None
        log = Log(process.stdout)
        self.kubelet.logs[name] = log
        self.pods[pod.metadata.uid] = Running(process, log)

    def _ended(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        name, job_name = pod.metadata.name, job["metadata"]["name"]
        reason = "Completed" if code == 0 else "OOMKilled" if code == 137 and not evicted else "Error"
        ended = {"terminated": {"exitCode": code, "reason": reason, "startedAt": stamp(), "finishedAt": stamp()}}
        container = {"name": "pytorch", "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": ended}
        words = {"reason": "Evicted", "message": "The node was low on resource: memory."} if evicted else {}
        self._pod_status(
            name, phase="Failed" if code or evicted else "Succeeded", containerStatuses=[container], **words
        )
        if evicted:
            self._event(pod.to_dict() | {"kind": "Pod"}, "Warning", "Evicted", words["message"])
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

    def _put_status(self, job: Mapping[str, Any]) -> None:
        name = job["metadata"]["name"]
        status = {"conditions": job["status"]["conditions"], "replicaStatuses": {"Worker": {}}}
        self.custom.patch_namespaced_custom_object_status(*JOBS, name, {"status": status})

    def _pod_status(self, name: str, **status: Any) -> None:
        self.core.patch_namespaced_pod_status(name, "default", {"status": status})

    def _delete(self, pod: Any) -> None:
        if running := self.pods.get(pod.metadata.uid):
            kill(running)
        self.core.delete_namespaced_pod(pod.metadata.name, "default", grace_period_seconds=0)

    def _event(self, about: Mapping[str, Any], kind: str, reason: str, message: str) -> None:
        metadata = about["metadata"]
        involved = {"kind": about["kind"], "name": metadata["name"], "uid": metadata["uid"], "namespace": "default"}
        body = {"metadata": {"generateName": f"{metadata['name']}."}, "involvedObject": involved, "type": kind}
        body |= {"reason": reason, "message": message, "count": 1, "lastTimestamp": stamp(), "firstTimestamp": stamp()}
        self.core.create_namespaced_event("default", body)


def kill(running: Running) -> None:
    """Kill the processes of a pod, including those of torchrun, which have their own sessions."""
    if running.process.poll() is None:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], check=False, capture_output=True, text=True
        )
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()


def stamp() -> str:
    """Return the current time in the format of Kubernetes."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _error_message(error: ApiException) -> str:
    """Return the message of an API error."""
    return json.loads(error.body or "{}").get("message", "")


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the first true value of `condition()`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.1)
    return value
