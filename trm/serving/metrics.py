"""Metrics of a server in the text format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """Counts of one server; several in a process do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "trm_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "trm_request_seconds", "Duration of requests.", ["route"], buckets=SECONDS, registry=self._registry
        )
        self.running = Gauge("trm_requests_running", "Requests that are handled.", registry=self._registry)
        self._puzzles = Counter("trm_puzzles", "Puzzles answered.", ["model"], registry=self._registry)
        self._batch_puzzles = Histogram(
            "trm_batch_puzzles", "Puzzles of a batch.", ["model"], buckets=SIZES, registry=self._registry
        )
        self._batch_seconds = Histogram(
            "trm_batch_seconds", "Duration of a batch.", ["model"], buckets=SECONDS, registry=self._registry
        )
        self._queue = Gauge("trm_queue_puzzles", "Puzzles that wait.", ["model"], registry=self._registry)

    def watch_queue(self, model: str, depth: Callable[[], int]) -> None:
        """Read the length of a model's queue whenever the metrics are read."""
        self._queue.labels(model).set_function(depth)

    def count_batch(self, model: str, puzzles: int, seconds: float) -> None:
        """Count a batch of a model."""
        self._puzzles.labels(model).inc(puzzles)
        self._batch_puzzles.labels(model).observe(puzzles)
        self._batch_seconds.labels(model).observe(seconds)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request. route: the path of the API, not that of the request, so that clients cannot add labels."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics."""
        return generate_latest(self._registry)
