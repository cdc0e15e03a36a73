"""Single keys from the terminal, for the animation."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ARROWS = {"\x1b[C": "right", "\x1bOC": "right", "\x1b[D": "left", "\x1bOD": "left"}
"""Escape sequences of keys."""


class Keyboard:
    """The keys that are typed while the block of `keyboard` runs."""

    def __init__(self, handle: int) -> None:
        self._handle, self._typed = handle, ""

    def read(self, seconds: float) -> str:
        """The next key, or an empty string if none is typed within this time.

        Arrow keys are `left` and `right`. If the terminal is gone, the key is `q`.
        """
        if not self._typed:
            if not select.select([self._handle], [], [], max(seconds, 0))[0]:
                return ""
            try:
                self._typed = os.read(self._handle, 64).decode(errors="replace") or "q"
            except OSError:
                self._typed = "q"
        key = next((sequence for sequence in ARROWS if self._typed.startswith(sequence)), self._typed[0])
        self._typed = self._typed[len(key) :]
        return ARROWS.get(key, key)


@contextmanager
def keyboard() -> Iterator[Keyboard | None]:
    """Read keys without waiting for Enter and without showing them; None if stdin is not a terminal.

    Signals such as Ctrl-C work as before. The settings of the terminal are restored at the end.
    """
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield None
        return
    try:
        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (AttributeError, OSError, ValueError, termios.error):  # closed, replaced, or no terminal
        yield None
        return
    try:
        tty.setcbreak(handle)
        yield Keyboard(handle)
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
