"""Progress of long operations on stderr: a bar with the remaining time on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_LINE_INTERVAL = 10.0
"""Seconds between plain lines."""


class Progress(Protocol):
    """A running progress display."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Add `amount` to the completed work; `note` (for example the loss) is displayed after the bar."""
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


def duration(seconds: float) -> str:
    """A duration as minutes and seconds, or hours, minutes and seconds: 1:05, 2:00:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(
    description: str, total: int | None, done: int = 0, unit: str = "", silent: bool = False
) -> Iterator[Progress]:
    """Context manager that displays the progress of the enclosed work.

    description: label of the display.
    total: amount of work; None if unknown, then only the completed amount is displayed.
    done: amount completed before.
    unit: `bytes` displays sizes and the transfer rate.
    silent: display nothing, as in all but one of several distributed processes.
    """
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
