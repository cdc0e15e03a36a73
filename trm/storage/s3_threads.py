"""Concurrent S3 requests, whose results arrive in order and which stop at once when they are cancelled."""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from trm.storage.s3_client import Store
from trm.utils.errors import InternalError, UserError

THREADS = min(8, 2 * (os.cpu_count() or 1))
"""Number of concurrent requests."""
MAX_PENDING = 2 * THREADS
"""Maximum number of requests that are queued, running, or finished and not yet consumed."""
CLOSE_TIMEOUT = 2.0
"""Seconds that a cancelled transfer waits for running requests."""
Result = TypeVar("Result")


class _Threads:
    """A pool of daemon threads.

    The process does not wait for daemon threads when it exits, unlike for the threads of `concurrent.futures`: a server
    that does not answer must not block Ctrl-C.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Result], *args: object) -> "Future[Result]":
        future: Future[Result] = Future()

        def task() -> None:
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        self._tasks.put(task)
        return future

    def close(self) -> None:
        """Discard queued tasks and wait up to `CLOSE_TIMEOUT` seconds for running ones."""
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


def map_ordered(
    store: Store, request: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Generator[Result, None, None]:
    """Call `request` with each item of `arguments` concurrently, and yield the results in order.

    At most `MAX_PENDING` requests are ahead of the consumer. If the consumer stops early, for example on an error, the
    store's other requests are cancelled.
    """
    threads = _Threads()
    waiting: deque[Future[Result]] = deque()
    try:
        for args in arguments:
            waiting.append(threads.submit(request, *args))
            if len(waiting) >= MAX_PENDING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        store.cancel()
        threads.close()


def run_in_background(action: Callable[[], Any]) -> None:
    """Run a cleanup action for up to `CLOSE_TIMEOUT` seconds; its errors are ignored."""

    def ignore_errors() -> None:
        with suppress(UserError, InternalError):
            action()

    thread = threading.Thread(target=ignore_errors, daemon=True)
    thread.start()
    thread.join(CLOSE_TIMEOUT)
