"""Progress of long operations on stderr: a bar with the remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_LINE_INTERVAL = 10.0
"""Seconds between plain lines."""
WORTH_ANNOUNCING = 20.0
"""Expected seconds from which an operation is announced."""
MEASURED_SECONDS = 2.0
"""Seconds after the first piece of work, from which the duration is estimated."""


class Progress(Protocol):
    """A running progress display."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Add `amount` to the completed work; `note` (for example the loss) is displayed after the bar.

        A negative amount is work that has to be repeated.
        """
        ...


class _PlainLines:
    def __init__(self, description: str, total: int | None, done: int, unit: str) -> None:
        self.description, self.total, self.done, self.unit = description, total, done, unit
        self.first, self.started = done, time.monotonic()
        self.next_line = self.started + PLAIN_LINE_INTERVAL

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now >= self.next_line:
            self.next_line = now + PLAIN_LINE_INTERVAL
            self.line(now, note)

    def line(self, now: float, note: str = "") -> None:
        text = f"{self.description}: {self.amount(self.done)}"
        if self.total:
            pace = (now - self.started) / max(self.done - self.first, 1)
            left = max(self.total - self.done, 0) * pace
            text += f"/{self.amount(self.total)} ({100 * self.done / self.total:.0f} %, {duration(left)} left)"
        print(text + (f", {note}" if note else ""), file=sys.stderr, flush=True)

    def amount(self, number: int) -> str:
        if self.unit != "bytes":
            return str(number)
        from rich.filesize import decimal

        return decimal(number)


class _NoProgress:
    def advance(self, amount: int = 1, note: str = "") -> None:
        pass


class _Announced:
    """A display that prints one line as soon as the expected duration is known, if it is long.

    The first piece of work does not count: it is often slower.
    """

    def __init__(self, display: Progress, description: str, left: int, announce: Callable[[str], str]) -> None:
        self.display, self.description, self.left, self.announce = display, description, left, announce
        self.first: tuple[float, int] | None = None
        self.finished = False

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.display.advance(amount, note)
        self.left -= amount
        if self.finished or not amount:
            return
        now = time.monotonic()
        if self.first is None:
            self.first = now, self.left
            return
        started, left = self.first
        if now - started >= MEASURED_SECONDS and self.left < left:
            self.finished = True
            expected = (now - started) / (left - self.left) * left
            if expected >= WORTH_ANNOUNCING:
                print(f"{self.description}: {self.announce(duration(expected))}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration as minutes and seconds, or hours, minutes and seconds: 1:05, 2:00:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(
    description: str,
    total: int | None,
    done: int = 0,
    unit: str = "",
    silent: bool = False,
    announce: Callable[[str], str] | None = None,
) -> Iterator[Progress]:
    """Context manager that displays the progress of the enclosed work.

    description: label of the display.
    total: amount of work; None if unknown, then only the completed amount is displayed.
    done: amount completed before.
    unit: `bytes` displays sizes and the transfer rate.
    silent: display nothing, as in all but one of several distributed processes.
    announce: returns the line that announces a long operation, given its expected duration as text. It is printed once,
    after the first seconds of work.
    """
    with _display(description, total, done, unit, silent) as shown:
        if announce is None or silent or total is None:
            yield shown
        else:
            yield _Announced(shown, description, total - done, announce)


@contextmanager
def _display(description: str, total: int | None, done: int, unit: str, silent: bool) -> Iterator[Progress]:
    if silent:
        yield _NoProgress()
        return
    if not sys.stderr.isatty():
        lines = _PlainLines(description, total, done, unit)
        yield lines
        elapsed = time.monotonic() - lines.started
        print(f"{description}: {lines.amount(lines.done)} done in {duration(elapsed)}", file=sys.stderr, flush=True)
        return

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    amounts = [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        *amounts,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        class _Bar:
            def advance(self, amount: int = 1, note: str = "") -> None:
                if note:
                    bar.update(task, note=note)
                bar.advance(task, amount)

        yield _Bar()
