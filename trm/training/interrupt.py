"""SIGTERM and SIGINT as an exception that never lands in the middle of an update."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trm.errors import Interrupted


class Interrupts:
    """Raises `Interrupted` where a signal arrives, or at the end of the `held` block that it arrives in."""

    def __init__(self) -> None:
        self._holding = False
        self._pending: int | None = None

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._holding:
            self._pending = number
        else:
            self._holding = True  # one is enough: a second signal must not break into the saving
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that must run as a whole: an update of the weights, the writing of a state."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending is not None:
            number, self._pending = self._pending, None
            raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Turn SIGTERM and SIGINT into `Interrupted` inside the block; the old handlers come back after it."""
    interrupts = Interrupts()
    old = {number: signal.signal(number, interrupts._arrived) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupts
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
