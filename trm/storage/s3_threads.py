"""Requests side by side, and a transfer that ends at once when it is told to."""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from trm.utils.errors import InternalError, UserError
from trm.storage.s3_client import Store

THREADS = min(8, 2 * (os.cpu_count() or 1))
"""More would only wait for each other."""
AHEAD = 2 * THREADS
"""Requests that wait for a thread, are under way, or whose results wait for their turn."""
LAST_WORDS = 2.0
"""Seconds that a transfer which ends before its time waits for the requests under way."""
Result = TypeVar("Result")


class _Threads:
    """Threads that the end of the process does not wait for, unlike those of `concurrent.futures`: a server that does
    not answer must not hold back Ctrl-C.
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
        """Drop what nobody has begun, and wait a little for the rest."""
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + LAST_WORDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


def in_order(
    store: Store, request: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Generator[Result, None, None]:
    """The results of `request` of each of the `arguments`, in their order; `AHEAD` of them are worked on ahead.

    When the caller stops asking, for whatever reason, the store's other requests are called off.
    """
    threads = _Threads()
    waiting: deque[Future[Result]] = deque()
    try:
        for args in arguments:
            waiting.append(threads.submit(request, *args))
            if len(waiting) >= AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        store.call_off()
        threads.close()


def soon(deed: Callable[[], Any]) -> None:
    """Do what should be done but must not hold anybody up; its failure is nobody's concern."""

    def quietly() -> None:
        with suppress(UserError, InternalError):
            deed()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(LAST_WORDS)
