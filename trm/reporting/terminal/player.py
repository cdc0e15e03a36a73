"""The animation of `trm visualize` on a terminal, controlled by keys."""

import time

from rich.console import Console
from rich.live import Live

from trm.reporting.terminal.keys import Keyboard
from trm.reporting.terminal.maps import View
from trm.reporting.terminal.rendering import render, window_of

FRAME_SECONDS = 0.4
"""Time for a frame at the initial speed."""
MIN_SECONDS, MAX_SECONDS = 0.02, 6.4
POLL_SECONDS = 0.1
"""Time between two checks of the size of the window."""
KEYS = "space pause  left/right change  n next step  e end  +/- speed  q quit"
PAUSED, SOLVED = "paused; space goes on  ", "solved; space goes on  "


class Stopped(Exception):
    """The user has typed q."""


class Player:
    """Shows views one after the other; keys pause, go back and forth, jump, and change the speed.

    With a keyboard it pauses once, at the first view that shows the solution.
    """

    def __init__(self, console: Console, live: Live, keys: Keyboard | None) -> None:
        self._console, self._live, self._keys = console, live, keys
        self._views: list[View] = []
        self._at = 0
        self.seconds = FRAME_SECONDS
        """Time of a view on the screen."""
        self._is_paused = self._was_solved = self._to_end = False
        self._skip_to = 0
        """The step to jump to."""

    @property
    def view(self) -> View:
        """The view that is shown."""
        return self._views[self._at]

    def show(self, view: View) -> None:
        """Show a view until it is time for the next one. Raises `Stopped`."""
        self._views.append(view)
        if self._to_end or view.frame.step < self._skip_to:
            return
        self._skip_to, self._at = 0, len(self._views) - 1
        if self._keys is not None and view.is_solved and not self._was_solved:
            self._is_paused = self._was_solved = True
        self.draw()
        self._wait()

    def finish(self) -> None:
        """Show the last view, if it was jumped over."""
        if self._views:
            self._at = len(self._views) - 1
            self.draw()

    def _wait(self) -> None:
        """Return when the next view is wanted."""
        due, size = time.monotonic() + self.seconds, self._console.size
        while True:
            left = due - time.monotonic()
            if self._keys is None:
                time.sleep(max(left, 0))
                return
            key = self._keys.read(POLL_SECONDS if self._is_paused else min(left, POLL_SECONDS))
            is_over = not key and not self._is_paused and time.monotonic() >= due
            if (key and self._wants_next(key)) or (is_over and not self._forward()):
                return
            if key or is_over or self._console.size != size:
                size = self._console.size
                due = time.monotonic() + self.seconds if key or is_over else due
                self.draw()

    def _wants_next(self, key: str) -> bool:
        """Act on a key; returns whether a view is wanted that has not been computed."""
        if key in ("q", "Q"):
            raise Stopped
        if key == " ":
            self._is_paused = not self._is_paused
        elif key in ("+", "="):
            self.seconds = max(self.seconds / 2, MIN_SECONDS)
        elif key == "-":
            self.seconds = min(self.seconds * 2, MAX_SECONDS)
        elif key == "left":
            self._is_paused, self._at = True, max(self._at - 1, 0)
        elif key == "right":
            self._is_paused = True
            return not self._forward()
        elif key == "n":
            self._skip_to = self.view.frame.step + 1
            while self.view.frame.step < self._skip_to:
                if not self._forward():
                    return True
            self._skip_to = 0
        elif key == "e":
            self._to_end = True
            return True
        return False

    def _forward(self) -> bool:
        """Go to the next view; False if it has not been computed."""
        if self._at + 1 == len(self._views):
            return False
        self._at += 1
        return True

    def draw(self) -> None:
        """Draw the current view."""
        keys = KEYS if self._keys is not None else ""
        if self._is_paused:
            keys = (SOLVED if self.view.is_solved else PAUSED) + keys.removeprefix("space pause  ")
        window = window_of(self._console, self._console.height, keys)
        self._live.update(render(self.view, window), refresh=True)
