"""The log of the first worker, line by line on stdout: whole and once, whatever connections break on the way."""

import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3
from kubernetes.client import ApiException

from components.train.kubernetes_client import Cluster, refusal

SILENCE = 60.0
"""Seconds without a byte after which a connection is taken for dead and made again."""
OVERLAP = timedelta(seconds=2)
"""Read again after a connection has broken: the server's clock counts whole seconds here, and the two streams of a
container are not written in the order of their timestamps."""
PAUSE = 1.0
"""Seconds between two connections."""
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\S* ?")


class Follower:
    """Prints the log of the pod that it was last shown, in a thread of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.problem: Exception | None = None
        """Why the log will never be read."""
        self._cluster = cluster
        self._pod: Any = None
        self._uid = ""
        self._finished = ""
        """The uid of the pod whose log is read to its end."""
        self._newest: datetime | None = None
        self._printed: Counter[bytes] = Counter()
        """The lines, with their timestamps, from `_newest - OVERLAP` on."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def show(self, pod: Any) -> None:
        """The pod as it stands now."""
        self._pod = pod

    def drain(self, seconds: float) -> bool:
        """Wait until the log of the last pod is read to its end; False where that took longer."""
        deadline = time.monotonic() + seconds
        while self.problem is None and self._pod is not None and _has_log(self._pod):
            if self._finished == self._pod.metadata.uid:
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _run(self) -> None:
        while self.problem is None:
            pod = self._pod
            if pod is None or not _has_log(pod) or pod.metadata.uid == self._finished:
                time.sleep(PAUSE / 4)
                continue
            if pod.metadata.uid != self._uid:
                self._uid, self._newest = pod.metadata.uid, None  # its node may have another time
            if self._read(pod.metadata.name, has_ended(pod)):
                self._finished = self._uid
            else:
                time.sleep(PAUSE)

    def _read(self, name: str, ended: bool) -> bool:
        """Print what is new until the connection ends; whether nothing more can come.

        A server whose own connection to the node broke ends ours in good order too, so that the log of a pod is whole
        only if it was asked for after the pod had `ended`.
        """
        since = self._newest and self._newest - OVERLAP
        known = self._printed.copy()
        rest = b""
        try:
            for chunk in self._cluster.stream(name, since, SILENCE):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._line(line, known)
        except ApiException as error:
            if error.status in (401, 403):
                self.problem = refusal(error, self._cluster.host)
            return error.status == 404  # the pod is gone, and its log with it
        except (urllib3.exceptions.HTTPError, OSError):
            return False
        if rest and ended:
            self._line(rest, known)
        return ended

    def _line(self, line: bytes, known: Counter[bytes]) -> None:
        if known[line]:
            known[line] -= 1
            return
        stamp = _STAMP.match(line)
        if stamp:
            when = datetime.fromisoformat(stamp[1].decode()).replace(tzinfo=UTC)
            if self._newest is None or when > self._newest:
                self._newest = when
                self._forget(when - OVERLAP)
        self._printed[line] += 1
        print(line[stamp.end() if stamp else 0 :].decode(errors="replace"), flush=True)

    def _forget(self, before: datetime) -> None:
        oldest = before.strftime("%Y-%m-%dT%H:%M:%S").encode()
        self._printed = Counter({line: count for line, count in self._printed.items() if line[: len(oldest)] >= oldest})


def has_ended(pod: Any) -> bool:
    """Whether nothing runs in a pod any more."""
    return pod.status.phase in ("Succeeded", "Failed")


def _has_log(pod: Any) -> bool:
    return pod.status.phase in ("Running", "Succeeded", "Failed")
