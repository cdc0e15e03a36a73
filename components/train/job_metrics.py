"""Metrics of a training job that only its launcher can measure: `trm.utils.metrics_server` serves them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from components.train.backend import Backend
from trm.utils.metrics_server import Gauge, Values

WAIT = Gauge("trm_job_wait_seconds", "Seconds from the job's creation to the start of its first worker, or to now.")
RUNNING = Gauge("trm_job_workers_running", "Workers that run.")
REPLACED = Gauge("trm_job_workers_replaced", "Workers replaced since the launcher was started.")
OOM_KILLS = Gauge("trm_job_oom_kills", "Exits of workers with code 137 in the last hour, usually out of memory.")
GAUGES = (WAIT, RUNNING, REPLACED, OOM_KILLS)


class JobMetrics:
    """Metrics of one job, updated with each query of its status."""

    def __init__(self, job: Mapping[str, Any], backend: Backend) -> None:
        self._backend = backend
        self._created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
        self._started: datetime | None = None
        """When the container of the first worker started."""
        self._pods: dict[str, int] = {}
        """Uid of each pod seen so far -> index of its worker."""
        self._running = self._oom_kills = 0

    def update(self, pods: Sequence[Any], oom_kills: int) -> None:
        """Update from all pods of the job."""
        self._pods |= {pod.metadata.uid: self._backend.worker_index(pod) for pod in pods}
        self._running = sum(pod.status.phase == "Running" for pod in pods)
        self._oom_kills = oom_kills
        # Pods of replaced workers may be deleted: the first start is kept.
        starts = [self._started, *map(_started, pods)]
        self._started = min((when for when in starts if when is not None), default=None)

    def values(self) -> Values:
        """Return the metrics."""
        waited = (self._started or datetime.now(UTC)) - self._created
        return {
            WAIT: max(waited.total_seconds(), 0.0),
            RUNNING: self._running,
            REPLACED: len(self._pods) - len(set(self._pods.values())),
            OOM_KILLS: self._oom_kills,
        }


def _started(pod: Any) -> datetime | None:
    """Return when the pod's container started; None if it has not."""
    for container in pod.status.container_statuses or ():
        state = container.state.running or container.state.terminated
        if state is not None:
            return state.started_at
    return None
