"""What is said of a job while it waits and trains, and when it has failed."""

from collections.abc import Iterator, Mapping
from typing import Any

from components.train.kubernetes_client import Cluster, number
from components.train.log import say
from trm.errors import Fault, UserError

LINES = 100
"""The end of a failed pod's log that is printed."""
ENDED = ("Succeeded", "Failed")
HOPELESS = ("CreateContainerConfigError", "InvalidImageName")
"""Why a container that does not start never will: a secret that is not there, an address that is none."""


def condition(job: Mapping[str, Any]) -> tuple[str, str]:
    """The newest of the job's conditions that hold, and the operator's words for it."""
    holding = [each for each in (job.get("status") or {}).get("conditions") or () if each["status"] == "True"]
    for each in holding:
        if each["type"] in ENDED:
            return each["type"], each.get("message", "")
    if not holding:
        return "Queued", "the training operator has not taken it up yet"
    newest = max(holding, key=lambda each: each.get("lastTransitionTime") or "")
    return newest["type"], newest.get("message", "")


def has_ended(job: Mapping[str, Any]) -> bool:
    """Whether nothing more will come of the job."""
    return condition(job)[0] in ENDED


class News:
    """Says what has changed since the last look."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._said: dict[str, str] = {}
        self.kills = 0
        """How often workers were killed within the last hour, which is as long as Kubernetes keeps events."""

    def look(self, job: Mapping[str, Any], pods: list[Any]) -> None:
        """Say what is new of the job, its pods, and what happened to them."""
        state, words = condition(job)
        self._say(job["metadata"]["name"], f"{state.lower()}: {words}" if words else state.lower())
        for pod in pods:
            self._say(f"worker {number(pod)}", _state(pod))
        self.kills = 0
        waiting = [pod.metadata.uid for pod in pods if pod.status.phase != "Running"]
        for uid in (job["metadata"]["uid"], *waiting):
            for event in self._cluster.events(uid):
                if event.type == "Warning" or uid not in waiting:
                    self._say(f"event {event.metadata.uid}", said_of(event), event.involved_object.name)
                if event.reason == "ExitedWithCode" and event.message.endswith(" 137"):
                    self.kills += event.count or 1

    def _say(self, key: str, text: str, name: str | None = None) -> None:
        if self._said.get(key) != text:
            self._said[key] = text
            say(f"{name or key}: {text}")


def hopeless(pods: list[Any]) -> str:
    """Why a worker will never start, where time does not mend it; empty: none is hopeless."""
    for pod in pods:
        for container in pod.status.container_statuses or ():
            waiting = container.state.waiting
            if waiting is not None and waiting.reason in HOPELESS:
                return (
                    f"worker {number(pod)} cannot start: {waiting.reason}: {waiting.message}; create what is missing, "
                    "or correct section cluster"
                )
    return ""


def failure(cluster: Cluster, job: Mapping[str, Any], pods: list[Any]) -> Exception:
    """Print everything that tells why a job has failed; what to end with."""
    name, failed = job["metadata"]["name"], [pod for pod in pods if _has_failed(pod)]
    for uid in (job["metadata"]["uid"], *(pod.metadata.uid for pod in failed)):
        for event in cluster.events(uid):
            say(f"event of {event.involved_object.name}: {said_of(event)}")
    mistake = ""
    for pod in failed:
        worker = f"worker {number(pod)}"
        say(f"{worker}: {_state(pod)}")
        for previous in (True, False):
            log = cluster.tail(pod.metadata.name, previous, LINES)
            if log:
                print(f"--- the last lines of {worker}{', its container before' if previous else ''}")
                print(log, end="" if log.endswith("\n") else "\n", flush=True)
            if 2 in _exit_codes(pod):
                mistake = next((line for line in reversed(log.splitlines()) if line.startswith("trm: ")), mistake)
    _, words = condition(job)
    if mistake:
        return UserError(mistake.removeprefix("trm: "))
    ends = "; ".join(f"worker {number(pod)} {_state(pod)}" for pod in failed)
    return Fault(f"job {name} failed: {words}" + (f"; {ends}" if ends else "; none of its pods is left to ask"))


def said_of(event: Any) -> str:
    """An event in one line."""
    times = f" ({event.count} times)" if (event.count or 1) > 1 else ""
    return f"{event.reason}: {' '.join((event.message or '').split())}{times}"


def _has_failed(pod: Any) -> bool:
    return pod.status.phase == "Failed" or any(_exit_codes(pod))


def _exit_codes(pod: Any) -> list[int]:
    return [ended.exit_code for ended in _ends(pod)]


def _ends(pod: Any) -> Iterator[Any]:
    for container in pod.status.container_statuses or ():
        for state in (container.last_state, container.state):
            if state is not None and state.terminated is not None:
                yield state.terminated


def _state(pod: Any) -> str:
    """How a pod stands, and why it does not run."""
    status = pod.status
    words = [status.reason, status.message] if status.reason else []  # Evicted: ...
    words += [f"exited with {end.exit_code} ({end.reason})" for end in _ends(pod) if end.exit_code or end.signal]
    for container in status.container_statuses or ():
        if container.state.waiting is not None:
            words += [container.state.waiting.reason, container.state.waiting.message]
    if status.phase == "Pending":
        words += [each.message for each in status.conditions or () if each.status == "False" and each.message]
    elif status.phase == "Running":
        words.append(f"on {pod.spec.node_name}")
    return ": ".join([status.phase.lower(), *(" ".join(word.split()) for word in words if word)])
