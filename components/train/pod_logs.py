"""The log of a pod: every line exactly once, also when connections break."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3
from kubernetes.client import ApiException

from components.train.kubernetes_client import KubernetesClient
from trm.utils.output import printable_lines

READ_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken and is opened again."""
OVERLAP = timedelta(seconds=2)
"""Period that is read again after a connection has broken: `sinceTime` has a resolution of one second, and the lines
of stdout and stderr are not in the order of their timestamps."""
PAUSE = 1.0
"""Seconds between two connections."""
_TIMESTAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\S* ?")


class PodLogFollower:
    """Follows the log of one pod at a time, in a background thread.

    Args:
        kubernetes: The cluster.
        write: Called with the pod and each line of its log, without control characters.
    """

    def __init__(self, kubernetes: KubernetesClient, write: Callable[[Any, str], None]) -> None:
        self.error: Exception | None = None
        """Set when the log cannot be read for lack of permission."""
        self._kubernetes, self._write = kubernetes, write
        self._pod: Any = None
        self._uid = ""
        self._finished_uid = ""
        """The pod whose log is complete."""
        self._is_allowed = False
        """Whether the server has accepted a request."""
        self._newest: datetime | None = None
        self._known: Counter[bytes] = Counter()
        """Lines with their timestamps, from `_newest - OVERLAP` on."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def set_pod(self, pod: Any) -> None:
        """Set the pod whose log is followed, with its current status."""
        self._pod = pod

    def drain(self, timeout: float) -> bool:
        """Wait until the pod's log is complete. Return False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.error is None and self._pod is not None and _has_log(self._pod):
            if self._finished_uid == self._pod.metadata.uid:
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _run(self) -> None:
        while self.error is None:
            pod = self._pod
            if pod is None or not _has_log(pod) or pod.metadata.uid == self._finished_uid:
                time.sleep(PAUSE / 4)
                continue
            if pod.metadata.uid != self._uid:
                self._uid, self._newest = pod.metadata.uid, None  # the clock of its node may differ
            if self._read(pod, has_finished(pod)):
                self._finished_uid = self._uid
            else:
                time.sleep(PAUSE)

    def _read(self, pod: Any, finished: bool) -> bool:
        """Write new lines until the connection ends; return whether the log is complete.

        The API server closes a stream in the regular way also when its own connection to the node breaks. A log is
        therefore complete only if the request started after the pod had `finished`.
        """
        since = self._newest and self._newest - OVERLAP
        known = self._known.copy()
        rest = b""
        try:
            if not self._kubernetes.has_pod(pod):
                return True  # deleted, and its log with it; the next pod of the worker may have its name
            for chunk in self._kubernetes.stream_log(pod.metadata.name, since, READ_TIMEOUT):
                self._is_allowed = True
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._add(pod, line, known)
        except ApiException as error:
            if error.status == 401:
                self._kubernetes.reload_credentials()
            elif error.status == 403 and not self._is_allowed:  # later it passes, such as while the server starts
                self.error = self._kubernetes.project_error(error)
            return error.status == 404  # the pod is deleted, and its log with it
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        if rest and finished:
            self._add(pod, rest, known)
        return finished

    def _add(self, pod: Any, line: bytes, known: Counter[bytes]) -> None:
        if known[line]:
            known[line] -= 1
            return
        timestamp = _TIMESTAMP.match(line)
        if timestamp:
            when = datetime.fromisoformat(timestamp[1].decode()).replace(tzinfo=UTC)
            if self._newest is None or when > self._newest:
                self._newest = when
                self._forget(when - OVERLAP)
        self._known[line] += 1
        self._write(pod, printable_lines(line[timestamp.end() if timestamp else 0 :].decode(errors="replace")))

    def _forget(self, before: datetime) -> None:
        oldest = before.strftime("%Y-%m-%dT%H:%M:%S").encode()
        self._known = Counter({line: count for line, count in self._known.items() if line[: len(oldest)] >= oldest})


def has_finished(pod: Any) -> bool:
    """Return True if all containers of the pod have terminated."""
    return pod.status.phase in ("Succeeded", "Failed")


def _has_log(pod: Any) -> bool:
    return pod.status.phase in ("Running", "Succeeded", "Failed")
