"""SIGTERM, SIGINT and SIGHUP as an exception that is never raised during an update."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from trm.utils.errors import Interrupted
from trm.utils.stop_signals import handled_signals


class Interrupts:
    """Raises `Interrupted` when a signal arrives, or at the end of the current `held` block."""

    def __init__(self) -> None:
        self._holding = False
        self._pending: int | None = None
        self._deferred = False

    @property
    def pending(self) -> bool:
        """Whether a signal has arrived for which nothing has been raised yet."""
        return self._pending is not None

    def defer(self) -> None:
        """From now on a signal only sets `pending`: several processes must stop at the same step."""
        self._deferred = self._holding = True

    def stop(self, reason: str = "") -> NoReturn:
        """Raise `Interrupted` for the signal that arrived here or in another process, or for another `reason`."""
        raise Interrupted(self._pending or signal.SIGTERM, reason=reason)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._holding:
            self._pending = number
        else:
            self._holding = True  # a second signal must not interrupt the saving
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Defer signals during the block, such as a weight update or the saving of a state.

        Raises `Interrupted` at its end if a signal arrived.
        """
        self._holding = True
        try:
            yield
        finally:
            self._holding = self._deferred
        if self._pending is not None and not self._deferred:
            number, self._pending = self._pending, None
            raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Raise `Interrupted` for the signals that stop a command inside the block; restores the handlers after it."""
    interrupts = Interrupts()
    old = {number: signal.signal(number, interrupts.handle) for number in handled_signals()}
    try:
        yield interrupts
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
