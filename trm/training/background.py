"""Jobs in a thread: files are written while the training goes on."""

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import Self

WAITING_JOBS = 1
"""Jobs that wait for their turn. Each one may keep a copy of all weights in memory."""
Job = Callable[[], object]


class BackgroundWriter:
    """Runs jobs in order in one thread. After a job has failed, no other one runs.

    A context manager: at its end all jobs have ended.
    """

    def __init__(self) -> None:
        self._jobs: Queue[Job | None] = Queue(WAITING_JOBS)
        self._error: BaseException | None = None
        self._thread: Thread | None = None

    def submit(self, job: Job) -> None:
        """Run `job` after those before it. Waits while another one waits. Raises what an earlier job has raised."""
        self._raise()
        if self._thread is None:
            self._thread = Thread(target=self._work, name="state", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def finish(self) -> None:
        """Wait until all jobs have ended. Raises what one has raised."""
        self._jobs.join()
        self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is not None and self._error is None:
                try:
                    job()
                except BaseException as error:
                    self._error = error
            self._jobs.task_done()
            if job is None:
                return
            del job  # with its copy of the weights, before the next one comes
