"""Status of a PyTorchJob: messages while it waits and trains, and the cause of a failure."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from components.train.kubernetes_client import KubernetesClient, worker_index
from components.train.log import log
from components.train.pytorch_job import START_TIMEOUT
from trm.utils.errors import InternalError, UserError
from trm.utils.output import printable_lines

LOG_LINES = 100
"""Lines of a failed pod's log that are printed."""
EVENTS_INTERVAL = 10.0
"""Seconds between two queries of the events of the job and of all pods that wait."""
FINISHED = ("Succeeded", "Failed")
NORMAL_REASONS = ("ContainerCreating", "PodInitializing")
"""Reasons of a waiting container that is about to start. The others are faults, but most of them may pass."""


def condition(job: Mapping[str, Any]) -> tuple[str, str]:
    """Return type and message of the job's newest condition that is true. `Queued`: no condition is set."""
    conditions = [each for each in (job.get("status") or {}).get("conditions") or () if each["status"] == "True"]
    for each in conditions:
        if each["type"] in FINISHED:
            return each["type"], each.get("message", "")
    if not conditions:
        return "Queued", "the training operator has not processed the job yet"
    newest = max(conditions, key=lambda each: each.get("lastTransitionTime") or "")
    return newest["type"], newest.get("message", "")


def has_finished(job: Mapping[str, Any]) -> bool:
    """Return True if the job has succeeded or failed."""
    return condition(job)[0] in FINISHED


class StatusLogger:
    """Logs changes in the status of a job, its pods and their events."""

    def __init__(self, kubernetes: KubernetesClient) -> None:
        self._kubernetes = kubernetes
        self._logged: dict[str, str] = {}
        self._next_events = 0.0
        self._failing_since: dict[str, float] = {}
        """Uid of a pod that fails to start -> time when this was seen first."""
        self.oom_kills = 0
        """Exits of workers with code 137 in the last hour, the retention period of Kubernetes events."""

    def update(self, job: Mapping[str, Any], pods: list[Any]) -> None:
        """Log what has changed since the previous call."""
        state, message = condition(job)
        self._log(job["metadata"]["name"], f"{state.lower()}: {message}" if message else state.lower())
        for pod in pods:
            self._log(f"worker {worker_index(pod)}", _pod_status(pod))
        if time.monotonic() >= self._next_events or has_finished(job):
            self._next_events = time.monotonic() + EVENTS_INTERVAL
            self._update_events(job["metadata"]["uid"], [pod for pod in pods if pod.status.phase != "Running"])

    def start_failure(self, job: Mapping[str, Any], pods: list[Any]) -> str:
        """Return why the job cannot run: a worker has failed to start for the job's `start_timeout_seconds`.

        "" if no worker is in this state, or if enough others run. kubelet reports faults that pass in the same way as
        others, and alternates between reasons (ErrImagePull, ImagePullBackOff): only their duration counts.
        """
        now = time.monotonic()
        faults = {pod.metadata.uid: (pod, fault) for pod in pods if (fault := _start_fault(pod))}
        self._failing_since = {uid: self._failing_since.get(uid, now) for uid in faults}
        running = sum(pod.status.phase == "Running" for pod in pods)
        if not faults or running >= job["spec"]["elasticPolicy"]["minReplicas"]:
            return ""
        uid = min(self._failing_since, key=self._failing_since.__getitem__)
        (pod, fault), seconds = faults[uid], now - self._failing_since[uid]
        if seconds < float(job["metadata"]["annotations"][START_TIMEOUT]):
            return ""
        return (
            f"worker {worker_index(pod)} (pod {pod.metadata.name}) has failed to start for {seconds:.0f} s: {fault}; "
            "create the missing object, correct section cluster, or raise cluster.train_job.start_timeout_seconds"
        )

    def _update_events(self, job_uid: str, waiting: list[Any]) -> None:
        self.oom_kills = 0
        for event in self._kubernetes.events({job_uid, *(pod.metadata.uid for pod in waiting)}):
            if event.type == "Warning" or event.involved_object.uid == job_uid:
                self._log(f"event {event.metadata.uid}", format_event(event), event.involved_object.name)
            if event.reason == "ExitedWithCode" and event.message.endswith(" 137"):
                self.oom_kills += event.count or 1

    def _log(self, key: str, text: str, name: str | None = None) -> None:
        if self._logged.get(key) != text:
            self._logged[key] = text
            log(f"{name or key}: {text}")


def failure(kubernetes: KubernetesClient, job: Mapping[str, Any], pods: list[Any]) -> Exception:
    """Print events and logs of a failed job; return the error to raise.

    `UserError` if a worker exited with code 2 and printed an error message of `trm`, otherwise `InternalError`.
    """
    name, failed = job["metadata"]["name"], [pod for pod in pods if _has_failed(pod)]
    for event in kubernetes.events({job["metadata"]["uid"], *(pod.metadata.uid for pod in failed)}):
        log(f"event of {event.involved_object.name}: {format_event(event)}")
    user_error = ""
    for pod in failed:
        worker = f"worker {worker_index(pod)}"
        log(f"{worker}: {_pod_status(pod)}")
        for previous in (True, False):
            text = printable_lines(kubernetes.log_tail(pod.metadata.name, previous, LOG_LINES))
            if text:
                print(f"--- last lines of {worker}{', previous container' if previous else ''}")
                print(text, end="" if text.endswith("\n") else "\n", flush=True)
            if 2 in _exit_codes(pod):
                lines = reversed(text.splitlines())
                user_error = next((line for line in lines if line.startswith("trm: ")), user_error)
    _, message = condition(job)
    if user_error:
        return UserError(user_error.removeprefix("trm: "))
    causes = "; ".join(f"worker {worker_index(pod)} {_pod_status(pod)}" for pod in failed)
    return InternalError(f"job {name} failed: {message}" + (f"; {causes}" if causes else "; its pods are deleted"))


def format_event(event: Any) -> str:
    """Return an event as one line."""
    count = f" ({event.count} times)" if (event.count or 1) > 1 else ""
    return f"{event.reason}: {' '.join((event.message or '').split())}{count}"


def _start_fault(pod: Any) -> str:
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


def _exit_codes(pod: Any) -> list[int]:
    return [terminated.exit_code for terminated in _terminated(pod)]


def _terminated(pod: Any) -> Iterator[Any]:
    for container in pod.status.container_statuses or ():
        for state in (container.last_state, container.state):
            if state is not None and state.terminated is not None:
                yield state.terminated


def _pod_status(pod: Any) -> str:
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
