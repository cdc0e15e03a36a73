"""Reports the progress of a training to Kubeflow Trainer, which writes it to `status.trainerStatus` of the TrainJob.

The controller (feature gate TrainJobStatus) gives each pod of a TrainJob a URL, and files with its CA and with a token.
Source: github.com/kubeflow/trainer, pkg/statusserver, release 2.3.
"""

import math
import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trm.utils.file_formats import printable
from trm.utils.progress import Progress

URL, CA_FILE, TOKEN_FILE = (f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN"))
"""Environment variables of the pod."""
INTERVAL = 30.0
"""Seconds between two reports."""
TIMEOUT = 5.0
"""Seconds for a request, and for the last report of a training that ends."""


@contextmanager
def reported(
    shown: Progress,
    total: int,
    done: int,
    metrics: Callable[[], Mapping[str, float | None]],
    enabled: bool = True,
    interval: float = INTERVAL,
) -> Iterator[Progress]:
    """Context manager that reports the progress of the enclosed training while it is displayed.

    A thread sends the reports, so that no request delays the training. A failure is printed once; the training and
    further reports continue.

    shown: the display, which receives the progress too.
    total, done: steps of the training, and those completed before.
    metrics: returns the newest metrics.
    enabled: False in all but one of several distributed processes.
    interval: seconds between two reports.
    """
    if not enabled or not os.environ.get(URL):
        yield shown
        return
    report = _Report(shown, total, done, metrics)
    closed = threading.Event()

    def send() -> None:
        report.send()
        while not closed.wait(interval):
            report.send()
        report.send()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield report
        closed.set()
        thread.join(TIMEOUT)
    finally:
        closed.set()  # without a wait after an interruption, which has to save the state


class _Report:
    """A display that also keeps what is reported."""

    def __init__(
        self, shown: Progress, total: int, done: int, metrics: Callable[[], Mapping[str, float | None]]
    ) -> None:
        self.shown, self.total, self.done, self.metrics = shown, total, done, metrics
        self.first, self.started = done, time.monotonic()
        self.failed = False

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.shown.advance(amount, note)
        self.done += amount

    def send(self) -> None:
        """Send one report. A failure is printed unless one was printed before."""
        import httpx

        try:
            # CA and token rotate: they are read for each request. A proxy (trust_env) is for servers elsewhere.
            context = ssl.create_default_context(cafile=os.environ[CA_FILE])
            headers = {"Authorization": f"Bearer {Path(os.environ[TOKEN_FILE]).read_text().strip()}"}
            body = {"trainerStatus": self.status()}
            response = httpx.post(
                os.environ[URL], json=body, headers=headers, verify=context, timeout=TIMEOUT, trust_env=False
            )
            response.raise_for_status()
        except Exception as error:  # whatever happens, the training continues
            if not self.failed:
                reason = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
                text = f"warning: Kubeflow Trainer does not receive the progress ({reason}); the training continues"
                print(f"train: {text}", file=sys.stderr, flush=True)
            self.failed = True

    def status(self) -> dict[str, Any]:
        """Return the progress in the form of `status.trainerStatus`."""
        done = self.done
        status: dict[str, Any] = {
            "progressPercentage": min(100 * done // max(self.total, 1), 100),
            "metrics": [
                {"name": name, "value": f"{value:.6g}"}
                for name, value in self.metrics().items()
                if value is not None and math.isfinite(value)
            ],
            "lastUpdatedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if done > self.first:
            pace = (time.monotonic() - self.started) / (done - self.first)
            status["estimatedRemainingSeconds"] = round(max(self.total - done, 0) * pace)
        return status
