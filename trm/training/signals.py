"""SIGTERM and SIGINT as an exception that never lands in the middle of an update."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from trm.utils.errors import Interrupted


class Interrupts:
    """Raises `Interrupted` where a signal arrives, or at the end of the `held` block that it arrives in."""

    def __init__(self) -> None:
        self._holding = False
        self._pending: int | None = None
        self._agreed = False

    @property
    def pending(self) -> bool:
        """Whether a signal has arrived that nothing was raised for yet."""
        return self._pending is not None

    def wait_for_agreement(self) -> None:
        """From now on a signal only shows in `pending`: several processes must stop at the same step."""
        self._agreed = self._holding = True

    def stop(self) -> NoReturn:
        """Raise for the signal that arrived, here or in another process."""
        raise Interrupted(self._pending or signal.SIGTERM)

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
            self._holding = self._agreed
        if self._pending is not None and not self._agreed:
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
