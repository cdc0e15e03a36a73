"""The logs of all workers of a job: that of the first on stdout, and the end of each in S3 for `pipeline logs`.

The launcher stores them, not the workers: it still has the lines of a worker that was killed. Each pod has its own
object `<artifact root>/logs/<content key>/worker-<index>/<time of creation>-<uid>.log`, so that the log of a replaced
worker and those that an earlier launcher stored are kept.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC
from typing import Any

from components.train.kubernetes_client import KubernetesClient
from components.train.log import log
from components.train.pod_logs import PodLogFollower
from trm.storage.s3_client import Store

MAX_BYTES = 1 << 20
"""Size of the end of a pod's log that is kept in memory and stored."""
OTHERS_TIMEOUT = 5.0
"""Seconds that the end of a job waits for the logs of the workers whose log is not printed."""
UPLOAD_INTERVAL = 60.0
"""Seconds between two uploads of the logs that have grown."""
UPLOAD_TIMEOUT = 10.0
"""Seconds that the end of a job waits for the last upload."""
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Variables of the launcher whose values are not stored. The workers have the same."""
_NAME = re.compile(r"worker-(?P<worker>\d+)/\d{8}T\d{6}Z-(?P<uid>[^/]+)\.log")


def stored_logs(uri: str, worker: int) -> dict[str, str]:
    """Return uid of the pod -> end of its log, for the pods of a worker in the order of their creation.

    Raises the errors of `trm.storage.s3_client`.
    """
    store = Store(uri)
    found = {name: match for name in store.objects(f"worker-{worker}/") if (match := _NAME.fullmatch(name))}
    return {found[name]["uid"]: store.get(name).decode(errors="replace") for name in sorted(found)}


class WorkerLogs:
    """Follows the pods of a job. Whatever happens to an upload, the job continues."""

    def __init__(self, kubernetes: KubernetesClient, uri: str) -> None:
        self._kubernetes, self._uri = kubernetes, uri
        self._followers: dict[int, PodLogFollower] = {}
        """Index of the worker -> follower of its newest pod."""
        self._tails: dict[str, _Tail] = {}
        """Name of the object -> end of the log."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._upload, daemon=True)
        self._thread.start()

    @property
    def error(self) -> Exception | None:
        """Set when a log cannot be read for lack of permission."""
        return next((each.error for each in self._followers.values() if each.error), None)

    def update(self, pods: Iterable[Any]) -> None:
        """Follow these pods, the newest of each worker, with their current status."""
        for pod in pods:
            index = self._kubernetes.backend.worker_index(pod)
            if index not in self._followers:
                self._followers[index] = PodLogFollower(self._kubernetes, self._write)
            self._followers[index].set_pod(pod)

    def drain(self, timeout: float) -> bool:
        """Wait until the logs are complete. Return False if that of the first worker is not after `timeout` seconds."""
        others = {**self._followers}
        first = others.pop(0, None)
        complete = first is None or first.drain(timeout)
        deadline = time.monotonic() + OTHERS_TIMEOUT
        for each in others.values():
            each.drain(max(deadline - time.monotonic(), 0.0))
        return complete

    def close(self) -> None:
        """Start the last upload."""
        self._closed.set()

    def finish(self) -> None:
        """Wait for the last upload, for a limited time."""
        self.close()
        self._thread.join(UPLOAD_TIMEOUT)

    def _write(self, pod: Any, line: str) -> None:
        index = self._kubernetes.backend.worker_index(pod)
        if index == 0:
            print(line, flush=True)
        created = pod.metadata.creation_timestamp.astimezone(UTC)
        name = f"worker-{index}/{created:%Y%m%dT%H%M%SZ}-{pod.metadata.uid}.log"
        self._tails.setdefault(name, _Tail()).add(line)

    def _upload(self) -> None:
        failing = ended = False
        while not ended:
            ended = self._closed.wait(UPLOAD_INTERVAL)
            try:
                store = Store(self._uri)  # reads the credentials again: they may have been renewed
                for name, tail in tuple(self._tails.items()):
                    if (text := tail.changed_text()) is not None:
                        store.put(name, _without_secrets(text).encode())
                        tail.stored(text)
                failing = False
            except Exception as error:  # whatever happens, the job continues
                if not failing:
                    log(f"the logs of the workers cannot be stored ({error}); the job continues")
                failing = True


class _Tail:
    """The last `MAX_BYTES` bytes of a log. One thread adds lines, another one reads them."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._bytes = self._dropped = 0
        self._stored: str | None = None
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line.encode()) + 1
            while self._bytes > MAX_BYTES and len(self._lines) > 1:
                self._bytes -= len(self._lines.popleft().encode()) + 1
                self._dropped += 1

    def changed_text(self) -> str | None:
        """Return the text, or None if it is stored."""
        with self._lock:
            head = [f"({self._dropped} earlier lines are not stored)"] if self._dropped else []
            text = "".join(f"{line}\n" for line in (*head, *self._lines))
        return None if text == self._stored else text

    def stored(self, text: str) -> None:
        self._stored = text


def _without_secrets(text: str) -> str:
    for name in SECRETS:
        if value := os.environ.get(name):
            text = text.replace(value, "***")
    return text
