"""Metrics of a training for Prometheus: `trm.utils.metrics_server` serves them.

In each pod the process with local rank 0 serves. That of the main process has all metrics; those of other workers have
only their restarts, so that no worker is a target without an answer.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from trm.utils.metrics_server import Gauge, Values, metrics_server
from trm.utils.progress import Progress

COMPLETED = Gauge("trm_training_steps_completed", "Optimizer steps completed, including those before a restart.")
PLANNED = Gauge("trm_training_steps_planned", "Optimizer steps of the whole training.")
PACE = Gauge("trm_training_steps_per_second", "Optimizer steps per second during the last minute.")
LEFT = Gauge("trm_training_seconds_left", "Time left at this pace; absent without progress.")
LOSS = Gauge("trm_training_loss", "Loss in the last line of the log.")
VALIDATION = Gauge("trm_training_validation_accuracy", "Exact accuracy of the last validation, 0 to 1.")
SKIPPED = Gauge("trm_training_skipped_batches", "Batches skipped because their loss or gradient was not finite.")
STATE_AGE = Gauge(
    "trm_training_state_age_seconds",
    "Seconds since a state was saved on disk or in S3, or since this process started the training.",
    "place",
)
RESTARTS = Gauge("trm_training_restarts", "Restarts of this worker's processes by torchrun.")
GAUGES = (COMPLETED, PLANNED, PACE, LEFT, LOSS, VALIDATION, SKIPPED, STATE_AGE, RESTARTS)
LOGGED = {LOSS: "train/loss", VALIDATION: "validation/exact_accuracy", SKIPPED: "train/skipped_batches"}
"""Gauges of the last line of each log -> `<log>/<column>`."""
WINDOW = 60.0
"""Seconds over which the pace is measured."""
RESOLUTION = 1.0
"""Seconds between two points of time whose steps are kept."""


@contextmanager
def exported(
    shown: Progress,
    total: int,
    done: int,
    metrics: Callable[[], Mapping[str, float | None]],
    saved: Callable[[], Mapping[str, float]],
    is_main: bool = True,
) -> Iterator[Progress]:
    """Context manager that serves the metrics of the enclosed training, if `$TRM_METRICS_PORT` is set.

    shown: the display, which receives the progress too.
    total, done: steps of the training, and those completed before.
    metrics: returns the last line of each log, by `<log>/<column>`.
    saved: returns where states are saved (`disk`, `s3`), and the time of the last one (`time.monotonic`).
    is_main: False in all but one of several distributed processes.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield shown
        return
    training = TrainingMetrics(shown, total, done, metrics, saved)
    with metrics_server(training.values if is_main else restarts, "train", "the training"):
        yield training if is_main else shown


class TrainingMetrics:
    """A display that also measures the pace."""

    def __init__(
        self,
        shown: Progress,
        total: int,
        done: int,
        metrics: Callable[[], Mapping[str, float | None]],
        saved: Callable[[], Mapping[str, float]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown, self._total, self._done = shown, total, done
        self._metrics, self._saved, self._now = metrics, saved, now
        self._points = deque([(now(), done)])
        """Times and completed steps, from the last one before the window on."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Forward the progress to the display."""
        self._shown.advance(amount, note)
        self._done += amount
        time_now = self._now()
        if time_now - self._points[-1][0] >= RESOLUTION:
            self._points.append((time_now, self._done))
            while len(self._points) > 1 and self._points[1][0] <= time_now - WINDOW:
                self._points.popleft()

    def values(self) -> Values:
        """Return the metrics."""
        logged, now = self._metrics(), self._now()
        values = {gauge: value for gauge, name in LOGGED.items() if (value := logged.get(name)) is not None}
        ages = {place: max(now - when, 0.0) for place, when in self._saved().items()}
        pace, left = self._pace(now), max(self._total - self._done, 0)
        progress = {COMPLETED: self._done, PLANNED: self._total, PACE: pace}
        return {**progress, **({LEFT: left / pace} if pace else {}), **values, STATE_AGE: ages, **restarts()}

    def _pace(self, now: float) -> float:
        """Return the steps per second since the last point before the window; 0 after steps that were rolled back."""
        points = tuple(self._points)
        when, done = next((point for point in reversed(points) if point[0] <= now - WINDOW), points[0])
        return max(self._done - done, 0) / (now - when) if now > when else 0.0


def restarts() -> dict[Gauge, float]:
    """Return the restarts that torchrun has counted; none outside of torchrun."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {RESTARTS: float(count) if count.isdecimal() else 0.0}
