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
        self._handle = handle

    def read(self, seconds: float) -> str:
        """The next key, or an empty string if none is typed within this time.

        Arrow keys are `left` and `right`. If the terminal is gone, the key is `q`.
        """
        if not select.select([self._handle], [], [], max(seconds, 0))[0]:
            return ""
        typed = os.read(self._handle, 16).decode(errors="replace")
        return ARROWS.get(typed, typed[:1]) or "q"


@contextmanager
def keyboard() -> Iterator[Keyboard | None]:
    """Read keys without waiting for Enter and without showing them; None if stdin is not a terminal.

    Signals such as Ctrl-C work as before. The settings of the terminal are restored at the end.
    """
    try:
        import termios
        import tty

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except (ImportError, AttributeError, OSError, ValueError, termios.error):  # no terminal, or Windows
        yield None
        return
    try:
        tty.setcbreak(handle)
        yield Keyboard(handle)
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
