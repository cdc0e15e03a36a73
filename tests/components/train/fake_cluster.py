"""Scheduler, garbage collector and one node of a test cluster with a real API server, without the job's controller.

A subclass is the controller. The node runs each pod's command as a process on this machine and serves the logs as a
kubelet does.
"""

import base64
import json
import os
import signal
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from kubernetes import client
from kubernetes.client import ApiException

from components.train.backend import Backend
from tests.apiserver import ApiServer, free_ports
from tests.components.train.fake_kubelet import Kubelet, Log
from tests.conftest import ROOT
from tests.preload import python

NODE = "node-1"
GPU, GPUS = "nvidia.com/gpu", 4
DONE = "FAKE_DONE"
"""Variable with the file that a replacement command writes when it is done."""


@dataclass
class Running:
    """Processes of a pod."""

    process: subprocess.Popen[bytes]
    log: Log
    evicted: bool = False


@dataclass
class FakeCluster:
    """Reconciles the jobs in namespace `default` until it is closed."""

    backend: ClassVar[Backend]
    container: ClassVar[str]

    server: ApiServer
    folder: Path
    command: Callable[[list[str], str], list[str]] = lambda words, worker: words
    """Maps the command of a container and the worker, such as `worker-0`, to the command that is run."""
    capacity: int = 2
    """Number of pods that fit on the node."""
    unpullable: str = ""
    """The worker whose image cannot be pulled."""
    variables: dict[str, str] = field(default_factory=dict)
    """Variables that the controller adds to each pod."""
    suspended: bool = False
    """Whether Kueue holds new jobs in its queue."""
    shortage: str = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    pods: dict[str, Running] = field(default_factory=dict)
    """Pod uid -> processes."""
    created: list[int] = field(default_factory=list)
    """Worker indices of all pods that were created."""
    problem: BaseException | None = None

    def __post_init__(self) -> None:
        self._connections = ExitStack()
        self._listed: tuple[list[Any], list[Any]] = [], []
        api = self._connections.enter_context(self.server.client())
        self.core: Any = client.CoreV1Api(api)
        self.custom: Any = client.CustomObjectsApi(api)
        resource = self.backend.resource
        self.jobs_path = (resource.group, resource.version, "default", resource.plural)
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
        self.custom.delete_collection_namespaced_custom_object(*self.jobs_path)
        self.core.delete_collection_namespaced_pod("default", grace_period_seconds=0)
        self.core.delete_collection_namespaced_event("default")
        self.core.delete_node(NODE)
        self.kubelet.close()
        self._connections.close()
        if self.problem:
            raise self.problem

    def jobs(self) -> list[dict[str, Any]]:
        """Return the existing jobs."""
        found: Any = self.custom.list_namespaced_custom_object(*self.jobs_path)
        return found["items"]

    def job_pods(self) -> list[Any]:
        """Return the existing pods; those of the last call if nothing has changed. Parsing takes most of its time."""
        response = self.core.list_namespaced_pod("default", _preload_content=False)
        items = json.loads(response.data)["items"]
        if items != self._listed[0]:
            self._listed = items, self.core.api_client.deserialize(response, "V1PodList").items
        return self._listed[1]

    def delete_job(self, name: str) -> None:
        """Delete a job as another client does."""
        self.custom.delete_namespaced_custom_object(*self.jobs_path, name)

    def evict(self, index: int) -> None:
        """Evict a worker's pod as a node under memory pressure does: SIGTERM, then SIGKILL."""
        running = [pod for pod in self.job_pods() if pod.status.phase == "Running"]
        (pod,) = (pod for pod in running if self.backend.worker_index(pod) == index)
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
        while not self._closed.wait(0.3):
            with self.server.in_use:
                if not self.server.away:
                    self._reconcile_all()

    def _reconcile_all(self) -> None:
        try:
            jobs = self.jobs()
            self._collect_garbage(jobs)
            for job in jobs:
                self._reconcile(job)
        except ApiException as error:
            if error.status not in (404, 409):  # changed concurrently
                self.problem = error
        except Exception as error:
            self.problem = error

    def _collect_garbage(self, jobs: list[dict[str, Any]]) -> None:
        for pod in self.job_pods():
            if not self._owned(jobs, pod):
                self._delete(pod)

    @abstractmethod
    def _reconcile(self, job: dict[str, Any]) -> None:
        """Bring pods and status of a job in line with its spec, as the controller does."""

    @abstractmethod
    def _ended(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        """React to the end of a pod's process. Its status is already written."""

    @abstractmethod
    def _owned(self, jobs: list[dict[str, Any]], pod: Any) -> bool:
        """Return True if an owner of the pod exists."""

    def _expired(self, job: Mapping[str, Any], seconds: int) -> bool:
        """Return True if a job is older than its deadline."""
        started = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        return (datetime.now(UTC) - started).total_seconds() > seconds

    def _look_after(self, job: dict[str, Any], pod: Any) -> None:
        uid = pod.metadata.uid
        if pod.status.phase == "Pending" and uid not in self.pods:
            self._schedule(job, pod)
        elif pod.status.phase == "Running" and self.pods[uid].process.poll() is not None:
            self.pods[uid].log.wait()
            code = self.pods[uid].process.returncode
            self._end(job, pod, 128 - code if code < 0 else code, self.pods[uid].evicted)

    def _schedule(self, job: Mapping[str, Any], pod: Any) -> None:
        name, worker = pod.metadata.name, f"worker-{self.backend.worker_index(pod)}"
        if sum(running.process.poll() is None for running in self.pods.values()) >= self.capacity:
            why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": self.shortage}
            if not pod.status.conditions:
                self._pod_status(name, conditions=[why])
                self._event(pod.to_dict() | {"kind": "Pod"}, "Warning", "FailedScheduling", self.shortage)
            return
        if not pod.spec.node_name:
            target = {"target": {"apiVersion": "v1", "kind": "Node", "name": NODE}, "metadata": {"name": name}}
            # The client cannot parse the answer. The connection is free again after its last byte.
            self.core.create_namespaced_pod_binding(name, "default", target, _preload_content=False).read()
        if worker == self.unpullable:
            self._fail_to_pull(pod)
            return
        waiting = {"name": self.container, "ready": False, "restartCount": 0, "image": "", "imageID": ""}
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
        status = {"name": self.container, "ready": False, "restartCount": 0, "image": "", "imageID": "", "state": state}
        self._pod_status(pod.metadata.name, containerStatuses=[status])

    def _start(self, job: Mapping[str, Any], pod: Any) -> None:
        name, (container,) = pod.metadata.name, pod.spec.containers
        index = self.backend.worker_index(pod)
        env = {key: os.environ[key] for key in ("PATH", "NUMBA_CACHE_DIR") if key in os.environ} | self.variables
        for variable in container.env:
            source = variable.value_from and variable.value_from.secret_key_ref
            if variable.value_from and variable.value_from.field_ref:
                env[variable.name] = str(index)
            elif source:
                secret = self.core.read_namespaced_secret(source.name, "default")
                env[variable.name] = base64.b64decode(secret.data[source.key]).decode()
            else:
                env[variable.name] = variable.value
        # Two nodes on one machine: separate loopback addresses, because there is no DNS.
        port = self._ports.setdefault(job["metadata"]["uid"], free_ports(1)[0])
        env["PET_RDZV_ENDPOINT"] = f"127.0.0.2:{port}"
        env["PET_RDZV_CONF"] = f"{env.get('PET_RDZV_CONF', '')},is_host={int(index == 0)}"
        env |= {"PET_LOCAL_ADDR": f"127.0.0.{index + 2}", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        folder = self.folder / f"cache-{pod.metadata.uid}"  # a recreated pod has an empty cache
        folder.mkdir()
        env |= {"TRM_CACHE_DIR": str(folder), "HOME": str(folder), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
        env["PYTHON_EXEC"] = python()  # of the processes that torchrun starts
        env[DONE] = str(self.folder / f"done-{job['metadata']['uid']}")
        words = self.command([*container.command, *(container.args or ())], f"worker-{index}")
        words = [python() if word == "python" else word for word in words]
        process = subprocess.Popen(
            words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert process.stdout is not None
        log = Log(process.stdout)
        self.kubelet.logs[name] = log
        self.pods[pod.metadata.uid] = Running(process, log)

    def _end(self, job: dict[str, Any], pod: Any, code: int, evicted: bool) -> None:
        reason = "Completed" if code == 0 else "OOMKilled" if code == 137 and not evicted else "Error"
        ended = {"terminated": {"exitCode": code, "reason": reason, "startedAt": stamp(), "finishedAt": stamp()}}
        container = {
            "name": self.container,
            "ready": False,
            "restartCount": 0,
            "image": "",
            "imageID": "",
            "state": ended,
        }
        words = {"reason": "Evicted", "message": "The node was low on resource: memory."} if evicted else {}
        phase = "Failed" if code or evicted else "Succeeded"
        self._pod_status(pod.metadata.name, phase=phase, containerStatuses=[container], **words)
        if evicted:
            self._event(pod.to_dict() | {"kind": "Pod"}, "Warning", "Evicted", words["message"])
        self._ended(job, pod, code, evicted)

    def _put_status(self, job: Mapping[str, Any], **more: Any) -> None:
        status = {"conditions": job["status"]["conditions"], **more}
        self.custom.patch_namespaced_custom_object_status(*self.jobs_path, job["metadata"]["name"], {"status": status})

    def _patch_spec(self, job: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        self.custom.patch_namespaced_custom_object(*self.jobs_path, job["metadata"]["name"], {"spec": spec})

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
    """Kill the processes of a pod, including those of torchrun, which have their own sessions.

    If the pod's process is a fork, `tests.preload` kills them.
    """
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
