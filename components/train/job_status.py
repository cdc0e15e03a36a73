"""Status of a training job: messages while it waits and trains, and the cause of a failure."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from components.train.backend import START_TIMEOUT
from components.train.kubernetes_client import KubernetesClient
from components.train.log import log
from trm.utils.errors import InternalError, UserError
from trm.utils.output import printable_lines

LOG_LINES = 100
"""Lines of a failed pod's log that are printed."""
EVENTS_INTERVAL = 10.0
"""Seconds between two queries of the events of the job and of all pods that wait."""
EVENTS_KEPT = timedelta(hours=1)
"""The retention period of Kubernetes events."""
OUT_OF_MEMORY = 137
"""Exit code of a container after SIGKILL: usually it was out of memory."""
NORMAL_REASONS = ("ContainerCreating", "PodInitializing")
"""Reasons of a waiting container that is about to start. The others are faults, but most of them may pass."""


def newest_pods(kubernetes: KubernetesClient, pods: list[Any]) -> list[Any]:
    """Return the newest pod of each worker."""
    return list({kubernetes.backend.worker_index(pod): pod for pod in pods}.values())


class StatusLogger:
    """Logs changes in the status of a job, its pods and their events."""

    def __init__(self, kubernetes: KubernetesClient) -> None:
        self._kubernetes = kubernetes
        self._logged: dict[str, str] = {}
        self._next_events = 0.0
        self._failing_since: dict[str, float] = {}
        """Uid of a pod that fails to start -> time when this was seen first."""
        self.oom_kills = 0
        """Exits of workers with code 137 in the last hour."""

    def update(self, job: Mapping[str, Any], pods: list[Any]) -> None:
        """Log what has changed since the previous call. `pods`: all pods of the job."""
        backend = self._kubernetes.backend
        state, newest = backend.state(job), newest_pods(self._kubernetes, pods)
        text = state.name.lower()
        self._log(job["metadata"]["name"], f"{text}: {state.message}" if state.message else text)
        present = {pod.metadata.uid for pod in newest}
        for pod in pods:
            # A failed pod may be replaced before it is seen as the newest of its worker.
            if pod.metadata.uid in present or pod.status.phase == "Failed":
                self._log(pod.metadata.uid, pod_status(pod), f"worker {backend.worker_index(pod)}")
        if time.monotonic() >= self._next_events or state.finished:
            self._next_events = time.monotonic() + EVENTS_INTERVAL
            self._update_events(job, [pod for pod in newest if pod.status.phase != "Running"])
            if backend.keeps_failed_pods:
                self.oom_kills = sum(map(_recent_oom_kills, pods))

    def start_failure(self, job: Mapping[str, Any], pods: list[Any]) -> str:
        """Return why the job cannot run: one of these workers has failed to start for `start_timeout_seconds`.

        "" if no worker is in this state, or if enough others run or have succeeded: a job ends a moment after its
        workers. kubelet reports faults that pass in the same way as others, and alternates between reasons
        (ErrImagePull, ImagePullBackOff): only their duration counts.
        """
        now = time.monotonic()
        faults = {pod.metadata.uid: (pod, fault) for pod in pods if (fault := start_fault(pod))}
        self._failing_since = {uid: self._failing_since.get(uid, now) for uid in faults}
        running = sum(pod.status.phase in ("Running", "Succeeded") for pod in pods)
        if not faults or running >= self._kubernetes.backend.min_running(job):
            return ""
        uid = min(self._failing_since, key=self._failing_since.__getitem__)
        (pod, fault), seconds = faults[uid], now - self._failing_since[uid]
        index = self._kubernetes.backend.worker_index(pod)
        if seconds < float(job["metadata"]["annotations"][START_TIMEOUT]):
            return ""
        return (
            f"worker {index} (pod {pod.metadata.name}) has failed to start for {seconds:.0f} s: {fault}; "
            "create the missing object, correct section cluster, or raise cluster.train_job.start_timeout_seconds"
        )

    def _update_events(self, job: Mapping[str, Any], waiting: list[Any]) -> None:
        self.oom_kills = 0
        for event in self._kubernetes.events(job, waiting):
            if event.type == "Warning" or event.involved_object.uid == job["metadata"]["uid"]:
                self._log(f"event {event.metadata.uid}", format_event(event), event.involved_object.name)
            if event.reason == "ExitedWithCode" and event.message.endswith(f" {OUT_OF_MEMORY}"):
                self.oom_kills += event.count or 1

    def _log(self, key: str, text: str, name: str | None = None) -> None:
        if self._logged.get(key) != text:
            self._logged[key] = text
            log(f"{name or key}: {text}")


def failure(kubernetes: KubernetesClient, job: Mapping[str, Any], pods: list[Any]) -> Exception:
    """Print events and logs of a failed job; return the error to raise. `pods`: the newest pod of each worker.

    `UserError` if a worker exited with code 2 and printed an error message of `trm`, otherwise `InternalError`.
    """
    name, failed = job["metadata"]["name"], [pod for pod in pods if _has_failed(pod)]
    worker_index = kubernetes.backend.worker_index
    for event in kubernetes.events(job, failed):
        log(f"event of {event.involved_object.name}: {format_event(event)}")
    user_error = ""
    for pod in failed:
        worker = f"worker {worker_index(pod)}"
        log(f"{worker}: {pod_status(pod)}")
        for previous in (True, False):
            text = printable_lines(kubernetes.log_tail(pod.metadata.name, previous, LOG_LINES))
            if text:
                print(f"--- last lines of {worker}{', previous container' if previous else ''}")
                print(text, end="" if text.endswith("\n") else "\n", flush=True)
            if 2 in _exit_codes(pod):
                lines = reversed(text.splitlines())
                user_error = next((line for line in lines if line.startswith("trm: ")), user_error)
    if user_error:
        return UserError(user_error.removeprefix("trm: "))
    causes = "; ".join(f"worker {worker_index(pod)} {pod_status(pod)}" for pod in failed)
    return InternalError(
        f"job {name} failed: {kubernetes.backend.state(job).message}"
        + (f"; {causes}" if causes else "; its pods are deleted")
    )


def format_event(event: Any) -> str:
    """Return an event as one line."""
    count = f" ({event.count} times)" if (event.count or 1) > 1 else ""
    return f"{event.reason}: {' '.join((event.message or '').split())}{count}"


def start_fault(pod: Any) -> str:
    """Return reason and message of a container that cannot start; "" if there is none."""
    if pod.status.phase != "Pending":
        return ""
    for container in pod.status.container_statuses or ():
        waiting = container.state.waiting
        if waiting is not None and waiting.reason and waiting.reason not in NORMAL_REASONS:
            return ": ".join(" ".join(part.split()) for part in (waiting.reason, waiting.message) if part)
    return ""


def _has_failed(pod: Any) -> bool:
    return pod.status.phase == "Failed" or any(_exit_codes(pod))


def _recent_oom_kills(pod: Any) -> int:
    """Return how often the pod's containers were killed in the last hour."""
    since = datetime.now(UTC) - EVENTS_KEPT
    ends = [end for end in _terminated(pod) if end.exit_code == OUT_OF_MEMORY]
    return sum(end.finished_at is not None and end.finished_at >= since for end in ends)


def _exit_codes(pod: Any) -> list[int]:
    return [terminated.exit_code for terminated in _terminated(pod)]


def _terminated(pod: Any) -> Iterator[Any]:
    for container in pod.status.container_statuses or ():
        for state in (container.last_state, container.state):
            if state is not None and state.terminated is not None:
                yield state.terminated


def pod_status(pod: Any) -> str:
    """Return the phase of a pod, and the reasons why it does not run."""
    status = pod.status
    parts = [status.reason, status.message] if status.reason else []  # Evicted: ...
    parts += [f"exited with {end.exit_code} ({end.reason})" for end in _terminated(pod) if end.exit_code or end.signal]
    for container in status.container_statuses or ():
        if container.state.waiting is not None:
            parts += [container.state.waiting.reason, container.state.waiting.message]
    if status.phase == "Pending":
        parts += [each.message for each in status.conditions or () if each.status == "False" and each.message]
    elif status.phase == "Running":
        parts.append(f"on {pod.spec.node_name}")
    return ": ".join([status.phase.lower(), *(" ".join(part.split()) for part in parts if part)])
