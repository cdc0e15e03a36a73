"""The end of a training that makes no progress, such as one that waits for a lost process."""

import faulthandler
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RENEWAL_INTERVAL = 1.0
"""Seconds between two renewals of the limit: each one starts a thread."""


@contextmanager
def watchdog(seconds: float | None) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step.

    If it is not called for `seconds`, the stacks of all threads are printed on stderr and the process ends with exit
    code 1, also while a call of a library hangs. None: no limit.
    """
    if seconds is None:
        yield lambda: None
        return
    renewed = 0.0

    def renew() -> None:
        nonlocal renewed
        if time.monotonic() - renewed >= min(RENEWAL_INTERVAL, seconds / 10):
            renewed = time.monotonic()
            faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)

    renew()
    try:
        yield renew
    finally:
        faulthandler.cancel_dump_traceback_later()
