"""The signals that stop a command."""

import os
import signal
from types import FrameType
from typing import NoReturn


def handled_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT and, unless `nohup` has disabled it, SIGHUP, which a closed terminal sends."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*numbers, signal.SIGHUP]


def exit_on_signals() -> None:
    """From now on these signals end the process at once, with exit code 128 + n: it has written nothing yet."""
    for number in handled_signals():
        signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
